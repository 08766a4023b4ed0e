import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { describeOptions } from "../../src/config/report.ts";
import { resolveOptions } from "../../src/options.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { folderWith } from "./folder.ts";

const MASTER = "a-master-key-of-32-characters-ok";
const FILE = `server: { master_key: ${MASTER}, request_timeout: 90s, body_limit: 2mb }
keys:
  - { name: k, key: qg_${MASTER}, scopes: { user: alice }, expires: 2027-01-01 }
limits:
  - name: month
    scope: [user, model]
    unit: usd
    window: { limit: 20, per: month }
    overrides: { alice_b: 50 }
    enforce_from: 2026-12-01
  - { name: calls, scope: user, unit: requests, window: { limit: -1, per: 10m } }
  - { name: bucket, scope: user, unit: tokens, bucket: { capacity: 5, refill_per_sec: 1 } }
credentials:
  - { name: c, provider: openai-compatible, api_key: sk-${MASTER}, base_url: "http://127.0.0.1:1/v1", headers: { x-token: ${MASTER} }, proxy_url: "http://u:${MASTER}@127.0.0.1:2" }
`;

describe("plugins by name", () => {
  const rowsOf = (plugins: string): readonly string[] => {
    const config = loadConfig({ cwd: folderWith({ "quotaguard.yaml": plugins }), env: { QUOTAGUARD_COLLECTOR_WORKERS: "3" } });
    const rows = describeOptions(resolveOptions(config), config.sources).filter(({ path }) => path.startsWith("plugins"));
    return rows.map(({ path, value, source }) => `${path} = ${value} (${source})`);
  };

  test("show each of their options with its source, and no token", () => {
    const rows = rowsOf('plugins: { collectors: { interval: 2m, endpoints: { claude: "http://127.0.0.1:1" }, antigravity: { csrf: a-token } } }');
    expect(rows).toEqual(
      expect.arrayContaining([
        "plugins.collectors.interval = 2m (quotaguard.yaml:1)",
        "plugins.collectors.workers = 3 (env QUOTAGUARD_COLLECTOR_WORKERS)",
        "plugins.collectors.jitter = 250ms (default)",
        "plugins.collectors.endpoints.claude = http://127.0.0.1:1 (quotaguard.yaml:1)",
        "plugins.collectors.antigravity.csrf = [redacted] (quotaguard.yaml:1)",
        "plugins.collectors.antigravity.start_timeout = 15s (default)",
      ]),
    );
    expect(rowsOf("plugins: { collectors: false }")).toEqual(["plugins.collectors = false (quotaguard.yaml:1)"]);
    expect(rowsOf("")).toEqual(["plugins = none (default)"]);
  });
});

describe("describeOptions", () => {
  const rowsOf = (): ReadonlyMap<string, readonly [string, string]> => {
    const config = loadConfig({ cwd: folderWith({ "quotaguard.yaml": FILE }), env: { QUOTAGUARD_PORT: "9000" } });
    return new Map(describeOptions(resolveOptions(config), config.sources).map(({ path, value, source }) => [path, [value, source]]));
  };

  test.each([
    ["server.port", "9000", "env QUOTAGUARD_PORT"],
    ["server.host", "127.0.0.1", "default"],
    ["server.master_key", "[redacted]", "quotaguard.yaml:1"],
    ["server.request_timeout", "90s", "quotaguard.yaml:1"],
    ["server.body_limit", "2mb", "quotaguard.yaml:1"],
    ["store.url", "memory", "default"],
    ["ledger.url", "the store's own", "default"],
    ["keys[0].key", "[redacted]", "quotaguard.yaml:3"],
    ["keys[0].scopes.user", "alice", "quotaguard.yaml:3"],
    ["keys[0].expires", "2027-01-01T00:00:00.000Z", "quotaguard.yaml:3"],
    ["keys[0].models", "all", "default"],
    ["scopes.headers.rolegroup", "x-llm-rolegroup", "default"],
    ["limits[0].scope", "user, model", "quotaguard.yaml:6"],
    ["limits[0].window.limit", "20", "quotaguard.yaml:8"],
    ["limits[0].window.time_zone", "UTC", "default"],
    ["limits[0].overrides.alice_b", "50", "quotaguard.yaml:9"],
    ["limits[0].enforce_from", "2026-12-01T00:00:00.000Z", "quotaguard.yaml:10"],
    ["limits[0].estimate", "ceiling", "default"],
    ["limits[1].window.limit", "-1 (unlimited)", "quotaguard.yaml:11"],
    ["limits[1].window.per", "10m", "quotaguard.yaml:11"],
    ["limits[2].bucket.refill_per_sec", "1", "quotaguard.yaml:12"],
    ["credentials[0].base_url", "http://127.0.0.1:1", "quotaguard.yaml:14"],
    ["credentials[0].headers.x-token", "[redacted]", "quotaguard.yaml:14"],
    ["credentials[0].proxy_url", "http://[redacted]@127.0.0.1:2", "quotaguard.yaml:14"],
    ["router.reservation.ttl", "5m", "default"],
    ["router.thresholds.warning", "85", "default"],
    ["router.anti_flapping.min_dwell_time", "5m", "default"],
    ["router.policies", "none", "default"],
    ["management.key", "none", "default"],
    ["idempotency.ttl", "1d", "default"],
    ["idempotency.max_body", "1mb", "default"],
    ["models", "none", "default"],
    ["server.replace_v1_models", "false", "default"],
    ["server.default_models_rpm", "-1 (unlimited)", "default"],
    ["credentials[0].rpm", "-1 (unlimited)", "default"],
    ["credentials[0].max_concurrent", "-1 (unlimited)", "default"],
    ["resilience.circuit_breaker.open_for", "30s", "default"],
    ["fail2ban", "false", "default"],
    ["passthrough.paths", "default", "default"],
    ["passthrough.cost", "none", "default"],
  ])("%s = %s (%s)", (path, value, source) => expect(rowsOf().get(path)).toEqual([value, source]));

  const MORE = `server: { default_models_rpm: 10, trust_proxy: [loopback, 10.0.0.0/8] }
credentials: [{ name: c, api_key: sk-${MASTER}, rpm: 60, tpm: 0, max_concurrent: 4, weight: 0.5 }]
models: [{ name: m, rpm: -1, tpm: 9 }, { name: n }]
router: { strategy: weighted, thresholds: { switch: 91.5 }, policy: mine, policies: [{ name: mine, weights: { cost: 2 } }], ignore_estimated: false }
resilience: { circuit_breaker: false }
fail2ban: { max_attempts: 4, error_codes: [], error_code_rules: [{ code: 429, ban_duration: 10s }], clients: { valid_keys: refuse } }
passthrough:
  paths: ["/v1/images/*", "/v1/files*"]
  cost:
    /v1/images/*: 0.04
    /v1/files*: { tokens: 5 }
    /v1/batches: { model: m, input: ${MASTER}, max_output_tokens: 5 }
`;

  test.each([
    ["server.default_models_rpm", "10", "quotaguard.yaml:1"],
    ["server.trust_proxy", "loopback, 10.0.0.0/8", "quotaguard.yaml:1"],
    ["credentials[0].rpm", "60", "quotaguard.yaml:2"],
    ["credentials[0].tpm", "0", "quotaguard.yaml:2"],
    ["credentials[0].max_concurrent", "4", "quotaguard.yaml:2"],
    ["credentials[0].weight", "0.5", "quotaguard.yaml:2"],
    ["models[0].rpm", "-1 (unlimited)", "quotaguard.yaml:3"],
    ["models[0].tpm", "9", "quotaguard.yaml:3"],
    ["models[1].rpm", undefined, undefined],
    ["router.strategy", "weighted", "quotaguard.yaml:4"],
    ["router.thresholds.switch", "91.5", "quotaguard.yaml:4"],
    ["router.thresholds.critical", "95", "default"],
    ["router.policy", "mine", "quotaguard.yaml:4"],
    ["router.policies[0].weights.cost", "2", "quotaguard.yaml:4"],
    ["router.policies[0].weights.safety", "0", "default"],
    ["router.ignore_estimated", "false", "quotaguard.yaml:4"],
    ["resilience.circuit_breaker", "false", "quotaguard.yaml:5"],
    ["fail2ban.max_attempts", "4", "quotaguard.yaml:6"],
    ["fail2ban.window", "10m", "default"],
    ["fail2ban.ban_duration", "permanent", "default"],
    ["fail2ban.error_codes", "401, 403, 429, 500, 502, 503, 504", "quotaguard.yaml:6"],
    ["fail2ban.error_code_rules[0].code", "429", "quotaguard.yaml:6"],
    ["fail2ban.error_code_rules[0].max_attempts", "4", "default"],
    ["fail2ban.error_code_rules[0].ban_duration", "10s", "quotaguard.yaml:6"],
    ["fail2ban.clients.ban_duration", "15m", "default"],
    ["fail2ban.clients.valid_keys", "refuse", "quotaguard.yaml:6"],
    ["passthrough.paths", "/v1/images/*, /v1/files*", "quotaguard.yaml:8"],
    ["passthrough.cost./v1/images/*", "0.04", "quotaguard.yaml:10"],
    ["passthrough.cost./v1/files*.tokens", "5", "quotaguard.yaml:11"],
    ["passthrough.cost./v1/batches.max_output_tokens", "5", "quotaguard.yaml:12"],
    ["passthrough.cost./v1/batches.input", "given", "quotaguard.yaml:12"],
  ])("of what is sent, banned and passed through: %s = %s (%s)", (path, value, source) => {
    const config = loadConfig({ cwd: folderWith({ "quotaguard.yaml": MORE }), env: {} });
    const rows = describeOptions(resolveOptions(config), config.sources);
    expect(JSON.stringify(rows)).not.toContain(MASTER);
    const row = rows.find((each) => each.path === path);
    expect([row?.value, row?.source]).toEqual([value, source]);
  });

  test("switched off, the sections of bans and of passing through are one row each", () => {
    const rows = describeOptions(resolveOptions({ fail2ban: { clients: false }, passthrough: false }));
    expect(rows.find(({ path }) => path === "fail2ban.clients")?.value).toBe("false");
    expect(rows.filter(({ path }) => path.startsWith("passthrough"))).toEqual([{ path: "passthrough", value: "false", source: "default" }]);
  });

  test("has no secret in it, and each path once", () => {
    const rows = rowsOf();
    expect(JSON.stringify([...rows])).not.toContain(MASTER);
    const config = loadConfig({ cwd: folderWith({ "quotaguard.yaml": FILE }), env: {} });
    expect(describeOptions(resolveOptions(config))).toHaveLength(rows.size);
  });

  test("names what code brought along", () => {
    const options = resolveOptions({
      store: memoryStore(),
      scopes: () => ({}),
      auth: async () => null,
      limits: [{ name: "a", scope: "user", unit: "tokens", bucket: { capacity: () => 1, refillPerSec: 0 } }],
    });
    const rows = new Map(describeOptions(options).map(({ path, value }) => [path, value]));
    expect(rows.get("store.url")).toBe("an object (memory)");
    expect(rows.get("scopes.of")).toBe("a function");
    expect(rows.get("auth")).toBe("a function");
    expect(rows.get("limits[0].bucket.capacity")).toBe("a function");
  });

  test.each([
    [{}, "undecided: a gateway needs server.master_key, keys or auth"],
    [{ auth: false as const }, "the app in front of the gateway"],
  ])("says how clients are authenticated: %j", (options, value) => {
    expect(describeOptions(resolveOptions(options)).find(({ path }) => path === "auth")?.value).toBe(value);
  });
});
