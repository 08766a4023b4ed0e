/** Every option of the guard, in code spelling. YAML uses the same names in snake_case. */
import { z } from "zod";
import type { Logger } from "../core/logger.ts";
import { scopesFrom, type ScopesInput } from "../core/scope.ts";
import type { StrategyFunction } from "../core/strategy.ts";
import type { Clock, MaybePromise } from "../core/time.ts";
import { STRATEGY_NAMES, type StrategyName } from "../pool/strategies/index.ts";
import type { Transport } from "../upstream/transport.ts";
import { choosingShape } from "./choosing.ts";
import { credentialSchema, patterns } from "./credentials.ts";
import { fail2banSchema } from "./fail2ban.ts";
import { idempotencySchema } from "./idempotency.ts";
import { limitSchema, type HostRequest } from "./limits.ts";
import { passthroughSchema } from "./passthrough.ts";
import { pluginsOption } from "./plugins.ts";
import { priceSchema, pricesSchema } from "./prices.ts";
import { ledgerOption, storeOption } from "./stores.ts";
import { trustProxySchema } from "./trust-proxy.ts";
import { callback, duration, instant, list, name, scopeName, seam, secret, sendLimit, size, label, MIN_OWN_KEY } from "./values.ts";

/** The host's own check of a client. Null = refuse with 401. `key` is what the client presented, or null. */
export type AuthFunction = {
  of(
    key: string | null,
    req: HostRequest,
  ): MaybePromise<{ readonly name: string; readonly scopes?: ScopesInput; readonly models?: readonly string[] } | null>;
}["of"];

/** Says whose budgets a request touches. */
export type ScopesFunction = { of(req: HostRequest): MaybePromise<ScopesInput> }["of"];

const GB = 1_073_741_824;

const scopeValues = () =>
  z.record(scopeName(), z.union([z.string(), z.number(), z.bigint(), z.null()], { error: "expected text or a number" })).transform((values, ctx) => {
    try {
      return scopesFrom(values);
    } catch (error) {
      ctx.addIssue({ code: "custom", message: (error as Error).message });
      return z.NEVER;
    }
  });

export const keySchema = z.strictObject({
  /** Appears in logs, rows and the scope `key`; never the key itself. */
  name: name(),
  /** What the client presents. */
  key: secret(),
  scopes: scopeValues().prefault({}),
  /** @default all */
  models: patterns().nullable().default(null),
  /** @default never */
  expires: instant().nullable().default(null),
  /** Whether its requests may name their scopes by header. */
  mayAssertScopes: z.boolean().default(false),
});

const modelSchema = z.strictObject({
  /** As clients name it. */
  name: label(),
  /** As the provider names it. @default the same */
  model: label().optional(),
  /** Name of the credential that serves it. @default every one */
  credential: z.string().optional(),
  /** Requests per minute on each credential that serves it. @default server.defaultModelsRpm */
  rpm: sendLimit().optional(),
  /** Tokens per minute on each credential that serves it. @default unlimited */
  tpm: sendLimit().optional(),
  price: priceSchema().optional(),
  maxOutputTokens: z.number().int().min(1).max(10_000_000).optional(),
});

/** One of ours, one of a plugin's, or in code a function; which names there are is known once the plugins are. */
const strategy = () => {
  const expected = `expected one of ${STRATEGY_NAMES.join(", ")}, or in code a function (candidates, call) => candidate`;
  return z.union([z.string() as unknown as z.ZodType<StrategyName | (string & {}), StrategyName | (string & {})>, callback<StrategyFunction>()], {
    error: expected,
  });
};

/** As long as anybody waits for, one after the other. */
const MAX_FALLBACK_MEMBERS = 20;
const MAX_FALLBACK_CHAINS = 1_000;

/** Keys are models, credentials, providers or families; members are models, patterns of models or credentials. */
const fallbackChains = () =>
  z
    .record(
      label(),
      list(label()).refine((members) => members.length > 0 && members.length <= MAX_FALLBACK_MEMBERS, {
        error: `expected 1 to ${MAX_FALLBACK_MEMBERS} members: models, patterns such as claude-*, or credentials`,
      }),
    )
    .refine((chains) => Object.keys(chains).length <= MAX_FALLBACK_CHAINS, { error: `expected at most ${MAX_FALLBACK_CHAINS} chains` });

const stickySchema = z.strictObject({
  /** What belongs together: `session`, or scopes. The first that has a value counts. */
  by: list(scopeName())
    .refine((names) => names.length > 0 && names.length <= 10, { error: "expected 1 to 10 of session and the names of scopes; false = off" })
    .default(["session"]),
  /** How long a session that rests keeps its account. */
  ttl: duration(1_000).default(300_000),
});

const breakerSchema = z.strictObject({
  /** Failures of the provider in a row that open it: 5xx, network, timeouts. */
  failureThreshold: z.number().int().min(1).max(1_000_000).default(5),
  /** How long nothing is sent. */
  openFor: duration().default(30_000),
  /** Attempts at one time that find out whether it works again. */
  halfOpen: z.number().int().min(1).max(1_000).default(1),
});

/** Scope -> request header. */
export const DEFAULT_SCOPE_HEADERS = { user: "x-user-id", team: "x-team-id", role: "x-role", rolegroup: "x-llm-rolegroup", org: "x-org-id" };

const scopesObject = () =>
  z.strictObject({
    /** Scopes of your own. */
    names: list(scopeName()).default([]),
    /** Take the headers from everybody: only behind a proxy that sets them itself. */
    trustHeaders: z.boolean().default(false),
    /** Scope -> request header, added to the defaults; null removes one. */
    headers: z
      .record(
        scopeName(),
        z
          .string()
          .regex(/^[A-Za-z0-9-]+$/, "is not a header name")
          .nullable(),
      )
      .default({})
      .transform((headers) => {
        const merged = Object.entries({ ...DEFAULT_SCOPE_HEADERS, ...headers });
        return Object.fromEntries(merged.flatMap(([scope, header]) => (header === null ? [] : [[scope, header.toLowerCase()] as const])));
      }),
    /** In code: the host's own word, from its request. */
    of: callback<ScopesFunction>().nullable().default(null),
  });

export const optionsSchema = z.strictObject({
  version: z.literal(1).optional(),
  server: z
    .strictObject({
      host: label().default("127.0.0.1"),
      port: z.number().int().min(0).max(65_535).default(8318),
      /** May use every model and name any scope. It does not open the management tree. */
      masterKey: secret(MIN_OWN_KEY).nullable().default(null),
      /** How long an answer that is no stream may take in all; what is passed through, until its answer begins. */
      requestTimeout: duration().default(300_000),
      bodyLimit: size(GB).default(10_485_760),
      loggingLevel: z.enum(["debug", "info", "warn", "error", "silent"]).default("info"),
      /** How long open requests may go on after a stop signal. */
      shutdownTimeout: duration(0).default(30_000),
      /** As Express's `trust proxy`, without its `true`. */
      trustProxy: trustProxySchema.default(false),
      /** Writes the models that providers list to `models.yaml` beside the config. Only `quotaguard serve` does. */
      replaceV1Models: z.boolean().default(false),
      /** Requests per minute, on each credential, of a model that says nothing itself; -1 = unlimited. */
      defaultModelsRpm: sendLimit().default(-1),
    })
    .prefault({}),
  /** Holds limits, strikes and records. `{ url: "memory" | "sqlite:<path>" | "redis://…" }`, or a store object in code. */
  store: storeOption().optional(),
  /** Holds the rows. `{ url: "memory" | "sqlite:<path>" | "postgres://…" }`, or a store object in code. @default the store's own */
  ledger: ledgerOption().optional(),
  /**
   * Who may call the mounted gateway, in code: `false` (the app authenticates before this mount), your own function, or keys (`{ keys: [] }` = only those that are
   * made at run time). It replaces `server.masterKey` and `keys`.
   */
  auth: z
    .union(
      [
        z.literal(false),
        callback<AuthFunction>(),
        z.strictObject({ masterKey: secret(MIN_OWN_KEY).nullable().default(null), keys: list(keySchema).nullable().default(null) }),
      ],
      { error: "expected false, { masterKey, keys } or a function (key, req) => principal" },
    )
    .optional(),
  /** `[]` = only those that are made at run time. @default none */
  keys: list(keySchema).nullable().default(null),
  scopes: z
    .union([callback<ScopesFunction>(), scopesObject()], { error: "expected { names, trustHeaders, headers } or, in code, a function" })
    .prefault({}),
  limits: list(limitSchema).default([]),
  estimate: z
    .strictObject({
      /** Output tokens when neither the client nor the model's entry says a maximum. */
      defaultMaxOutputTokens: z.number().int().min(1).max(10_000_000).default(4_096),
      /** Sends the held maximum upstream, so that the answer cannot cost more. */
      capOutput: z.boolean().default(true),
      tokenizer: z.enum(["fast", "exact"]).default("fast"),
    })
    .prefault({}),
  credentials: list(credentialSchema).default([]),
  models: list(modelSchema).default([]),
  /** Client-visible name -> model. */
  modelAlias: z.record(label(), label()).default({}),
  router: z
    .strictObject({
      strategy: strategy().default("round-robin"),
      ...choosingShape,
      /** Requests that belong together stay on one account, for its cache of prompts; `false` = off. */
      sticky: z
        .union([z.boolean(), stickySchema], { error: "expected true, false or { by, ttl }" })
        .transform((option) => (option === true ? stickySchema.parse({}) : option))
        .prefault({}),
      /** Who takes over, in order, when all that a model has is limited, cooling down or failing. */
      fallbackChains: fallbackChains().default({}),
      /** What a provider's dialect cannot express is dropped and named in `x-quotaguard-dropped`, in place of a refusal that names it. */
      lossy: z.boolean().default(false),
      reservation: z.strictObject({ ttl: duration(1_000).default(300_000) }).prefault({}),
    })
    .prefault({}),
  resilience: z
    .strictObject({
      /** Attempts after the first, each on another credential. */
      maxRetries: z.number().int().min(0).max(10).default(2),
      /** Retries as a share of requests. */
      retryBudget: z.number().min(0).max(1).default(0.1),
      connectTimeout: duration().default(5_000),
      /** Streams only. */
      firstByteTimeout: duration().default(120_000),
      idleTimeout: duration().default(60_000),
      /** One per credential; `false` = none. */
      circuitBreaker: z
        .union([z.boolean(), breakerSchema], { error: "expected true, false or { failureThreshold, openFor, halfOpen }" })
        .transform((option) => (option === true ? breakerSchema.parse({}) : option))
        .prefault({}),
    })
    .prefault({}),
  /** Bans after repeated errors. `true` = all defaults. */
  fail2ban: fail2banSchema.default(false),
  /** Files, images, audio and the like; `false` = off. */
  passthrough: passthroughSchema.prefault({}),
  /** Model calls with an `Idempotency-Key`; `false` = the header means nothing. */
  idempotency: idempotencySchema.prefault({}),
  prices: pricesSchema.prefault({}),
  management: z
    .strictObject({
      /** @default none: the tree answers 404 */
      key: secret(MIN_OWN_KEY).nullable().default(null),
      path: z
        .string()
        .regex(/^(?:\/[A-Za-z0-9._~-]+)+$/, "expected a path such as /v0/management, without a trailing slash")
        .default("/v0/management"),
    })
    .prefault({}),
  secrets: z
    .strictObject({
      key: secret(MIN_OWN_KEY).nullable().default(null),
      /** The mark of a key that is lost, as the refused start tells it: what it made has ended. */
      replaces: z
        .string()
        .regex(/^[0-9a-f]{16}$/, "expected the 16 characters that the refused start tells")
        .nullable()
        .default(null),
    })
    .prefault({}),
  monitoring: z
    .strictObject({
      /** Needs the package prom-client. */
      prometheusEnabled: z.boolean().default(false),
      /** Opens /metrics to everybody who can reach the port. */
      metricsPublic: z.boolean().default(false),
    })
    .prefault({}),
  /** Services inside the guard: ours by name (`{ collectors: true }`), or in code a list of what `definePlugin()` returns. Set up in this order. */
  plugins: pluginsOption().default([]),
  /** In code only. */
  clock: seam<Clock>(["now", "monotonic", "timer"], "a clock: { now, monotonic, timer }").optional(),
  /** In code only. pino and console both fit. */
  logger: seam<Logger>(["debug", "info", "warn", "error"], "a logger: { debug, info, warn, error }").optional(),
  /** In code only: replaces the HTTP client. */
  transport: seam<Transport>(["send", "close"], "a transport: { send, close }").optional(),
});

/** Options that only code can give. */
export const CODE_ONLY = ["auth", "clock", "logger", "transport"] as const;

export type ParsedOptions = z.output<typeof optionsSchema>;
