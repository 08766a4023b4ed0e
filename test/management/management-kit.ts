import express from "express";
import type {
  AccountQuotas,
  Admin,
  BlockView,
  BucketAddress,
  BucketView,
  ClientBanView,
  CredentialView,
  HealthView,
  ReservationView,
} from "../../src/core/admin.ts";
import type { AuditReport } from "../../src/core/audit.ts";
import type { ExplainedRequest, Explanation } from "../../src/core/explain.ts";
import type { KeyView } from "../../src/core/key-admin.ts";
import type { LimitView, ShadowReport } from "../../src/core/limit-admin.ts";
import type { OrgView } from "../../src/core/org-admin.ts";
import type { UsageRow } from "../../src/core/usage-report.ts";
import { Secret } from "../../src/core/secret.ts";
import { managementRouter } from "../../src/management/router.ts";
import { kit, type Kit } from "../core/context-kit.ts";
import { serve } from "../http/server-kit.ts";

export const KEY = "mgmt-key-1";

export interface AdminCall {
  readonly name: string;
  readonly args: readonly unknown[];
}

export const BUCKET: BucketView = { tokens: 7, capacity: 10, refillPerSec: 0.5 };
const MAIN: CredentialView = {
  name: "main",
  provider: "openai",
  isFallback: false,
  priority: 0,
  inFlight: 0,
  state: "ready",
  until: null,
  reason: null,
  quotas: [],
  level: null,
  rpm: { used: 0, limit: -1 },
  tpm: { used: 0, limit: -1 },
  models: [],
};
export const HEALTH: HealthView = { status: "ok", store: "memory", uptimeSeconds: 3, openRequests: 0, waitingSettlements: 0, credentials: [MAIN] };
const RESERVED: ReservationView = {
  credential: "main",
  attempts: 2,
  since: Date.UTC(2026, 0, 1),
  openTokens: 300,
  spentTokens: 50,
  quotas: [{ group: "5h", remainingRatio: 0.5, observedAt: Date.UTC(2025, 11, 31), openRatio: 0.1, spentRatio: 0.05, remaining: 0.35 }],
};
const BAN: BlockView = {
  credential: "main",
  model: "gpt-4o",
  code: 401,
  reason: "too many answers with status 401",
  since: Date.UTC(2026, 0, 1),
  until: null,
};
const COOLDOWN: BlockView = { ...BAN, model: null, code: 429, reason: "at the provider's rate limit", until: Date.UTC(2026, 0, 1, 0, 5) };
const CLIENT_BAN: ClientBanView = { client: "ip:203.0.113.7", code: 401, since: Date.UTC(2026, 0, 1), until: Date.UTC(2026, 0, 1, 0, 15) };

/** What a key looks like. */
export const MADE = `qg_${"k".repeat(49)}`;
const KEY_VIEW: KeyView = {
  name: "alice",
  prefix: "qg_kkkkk",
  org: "acme",
  scopes: { org: "acme", user: "alice" },
  models: null,
  mayAssertScopes: false,
  createdAt: Date.UTC(2026, 0, 1),
  rotatedAt: null,
  expiresAt: Date.UTC(2027, 0, 1),
  lastUsedAt: null,
  previousUntil: null,
};
const ORG: OrgView = { name: "acme", createdAt: Date.UTC(2026, 0, 1), disabledAt: null };
export const LIMIT: LimitView = {
  name: "user-day",
  scope: ["user"],
  unit: "usd",
  kind: "window",
  mode: "enforce",
  enforceFrom: null,
  limit: 2,
  set: [],
  values: [{ value: "acme/alice", limit: 20, until: Date.UTC(2026, 1, 1) }],
};

const TALLY = { count: 3, firstAt: Date.UTC(2026, 0, 1), lastAt: Date.UTC(2026, 0, 2), largest: { needed: 0.5, available: -0.25 } };
const SHADOW: ShadowReport = {
  name: "user-day",
  unit: "usd",
  mode: "shadow",
  enforceFrom: null,
  from: Date.UTC(2025, 11, 4),
  count: 6,
  values: [{ value: "acme/alice", ...TALLY }],
  other: TALLY,
};

export const AUDIT: AuditReport = {
  rows: 2,
  from: null,
  to: Date.UTC(2026, 1, 1),
  violations: [{ invariant: "seal", requestId: "r1", id: "i1", message: "user=alice: the row of request r1 (i1) was altered" }],
  more: 0,
  seals: { intact: 1, altered: 1, unsealed: 0, foreign: 0 },
  unchecked: [],
  next: Date.UTC(2026, 0, 2),
  checkedAt: Date.UTC(2026, 0, 3),
};

export const EXPLAINED: ExplainedRequest = {
  kind: "request",
  id: "i1",
  requestId: "r1",
  at: Date.UTC(2026, 0, 1),
  identity: { key: "alice", org: "acme" },
  scopes: { org: "acme" },
  route: "/v1/chat/completions",
  dialect: "openai",
  model: "gpt-4o",
  stream: false,
  tag: null,
  state: "refused",
  limit: "user-day",
  held: {},
  attempts: [],
  usage: null,
  provenance: "void",
  rawUsd: 0,
  billedUsd: 0,
  priceVersion: null,
  latencyMs: 3,
  firstByteMs: null,
  outcome: { served: null, status: 429, code: "budget_exhausted", message: "a limit had no room for it", retryAfterMs: null },
};

export const QUOTAS: AccountQuotas = {
  credential: "main",
  provider: "anthropic",
  state: "ready",
  quotas: [
    {
      group: "5h",
      remainingRatio: 0.25,
      resetsAt: Date.UTC(2026, 0, 1, 5),
      observedAt: Date.UTC(2026, 0, 1),
      source: "headers",
      ageMs: 1_000,
      remaining: 0.4,
      confidence: 0.9,
      level: "ok",
    },
  ],
};

export const USAGE: UsageRow = {
  group: { model: "gpt-4o", day: "2026-01-01" },
  requests: 2,
  refused: 1,
  estimated: 0,
  unpriced: 0,
  inputTokens: 3,
  cacheReadTokens: 1,
  cacheWriteTokens: 0,
  outputTokens: 4,
  reasoningTokens: 2,
  totalTokens: 7,
  rawUsd: 1.5,
  billedUsd: 1.65,
  rawNanoUsd: "1500000000",
  billedNanoUsd: "1650000000",
};

export interface FakeAdmin extends Admin {
  readonly calls: AdminCall[];
  /** What a report says. */
  rows: readonly UsageRow[];
  explained: Explanation;
  fails: Error | undefined;
  status: HealthView["status"];
  /** Of its only credential. */
  paused: { readonly reason: string; readonly until: number | null } | undefined;
}

/** An admin that does nothing but note what it was asked for. */
function fakeAdmin(): FakeAdmin {
  const calls: AdminCall[] = [];
  const note = <T>(name: string, args: readonly unknown[], answer: T): Promise<T> => {
    calls.push({ name, args });
    return admin.fails === undefined ? Promise.resolve(answer) : Promise.reject(admin.fails);
  };
  const noted = <T>(name: string, args: readonly unknown[], answer: T): T => {
    calls.push({ name, args });
    return answer;
  };
  const admin: FakeAdmin = {
    calls,
    fails: undefined,
    status: "ok",
    paused: undefined,
    rows: [USAGE],
    explained: EXPLAINED,
    health: () => ({ ...HEALTH, status: admin.status }),
    keys: {
      create: (key) => note("keys.create", [key], { key: MADE, view: KEY_VIEW }),
      list: () => note("keys.list", [], [KEY_VIEW]),
      rotate: (...args) => note("keys.rotate", args, { key: MADE, view: { ...KEY_VIEW, previousUntil: Date.UTC(2026, 0, 2) } }),
      revoke: (name) => note("keys.revoke", [name], name === KEY_VIEW.name),
    },
    orgs: {
      create: (org) => note("orgs.create", [org], { ...ORG, name: org.name }),
      list: () => note("orgs.list", [], [ORG]),
      disable: (name) => note("orgs.disable", [name], true),
      enable: (name) => note("orgs.enable", [name], false),
    },
    limits: {
      list: () => [LIMIT],
      set: (...args) => note("limits.set", args, { value: args[1] as string, limit: 5, until: Date.UTC(2026, 1, 1) }),
      update: (...args) => note("limits.update", args, { ...LIMIT, mode: "shadow", enforceFrom: Date.UTC(2026, 1, 1), set: ["mode"] } as const),
      reset: (...args) => note("limits.reset", args, args[1] === "alice" || (args.length === 1 && args[0] === "user-day")),
      shadow: (...args) => note("limits.shadow", args, SHADOW),
    },
    bucket: (address: BucketAddress) => note("bucket", [address], BUCKET),
    setBucket: (address, numbers) => note("setBucket", [address, numbers], BUCKET),
    syncLimits: () => note("syncLimits", [], { status: "success", message: "done", headers: { "x-ratelimit-limit-tokens": "1000" }, bucket: BUCKET }),
    discoverModels: () => note("discoverModels", [], []),
    credentials: () => [admin.paused === undefined ? MAIN : { ...MAIN, state: "paused", ...admin.paused }],
    reservations: () => [RESERVED],
    async pause(...args) {
      await note("pause", args, undefined);
      admin.paused = { reason: args[1].reason, until: args[1].until ?? null };
    },
    async resume(...args) {
      const was = admin.paused !== undefined;
      await note("resume", args, was);
      admin.paused = undefined;
      return was;
    },
    bans: () => [BAN],
    liftBans: (...args) => noted("liftBans", args, 1),
    cooldowns: () => [COOLDOWN],
    clearCooldowns: (...args) => noted("clearCooldowns", args, 2),
    clientBans: () => [CLIENT_BAN],
    openCounters: () => note("openCounters", [], true),
    liftClientBan: (...args) => noted("liftClientBan", args, args[0] === CLIENT_BAN.client),
    usage: (query) => note("usage", [query], admin.rows),
    audit: ({ signal: _signal, ...range } = {}) => note("audit", [range], AUDIT),
    quotas: () => [QUOTAS],
    explain: (question) => note("explain", [question], admin.explained as never),
  };
  return admin;
}

export interface Management extends Kit {
  readonly admin: FakeAdmin;
  readonly url: string;
  /** With the right key unless told otherwise; an object is sent as JSON, text as it is. */
  ask(
    path: string,
    more?: { readonly key?: string | null; readonly method?: string; readonly body?: unknown; readonly headers?: Record<string, string> },
  ): Promise<Answered>;
}

export interface Answered {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

export async function management(key: Secret | null = new Secret(KEY)): Promise<Management> {
  const from = kit();
  const admin = fakeAdmin();
  const app = express();
  app.use("/v0/management", managementRouter({ admin, key, path: "/v0/management", clock: from.clock, logger: from.logger }));
  const { url } = await serve(app);
  return {
    ...from,
    admin,
    url,
    async ask(path, { key: presented = KEY, method, body, headers } = {}) {
      const response = await fetch(`${url}/v0/management${path}`, {
        method: method ?? (body === undefined ? "GET" : "POST"),
        headers: {
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...(presented === null ? {} : { authorization: `Bearer ${presented}` }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      return {
        status: response.status,
        headers: response.headers,
        body: text.startsWith("{") ? (JSON.parse(text) as Record<string, unknown>) : { text },
      };
    },
  };
}
