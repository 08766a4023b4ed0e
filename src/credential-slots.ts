/** The providers' own limits: requests, tokens and parallel requests per credential, and per model on it, through the same atomic reserve as budgets. */
import type { SendLimits } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { Charge, LimitStore, ReserveResult, Rule } from "./core/store.ts";
import { andThen, isPromise, type Clock, type MaybePromise } from "./core/time.ts";
import type { Holds } from "./limits/holds.ts";
import { lookedUp } from "./limits/look.ts";
import { encodeValue } from "./limits/registry.ts";
import { shareOf, sizeOf } from "./limits/share.ts";
import type { Candidate } from "./pool/candidate.ts";
import type { CredentialChange } from "./pool/credential-set.ts";
import { entryOf, modelTable, type ModelEntry } from "./pool/offers.ts";
import { minuteCounter, type MinuteCounter, type MinuteCount } from "./pool/minute-counter.ts";
import type { Shortage, Slot, Slots } from "./pool/slots.ts";

const MINUTE_MS = 60_000;
const CELL_MS = 1_000;
/** Models that no configuration names are counted, too. What is forgotten is only what this process saw: the limits themselves are in the store. */
const MAX_UNNAMED = 5_000;
/** Of configured models and credentials there are as many as there are; those of credentials that come and go must not pile up. */
const MAX_NAMED = 100_000;

export interface CredentialSlotsOptions {
  readonly store: LimitStore;
  /** Counts on while the store is away: a provider's limit is better kept roughly than not at all. */
  readonly local: LimitStore;
  /** How many processes share the limits then, this one included. Default: only this one. */
  readonly nodes: () => number;
  readonly holds: Holds;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly models: readonly ModelEntry[];
  /** Requests per minute of a model that says nothing; -1 = unlimited. */
  readonly defaultModelRpm: number;
  /** The store did not answer; local counters decide. Called for each attempt. */
  readonly degraded: () => void;
}

/** How often a store may ask for the charges again because limits have changed: these do not follow from any. */
const MOST_REPEATS = 3;

/** What went out within the last minute from this process, and what may. */
export interface SendRate extends MinuteCount {
  readonly limits: SendLimits;
  /** Found without room; when there is some again. Wall clock, ms; null = there is room. */
  readonly limitedUntil: number | null;
}

export interface CredentialSlots extends Slots {
  /** Of a credential as a whole, or of one model on it; read when asked for. */
  rateOf(candidate: Candidate): { readonly credential: SendRate; readonly model: SendRate };
  /** A credential was replaced, perhaps with other numbers, or is gone. What the store has counted stays. */
  readonly changed: CredentialChange;
}

/** One level: what is charged there, what was counted there. */
interface Level {
  readonly counter: MinuteCounter;
  readonly fixed: readonly Charge[];
  readonly tokens: Charge | null;
  /** Monotonic, ms: until when there was no room for the last one that asked. */
  shortUntil: number;
}

interface Pair {
  readonly credential: Level;
  readonly model: Level;
  /** All charges when no tokens are limited: the same for each request. */
  readonly charges: readonly Charge[];
  readonly countsTokens: boolean;
}

const pairFrom = (credential: Level, model: Level): Pair => ({
  credential,
  model,
  charges: [...credential.fixed, ...model.fixed],
  countsTokens: credential.tokens !== null || model.tokens !== null,
});

/** The oldest ones make room. */
function remember<T>(table: Map<string, T>, key: string, value: T, most: number): void {
  for (const oldest of table.keys()) {
    if (table.size < most) break;
    table.delete(oldest);
  }
  table.set(key, value);
}

const hasSameLimits = (one: SendLimits, other: SendLimits): boolean =>
  one.rpm === other.rpm && one.tpm === other.tpm && one.maxConcurrent === other.maxConcurrent;

const sliding = (limit: number): Rule => ({ kind: "sliding", limit, perMs: MINUTE_MS, cellMs: CELL_MS });

/** `+` stands in no name of a limit, so no limit of the operator's can share a counter with these. */
function levelOf(place: string, limits: SendLimits, counter: MinuteCounter): Level {
  const charge = (what: string, unit: Charge["unit"], rule: Rule): Charge => ({ key: `+${what}:${place}`, rule, unit, amount: 1, enforce: true });
  const { rpm, tpm, maxConcurrent } = limits;
  return {
    counter,
    fixed: [
      ...(rpm < 0 ? [] : [charge("rpm", "requests", sliding(rpm))]),
      ...(maxConcurrent < 0 ? [] : [charge("parallel", "concurrent", { kind: "concurrency", limit: maxConcurrent })]),
    ],
    tokens: tpm < 0 ? null : charge("tpm", "tokens", sliding(tpm)),
    shortUntil: -Infinity,
  };
}

/** What is larger than the share goes out alone, as it does with the whole. */
function shareFor(charge: Charge, nodes: number): Charge {
  const rule = shareOf(charge.rule, nodes);
  return rule === charge.rule ? charge : { ...charge, rule, amount: Math.max(1, Math.min(charge.amount, sizeOf(rule))) };
}

/** How room is asked for. */
interface Taking {
  readonly reserve: (store: LimitStore, opId: string, charges: readonly Charge[]) => MaybePromise<ReserveResult>;
  readonly judge: (pair: Pair, charges: readonly Charge[], result: ReserveResult, from: LimitStore, opId: string) => Slot | Shortage;
  readonly degraded: () => void;
}

const NO_SLOT: Slot = { finish: () => undefined };

const waitOf = ({ failing, worst }: Extract<ReserveResult, { kind: "limited" }>): number | null =>
  failing.some(({ waitMs }) => waitMs === null) ? null : worst.waitMs;

const LOOKING: Taking = {
  reserve: (store, _opId, charges) => lookedUp(store, charges),
  judge(pair, charges, result) {
    if (result.kind !== "limited") return NO_SLOT;
    const short = result.failing.map(({ index }) => charges[index] as Charge);
    return { waitMs: waitOf(result), note: `no room in ${short.map((charge) => noteOf(pair, charge)).join(" and ")}` };
  },
  degraded: () => undefined,
};

const WHAT = { requests: "requests a minute", tokens: "tokens a minute", concurrent: "parallel requests" } as const;

function noteOf({ model }: Pair, { key, unit }: Charge): string {
  const what = WHAT[unit as keyof typeof WHAT];
  return model.tokens?.key === key || model.fixed.some((charge) => charge.key === key) ? `the model's ${what}` : `the credential's ${what}`;
}

export function credentialSlots(options: CredentialSlotsOptions): CredentialSlots {
  const { store, local, holds, clock, logger, models, defaultModelRpm, nodes } = options;
  const credentials = new Map<string, Level>();
  const table = modelTable(models);
  /** By the candidate's key: the same pair is another object under an alias, or once a list of models has changed. */
  const named = new Map<string, Pair>();
  const unnamed = new Map<string, Pair>();

  const pairOf = ({ key }: Candidate): Pair | undefined => named.get(key) ?? unnamed.get(key);

  function limitsOf({ credential, name }: Candidate): SendLimits {
    const entry = entryOf(table, name, credential.name);
    return { rpm: entry?.rpm ?? defaultModelRpm, tpm: entry?.tpm ?? -1, maxConcurrent: -1 };
  }

  function freshPair(candidate: Candidate): Pair {
    const { credential, name } = candidate;
    const place = encodeValue(credential.name);
    const whole = credentials.get(credential.name) ?? levelOf(place, credential, minuteCounter(clock.monotonic));
    return pairFrom(whole, levelOf(`${place}:${encodeValue(name)}`, limitsOf(candidate), minuteCounter(clock.monotonic)));
  }

  function newPair(candidate: Candidate): Pair {
    const { credential, name, key } = candidate;
    const pair = freshPair(candidate);
    if (!credentials.has(credential.name)) remember(credentials, credential.name, pair.credential, MAX_NAMED);
    if (table.has(name) || credential.models?.includes(name)) remember(named, key, pair, MAX_NAMED);
    else remember(unnamed, key, pair, MAX_UNNAMED);
    return pair;
  }

  /** A request that is larger than a whole minute's tokens may go out alone; what it used beyond is owed. */
  function withTokens(pair: Pair, tokens: number): readonly Charge[] {
    const charges = [...pair.charges];
    for (const { tokens: charge } of [pair.credential, pair.model]) {
      if (charge) charges.push({ ...charge, amount: Math.max(1, Math.min(Math.ceil(tokens), (charge.rule as { limit: number }).limit)) });
    }
    return charges;
  }

  const taking: Taking = { reserve: holds.reserve, judge, degraded: options.degraded };

  function judge(pair: Pair, charges: readonly Charge[], result: ReserveResult, from: LimitStore, opId: string): Slot | Shortage {
    if (result.kind === "allowed") {
      pair.credential.shortUntil = -Infinity;
      pair.model.shortUntil = -Infinity;
      return new TakenSlot(pair, holds, from, opId);
    }
    if (result.kind !== "limited") throw new Error(`the attempt ${opId} was ${result.kind}: its id was used twice`);
    const now = clock.monotonic();
    for (const { index, waitMs } of result.failing) {
      const key = charges[index]?.key;
      const isWhole = pair.credential.tokens?.key === key || pair.credential.fixed.some((charge) => charge.key === key);
      (isWhole ? pair.credential : pair.model).shortUntil = waitMs === null ? Infinity : now + waitMs;
    }
    return { waitMs: waitOf(result) };
  }

  function ask(how: Taking, pair: Pair, charges: readonly Charge[], opId: string, repeats: number): MaybePromise<Slot | Shortage> {
    const judged = (result: ReserveResult): MaybePromise<Slot | Shortage> => {
      if (result.kind !== "stale") return how.judge(pair, charges, result, store, opId);
      if (repeats < MOST_REPEATS) return ask(how, pair, charges, opId, repeats + 1);
      return countHere(how, pair, charges, opId, new GuardError("store_unavailable", "the limits are being changed at the moment"));
    };
    let result: MaybePromise<ReserveResult>;
    try {
      result = how.reserve(store, opId, charges);
    } catch (error) {
      return countHere(how, pair, charges, opId, error);
    }
    return isPromise(result) ? result.then(judged, (error: unknown) => countHere(how, pair, charges, opId, error)) : judged(result);
  }

  /** The store does not answer: this process counts its share by itself. */
  function countHere(how: Taking, pair: Pair, charges: readonly Charge[], opId: string, error: unknown): MaybePromise<Slot | Shortage> {
    if (!GuardError.is(error) || error.code !== "store_unavailable") throw error;
    logger.debug({ err: error, opId }, "the store does not answer; an attempt is counted in this process");
    how.degraded();
    const share = charges.map((charge) => shareFor(charge, nodes()));
    const opIdHere = `${opId}.l`;
    return andThen(how.reserve(local, opIdHere, share), (result) => how.judge(pair, share, result, local, opIdHere));
  }

  function rateOf(level: Level | undefined, limits: SendLimits): SendRate {
    if (!level) return { requests: 0, tokens: 0, limits, limitedUntil: null };
    const shortMs = level.shortUntil - clock.monotonic();
    return { ...level.counter.read(), limits, limitedUntil: shortMs > 0 ? clock.now() + Math.ceil(shortMs) : null };
  }

  return {
    take(candidate, opId, tokens) {
      const pair = pairOf(candidate) ?? newPair(candidate);
      const charges = pair.countsTokens ? withTokens(pair, tokens()) : pair.charges;
      if (charges.length === 0) return new CountedSlot(pair);
      return ask(taking, pair, charges, opId, 0);
    },
    look(candidate, tokens) {
      const pair = pairOf(candidate) ?? freshPair(candidate);
      const charges = pair.countsTokens ? withTokens(pair, tokens()) : pair.charges;
      return charges.length === 0 ? NO_SLOT : ask(LOOKING, pair, charges, "", 0);
    },
    isShort(candidate) {
      const pair = pairOf(candidate);
      return pair !== undefined && Math.max(pair.credential.shortUntil, pair.model.shortUntil) > clock.monotonic();
    },
    changed(name, before, now) {
      const level = credentials.get(name);
      if (!level || (before && now && hasSameLimits(before, now))) return;
      const whole = now && levelOf(encodeValue(name), now, level.counter);
      if (whole) credentials.set(name, whole);
      else credentials.delete(name);
      for (const pairs of [named, unnamed]) {
        for (const [key, { model }] of pairs) {
          if (!key.startsWith(`${name}/`)) continue;
          if (whole) pairs.set(key, pairFrom(whole, model));
          else pairs.delete(key);
        }
      }
    },
    rateOf: (candidate) => ({
      get credential() {
        return rateOf(credentials.get(candidate.credential.name), candidate.credential);
      },
      get model() {
        return rateOf(pairOf(candidate)?.model, limitsOf(candidate));
      },
    }),
  };
}

/** Unlimited, yet counted. */
class CountedSlot implements Slot {
  readonly #pair: Pair;
  readonly #cell: number;

  constructor(pair: Pair) {
    this.#pair = pair;
    this.#cell = pair.credential.counter.request();
    pair.model.counter.request();
  }

  finish(tokens: number | null): void {
    const { credential, model } = this.#pair;
    if (tokens === null) {
      credential.counter.takeBack(this.#cell);
      model.counter.takeBack(this.#cell);
    } else if (tokens > 0) {
      credential.counter.tokens(tokens);
      model.counter.tokens(tokens);
    }
  }
}

class TakenSlot extends CountedSlot {
  readonly #holds: Holds;
  readonly #store: LimitStore;
  readonly #opId: string;

  constructor(pair: Pair, holds: Holds, store: LimitStore, opId: string) {
    super(pair);
    this.#holds = holds;
    this.#store = store;
    this.#opId = opId;
  }

  override finish(tokens: number | null): void {
    super.finish(tokens);
    void this.#holds.finish(this.#store, this.#opId, tokens === null ? "release" : { tokens });
  }
}
