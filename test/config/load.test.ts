import { homedir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { loadConfig, type LoadConfigOptions, type LoadedConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { Secret } from "../../src/core/secret.ts";
import { resolveOptions } from "../../src/options.ts";
import { folderWith } from "./folder.ts";

const MASTER = "a-master-key-of-32-characters-ok";

/** Loads a folder with these files and nothing from the machine's own environment. */
function load(files: Readonly<Record<string, string>>, options: LoadConfigOptions = {}): LoadedConfig & { readonly folder: string } {
  const folder = folderWith(files);
  return Object.defineProperty(loadConfig({ env: {}, cwd: folder, ...options }), "folder", { value: folder }) as LoadedConfig & {
    readonly folder: string;
  };
}

function problemsOf(files: Readonly<Record<string, string>>, options: LoadConfigOptions = {}): readonly string[] {
  try {
    load(files, options);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

const yaml = (text: string): Readonly<Record<string, string>> => ({ "quotaguard.yaml": text });

describe("which file", () => {
  const files = { "quotaguard.yaml": "server: { port: 1 }", "config.yaml": "server: { port: 2 }", "sub/other.yaml": "server: { port: 3 }" };

  test.each<readonly [string, LoadConfigOptions, number]>([
    ["quotaguard.yaml by default", {}, 1],
    ["the one in QUOTAGUARD_CONFIG_PATH", { env: { QUOTAGUARD_CONFIG_PATH: "config.yaml" } }, 2],
    ["the one that is named", { path: "sub/other.yaml", env: { QUOTAGUARD_CONFIG_PATH: "config.yaml" } }, 3],
  ])("%s", (_what, options, port) => expect(load(files, options).server?.port).toBe(port));

  test("config.yaml when there is no quotaguard.yaml", () => expect(load({ "config.yaml": "server: { port: 2 }" }).server?.port).toBe(2));

  test("none: only defaults", () => {
    const config = load({});
    expect(config.file).toBeNull();
    expect({ ...config }).toEqual({});
  });

  test.each<readonly [string, LoadConfigOptions, string]>([
    ["a path", { path: "nope.yaml" }, "--config: there is no file nope.yaml"],
    ["a variable", { env: { QUOTAGUARD_CONFIG_PATH: "nope.yaml" } }, "QUOTAGUARD_CONFIG_PATH: there is no file nope.yaml"],
  ])("named by %s and missing", (_what, options, line) => expect(problemsOf(files, options)).toEqual([line]));

  test("a default store stands beside it, wherever the command was called", () => {
    const config = load(files, { path: "sub/other.yaml", defaults: { store: { url: "sqlite:./data/q.db" } } });
    expect(config.store).toEqual({ url: `sqlite:${join(config.folder, "sub/data/q.db")}` });
    expect(config.sources.has("store.url")).toBe(false);
    const alone = load({}, { defaults: { store: { url: "sqlite:./data/q.db" } } });
    expect(alone.store).toEqual({ url: `sqlite:${join(alone.folder, "data/q.db")}` });
  });

  test("a folder is not a file", () => expect(problemsOf(files, { path: "sub" })).toEqual(["sub: is not a file"]));

  test.each(["quotaguard.yaml", ".env"])("%s above 1 MiB is refused", (name) => {
    expect(problemsOf({ [name]: `# ${"x".repeat(1_048_576)}` })).toEqual([`${name}: is larger than 1 MiB, so it is hardly a configuration`]);
  });
});

describe("YAML", () => {
  test("is snake_case, and what is data stays as written", () => {
    const config = load(
      yaml(`
version: 1
server: { master_key: ${MASTER}, request_timeout: 2m }
scopes: { names: [my_feature], headers: { my_feature: X-My-Feature } }
limits:
  - { name: a, scope: my_feature, unit: tokens, bucket: { capacity: 5, refill_per_sec: 0.5 }, overrides: { alice_b: 7, 123: 8 }, enforce_from: 2026-12-01 }
model_alias: { my_fast: gpt_4o }
credentials: [{ name: c, api_key: sk-a, headers: { x_under_score: v } }]
`),
    );
    const resolved = resolveOptions(config);
    expect(resolved.limits[0]).toMatchObject({ scope: ["my_feature"], overrides: { alice_b: 7, 123: 8 }, enforceFrom: Date.UTC(2026, 11, 1) });
    expect(resolved.limits[0]?.kind).toEqual({ bucket: { capacity: 5, refillPerSec: 0.5 } });
    expect(resolved.modelAlias).toEqual({ my_fast: "gpt_4o" });
    expect(resolved.credentials[0]?.headers).toEqual({ x_under_score: "v" });
    expect(resolved.scopes.headers.my_feature).toBe("x-my-feature");
    expect(resolved.server.requestTimeoutMs).toBe(120_000);
  });

  test("an empty section asks for nothing, an empty file too", () => {
    expect(problemsOf(yaml("server:\nlimits:\nmodel_alias:\nfail2ban:\nplugins:\n"))).toEqual([]);
    expect(problemsOf(yaml(""))).toEqual([]);
    expect(problemsOf(yaml("# nothing\n"))).toEqual([]);
  });

  test("anchors are followed", () => {
    const config = load(
      yaml(
        "limits:\n  - &a { name: a, scope: user, unit: requests, window: &w { limit: 1, per: hour } }\n  - { name: b, scope: user, unit: requests, window: *w }\n",
      ),
    );
    expect(config.limits?.[1]?.window).toEqual({ limit: 1, per: "hour" });
  });

  const bad: readonly (readonly [string, string, readonly string[]])[] = [
    ["unknown option", "server:\n  port: 1\n  master_kye: x\n", ["quotaguard.yaml:3:3: server.master_kye: unknown option; did you mean master_key?"]],
    [
      "unknown in a list",
      "limits:\n  - name: a\n    capcity: 5\n    scope: user\n    unit: tokens\n    bucket: { capacity: 1, refill_per_sec: 1 }\n",
      ["quotaguard.yaml:3:5: limits[0].capcity: unknown option; did you mean bucket.capacity?"],
    ],
    [
      "camelCase",
      "credentials:\n  - { name: c, apiKey: x }\n",
      [
        "quotaguard.yaml:2:5: credentials[0].api_key: is required for the provider openai (an openai-compatible server may need none)",
        "quotaguard.yaml:2:16: credentials[0]: unknown option apiKey; did you mean api_key?",
      ],
    ],
    ["a wrong value", "server: { port: abc }\n", ["quotaguard.yaml:1:11: server.port: expected a number, got a string"]],
    [
      "a missing option",
      "limits:\n  - name: a\n    unit: requests\n    window: { limit: 1, per: day }\n",
      ["quotaguard.yaml:2:5: limits[0].scope: expected a scope name or a list of them"],
    ],
    ["not yet", "monitoring:\n  opentelemetry: true\n", ["quotaguard.yaml:2:3: monitoring.opentelemetry: not yet available in this version"]],
    [
      "thresholds that contradict each other",
      "router:\n  thresholds: { critical: 90 }\n",
      ["quotaguard.yaml:2:3: router.thresholds.switch: must be below critical, and 90 is not below 90"],
    ],
    [
      "a policy that nobody has",
      "router:\n  policy: preformance\n",
      ["quotaguard.yaml:2:3: router.policy: expected one of balanced, cost, performance, safety; did you mean performance?"],
    ],
    ["code only", "transport: x\n", ["quotaguard.yaml:1:1: transport: can only be given in code"]],
    [
      "data keys in the path",
      "model_alias:\n  myFast: myFast\n",
      ["quotaguard.yaml:2:3: model_alias.myFast: stands for itself; name the model it stands for, or remove it"],
    ],
    ["twice", "server:\n  port: 1\n  port: 2\n", ["quotaguard.yaml:3:3: the same name is written twice in one section"]],
    ["a list at the top", "- a\n", ["quotaguard.yaml:1:1: expected options such as `server:` on the first level"]],
    ["a prototype", "model_alias:\n  __proto__: x\n", ["quotaguard.yaml:2:3: model_alias: the name of an option must be plain text"]],
    [
      "two documents",
      "server: {}\n---\nserver: {}\n",
      ["quotaguard.yaml:2:1: is not valid YAML (multiple docs); check indentation, brackets and quotes around it"],
    ],
  ];
  test.each(bad)("%s", (_what, text, lines) => expect(problemsOf(yaml(text))).toEqual(lines));

  test("several problems come in the order of the file", () => {
    const lines = problemsOf(
      yaml(
        "router: { strategy: quata }\nserver:\n  port: -1\n  hots: x\nlimits: [{ name: a, scope: usr, unit: tokens, bucket: { capacity: 1, refill_per_sec: 1 } }]\n",
      ),
    );
    expect(lines.map((line) => line.split(" ")[0])).toEqual([
      "quotaguard.yaml:1:11:",
      "quotaguard.yaml:3:3:",
      "quotaguard.yaml:4:3:",
      "quotaguard.yaml:5:21:",
    ]);
  });

  test("a syntax error says where, not what stands there", () => {
    const lines = problemsOf(yaml(`server: { master_key: ${MASTER}\ncredentials: "sk-very-secret" "x"\n`));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^quotaguard\.yaml:\d+:\d+: is not valid YAML/);
    expect(lines[0]).not.toMatch(/secret|master/);
  });

  test("an alias of itself is refused, and so is endless nesting", () => {
    expect(problemsOf(yaml("plugins: &a\n  - *a\n"))).toContainEqual(expect.stringContaining("plugins: is nested more than 32 levels deep"));
    expect(problemsOf(yaml(`plugins: ${"[".repeat(200)}${"]".repeat(200)}\n`))).toContainEqual(
      expect.stringContaining("plugins: is nested more than 32 levels deep"),
    );
  });

  test("an alias bomb is refused", () => {
    const levels = Array.from({ length: 8 }, (_, level) => `  l${level + 1}: &l${level + 1} [${Array(10).fill(`*l${level}`).join(", ")}]`);
    expect(problemsOf(yaml(`plugins:\n  l0: &l0 [a]\n${levels.join("\n")}\n`))).toContain(
      "quotaguard.yaml:1:1: has more than 50000 values, counting what aliases repeat",
    );
  });
});

describe("variables", () => {
  const text =
    'server: { port: "${PORT}", host: "${HOST}" }\ncredentials:\n  - { name: c, api_key: os.environ/KEY, tier: "a-${HOST}-$HOST-$$-${}", allow_private: "${YES}" }\n';

  test("are filled in, typed by the option; every other $ survives", () => {
    const config = load(yaml(text), { env: { PORT: "9000", HOST: "h", KEY: "sk-$${KEY}", YES: "true" } });
    const { server, credentials } = resolveOptions(config);
    expect(server).toMatchObject({ port: 9_000, host: "h" });
    expect(credentials[0]).toMatchObject({ tier: "a-h-$HOST-$$-${}", allowPrivate: true });
    expect(credentials[0]?.apiKey?.reveal()).toBe("sk-$${KEY}");
  });

  test("that hold digits stay text where text is wanted", () => {
    expect(load(yaml('credentials: [{ name: c, api_key: "${KEY}" }]'), { env: { KEY: "12345" } }).credentials?.[0]?.apiKey).toBeInstanceOf(Secret);
  });

  test("that are not set are named, with their line", () => {
    expect(problemsOf(yaml(text), { env: { PORT: "1", HOST: "h", YES: "true" } })).toEqual([
      "quotaguard.yaml:3:25: credentials[0].api_key: the environment variable KEY is not set",
    ]);
    expect(problemsOf(yaml('server:\n  host: "${NOPE}"\n'))).toEqual(["quotaguard.yaml:2:9: server.host: the environment variable NOPE is not set"]);
  });

  test("need quotes between brackets, and the message says so", () => {
    expect(problemsOf(yaml("server: { port: ${PORT} }"), { env: { PORT: "1" } })[0]).toContain('needs quotes: "${NAME}"');
    expect(load(yaml("server:\n  port: ${PORT}\n"), { env: { PORT: "1" } }).server?.port).toBe(1);
  });

  test("may come from the .env beside the file; the real environment wins", () => {
    const files = {
      "conf/q.yaml": 'server:\n  host: "${A}"\n  logging_level: "${B}"\n',
      "conf/.env": "A=from-dotenv\nB=debug\nQUOTAGUARD_PORT=7000\nSHUTDOWN_TIMEOUT=1s\n",
      ".env": "A=not-this-one\n",
    };
    const config = load(files, { path: "conf/q.yaml", env: { B: "error", SHUTDOWN_TIMEOUT: "2s" } });
    expect(config.server).toEqual({ host: "from-dotenv", loggingLevel: "error", port: 7_000, shutdownTimeout: "2s" });
  });
});

describe("relative paths", () => {
  const files = { "conf/q.yaml": "store: { url: 'sqlite:./data/s.db' }\nledger: { url: 'sqlite:../l.db' }\n", "conf/.env": "" };

  test("start at the file", () => {
    const { folder, store, ledger } = load(files, { path: "conf/q.yaml" });
    expect({ store, ledger }).toEqual({ store: { url: `sqlite:${folder}/conf/data/s.db` }, ledger: { url: `sqlite:${folder}/l.db` } });
  });

  test("start at the working folder in a variable, at its own folder in .env, at home with ~", () => {
    const real = load(files, { path: "conf/q.yaml", env: { QUOTAGUARD_DB_PATH: "x.db", QUOTAGUARD_STORE_URL: "sqlite:~/s.db" } });
    expect(real.ledger).toEqual({ url: `sqlite:${real.folder}/x.db` });
    expect(real.store).toEqual({ url: `sqlite:${join(homedir(), "s.db")}` });
    const dotEnv = load({ ...files, "conf/.env": "QUOTAGUARD_DB_PATH=x.db\n" }, { path: "conf/q.yaml" });
    expect(dotEnv.ledger).toEqual({ url: `sqlite:${dotEnv.folder}/conf/x.db` });
  });

  test("a Postgres keeps its rows beside the file while it is away, whoever names it, and elsewhere only where it is said", () => {
    const url = "postgres://h/db";
    const spoolOf = (text: string, env = {}): unknown => {
      const { folder, ledger } = load({ "conf/q.yaml": `secrets: { key: "a-secret-key-for-tests-1" }\n${text}` }, { path: "conf/q.yaml", env });
      return JSON.parse(JSON.stringify((ledger as { spool?: unknown }).spool ?? null).replaceAll(folder, ""));
    };
    expect(spoolOf("", { DATABASE_URL: url })).toEqual({ path: "/conf/data/spool" });
    expect(spoolOf(`ledger: { url: "${url}", spool: { max_time: 1m } }`)).toEqual({ maxTime: "1m", path: "/conf/data/spool" });
    expect(spoolOf(`ledger: { url: "${url}", spool: { path: ../kept } }`)).toEqual({ path: "/kept" });
    expect(spoolOf(`ledger: { url: "${url}", spool: false }`)).toBe(false);
    expect(spoolOf("ledger: { url: memory }")).toBeNull();
  });

  test.each(["sqlite:/abs/s.db", "sqlite::memory:", "memory"])("%s stays", (url) =>
    expect(load(yaml(`store: { url: "${url}" }`)).store).toEqual({ url }),
  );
});

describe("what comes back", () => {
  test("spreads into options; what is known about them does not", () => {
    const config = load(yaml(`server: { port: 5 }\nkeys: [{ name: k, key: qg_1 }]`));
    expect(Object.keys({ ...config }).toSorted()).toEqual(["keys", "server"]);
    expect(config.file).toBe(join(config.folder, "quotaguard.yaml"));
    expect(resolveOptions({ ...config, auth: false })).toMatchObject({ server: { port: 5 }, auth: { kind: "host" } });
  });

  test("holds no key in clear", () => {
    const config = load(
      yaml(
        `server: { master_key: ${MASTER} }\nmanagement: { key: ${MASTER}2 }\nsecrets: { key: ${MASTER}3 }\nkeys: [{ name: k, key: qg_${MASTER} }]\ncredentials: [{ name: c, api_key: sk-${MASTER} }]`,
      ),
    );
    expect(inspect(config, { depth: 9, showHidden: true }) + JSON.stringify(config)).not.toContain(MASTER);
    const { server, management, secrets, keys, credentials } = config;
    for (const value of [server?.masterKey, management?.key, secrets?.key, keys?.[0]?.key, credentials?.[0]?.apiKey])
      expect(value).toBeInstanceOf(Secret);
  });

  test("says where each option came from", () => {
    const { sources } = load(
      yaml("server:\n  port: 5\n  host: a\nlimits:\n  - { name: a, scope: user, unit: requests, window: { limit: 1, per: hour } }\n"),
      {
        env: { QUOTAGUARD_HOST: "b" },
        flags: { server: { loggingLevel: "debug" } },
        defaults: { store: { url: "sqlite:x" } },
      },
    );
    expect(sources.get("server.port")).toBe("quotaguard.yaml:2");
    expect(sources.get("server.host")).toBe("env QUOTAGUARD_HOST");
    expect(sources.get("server.logging_level")).toBe("flag");
    expect(sources.get("limits[0].window.per")).toBe("quotaguard.yaml:5");
    expect(sources.has("store.url")).toBe(false);
  });

  test("flags > env > file > defaults", () => {
    const layers: LoadConfigOptions = {
      defaults: { server: { port: 1, host: "defaults", loggingLevel: "warn", trustProxy: 1 } },
      env: { QUOTAGUARD_PORT: "3", QUOTAGUARD_HOST: "env" },
      flags: { server: { port: 4 } },
    };
    expect(load(yaml("server: { port: 2, host: file, logging_level: debug }"), layers).server).toEqual({
      port: 4,
      host: "env",
      loggingLevel: "debug",
      trustProxy: 1,
    });
  });
});

describe("a LiteLLM file", () => {
  test("is refused with the counterparts of what it uses, and nothing else", () => {
    const text = `
model_list:
  - model_name: gpt-4o
    litellm_params: { model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 6 }
general_settings: { master_key: sk-1234 }
`;
    expect(problemsOf(yaml(text))).toEqual([
      "quotaguard.yaml: model_list: this is a LiteLLM configuration, which quotaguard does not read",
      "quotaguard.yaml: model_list is here: models (name, model, credential, price) and credentials (name, provider, api_key, base_url)",
      "quotaguard.yaml: model_list[].model_name is here: models[].name",
      "quotaguard.yaml: model_list[].litellm_params.model is here: models[].model, without the provider's prefix",
      "quotaguard.yaml: model_list[].litellm_params.api_key is here: credentials[].api_key",
      "quotaguard.yaml: model_list[].litellm_params.rpm is here: limits with unit: requests",
      "quotaguard.yaml: general_settings is here: server.master_key (master_key) and ledger.url (database_url)",
    ]);
  });
});
