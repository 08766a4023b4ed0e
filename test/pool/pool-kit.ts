import { NEVER_SENT, type AttemptOutcome, type Choice, type Credential, type Lease } from "../../src/core/credential.ts";
import { Secret } from "../../src/core/secret.ts";
import type { Candidate } from "../../src/pool/candidate.ts";
import type { Block, Health } from "../../src/pool/health.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { offers, type ModelEntry, type ModelLists, type Offers } from "../../src/pool/offers.ts";
import { credentialPool, type Pool } from "../../src/pool/pool.ts";
import type { QuotaGate } from "../../src/pool/quota-gate.ts";
import type { Shortage, Slots } from "../../src/pool/slots.ts";
import { roundRobin } from "../../src/pool/strategies/round-robin.ts";

export const credential = (name: string, more: Partial<Credential> = {}): Credential => ({
  name,
  provider: "openai",
  apiKey: new Secret("sk"),
  origin: "https://api.example",
  basePath: "",
  models: null,
  isFallback: false,
  priority: 0,
  weight: 1,
  tier: null,
  rpm: -1,
  tpm: -1,
  maxConcurrent: -1,
  headers: {},
  allowPrivate: false,
  proxyUrl: null,
  ...more,
});

export const numbered = (count: number, more: Partial<Credential> = {}): Credential[] =>
  Array.from({ length: count }, (_, i) => credential(String(i + 1), more));

export const candidate = (name: string, model = "m", more: Partial<Credential> = {}): Candidate => ({
  credential: credential(name, more),
  model,
  name: model,
  key: `${name}/${model}`,
});

export const offersOf = (
  credentials: readonly Credential[],
  models: readonly ModelEntry[] = [],
  aliases: Record<string, string> = {},
  lists?: ModelLists,
): Offers => offers({ credentials: credentialSet(credentials), models, aliases, ...(lists ? { lists } : {}) });

/** Health as a test sets it, with what it was told. */
export interface SetHealth extends Health {
  readonly blocked: Map<string, Block>;
  /** Candidates whose probe is under way. */
  readonly probing: Set<string>;
  readonly left: { readonly key: string; readonly outcome: AttemptOutcome; readonly hasOthers: boolean }[];
}

function setHealth(): SetHealth {
  const blocked = new Map<string, Block>();
  const probing = new Set<string>();
  const left: SetHealth["left"] = [];
  return {
    blocked,
    probing,
    left,
    get isQuiet() {
      return blocked.size === 0;
    },
    blockOf: ({ key }) => blocked.get(key) ?? null,
    enter: ({ key }) => (probing.has(key) ? null : { aloneUntil: 0 }),
    mayEnter: ({ key }) => !probing.has(key),
    leave: ({ key }, _pass, outcome, hasOthers) => void left.push({ key, outcome, hasOthers: hasOthers() }),
    blocks: () => [...blocked.values()],
    lift: () => 0,
  };
}

export const block = (reason: Block["reason"], until: number | null): Block => ({
  reason,
  credential: "c",
  model: null,
  code: 429,
  since: 0,
  until,
});

/** Room as a test sets it: a shortage by candidate key, else there is room. */
export interface SetSlots extends Slots {
  readonly short: Map<string, Shortage>;
  readonly finished: { readonly opId: string; readonly tokens: number | null }[];
}

export function setSlots(later = false): SetSlots {
  const short = new Map<string, Shortage>();
  const finished: SetSlots["finished"] = [];
  return {
    short,
    finished,
    take({ key }, opId) {
      const taken = short.get(key) ?? { finish: (tokens: number | null) => void finished.push({ opId, tokens }) };
      return later ? Promise.resolve(taken) : taken;
    },
    look: ({ key }) => short.get(key) ?? { finish: () => undefined },
    isShort: ({ key }) => short.has(key),
  };
}

export interface PoolKit {
  readonly pool: Pool;
  readonly health: SetHealth;
  readonly slots: SetSlots;
  readonly rejected: string[];
}

/** A pool at time 0 whose candidates are all well and have room, until a test says otherwise. */
export function poolKit(offered: Offers, later = false, gate?: QuotaGate): PoolKit {
  const health = setHealth();
  const slots = setSlots(later);
  const rejected: string[] = [];
  const pool = credentialPool({
    offers: offered,
    health,
    slots,
    strategy: roundRobin(),
    ...(gate ? { gate } : {}),
    now: () => 0,
    rejected: (reason) => void rejected.push(reason),
  });
  return { pool, health, slots, rejected };
}

export const poolOf = (credentials: readonly Credential[], models?: readonly ModelEntry[], aliases?: Record<string, string>): Pool =>
  poolKit(offersOf(credentials, models, aliases)).pool;

export const choice = (pool: Pool, model = "m", opId = "op"): Choice => pool.choose({ model, opId, tokens: () => 0 });

/** The next lease of a pool that decides at once. */
export const lend = (from: Choice): Lease | null => from.next() as Lease | null;

export const SERVED: AttemptOutcome = { kind: "served", status: 200, tokens: 7 };
export { NEVER_SENT };
