import { describe, expect, test } from "vitest";
import { loadConfig, type LoadedConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { resolveOptions } from "../../src/options.ts";
import { folderWith } from "./folder.ts";

type Environment = Readonly<Record<string, string>>;

const MASTER = "a-master-key-of-32-characters-ok";

const load = (env: Environment, file = ""): LoadedConfig => loadConfig({ env, cwd: folderWith({ "quotaguard.yaml": file }) });

function problemsOf(env: Environment, file = ""): readonly string[] {
  try {
    load(env, file);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

describe("settings", () => {
  const cases: readonly (readonly [Environment, object])[] = [
    [{ QUOTAGUARD_HOST: "0.0.0.0", QUOTAGUARD_PORT: "9000" }, { server: { host: "0.0.0.0", port: 9_000 } }],
    [{ QUOTIO_HOST: "0.0.0.0", QUOTIO_PORT: "9000" }, { server: { host: "0.0.0.0", port: 9_000 } }],
    [{ QUOTAGUARD_PORT: "1", QUOTIO_PORT: "2" }, { server: { port: 1 } }],
    [{ SHUTDOWN_TIMEOUT: "25s" }, { server: { shutdownTimeoutMs: 25_000 } }],
    [{ QUOTAGUARD_STORE_URL: "sqlite:/a.db" }, { store: { kind: "sqlite", path: "/a.db" } }],
    [{ QUOTAGUARD_LEDGER_URL: "memory", QUOTAGUARD_DB_PATH: "/b.db" }, { ledger: { kind: "memory" } }],
    [{ QUOTAGUARD_DB_PATH: "/b.db" }, { ledger: { kind: "sqlite", path: "/b.db" } }],
    [
      { QUOTAGUARD_STORE_URL: "memory", REDIS_URL: "redis://h", QUOTAGUARD_LEDGER_URL: "memory", DATABASE_URL: "postgres://h" },
      { store: { kind: "memory" } },
    ],
    [
      { REDIS_URL: "rediss://u:p@h:1/2", DATABASE_URL: "postgresql+asyncpg://u:p@h/db", QUOTAGUARD_SECRET_KEY: MASTER },
      { store: { kind: "redis", place: "h:1/2" }, ledger: { kind: "postgres", place: "h:5432/db" } },
    ],
    [{ QUOTAGUARD_PORT: "", QUOTAGUARD_HOST: "" }, { server: { port: 8_318, host: "127.0.0.1" } }],
  ];
  test.each(cases)("%j", (env, resolved) => expect(resolveOptions(load(env))).toMatchObject(resolved));

  test("keys", () => {
    const { auth, management, secrets } = resolveOptions(
      load({ QUOTAGUARD_MASTER_KEY: MASTER, QUOTAGUARD_MANAGEMENT_KEY: `${MASTER}2`, QUOTAGUARD_SECRET_KEY: `${MASTER}3` }),
    );
    expect(auth?.kind === "keys" && auth.masterKey?.reveal()).toBe(MASTER);
    expect([management.key?.reveal(), secrets.key?.reveal()]).toEqual([`${MASTER}2`, `${MASTER}3`]);
  });

  test("they go before the file", () =>
    expect(load({ QUOTAGUARD_PORT: "9000" }, "server: { port: 1, host: a }").server).toEqual({ port: 9_000, host: "a" }));

  test.each<readonly [Environment, string]>([
    [{ QUOTAGUARD_PORT: "abc" }, "env QUOTAGUARD_PORT: server.port: expected a number, got a string"],
    [{ QUOTAGUARD_PORT: "70000" }, "env QUOTAGUARD_PORT: server.port: must be at most 65535"],
    [{ QUOTAGUARD_MASTER_KEY: "sk-…" }, "env QUOTAGUARD_MASTER_KEY: server.master_key: is a sample value"],
    [{ SHUTDOWN_TIMEOUT: "30" }, "env SHUTDOWN_TIMEOUT: server.shutdown_timeout: expected a duration"],
    [
      { REDIS_URL: "redis://h" },
      "secrets.key: is required because store.url names a server that several nodes may share; make one (openssl rand -hex 32)",
    ],
    [
      { REDIS_URL: "postgres://u:canary@h", QUOTAGUARD_SECRET_KEY: MASTER },
      "env REDIS_URL: store.url: Postgres keeps rows, not counters: name it in ledger.url, and here memory, sqlite:<path> or redis://… (unset it, or set QUOTAGUARD_STORE_URL, which goes first)",
    ],
    [{ DATABASE_URL: "mysql://u:p@h/db" }, "env DATABASE_URL: ledger.url: expected memory, sqlite:<path> or postgres://"],
    [{ QUOTAGUARD_UTLS: "1" }, "env QUOTAGUARD_UTLS: refused: quotaguard does not disguise itself as another TLS client"],
    [{ CAP_TEAM: "many" }, "env CAP_TEAM: limits[0].bucket.capacity: expected a number"],
    [{ CAP_TEAM: "-5" }, "env CAP_TEAM: limits[0].bucket.capacity: must be 0 or more"],
  ])("%j is refused", (env, line) => {
    const problems = problemsOf(env);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(line);
  });

  test.each([
    "QUOTAGUARD_CLIPROXY_AUTH_PATH",
    "QUOTAGUARD_GOOGLE_CLIENT_ID",
    "QUOTAGUARD_GOOGLE_CLIENT_SECRET",
    "QUOTAGUARD_IFLOW_CLIENT_ID",
    "QUOTAGUARD_IFLOW_CLIENT_SECRET",
    "QUOTAGUARD_TELEGRAM_TOKEN",
    "QUOTIO_AUTH_DIR",
    "QUOTIO_CONFIG_DIR",
    "QUOTIO_DEBUG",
    "QUOTIO_PASSTHROUGH_ENABLED",
    "QUOTIO_CLI_PROXY_PORT",
  ])("%s is not yet available", (name) => {
    expect(problemsOf({ [name]: "x" })).toEqual([`env ${name}: not yet available in this version; unset it`]);
    expect(problemsOf({ [name]: "" })).toEqual([]);
  });

  test("those of the collectors count where these are asked for, and switch them on nowhere", () => {
    const env = {
      QUOTAGUARD_COLLECTOR_WORKERS: "3",
      QUOTAGUARD_COLLECTOR_JITTER: "1s",
      QUOTAGUARD_ANTIGRAVITY_PORT: "4711",
      QUOTAGUARD_ANTIGRAVITY_CSRF: "token-1",
      QUOTAGUARD_ANTIGRAVITY_START_CMD: "antigravity",
      QUOTAGUARD_ANTIGRAVITY_START_TIMEOUT: "20s",
    };
    const resolved = (file: string) => resolveOptions(load(env, file)).namedPlugins?.collectors;
    for (const file of ["plugins: { collectors: true }", "plugins: { collectors: { workers: 5 } }"]) {
      expect(resolved(file)).toMatchObject({
        workers: 3,
        jitter: 1_000,
        antigravity: { port: 4_711, startCmd: "antigravity", startTimeout: 20_000 },
      });
      expect(resolved(file)?.antigravity.csrf?.reveal()).toBe("token-1");
      expect(load(env, file).sources.get("plugins.collectors.antigravity.port")).toBe("env QUOTAGUARD_ANTIGRAVITY_PORT");
      expect(load(env, file).warnings).toEqual([]);
    }
    for (const file of ["", "plugins: { collectors: false }"]) {
      expect(resolved(file) ?? null).toBeNull();
      expect(load(env, file).warnings).toEqual(Object.keys(env).map((name) => `env ${name}: ignored, because plugins.collectors is not on`));
    }
    expect(problemsOf({ QUOTAGUARD_COLLECTOR_WORKERS: "many" }, "plugins: { collectors: true }")).toEqual([
      "env QUOTAGUARD_COLLECTOR_WORKERS: plugins.collectors.workers: expected a number, got a string",
    ]);
  });

  test("QUOTAGUARD_UTLS=0 asks for nothing", () => expect(problemsOf({ QUOTAGUARD_UTLS: "0" })).toEqual([]));

  test("a mistyped variable of ours is a warning, others are none of our business", () => {
    expect(load({ QUOTAGUARD_MASTERKEY: "x", PATH: "/bin" }).warnings).toEqual([
      "env QUOTAGUARD_MASTERKEY: unknown variable, ignored; did you mean QUOTAGUARD_MASTER_KEY?",
    ]);
    expect(load({ QUOTAGUARD_PORT: "1", OPENAI_API_KEY: "sk-1" }).warnings).toEqual([]);
    expect(load({ OPENAI_BASE_URL: "http://x.test" }).warnings).toEqual(["env OPENAI_BASE_URL: ignored, because OPENAI_API_KEY is not set"]);
  });
});

describe("OPENAI_API_KEY", () => {
  const env = { OPENAI_API_KEY: "sk-env", OPENAI_BASE_URL: "http://relay.test/v1" };
  const namesOf = (file: string): readonly string[] => resolveOptions(load(env, file)).credentials.map(({ name }) => name);

  test("makes a credential", () => {
    const { credentials } = resolveOptions(load(env));
    expect(credentials).toHaveLength(1);
    expect(credentials[0]).toMatchObject({ name: "openai", provider: "openai", origin: "http://relay.test", basePath: "" });
    expect(credentials[0]?.apiKey?.reveal()).toBe("sk-env");
  });

  test("not where the provider has one", () => {
    expect(namesOf("credentials: [{ name: mine, api_key: sk-a }]")).toEqual(["mine"]);
    expect(namesOf("credentials: [{ name: mine, provider: openai, api_key: sk-a }]")).toEqual(["mine"]);
  });

  test("beside those of other providers, under a free name", () => {
    expect(namesOf('credentials: [{ name: local, provider: openai-compatible, base_url: "http://127.0.0.1:1" }]')).toEqual(["local", "openai"]);
    expect(namesOf('credentials: [{ name: openai, provider: openai-compatible, base_url: "http://127.0.0.1:1" }]')).toEqual(["openai", "openai-env"]);
  });
});

describe("keys of other providers", () => {
  const credentialsOf = (env: Environment, file = "") =>
    resolveOptions(load(env, file)).credentials.map(({ name, provider, origin, basePath, apiKey }) => [
      name,
      provider,
      origin + basePath,
      apiKey?.reveal(),
    ]);

  test.each([
    ["ANTHROPIC_API_KEY", "anthropic", "https://api.anthropic.com"],
    ["GEMINI_API_KEY", "gemini", "https://generativelanguage.googleapis.com"],
    ["QWEN_API_KEY", "qwen", "https://dashscope-intl.aliyuncs.com/compatible-mode"],
    ["OPENROUTER_API_KEY", "openrouter", "https://openrouter.ai/api"],
    ["GROQ_API_KEY", "groq", "https://api.groq.com/openai"],
    ["MISTRAL_API_KEY", "mistral", "https://api.mistral.ai"],
    ["DEEPSEEK_API_KEY", "deepseek", "https://api.deepseek.com"],
    ["XAI_API_KEY", "xai", "https://api.x.ai"],
    ["TOGETHER_API_KEY", "together", "https://api.together.xyz"],
  ])("%s makes a credential of its own", (name, provider, url) => {
    expect(credentialsOf({ [name]: "k-env" })).toEqual([[provider, provider, url, "k-env"]]);
    expect(load({ [name]: "k-env" }).warnings).toEqual([]);
  });

  test("Qwen's address is its region's", () => {
    const env = { QWEN_API_KEY: "k", QWEN_BASE_URL: "https://dashscope-us.aliyuncs.com/compatible-mode/v1" };
    expect(credentialsOf(env)).toEqual([["qwen", "qwen", "https://dashscope-us.aliyuncs.com/compatible-mode", "k"]]);
    expect(load({ QWEN_BASE_URL: "http://x.test" }).warnings).toEqual(["env QWEN_BASE_URL: ignored, because QWEN_API_KEY is not set"]);
  });

  test("each only where its provider has none, under names of their own", () => {
    const env = { ANTHROPIC_API_KEY: "a", GEMINI_API_KEY: "g", OPENAI_API_KEY: "o" };
    const file = "credentials: [{ name: gemini, provider: anthropic, api_key: mine }]";
    expect(credentialsOf(env, file).map(([name, provider]) => [name, provider])).toEqual([
      ["gemini", "anthropic"],
      ["openai", "openai"],
      ["gemini-env", "gemini"],
    ]);
  });
});

describe("TokenGuard's variables", () => {
  /** `scope capacity/refill` of each limit. */
  const limitsOf = (env: Environment, file = ""): readonly string[] =>
    resolveOptions(load(env, file)).limits.map(({ name, unit, kind, estimate, mode }) => {
      if (!("bucket" in kind)) return `${name} ${unit}`;
      return `${name} ${unit} ${String(kind.bucket.capacity)}/${kind.bucket.refillPerSec} ${estimate} ${mode}`;
    });

  const cases: readonly (readonly [Environment, readonly string[]])[] = [
    [{}, []],
    [{ CAP_TEAM: "5000", RATE_TEAM: "25" }, ["budget-team tokens 5000/25 expected enforce"]],
    [{ CAP_USER: "100" }, ["budget-user tokens 100/5 expected enforce"]],
    [{ RATE_ROLE: "0.5" }, ["budget-role tokens 1000/0.5 expected enforce"]],
    [{ CAP_GLOBAL: "10000", RATE_GLOBAL: "50" }, []],
    [{ CAP_GLOBAL: "10000", RATE_GLOBAL: "50", ENFORCE_GLOBAL_SCOPE: "true" }, ["budget-global tokens 10000/50 expected enforce"]],
    [{ ENFORCE_GLOBAL_SCOPE: "1" }, ["budget-global tokens 1000/5 expected enforce"]],
    [
      { BUCKET_CAPACITY: "10", BUCKET_REFILL_PER_SEC: "0", CAP_ROLEGROUP: "20" },
      [
        "budget-team tokens 10/0 expected enforce",
        "budget-rolegroup tokens 20/0 expected enforce",
        "budget-role tokens 10/0 expected enforce",
        "budget-user tokens 10/0 expected enforce",
      ],
    ],
  ];
  test.each(cases)("%j", (env, limits) => expect(limitsOf(env)).toEqual(limits));

  test.each([
    ["true", true],
    ["TRUE", true],
    ["1", true],
    ["yes", true],
    ["Yes", true],
    ["on", true],
    [" on ", true],
    ["false", false],
    ["0", false],
    ["no", false],
    ["off", false],
    ["", false],
    ["2", false],
    ["enabled", false],
  ])("ENFORCE_GLOBAL_SCOPE=%j is %j", (text, enforced) => expect(limitsOf({ ENFORCE_GLOBAL_SCOPE: text })).toHaveLength(enforced ? 1 : 0));

  test("replace a limit of that name in the file and leave the others", () => {
    const file =
      "limits:\n  - { name: other, scope: user, unit: requests, window: { limit: 1, per: hour } }\n  - { name: budget-team, scope: team, unit: tokens, window: { limit: 1, per: hour }, mode: shadow }\n";
    expect(limitsOf({ CAP_TEAM: "7", CAP_USER: "8" }, file)).toEqual([
      "other requests",
      "budget-team tokens 7/5 expected enforce",
      "budget-user tokens 8/5 expected enforce",
    ]);
    const { sources } = load({ CAP_TEAM: "7" }, file);
    expect([sources.get("limits[1].bucket.capacity"), sources.get("limits[1].mode"), sources.get("limits[0].name")]).toEqual([
      "env CAP_TEAM",
      undefined,
      "quotaguard.yaml:2",
    ]);
  });
});
