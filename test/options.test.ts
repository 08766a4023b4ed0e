import { inspect } from "node:util";
import type { Request } from "express";
import { describe, expect, test } from "vitest";
import { Secret } from "../src/core/secret.ts";
import { systemClock } from "../src/core/time.ts";
import { resolveOptions, type GuardOptions } from "../src/options.ts";
import type { LimitAbout, LimitOptions } from "../src/options/limits.ts";
import { editDistance, nearest } from "../src/core/nearest.ts";
import { formatDuration, formatSize, parseDuration, parseSize } from "../src/options/values.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { problemsOf } from "./options/options-kit.ts";
import { PROVIDER_IDS } from "../src/upstream/providers.ts";

const MASTER = "a-master-key-of-32-characters-ok";
const tokensLimit: LimitOptions = { name: "t", scope: "user", unit: "tokens", bucket: { capacity: 10, refillPerSec: 1 } };
const limitWith = (change: object): unknown => ({ limits: [{ ...tokensLimit, ...change }] });
const credentialWith = (change: object): unknown => ({ credentials: [{ name: "c", apiKey: "sk-abc", ...change }] });

describe("durations and sizes", () => {
  test.each([
    ["250ms", 250],
    ["5s", 5_000],
    ["10m", 600_000],
    ["2h", 7_200_000],
    ["30d", 2_592_000_000],
    ["1h30m", 5_400_000],
    ["1.5s", 1_500],
    ["", null],
    ["5", null],
    ["5 minutes", null],
    ["-5s", null],
    ["5m ", null],
    ["5M", null],
  ])("duration %j is %j ms", (text, ms) => expect(parseDuration(text)).toBe(ms));

  test.each([
    ["10mb", 10_485_760],
    ["1gb", 1_073_741_824],
    ["512 KB", 524_288],
    ["7b", 7],
    ["0.5kb", 512],
    ["10", null],
    ["10tb", null],
    ["", null],
  ])("size %j is %j bytes", (text, bytes) => expect(parseSize(text)).toBe(bytes));

  test.each([
    [86_400_000, "1d"],
    [5_400_000, "90m"],
    [90_000, "90s"],
    [1, "1ms"],
    [0, "0ms"],
  ])("%d ms is written %s", (ms, text) => expect(formatDuration(ms)).toBe(text));

  test.each([
    [10_485_760, "10mb"],
    [1_536, "1536b"],
    [2_048, "2kb"],
  ])("%d bytes is written %s", (bytes, text) => expect(formatSize(bytes)).toBe(text));
});

describe("the nearest name", () => {
  test.each([
    ["kitten", "sitting", 3],
    ["capcity", "capacity", 1],
    ["prot", "port", 1],
    ["", "abc", 3],
    ["same", "same", 0],
  ])("%j to %j takes %d edits", (a, b, edits) => expect(editDistance(a, b)).toBe(edits));

  test.each([
    ["api_key", "apiKey"],
    ["capcity", "capacity"],
    ["refill", "refillPerSec"],
    ["prot", "port"],
    ["completelyDifferent", undefined],
    ["x".repeat(1_000), undefined],
  ])("%s means %s", (word, meant) => expect(nearest(word, ["apiKey", "capacity", "refillPerSec", "port"])).toBe(meant));
});

describe("defaults", () => {
  test("every option has one", () => {
    expect(resolveOptions()).toMatchObject({
      server: {
        host: "127.0.0.1",
        port: 8318,
        requestTimeoutMs: 300_000,
        bodyLimitBytes: 10_485_760,
        loggingLevel: "info",
        shutdownTimeoutMs: 30_000,
        trustProxy: false,
        replaceV1Models: false,
        defaultModelsRpm: -1,
      },
      store: { kind: "memory" },
      ledger: { kind: "store" },
      auth: null,
      scopes: {
        names: [],
        trustHeaders: false,
        headers: { user: "x-user-id", team: "x-team-id", role: "x-role", rolegroup: "x-llm-rolegroup", org: "x-org-id" },
        of: null,
      },
      limits: [],
      estimate: { defaultMaxOutputTokens: 4_096, capOutput: true, tokenizer: "fast" },
      credentials: [],
      models: [],
      modelAlias: {},
      router: { strategy: "round-robin", reservation: { ttlMs: 300_000 } },
      resilience: {
        maxRetries: 2,
        retryBudget: 0.1,
        connectTimeoutMs: 5_000,
        firstByteTimeoutMs: 120_000,
        idleTimeoutMs: 60_000,
        circuitBreaker: { failureThreshold: 5, openForMs: 30_000, halfOpen: 1 },
      },
      fail2ban: null,
      passthrough: { paths: "default", cost: {} },
      prices: { markupPct: 0, rules: [], files: [], refreshMs: 3_600_000 },
      management: { key: null, path: "/v0/management" },
      secrets: { key: null },
      monitoring: { prometheusEnabled: false, metricsPublic: false },
    });
  });

  test("of a limit depend on its unit", () => {
    const window = { limit: 1, per: "day" } as const;
    const { limits } = resolveOptions({ limits: [tokensLimit, { name: "u", scope: ["user", "model"], unit: "usd", window }] });
    expect(limits).toEqual([
      {
        name: "t",
        scope: ["user"],
        unit: "tokens",
        kind: { bucket: { capacity: 10, refillPerSec: 1 } },
        mode: "enforce",
        onStoreError: "local",
        required: undefined,
        overrides: {},
        enforceFrom: undefined,
        whenShort: "refuse",
        estimate: "expected",
      },
      {
        name: "u",
        scope: ["user", "model"],
        unit: "usd",
        kind: { window: { limit: 1, per: "day", timeZone: "UTC" } },
        mode: "enforce",
        onStoreError: "deny",
        required: undefined,
        overrides: {},
        enforceFrom: undefined,
        whenShort: "refuse",
        estimate: "ceiling",
      },
    ]);
  });

  test.each([
    ["second", 1_000],
    ["minute", 60_000],
    ["hour", 3_600_000],
    ["10m", 600_000],
    [90_000, 90_000],
    ["day", "day"],
    ["week", "week"],
    ["month", "month"],
    ["1d", 86_400_000],
  ])("a window per %s is %s", (per, resolved) => {
    const { limits } = resolveOptions({ limits: [{ name: "w", scope: "global", unit: "requests", window: { limit: 5, per } }] });
    expect(limits[0]?.kind).toEqual({ window: { limit: 5, per: resolved, timeZone: "UTC" } });
  });

  test("of a credential are the provider's", () => {
    const { credentials } = resolveOptions({ credentials: [{ name: "main", apiKey: "sk-abc" }] });
    expect(credentials[0]).toMatchObject({
      provider: "openai",
      origin: "https://api.openai.com",
      basePath: "",
      models: null,
      priority: 0,
      weight: 1,
      rpm: -1,
      tpm: -1,
      maxConcurrent: -1,
      isFallback: false,
      proxyUrl: null,
      headers: {},
      allowPrivate: false,
      tier: null,
    });
    expect(credentials[0]?.apiKey?.reveal()).toBe("sk-abc");
  });

  test("a base URL is taken apart", () => {
    const { credentials } = resolveOptions({
      credentials: [{ name: "local", provider: "openai-compatible", baseUrl: "http://127.0.0.1:8000/openai/v1/" }],
    });
    expect(credentials[0]).toMatchObject({ origin: "http://127.0.0.1:8000", basePath: "/openai", apiKey: null });
  });
});

describe("what code may give", () => {
  test("functions, stores and seams arrive as they are, and are not frozen", () => {
    const store = memoryStore();
    const clock = { ...systemClock };
    const capacity = (): number => 5;
    const of = (): { user: string } => ({ user: "a" });
    const resolved = resolveOptions({ store, ledger: store, clock, scopes: of, limits: [{ ...tokensLimit, bucket: { capacity, refillPerSec: 1 } }] });
    expect(resolved.store).toEqual({ kind: "given", store });
    expect(resolved.store.kind === "given" && resolved.store.store).toBe(store);
    expect(resolved.ledger.kind).toBe("given");
    expect(resolved.clock).toBe(clock);
    expect(Object.isFrozen(clock)).toBe(false);
    expect(Object.isFrozen(store)).toBe(false);
    expect(resolved.scopes.of).toBe(of);
    expect(resolved.scopes.headers.user).toBe("x-user-id");
    expect(resolved.limits[0]?.kind).toEqual({ bucket: { capacity, refillPerSec: 1 } });
  });

  test("resolved options are frozen all the way down, and the given ones are not touched", () => {
    const given: GuardOptions = {
      limits: [{ ...tokensLimit, overrides: { a: 5 } }],
      keys: [{ name: "k", key: "qg_1", scopes: { user: 7n }, models: ["gpt-*"] }],
      credentials: [{ name: "c", apiKey: "sk-abc", headers: { "x-a": "1" } }],
    };
    const before = structuredClone(given);
    const open: string[] = [];
    const visit = (value: unknown, path: string): void => {
      if (typeof value !== "object" || value === null || value instanceof Secret) return;
      if (!Object.isFrozen(value)) open.push(path);
      for (const [name, child] of Object.entries(value)) visit(child, `${path}.${name}`);
    };
    visit(resolveOptions(given), "");
    expect(open).toEqual([]);
    expect(given).toEqual(before);
    expect(Object.isFrozen(given.limits?.[0])).toBe(false);
  });

  test.each([
    ["nothing", {}, null],
    ["false", { auth: false }, { kind: "host" }],
    ["a master key", { server: { masterKey: MASTER } }, { kind: "keys", keys: [] }],
    ["client keys", { keys: [{ name: "k", key: "qg_1" }] }, { kind: "keys", masterKey: null, keys: [{ name: "k", expiresAt: null, models: null }] }],
    [
      "auth, which replaces both",
      { auth: { masterKey: MASTER }, server: { masterKey: `${MASTER}2` }, keys: [{ name: "k", key: "qg_1" }] },
      { kind: "keys", keys: [] },
    ],
    ["an empty auth", { auth: {} }, null],
    ["auth by keys that are made at run time", { auth: { keys: [] } }, { kind: "keys", masterKey: null, keys: [] }],
    ["keys that are made at run time", { keys: [] }, { kind: "keys", masterKey: null, keys: [] }],
  ])("client auth by %s", (_what, options, auth) => {
    const resolved = resolveOptions(options as GuardOptions).auth;
    if (auth === null) expect(resolved).toBeNull();
    else expect(resolved).toMatchObject(auth);
  });

  test("client auth by a function", () => {
    const authenticate = async (): Promise<null> => null;
    expect(resolveOptions({ auth: authenticate }).auth).toEqual({ kind: "custom", authenticate });
  });

  test("a key may already be a Secret, and none is ever printed", () => {
    const resolved = resolveOptions({ server: { masterKey: new Secret(MASTER) }, credentials: [{ name: "c", apiKey: "sk-very-secret" }] });
    const printed = inspect(resolved, { depth: 9 }) + JSON.stringify(resolved);
    expect(printed).not.toContain(MASTER);
    expect(printed).not.toContain("sk-very-secret");
    expect(resolved.auth?.kind === "keys" && resolved.auth.masterKey?.reveal()).toBe(MASTER);
  });

  test.each([
    ["2027-01-01", Date.UTC(2027, 0, 1)],
    ["2027-01-01T10:00:00+02:00", Date.UTC(2027, 0, 1, 8)],
    [new Date(5), 5],
    [1_000, 1_000],
  ])("enforceFrom %s is %d", (enforceFrom, ms) => {
    expect(resolveOptions({ limits: [{ ...tokensLimit, enforceFrom }] }).limits[0]?.enforceFrom).toBe(ms);
  });

  test("a callback may name the host's own request type", () => {
    const scopes = (req: Request): { user: string | undefined } => ({ user: req.ip });
    const capacity = ({ req }: LimitAbout<Request>): number => (req.secure ? 1 : 2);
    const options: GuardOptions = {
      scopes,
      limits: [{ ...tokensLimit, bucket: { capacity, refillPerSec: 1 } }],
      auth: (_key, req) => ({ name: req.url ?? "" }),
    };
    expect(resolveOptions(options).scopes.of).toBe(scopes);
  });

  test("readonly lists are taken", () => {
    const limits = [{ name: "a", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] as const;
    expect(resolveOptions({ limits }).limits).toHaveLength(1);
  });

  test("scope headers add to the defaults, and null removes one", () => {
    const { scopes } = resolveOptions({ scopes: { headers: { feature: "X-Feature", user: null } }, limits: [{ ...tokensLimit, scope: "feature" }] });
    expect(scopes.headers).toEqual({ feature: "x-feature", team: "x-team-id", role: "x-role", rolegroup: "x-llm-rolegroup", org: "x-org-id" });
  });

  test.each([
    ["memory", { kind: "memory" }],
    ["sqlite:./data/q.db", { kind: "sqlite", path: "./data/q.db" }],
    ["sqlite:///var/q.db", { kind: "sqlite", path: "/var/q.db" }],
    ["sqlite::memory:", { kind: "sqlite", path: ":memory:" }],
  ])("store url %s", (url, store) => expect(resolveOptions({ store: { url }, ledger: { url } })).toMatchObject({ store, ledger: store }));
});

describe("every problem at once, by its path", () => {
  test("in one error", () => {
    const problems = problemsOf({
      server: { prot: 1, port: "a" },
      limits: [{ ...tokensLimit, capcity: 5, mode: "enfore" }, tokensLimit],
      monitoring: { requestLog: 5 },
      credentials: [{ name: "c", apiKey: "sk-abc" }],
      models: [{ name: "m", credential: "d" }],
    });
    expect(problems).toEqual([
      "monitoring.requestLog: not yet available in this version",
      "server.port: expected a number, got a string",
      "server.prot: unknown option; did you mean port?",
      "limits[0].mode: expected one of enforce, shadow; did you mean enforce?",
      "limits[0].capcity: unknown option; did you mean bucket.capacity?",
      "limits[1].name: t is already the name of limits[0]; names must differ",
      "models[0].credential: there is no credential d; did you mean c?",
    ]);
  });

  const unknown: readonly (readonly [string, unknown, string])[] = [
    ["a sibling", { server: { prot: 1 } }, "server.prot: unknown option; did you mean port?"],
    [
      "snake_case in code",
      { credentials: [{ name: "c", apiKey: "k", base_url: "x" }] },
      "credentials[0].base_url: unknown option; did you mean baseUrl?",
    ],
    ["one level down", { port: 1 }, "port: unknown option; did you mean server.port?"],
    ["one level down, mistyped", limitWith({ capcity: 1 }), "limits[0].capcity: unknown option; did you mean bucket.capacity?"],
    [
      "one level up",
      limitWith({ bucket: { capacity: 1, refillPerSec: 1, whenShrt: "x" } }),
      "limits[0].bucket.whenShrt: unknown option; did you mean limits[0].whenShort?",
    ],
    ["on the first level", { limts: [] }, "limts: unknown option; did you mean limits?"],
    ["another product's word", credentialWith({ type: "openai" }), "credentials[0].type: unknown option; did you mean provider?"],
    [
      "the beginning of a name",
      limitWith({ bucket: { capacity: 1, refill: 1 } }),
      "limits[0].bucket.refill: unknown option; did you mean refillPerSec?",
    ],
    ["nothing like it", { prices: { zzz: 1 } }, "prices.zzz: unknown option; known here: markupPct, rules, files, book, refresh"],
  ];
  test.each(unknown)("unknown option: %s", (_what, options, line) => expect(problemsOf(options)).toContain(line));

  const bad: readonly (readonly [string, unknown, string])[] = [
    ["limit without a kind", limitWith({ bucket: undefined }), "limits[0]: needs exactly one of bucket or window"],
    [
      "two kinds",
      limitWith({ window: { limit: 1, per: "day" } }),
      "limits[0]: has bucket and window; it needs exactly one of bucket, window, concurrency",
    ],
    ["concurrent in a bucket", limitWith({ unit: "concurrent" }), "limits[0].bucket: the unit concurrent is limited by concurrency"],
    [
      "tokens by concurrency",
      limitWith({ bucket: undefined, concurrency: { limit: 1 } }),
      "limits[0].concurrency: the unit tokens is limited by bucket or window; concurrency is for the unit concurrent",
    ],
    ["concurrent without concurrency", limitWith({ unit: "concurrent", bucket: undefined }), "limits[0]: needs concurrency"],
    [
      "unit",
      limitWith({ unit: "token" }),
      "limits[0].unit: expected one of requests, tokens, input_tokens, output_tokens, usd, concurrent; did you mean tokens?",
    ],
    [
      "undeclared scope",
      limitWith({ scope: "tem" }),
      "limits[0].scope: unknown scope tem; did you mean team? (scopes of your own are declared in scopes.names or scopes.headers)",
    ],
    ["scope twice", limitWith({ scope: ["user", "user"] }), "limits[0].scope[1]: user is named twice"],
    ["no scope", limitWith({ scope: [] }), "limits[0].scope: must name 1 to 5 scopes"],
    [
      "negative capacity",
      limitWith({ bucket: { capacity: -2, refillPerSec: 1 } }),
      "limits[0].bucket.capacity: must be 0 or more, or -1 for unlimited",
    ],
    ["fractional tokens", limitWith({ bucket: { capacity: 1.5, refillPerSec: 1 } }), "limits[0].bucket.capacity: must be a whole number"],
    [
      "capacity above 4e15",
      limitWith({ bucket: { capacity: 4e15 + 1, refillPerSec: 1 } }),
      "limits[0].bucket.capacity: must be at most 4000000000000000",
    ],
    [
      "refill below 0",
      limitWith({ bucket: { capacity: 1, refillPerSec: -1 } }),
      "limits[0].bucket.refillPerSec: must be between 0 and 1000000000000000",
    ],
    ["refill missing", limitWith({ bucket: { capacity: 1 } }), "limits[0].bucket.refillPerSec: is required (a number)"],
    [
      "USD below a nano",
      limitWith({ unit: "usd", bucket: { capacity: 1e-10, refillPerSec: 0 } }),
      "limits[0].bucket.capacity: must be a whole number of nano-USD (at most 9 decimal places)",
    ],
    [
      "USD above 4e15 nano",
      limitWith({ unit: "usd", bucket: { capacity: 4_000_001, refillPerSec: 0 } }),
      "limits[0].bucket.capacity: must be at most 4000000 USD",
    ],
    ["override below 0", limitWith({ overrides: { alice: -5 } }), "limits[0].overrides.alice: must be 0 or more, or -1 for unlimited"],
    ["override of text", limitWith({ overrides: { alice: "5" } }), "limits[0].overrides.alice: expected a number, got a string"],
    [
      "NaN",
      limitWith({ bucket: { capacity: Number.NaN, refillPerSec: 1 } }),
      "limits[0].bucket.capacity: expected a number (-1 = unlimited) or, in code, a function",
    ],
    [
      "period",
      limitWith({ bucket: undefined, window: { limit: 1, per: "mont" } }),
      "limits[0].window.per: expected second, minute, hour, day, week, month or a duration such as 10m; did you mean month?",
    ],
    ["period too short", limitWith({ bucket: undefined, window: { limit: 1, per: "10ms" } }), "limits[0].window.per: must be between 1s and 366d"],
    [
      "time zone",
      limitWith({ bucket: undefined, window: { limit: 1, per: "day", timeZone: "Europe/Berln" } }),
      "limits[0].window.timeZone: expected an IANA time zone such as Europe/Berlin; did you mean Europe/Berlin?",
    ],
    [
      "offset as time zone",
      limitWith({ bucket: undefined, window: { limit: 1, per: "day", timeZone: "+02:00" } }),
      "limits[0].window.timeZone: expected an IANA time zone such as Europe/Berlin",
    ],
    [
      "time zone of a sliding window",
      limitWith({ bucket: undefined, window: { limit: 1, per: "hour", timeZone: "UTC" } }),
      "limits[0].window.timeZone: is for the calendar periods day, week and month; this window slides",
    ],
    [
      "shorten requests",
      limitWith({ unit: "requests", whenShort: "shorten" }),
      "limits[0].whenShort: shorten cuts the output, so it is for usd, tokens and output_tokens, not for requests",
    ],
    [
      "date that does not exist",
      limitWith({ enforceFrom: "2027-02-30" }),
      "limits[0].enforceFrom: expected a date such as 2027-01-01 (UTC) or 2027-01-01T09:00:00+02:00",
    ],
    [
      "date without offset",
      limitWith({ enforceFrom: "2027-01-01T10:00" }),
      "limits[0].enforceFrom: expected a date such as 2027-01-01 (UTC) or 2027-01-01T09:00:00+02:00",
    ],
    [
      "duplicate credential",
      {
        credentials: [
          { name: "c", apiKey: "a" },
          { name: "c", apiKey: "b" },
        ],
      },
      "credentials[1].name: c is already the name of credentials[0]; names must differ",
    ],
    [
      "duplicate key name",
      {
        keys: [
          { name: "k", key: "a" },
          { name: "k", key: "b" },
        ],
      },
      "keys[1].name: k is already the name of keys[0]; names must differ",
    ],
    [
      "duplicate key in auth",
      {
        auth: {
          keys: [
            { name: "k", key: "a" },
            { name: "k", key: "b" },
          ],
        },
      },
      "auth.keys[1].name: k is already the name of auth.keys[0]; names must differ",
    ],
    [
      "one key for two",
      {
        keys: [
          { name: "k", key: "a" },
          { name: "l", key: new Secret("a") },
        ],
      },
      "keys[1].key: is the same key as the key k; give each its own",
    ],
    [
      "master key opens management",
      { server: { masterKey: MASTER }, management: { key: MASTER } },
      "management.key: is the same key as the master key; give each its own",
    ],
    [
      "undeclared scope of a key",
      { keys: [{ name: "k", key: "a", scopes: { usr: "x" } }] },
      "keys[0].scopes.usr: unknown scope usr; did you mean user? (scopes of your own are declared in scopes.names or scopes.headers)",
    ],
    [
      "scope value",
      { keys: [{ name: "k", key: "a", scopes: { user: "a b" } }] },
      "keys[0].scopes: the value of scope user must be 1 to 128 characters of A-Z a-z 0-9 . _ @ : -",
    ],
    ["empty key", { keys: [{ name: "k", key: "" }] }, "keys[0].key: is empty; put the real key here"],
    [
      "key with a space",
      { keys: [{ name: "k", key: "a b" }] },
      "keys[0].key: must be printable ASCII without spaces, or no request header can carry it",
    ],
    [
      "unknown credential",
      { credentials: [{ name: "main", apiKey: "a" }], models: [{ name: "m", credential: "mian" }] },
      "models[0].credential: there is no credential mian; did you mean main?",
    ],
    ["model twice", { models: [{ name: "m" }, { name: "m" }] }, "models[1].name: models[0] already describes m for all credentials"],
    ["price below 0", { models: [{ name: "m", price: { inputPerMtok: -1, outputPerMtok: 0 } }] }, "models[0].price.inputPerMtok: must be at least 0"],
    [
      "a chain to itself",
      { router: { fallbackChains: { m: ["Models/M"] } } },
      "router.fallbackChains.m[0]: is the key itself; name what takes over from it",
    ],
    ["a chain with a member twice", { router: { fallbackChains: { m: ["n", "n"] } } }, "router.fallbackChains.m[1]: n is named twice"],
    [
      "two chains of one name",
      { router: { fallbackChains: { m: ["n"], M: ["o"] } } },
      "router.fallbackChains.M: is the same name as m; write one chain for both",
    ],
    [
      "an empty chain",
      { router: { fallbackChains: { m: [] } } },
      "router.fallbackChains.m: expected 1 to 20 members: models, patterns such as claude-*, or credentials",
    ],
    [
      "a long chain",
      { router: { fallbackChains: { m: Array.from({ length: 21 }, (_, i) => `m${i}`) } } },
      "router.fallbackChains.m: expected 1 to 20 members: models, patterns such as claude-*, or credentials",
    ],
    [
      "sticky by nothing known",
      { router: { sticky: { by: ["sesion"] } } },
      "router.sticky.by[0]: expected session or a scope, not sesion; did you mean session? (scopes of your own are declared in scopes.names or scopes.headers)",
    ],
    [
      "sticky by the model",
      { router: { sticky: { by: ["model"] } } },
      "router.sticky.by[0]: expected session or a scope, not model (scopes of your own are declared in scopes.names or scopes.headers)",
    ],
    ["sticky by one twice", { router: { sticky: { by: ["user", "user"] } } }, "router.sticky.by[1]: user is named twice"],
    ["sticky by none", { router: { sticky: { by: [] } } }, "router.sticky.by: expected 1 to 10 of session and the names of scopes; false = off"],
    ["alias to itself", { modelAlias: { fast: "fast" } }, "modelAlias.fast: stands for itself; name the model it stands for, or remove it"],
    ["alias to an alias", { modelAlias: { a: "b", b: "c" } }, "modelAlias.a: b is an alias too; name the model it stands for"],
    [
      "no address",
      credentialWith({ provider: "openai-compatible" }),
      "credentials[0].baseUrl: is required: an openai-compatible provider has no address of its own",
    ],
    [
      "no api key",
      credentialWith({ apiKey: undefined }),
      "credentials[0].apiKey: is required for the provider openai (an openai-compatible server may need none)",
    ],
    ["provider", credentialWith({ provider: "opnai" }), `credentials[0].provider: expected one of ${PROVIDER_IDS.join(", ")}; did you mean openai?`],
    ["address", credentialWith({ baseUrl: "ftp://x" }), "credentials[0].baseUrl: must be an absolute http:// or https:// URL"],
    [
      "header of the connection",
      credentialWith({ headers: { Host: "x" } }),
      'credentials[0].headers.Host: "Host" is set by the gateway and cannot be given here',
    ],
    [
      "header with a line break",
      credentialWith({ headers: { "x-a": "a\r\nb" } }),
      'credentials[0].headers.x-a: the value of "x-a" contains characters that HTTP does not allow',
    ],
    ["timeout beyond a timer", { resilience: { idleTimeout: "30d" } }, "resilience.idleTimeout: must be between 1ms and 24d"],
    ["timeout -1", { resilience: { idleTimeout: -1 } }, "resilience.idleTimeout: must be between 1ms and 24d"],
    [
      "timeout without unit",
      { server: { requestTimeout: "5" } },
      "server.requestTimeout: expected a duration: ms as a number, or a number with its unit such as 250ms, 5s, 10m, 2h, 30d",
    ],
    ["size", { server: { bodyLimit: "ten" } }, "server.bodyLimit: expected a size: bytes as a number, or a number with its unit such as 512kb, 10mb"],
    ["port", { server: { port: 65_536 } }, "server.port: must be at most 65535"],
    ["retry budget", { resilience: { retryBudget: 2 } }, "resilience.retryBudget: must be at most 1"],
    [
      "store url",
      { store: { url: "mysql://x" } },
      "store.url: expected memory, sqlite:<path> or redis://<host>:<port>, for example sqlite:./data/quotaguard.db",
    ],
    ["store url of the wrong kind", { store: { url: 5 } }, "store.url: expected text"],
    ["keys in auth of the wrong kind", { auth: { keys: {} } }, "auth.keys: expected a list, got an object"],
    ["store object", { store: { get: 1 } }, "store.get: unknown option"],
    ["management path", { management: { path: "v0/" } }, "management.path: expected a path such as /v0/management, without a trailing slash"],
    ["not an object", 7, "options: expected an object, got a number"],
    ["a promise of all", Promise.resolve({ limits: [] }), "options: is a promise: await it first"],
    ["a promise of one", { store: Promise.resolve({ url: "memory" }) }, "store: is a promise: await it first"],
    ["list instead of object", { server: [] }, "server: expected an object, got a list"],
    ["null", { estimate: null }, "estimate: expected an object, got nothing (null)"],
    ["auth", { auth: true }, "auth: expected false, { masterKey, keys } or a function (key, req) => principal"],
    ["clock", { clock: {} }, "clock: expected a clock: { now, monotonic, timer }"],
  ];
  test.each(bad)("%s", (_what, options, line) => expect(problemsOf(options)).toContainEqual(expect.stringContaining(line)));

  test.each(["sk-…", "changeme", "", "short", "sk-...", "change-me-change-me-change", "your-master-key-here", "<put-your-key-here-please>"])(
    "own key %j is refused",
    (key) => {
      const problems = problemsOf({ server: { masterKey: key }, management: { key }, secrets: { key } });
      for (const option of ["server.masterKey", "management.key", "secrets.key"]) {
        expect(problems.filter((line) => line.startsWith(`${option}: `))).toHaveLength(1);
      }
      expect(problems.join("\n")).toContain("randomBytes");
      if (key.length > 8) expect(problems.join("\n")).not.toContain(key);
    },
  );

  test("-1 is unlimited and 0 is a limit", () => {
    const { limits } = resolveOptions({
      limits: [
        { ...tokensLimit, bucket: { capacity: -1, refillPerSec: 0 }, overrides: { a: 0, b: -1 } },
        { name: "c", scope: "user", unit: "concurrent", concurrency: { limit: 0 } },
      ],
    });
    expect(limits.map(({ kind }) => kind)).toEqual([{ bucket: { capacity: -1, refillPerSec: 0 } }, { concurrency: { limit: 0 } }]);
  });

  test("declared scopes are known: names, headers, built-ins", () => {
    const own = { ...tokensLimit, scope: ["feature", "region", "org"] };
    expect(problemsOf({ scopes: { names: ["feature"], headers: { region: "x-region" } }, limits: [own] })).toEqual([]);
  });

  test("no value is ever repeated", () => {
    const secret = "hunter2-hunter2-hunter2";
    const lines = problemsOf({
      server: { masterKey: { secret }, port: secret },
      keys: [
        { name: "k", key: `${secret} ` },
        { name: "l", key: `${secret} ` },
      ],
      credentials: [
        { name: "c", apiKey: [secret], baseUrl: `https://u:${secret}@x`, proxyUrl: `http://u:${secret}@x/path`, headers: { "x-a": `${secret}\n` } },
      ],
      store: { url: `redis://:${secret}@x` },
    });
    expect(lines.length).toBeGreaterThan(7);
    expect(lines.join("\n")).not.toContain(secret);
  });
});

describe("not yet", () => {
  const refused: readonly (readonly [string, unknown])[] = [
    ["credentials[0].provider", credentialWith({ provider: "bedrock" })],
    ["monitoring.opentelemetry", { monitoring: { opentelemetry: true } }],
    ["monitoring.requestLog", { monitoring: { requestLog: 1_000 } }],
    ["plugins.telegram", { plugins: { telegram: true } }],
    ["telegram", { telegram: {} }],
  ];
  test.each(refused)("%s is refused, with one line", (path, options) => {
    const problems = problemsOf(options);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(new RegExp(`^${path.replace(/[.[\]]/g, "\\$&")}: not yet available in this version`));
  });

  test("their off values are taken", () => {
    expect(
      problemsOf({
        server: { replaceV1Models: false, defaultModelsRpm: -1 },
        store: { url: "memory", nodes: "auto" },
        credentials: [{ name: "c", apiKey: "a", rpm: -1, tpm: -1, maxConcurrent: -1, weight: 1 }],
        models: [{ name: "m", rpm: -1, tpm: -1 }],
        router: { strategy: "round-robin", sticky: false, policies: [], fallbackChains: {} },
        resilience: { circuitBreaker: false },
        fail2ban: false,
        passthrough: false,
        prices: { markupPct: 0 },
        monitoring: { opentelemetry: false, requestLog: -1 },
        plugins: [],
      }),
    ).toEqual([]);
  });
});
