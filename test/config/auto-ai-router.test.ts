import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { loadConfig, type LoadedConfig } from "../../src/config/load.ts";
import { describeOptions } from "../../src/config/report.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { resolveOptions } from "../../src/options.ts";
import { folderWith } from "./folder.ts";

type Environment = Readonly<Record<string, string>>;

const fixture = (name: string): string => readFileSync(new URL(`../fixtures/auto-ai-router/${name}`, import.meta.url), "utf8");

const FULL = fixture("full.yaml");
const SMALL = fixture("small.yaml");
const SMALL_ENV: Environment = {
  ROUTER_MASTER_KEY: "sk-1234",
  ROUTER_BODY_MB: "5",
  ROUTER_REPLACE: "true",
  ROUTER_MODEL_RPM: "9",
  ROUTER_OPENAI_KEY: "sk-env-1",
  ROUTER_OPENAI_URL: "https://api.openai.com/v1",
  ROUTER_RPM: "30",
};

const load = (text: string, env: Environment = {}, more: Environment = {}): LoadedConfig =>
  loadConfig({ env, cwd: folderWith({ "config.yaml": text, ...more }) });

function problemsOf(text: string, env: Environment = {}, more: Environment = {}): readonly string[] {
  try {
    load(text, env, more);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

/** A small file of auto_ai_router with other lines in it. */
const routerWith = (server: string, rest = ""): string => `server:
  master_key: sk-router-6f1c0b7e9a2d
${server}
litellm_db: { enabled: false }
fail2ban: {}
credentials:
  - { name: a, type: openai, api_key: sk-a, base_url: "https://api.openai.com" }
${rest}`;

/** Warnings about single keys, without those about the file as a whole. */
const aboutKeys = (config: LoadedConfig): readonly string[] => config.warnings.filter((line) => /^[a-z]+\.yaml:\d/.test(line));

describe("a file with every key", () => {
  test("becomes our options", () => {
    const options = resolveOptions(load(FULL));
    expect(options.server).toMatchObject({
      host: "0.0.0.0",
      port: 9_090,
      bodyLimitBytes: 25 * 1_048_576,
      requestTimeoutMs: 180_000,
      loggingLevel: "debug",
      replaceV1Models: false,
      defaultModelsRpm: -1,
    });
    expect(options.auth?.kind === "keys" && options.auth.masterKey?.reveal()).toBe("sk-router-6f1c0b7e9a2d");
    expect(options.resilience).toMatchObject({ maxRetries: 3, firstByteTimeoutMs: 180_000, idleTimeoutMs: 60_000 });
    expect(options.fail2ban).toEqual({
      maxAttempts: 4,
      windowMs: 600_000,
      banMs: 1_800_000,
      codes: [401, 403, 429, 500, 502, 503, 504],
      rules: [
        { code: 429, maxAttempts: 1, banMs: 10_000 },
        { code: 503, maxAttempts: 2, banMs: 1_800_000 },
        { code: 500, maxAttempts: 4, banMs: 1_800_000 },
      ],
      clients: null,
    });
    expect(options.monitoring).toEqual({ prometheusEnabled: true, metricsPublic: false });
    expect(options.modelAlias).toEqual({ fast: "gpt-4o-mini" });
  });

  test("its credentials too: a proxy is any server that speaks OpenAI's dialect, a trailing /v1 is cut", () => {
    const { credentials } = resolveOptions(load(FULL));
    expect(credentials.map(({ apiKey, ...row }) => ({ ...row, apiKey: apiKey?.reveal() ?? null }))).toMatchObject([
      { name: "openai_main", provider: "openai", origin: "https://api.openai.com", basePath: "", rpm: 60, tpm: 90_000, apiKey: "sk-proj-main-1" },
      { name: "Openai_second_", provider: "openai", rpm: -1, tpm: -1, isFallback: false, apiKey: "sk-proj-second-2" },
      { name: "other_router", provider: "openai-compatible", origin: "http://127.0.0.1:8081", rpm: -1, tpm: -1, isFallback: true, apiKey: null },
    ]);
  });

  test("its models too: without rpm the default holds, and no model is blocked by saying nothing", () => {
    expect(resolveOptions(load(FULL)).models).toEqual([
      { name: "gpt-4o", model: "gpt-4o-2024-11-20", credential: "openai_main", rpm: 50, tpm: 40_000 },
      { name: "gpt-4o", credential: "Openai_second_", tpm: -1 },
      { name: "gpt-4o-mini", rpm: 7 },
    ]);
  });

  test("what has no option here is warned about, by name and place", () => {
    expect(aboutKeys(load(FULL)).map((line) => line.split(": ").slice(0, 2).join(" "))).toEqual([
      "config.yaml:5:3 server.response_body_multiplier",
      "config.yaml:7:3 server.write_timeout",
      "config.yaml:8:3 server.idle_timeout",
      "config.yaml:9:3 server.idle_conn_timeout",
      "config.yaml:10:3 server.max_idle_conns",
      "config.yaml:11:3 server.max_idle_conns_per_host",
      "config.yaml:16:3 server.model_prices_link",
      "config.yaml:32:3 monitoring.prometheus_enabled",
      "config.yaml:33:3 monitoring.log_errors",
      "config.yaml:34:3 monitoring.errors_log_path",
      "config.yaml:43:5 credentials[1].name",
      "config.yaml:49:5 credentials[2]",
      "config.yaml:29:20 fail2ban.error_code_rules[2].ban_duration",
      "config.yaml:65:5 models[3].credential",
      "config.yaml:67:7 models[4].name",
      "config.yaml:71:3 model_alias.gpt-4o",
    ]);
  });

  test("no key of it is dropped in silence", () => {
    const config = load(FULL);
    const used = new Set([...config.sources.values(), ...aboutKeys(config).map((line) => line.split(":").slice(0, 2).join(":"))]);
    const lines = FULL.split("\n").entries();
    const silent = [...lines].flatMap(([index, line]) =>
      /^ +(?:- )?(?:\{ )?\w+: /.test(line) && !used.has(`config.yaml:${index + 1}`) ? [line.trim()] : [],
    );
    // The database is off, a rule without a duration has the common one, and the entry that a later one replaced is that one's warning.
    const database = FULL.slice(FULL.indexOf("litellm_db:"))
      .split("\n")
      .slice(1)
      .map((line) => line.trim());
    expect(silent.filter((line) => !database.includes(line))).toEqual(['ban_duration: ""', "- name: gpt-4o-mini", "- name: o3-mini", "rpm: 5"]);
  });

  test("quotaguard check shows where each value stands, and no secret", () => {
    const config = load(FULL);
    const rows = new Map(describeOptions(resolveOptions(config), config.sources).map((row) => [row.path, row]));
    expect(rows.get("server.host")).toMatchObject({ value: "0.0.0.0", source: "default of auto_ai_router" });
    expect(rows.get("server.body_limit")).toMatchObject({ value: "25mb", source: "config.yaml:4" });
    expect(rows.get("fail2ban.clients")).toMatchObject({ value: "false", source: "default of auto_ai_router" });
    expect(rows.get("resilience.max_retries")).toMatchObject({ value: "3", source: "config.yaml:15" });
    expect(rows.get("credentials[0].provider")).toMatchObject({ value: "openai", source: "config.yaml:38" });
    expect(rows.get("models[1].credential")).toMatchObject({ value: "Openai_second_", source: "config.yaml:61" });
    expect(JSON.stringify([...rows.values()]) + JSON.stringify(config) + config.warnings.join()).not.toMatch(/sk-(?:proj|router)|router:secret/);
  });
});

describe("a small file, its values from variables", () => {
  const config = (env: Environment = {}, more: Environment = {}): LoadedConfig => load(SMALL, { ...SMALL_ENV, ...env }, more);

  test("numbers and switches are what their text spells", () => {
    const { server, credentials } = resolveOptions(config());
    expect(server).toMatchObject({ bodyLimitBytes: 5 * 1_048_576, defaultModelsRpm: 9, replaceV1Models: true });
    expect(credentials[0]).toMatchObject({ origin: "https://api.openai.com", basePath: "", rpm: 30 });
  });

  test("what it does not say is as it was there: every address, port 8080, two retries, bans for good after three 429, none of clients", () => {
    const options = resolveOptions(config());
    expect(options.server).toMatchObject({ host: "0.0.0.0", port: 8_080, requestTimeoutMs: 300_000 });
    expect(options.resilience.maxRetries).toBe(2);
    expect(options.fail2ban).toEqual({ maxAttempts: 3, windowMs: 600_000, banMs: null, codes: [429], rules: [], clients: null });
    expect(resolveOptions(load(routerWith(""))).server.bodyLimitBytes).toBe(100 * 1_048_576);
  });

  test("the environment goes before it", () => {
    const { server } = resolveOptions(config({ QUOTAGUARD_PORT: "1234", QUOTAGUARD_HOST: "127.0.0.1" }));
    expect(server).toMatchObject({ host: "127.0.0.1", port: 1_234 });
  });

  test("a master key that is easy to guess is accepted as there, aloud, and survives being spread", () => {
    const loaded = config();
    const { auth } = resolveOptions({ ...loaded });
    expect(auth?.kind === "keys" && auth.masterKey?.reveal()).toBe("sk-1234");
    expect(loaded.warnings.join("\n")).toContain("config.yaml:2:3: server.master_key: must have at least 16 characters");
    expect(loaded.warnings.join("\n")).not.toContain("sk-1234");
    expect(problemsOf("version: 1\nserver: { master_key: sk-1234 }\n")).toEqual([expect.stringContaining("must have at least 16 characters")]);
    expect(problemsOf(SMALL, { ...SMALL_ENV, ROUTER_MASTER_KEY: "two words" })).toEqual([
      "config.yaml:2:3: server.master_key: must be printable ASCII without spaces, or no request header can carry it",
    ]);
  });

  test("a variable that is not set is one line, under the file's own name", () => {
    const { ROUTER_BODY_MB: _body, ROUTER_RPM: _rpm, ...env } = SMALL_ENV;
    expect(problemsOf(SMALL, env)).toEqual([
      "config.yaml:3:21: server.max_body_size_mb: the environment variable ROUTER_BODY_MB is not set",
      "config.yaml:15:10: credentials[0].rpm: the environment variable ROUTER_RPM is not set",
    ]);
  });

  test("models.yaml beside it adds what the file does not have; its own entries go first", () => {
    const loaded = config({}, { "models.yaml": fixture("models.yaml") });
    expect(resolveOptions(loaded).models).toEqual([
      { name: "gpt-4o", rpm: 20 },
      { name: "gpt-4o-mini", rpm: 60 },
      { name: "text-embedding-3-small" },
    ]);
    expect(loaded.sources.get("models[1].rpm")).toBe("models.yaml:5");
    expect(loaded.modelsFile).toMatch(/models\.yaml$/);
    expect(aboutKeys(loaded).at(-1)).toBe(
      "models.yaml:8:7: models[3].credential: there is no credential retired, so this model is left out, as there",
    );
  });

  test("models.yaml is read without replace_v1_models too, but not written", () => {
    const loaded = config({ ROUTER_REPLACE: "false" }, { "models.yaml": fixture("models.yaml") });
    expect(resolveOptions(loaded).models).toHaveLength(3);
    expect(loaded.modelsFile).toBeNull();
  });

  test("says that it is read as another program's, where it listens, and which variables do nothing", () => {
    const { warnings } = config({ HTTPS_PROXY: "http://127.0.0.1:1", UI_PASSWORD: "x" });
    expect(warnings[0]).toBe("config.yaml: is read as a configuration of auto_ai_router; with `version: 1` it would be read as one of quotaguard");
    expect(warnings.slice(-3)).toEqual([
      "server.host: 0.0.0.0, every address of this machine, as there; QUOTAGUARD_HOST or --host choose another",
      "env HTTPS_PROXY: ignored; a proxy is named by a credential's proxy_url in a quotaguard.yaml",
      "env UI_PASSWORD: ignored; there is no login page here",
    ]);
    expect(config({ QUOTAGUARD_HOST: "127.0.0.1" }).warnings.join("\n")).not.toContain("0.0.0.0");
  });
});

describe("keys whose values mean something else there", () => {
  test.each<readonly [string, object]>([
    ["  default_models_rpm: 0", { server: { defaultModelsRpm: -1 } }],
    ["  default_models_rpm: 30", { server: { defaultModelsRpm: 30 } }],
    ["  max_provider_retries: 0", { resilience: { maxRetries: 0 } }],
    ["  max_provider_retries: 50", { resilience: { maxRetries: 10 } }],
    ["  request_timeout: 1m30s", { server: { requestTimeoutMs: 90_000 }, resilience: { firstByteTimeoutMs: 120_000 } }],
    ["  request_timeout: 1500us", { server: { requestTimeoutMs: 2 } }],
    ["  request_timeout: 0s", { server: { requestTimeoutMs: 300_000 } }],
    ["  max_body_size_mb: 0.5", { server: { bodyLimitBytes: 524_288 } }],
    ['  port: "8081"', { server: { port: 8_081 } }],
    ["  logging_level: error", { server: { loggingLevel: "error" } }],
    ["  port:", { server: { port: 8_080 } }],
  ])("%s", (line, options) => expect(resolveOptions(load(routerWith(line)))).toMatchObject(options));

  const bansOf = (section: string) => resolveOptions(load(routerWith("").replace("fail2ban: {}", `fail2ban: ${section}`))).fail2ban;

  test.each([
    ["{ ban_duration: permanent }", null],
    ['{ ban_duration: "" }', null],
    ["{ ban_duration: 0s }", null],
    ["{ ban_duration: 1h30m }", 5_400_000],
    ["{ ban_duration: 250ms }", 250],
  ])("fail2ban: %s bans for %j ms", (section, banMs) => expect(bansOf(section)?.banMs).toBe(banMs));

  test("codes that say that the request is wrong are left out with a warning, of lists and of rules", () => {
    const section = "fail2ban: { error_codes: [400, 429], error_code_rules: [{ code: 422, max_attempts: 1 }, { code: 500, max_attempts: 2 }] }";
    const config = load(routerWith("").replace("fail2ban: {}", section));
    expect(resolveOptions(config).fail2ban).toMatchObject({ codes: [429], rules: [{ code: 500 }] });
    expect(aboutKeys(config).map((line) => line.replace(/^.*?: fail2ban/, "fail2ban"))).toEqual([
      "fail2ban.error_codes: 400 left out: they say that the request is wrong, which any client can bring about",
      "fail2ban.error_code_rules[0]: left out: 422 says that the request is wrong, which any client can bring about",
    ]);
  });

  test("an empty list of codes is 429, as there", () => expect(bansOf("{ error_codes: [] }")?.codes).toEqual([429]));

  test("a rule without attempts has the common number, not a ban at the first error", () =>
    expect(bansOf("{ error_code_rules: [{ code: 503, max_attempts: 0 }, { code: 500 }] }")?.rules).toEqual([
      { code: 503, maxAttempts: 3, banMs: null },
      { code: 500, maxAttempts: 3, banMs: null },
    ]));

  test("without the section nobody is banned, and that is said", () => {
    const config = load(routerWith("").replace("fail2ban: {}\n", ""));
    expect(resolveOptions(config).fail2ban).toBeNull();
    expect(config.warnings[1]).toMatch(/^config\.yaml: fail2ban: not there, so nobody is banned/);
  });

  test("a model's rpm of 0 blocks it, as there, aloud", () => {
    const config = load(routerWith("", "models: [{ name: m, rpm: 0, tpm: 0 }]\n"));
    expect(resolveOptions(config).models).toEqual([{ name: "m", rpm: 0, tpm: -1 }]);
    expect(aboutKeys(config)).toEqual([expect.stringContaining("models[0].rpm: 0 blocks this model")]);
  });

  test("keys that neither program knows are ignored, aloud", () => {
    const config = load(routerWith("  shiny: 1", "extras: { a: 1 }\nmodels: [{ name: m, color: red }]\n"));
    expect(aboutKeys(config).map((line) => line.replace(/^[^ ]+ /, ""))).toEqual([
      "server.shiny: unknown, and ignored as it was there",
      "models[0].color: unknown, and ignored as it was there",
      "extras: unknown, and ignored as it was there",
    ]);
  });

  test("what is off asks for nothing", () => {
    const monitoring = 'monitoring: { prometheus_enabled: false, log_errors: false, errors_log_path: "" }\n';
    expect(aboutKeys(load(routerWith('  model_prices_link: ""', monitoring)))).toEqual([]);
  });
});

describe("what is wrong there or not here yet", () => {
  const bad: readonly (readonly [string, string, readonly string[]])[] = [
    [
      "logging_level: warning, which it refused too",
      routerWith("  logging_level: warning"),
      ["config.yaml:3:3: server.logging_level: expected one of debug, info, warn, error, silent"],
    ],
    ["a port", routerWith("  port: 70000"), ["config.yaml:3:3: server.port: must be at most 65535"]],
    ["a body size", routerWith("  max_body_size_mb: 0"), ["config.yaml:3:3: server.max_body_size_mb: expected a number of megabytes, more than 0"]],
    ["a body size above ours", routerWith("  max_body_size_mb: 5000"), ["config.yaml:3:3: server.max_body_size_mb: must be between 1b and 1gb"]],
    ["a default rpm", routerWith("  default_models_rpm: -2"), ["config.yaml:3:3: server.default_models_rpm: must be at least -1"]],
    ["retries", routerWith("  max_provider_retries: -1"), ["config.yaml:3:3: server.max_provider_retries: must be at least 0"]],
    [
      "a duration",
      routerWith("  request_timeout: soon"),
      [expect.stringContaining("config.yaml:3:3: server.request_timeout: expected a duration") as string],
    ],
    [
      "LiteLLM's database",
      routerWith("").replace("enabled: false", "enabled: true"),
      [
        "config.yaml:4:15: litellm_db.enabled: LiteLLM's database is not used: spend is in quotaguard's own ledger (ledger.url), and clients have keys (keys); write a quotaguard.yaml with these, or set this to false",
      ],
    ],
    [
      "rpm 0 of a credential",
      routerWith("").replace("sk-a,", "sk-a, rpm: 0,"),
      ["config.yaml:7:45: credentials[0].rpm: must not be 0, as there; use -1 for unlimited, or remove the credential"],
    ],
    [
      "two rules for one code",
      routerWith("").replace("fail2ban: {}", "fail2ban:\n  error_code_rules:\n    - { code: 429 }\n    - { code: 429 }"),
      ["config.yaml:8:9: fail2ban.error_code_rules[1].code: 429 has a rule already; one rule a code"],
    ],
    [
      "a code that is none",
      routerWith("").replace("fail2ban: {}", "fail2ban: { error_codes: [200] }"),
      [expect.stringMatching(/^config\.yaml:5:\d+: fail2ban\.error_codes\[0\]: must be at least 400$/) as string],
    ],
    [
      "a section of the wrong kind",
      routerWith("").replace("fail2ban: {}", "fail2ban: on"),
      [expect.stringContaining("config.yaml:5:1: fail2ban: expected") as string],
    ],
    [
      "one credential name twice",
      routerWith("", '  - { name: a, type: proxy, base_url: "http://127.0.0.1:1" }\n'),
      ["config.yaml:8:7: credentials[1].name: a is already the name of credentials[0]; names must differ"],
    ],
    [
      "no key for OpenAI",
      routerWith("").replace("api_key: sk-a, ", ""),
      ["config.yaml:7:5: credentials[0].api_key: is required for the provider openai (an openai-compatible server may need none)"],
    ],
    [
      "a timeout without a unit, which would be milliseconds here",
      routerWith("  request_timeout: 60"),
      ["config.yaml:3:3: server.request_timeout: needs a unit, as there: 60s, 5m"],
    ],
    [
      "a ban without a unit",
      routerWith("").replace("fail2ban: {}", "fail2ban: { ban_duration: 300 }"),
      ["config.yaml:5:13: fail2ban.ban_duration: needs a unit, as there: 60s, 5m"],
    ],
    ["a model without a name", routerWith("", "models:\n  - { rpm: 5 }\n"), ["config.yaml:9:5: models[0].name: is required (a string)"]],
    ["a syntax error", routerWith("  port: [1"), [expect.stringMatching(/^config\.yaml:\d+:\d+: is not valid YAML/) as string]],
  ];
  test.each(bad)("%s", (_what, text, lines) => expect(problemsOf(text)).toEqual(lines));

  test("an account of vertex-ai keeps its project, location and key", () => {
    const key = {
      project_id: "p",
      client_email: "c",
      private_key: generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" }),
    };
    const text = routerWith(
      "",
      `  - name: v\n    type: vertex-ai\n    project_id: other\n    location: global\n    credentials_json: '${JSON.stringify(key)}'\n`,
    );
    expect(resolveOptions(load(text)).credentials[1]).toMatchObject({
      provider: "vertex-ai",
      project: "other",
      location: "global",
      serviceAccount: { clientEmail: "c" },
    });
  });

  test.each(["bedrock"])("%s is not yet available, in one line", (type) => {
    const text = routerWith("", `  - name: v\n    type: ${type}\n    project_id: p\n    location: l\n    credentials_file: f.json\n    api_key: k\n`);
    expect(problemsOf(text)).toEqual([
      "config.yaml:9:5: credentials[1].type: not yet available in this version; use a provider of docs/credentials.md, or openai-compatible with a base_url",
    ]);
  });

  test("a model's place in the file is named, whatever was left out before it", () => {
    const models = "models:\n  - { name: x, credential: gone }\n  - { name: m, rpm: -7 }\n";
    expect(problemsOf(routerWith("", models))).toEqual(["config.yaml:10:16: models[1].rpm: must be at least -1"]);
  });

  test("problems of models.yaml name it", () => {
    const models = "models:\n  - { name: a }\n  - { name: b, rpm: many }\n";
    expect(problemsOf(routerWith("", "models: [{ name: a }]\n"), {}, { "models.yaml": models })).toEqual([
      "models.yaml:3:16: models[1].rpm: expected a number, got a string",
    ]);
  });
});

describe("names of credentials", () => {
  const named = (...names: readonly string[]): string =>
    routerWith(
      "",
      names.map((name) => `  - { name: "${name}", type: openai, api_key: sk-${name.length}, base_url: "https://api.openai.com" }\n`).join(""),
    );

  test("that cannot be written here at all are told apart, and models find theirs", () => {
    const models = 'models:\n  - { name: m, credential: "запас" }\n  - { name: m, credential: "основа" }\n';
    const config = load(named("основа", "запас", "a b", "a_b") + models);
    const options = resolveOptions(config);
    expect(options.credentials.map(({ name }) => name)).toEqual(["a", "credential", "credential-2", "a_b-2", "a_b"]);
    expect(options.models.map(({ credential }) => credential)).toEqual(["credential-2", "credential"]);
    expect(aboutKeys(config).map((line) => line.split(": ").slice(1, 3).join(": "))).toEqual([
      "credentials[1].name: is called credential here",
      "credentials[2].name: is called credential-2 here",
      "credentials[3].name: is called a_b-2 here",
    ]);
  });
});

describe("a chain to another router", () => {
  const chain = (more: string): string => routerWith("", `  - { name: next, type: proxy, base_url: "http://127.0.0.1:1"${more} }\n`);

  test("without a key of its own is told that no client's key is sent on", () => {
    const [warning] = aboutKeys(load(chain("")));
    expect(warning).toMatch(/^config\.yaml:8:5: credentials\[1\]: has no api_key, and a client's own is not sent on here/);
  });

  test("with one has nothing to say", () => expect(aboutKeys(load(chain(", api_key: sk-next")))).toEqual([]));
});

describe("which file is whose", () => {
  const isTheirs = (text: string): boolean => {
    try {
      return load(text).warnings.some((line) => line.includes("auto_ai_router"));
    } catch (error) {
      if (error instanceof ConfigError) return false;
      throw error;
    }
  };
  const credential = '{ name: a, type: openai, api_key: sk-a, base_url: "https://api.openai.com" }';
  const server = "server: { port: 1, master_key: sk-router-6f1c0b7e9a2d }";

  test.each([
    ["its own keys of the server", `server: { master_key: sk-router-6f1c0b7e9a2d, max_body_size_mb: 10 }\ncredentials: [{ name: a, api_key: sk-a }]`],
    ["types of credentials and a master key", `${server}\ncredentials: [${credential}]`],
    ["the database section", `${server}\nlitellm_db: { enabled: false }`],
    ["the error log", `${server}\nmonitoring: { log_errors: true }`],
  ])("%s tell that it is auto_ai_router's", (_what, text) => expect(isTheirs(text)).toBe(true));

  test.each([
    ["a version", `version: 1\n${server}\nlitellm_db: { enabled: false }`],
    ["a section of ours", `${server}\nlimits: []\ncredentials: [${credential}]`],
    ["an option of ours beside theirs", `server: { host: 127.0.0.1, max_body_size_mb: 10 }`],
    ["an option of ours at a credential", `${server}\ncredentials: [${credential}, { name: b, provider: openai, api_key: sk-b }]`],
    ["a mistyped provider and no master key", `credentials: [${credential}]`],
    ["an option in the wrong section", `server: { master_key: sk-router-6f1c0b7e9a2d, idle_timeout: 60s }`],
    ["only what both have", `${server}\ncredentials: [{ name: a, api_key: sk-a }]\nmodels: [{ name: m, rpm: 5 }]`],
    ["nothing", ""],
  ])("%s: it is ours", (_what, text) => expect(isTheirs(text)).toBe(false));

  test("a mixed file is told what makes it ours, where their words stand and what ours are", () => {
    expect(problemsOf("server: { host: 127.0.0.1, max_body_size_mb: 10 }\ncredentials: [{ name: a, type: openai, api_key: sk-a }]\n")).toEqual([
      expect.stringMatching(/^config\.yaml:1:11: server\.host: is an option of quotaguard in a file of auto_ai_router.* set QUOTAGUARD_HOST, /),
      "config.yaml:1:28: server.max_body_size_mb: unknown option; did you mean body_limit?",
      "config.yaml:2:26: credentials[0].type: unknown option; did you mean provider?",
    ]);
  });

  test("a section of ours at the end of their file is named first, with the variable that does it", () => {
    const [first, ...rest] = problemsOf(`${routerWith("  max_body_size_mb: 10")}management: { key: an-admin-key-of-tests }\n`);
    expect(first).toMatch(
      /^config\.yaml:8:1: management: is an option of quotaguard in a file of auto_ai_router.*; take it out and set QUOTAGUARD_MANAGEMENT_KEY, or /,
    );
    expect(rest).toHaveLength(3);
  });

  test("a file of ours with one of their words is only told about the word", () => {
    expect(problemsOf("version: 1\nserver: { max_body_size_mb: 10 }\n")).toEqual([
      "config.yaml:2:11: server.max_body_size_mb: unknown option; did you mean body_limit?",
    ]);
  });
});
