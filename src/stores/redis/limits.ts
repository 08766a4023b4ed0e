import { GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { Amounts, Charge, ExpiredReservation, FinishResult, LimitStore, Peeked, ReserveResult, Standing } from "../../core/store.ts";
import { checkAmounts, checkCharge, checkRule, checkTtl } from "../../limits/check.ts";
import { worstShortfall } from "../../limits/worst-shortfall.ts";
import { limitBatch, unavailable } from "./batch.ts";
import { redisContinuity, type RedisContinuity } from "./continuity.ts";
import type { RedisLink } from "./link.ts";
import { dueScript } from "./lua/sweep.ts";
import { ANSWER } from "./lua/verbs.ts";
import { keyOf, type Answer, type LimitKey, type Operation } from "./pack.ts";

/** Holds whose keys are remembered, so that finishing them takes one call. Of others the server says the keys. */
const MOST_HELD = 65_536;
/** Of one reservation, and of one call that only looks: a script can unpack no more than some thousand figures. */
const MOST_CHARGES = 1000;
const MOST_KEY_CHARACTERS = 16_384;
/** A reservation has the same keys as long as it lives; an opId that is closed and used anew in between may have others. */
const MOST_TRIES = 4;
/** Keys in a bad state that are told to the log, so that it is not one line per call. */
const MOST_TOLD = 100;

export interface RedisLimitsOptions {
  /** Resolves when the watchers of the numbers of limits know all that was written before. */
  readonly catchUp: (version: number) => Promise<void>;
  readonly logger: Logger;
}

/**
 * Limits that all processes share, exact and atomic, by scripts in the server and by its clock. The arithmetic is that of `limits/engine`, and the random
 * model test holds both to one reference.
 *
 * Whoever cares for lost counters calls `continuity.begin` before the first reservation. Without that the first reservation begins, as if nothing had
 * ever been seen: what the server holds then is whole.
 */
export function redisLimits(link: RedisLink, { catchUp, logger }: RedisLimitsOptions): LimitStore & { readonly continuity: RedisContinuity } {
  const counters = redisContinuity(link, catchUp);
  const calls = limitBatch(link, {
    meta: () => counters.meta,
    onNews: () => {
      // Before the beginning everything is news.
      if (counters.epoch !== "") counters.renew().catch(() => undefined);
    },
  });
  let held = new Map<string, readonly Charge[]>();
  let heldBefore: typeof held = new Map();
  const told = new Set<string>();
  /** Expiries that were reported and whose arrival the server is told with the next sweep. */
  let reported: string[] = [];

  // The older half goes at once: to find the oldest entry of a map, an engine walks over all that were deleted before it.
  function hold(opId: string, charges: readonly Charge[]): void {
    if (held.size >= MOST_HELD / 2) {
      heldBefore = held;
      held = new Map();
    }
    held.set(opId, charges);
  }

  function letGo(opId: string): void {
    held.delete(opId);
    heldBefore.delete(opId);
  }

  function heldKeys(opId: string, isTouched: (charge: Charge) => boolean): LimitKey[] {
    const keys: LimitKey[] = [];
    for (const charge of held.get(opId) ?? heldBefore.get(opId) ?? [])
      if (charge.rule.kind === "concurrency" || isTouched(charge)) keys.push(keyOf(charge));
    return keys;
  }

  function trouble(answer: Answer, keyAt: (index: number) => string, kindAt: (index: number) => string): Error {
    if (answer.code === ANSWER.kind) {
      const key = keyAt(answer.index);
      return new RangeError(`limit ${key} is a ${answer.stored} and cannot be charged as a ${kindAt(answer.index)}: the kind belongs into the key`);
    }
    const what =
      answer.code === ANSWER.corrupt ? `the Redis key ${answer.key} holds what no version of this store has written` : `an answer ${answer.code}`;
    if (answer.code === ANSWER.corrupt && told.size < MOST_TOLD && !told.has(answer.key)) {
      told.add(answer.key);
      logger.error(
        { code: "QG_REDIS_CORRUPT", key: answer.key },
        `${what}: look what wrote it, then delete it; until then its limit cannot be decided`,
      );
    }
    return unavailable(new Error(what));
  }

  /** An operation on a record, once more when the record names keys that were not sent. */
  async function onRecord(keys: readonly LimitKey[], make: (keys: readonly LimitKey[]) => Operation): Promise<Answer> {
    let answer = await calls.ask(make(keys));
    for (let tries = 1; answer.code === ANSWER.needs && tries < MOST_TRIES; tries += 1) answer = await calls.ask(make(answer.keys));
    return answer;
  }

  async function finish(keys: readonly LimitKey[], opId: string, make: (keys: readonly LimitKey[]) => Operation): Promise<FinishResult> {
    const answer = await onRecord(keys, make);
    letGo(opId);
    switch (answer.code) {
      case ANSWER.applied:
        return "applied";
      case ANSWER.late:
        return "late";
      case ANSWER.done:
        return "done";
      case ANSWER.unknown:
        return "unknown";
      default:
        throw trouble(answer, String, String);
    }
  }

  async function peekAt(limits: readonly Peeked[]): Promise<readonly Standing[]> {
    const answer = await calls.ask({ verb: "peek", limits });
    if (answer.code === ANSWER.standings) {
      const waits = new Map(answer.short.map(({ index, waitMs }) => [index, waitMs]));
      return answer.standings.map((standing, i) => {
        const waitMs = waits.get(i);
        return waitMs === undefined ? standing : { ...standing, waitMs };
      });
    }
    throw trouble(
      answer,
      (index) => limits[index]?.key ?? "",
      (index) => limits[index]?.rule.kind ?? "",
    );
  }

  async function reportExpired(opId: string): Promise<ExpiredReservation | undefined> {
    const answer = await onRecord([], (keys) => ({ verb: "expire", opId, keys }));
    letGo(opId);
    if (answer.code === ANSWER.no) return undefined;
    if (answer.code !== ANSWER.expired) throw trouble(answer, String, String);
    reported.push(opId);
    return { opId, charges: answer.charges };
  }

  return {
    continuity: counters,

    async reserve(opId, charges, ttlMs) {
      checkOpId(opId);
      checkTtl(ttlMs);
      checkCharges(charges);
      if (counters.epoch === "") await counters.begun();
      const isStrict = charges.some(({ strict }) => strict === true);
      hold(opId, charges);
      const answer = await calls.ask({ verb: "reserve", opId, charges, ttlMs, isStrict, meta: counters.meta });
      if (answer.code === ANSWER.allowed) return { kind: "allowed", replayed: answer.replayed, skipped: answer.short, standings: answer.standings };
      letGo(opId);
      switch (answer.code) {
        case ANSWER.limited:
          return { kind: "limited", worst: worstShortfall(answer.short), failing: answer.short, standings: answer.standings };
        case ANSWER.conflict:
          return { kind: "conflict" };
        case ANSWER.closed:
          return { kind: "closed" };
        case ANSWER.skew:
          return { kind: "skew", now: answer.now };
        case ANSWER.stale:
          await counters.renew();
          if (isStrict && !counters.isWhole) throw rebuilding();
          return { kind: "stale" } satisfies ReserveResult;
        case ANSWER.rebuilding:
          throw rebuilding();
        default:
          throw trouble(
            answer,
            (index) => (charges[index] as Charge).key,
            (index) => (charges[index] as Charge).rule.kind,
          );
      }
    },

    async settle(opId, actual) {
      checkOpId(opId);
      checkAmounts(actual);
      const keys = heldKeys(opId, ({ unit, amount }) => (actual[unit] ?? amount) !== amount);
      return finish(keys, opId, (known) => ({ verb: "settle", opId, keys: known, actual }));
    },

    async release(opId) {
      checkOpId(opId);
      const keys = heldKeys(opId, ({ amount }) => amount !== 0);
      return finish(keys, opId, (known) => ({ verb: "settle", opId, keys: known, actual: null as Amounts | null }));
    },

    async extend(opId, ttlMs) {
      checkOpId(opId);
      checkTtl(ttlMs);
      const keys = heldKeys(opId, () => false);
      const answer = await onRecord(keys, (known) => ({ verb: "extend", opId, keys: known, ttlMs }));
      if (answer.code === ANSWER.yes) return true;
      if (answer.code === ANSWER.no) return false;
      throw trouble(answer, String, String);
    },

    async lapse(opId) {
      checkOpId(opId);
      const keys = heldKeys(opId, () => false);
      return finish(keys, opId, (known) => ({ verb: "lapse", opId, keys: known }));
    },

    async expire(most) {
      const arrived = reported;
      reported = [];
      try {
        await Promise.all(arrived.map((opId) => calls.ask({ verb: "reported", opId, keys: [] })));
        const due = await link.run(dueScript, [`${link.prefix}x`], [link.testTime?.() ?? -1, most], true);
        const found = await Promise.all((due as Buffer[]).map((opId) => reportExpired(opId.toString())));
        return found.filter((each) => each !== undefined);
      } catch (error) {
        throw unavailable(error);
      }
    },

    async peek(limits) {
      for (const { key, rule } of limits) {
        checkKey(key);
        checkRule(key, rule);
      }
      const parts: Promise<readonly Standing[]>[] = [];
      for (let from = 0; from < limits.length; from += MOST_CHARGES) parts.push(peekAt(limits.slice(from, from + MOST_CHARGES)));
      return (await Promise.all(parts)).flat();
    },
  };
}

function rebuilding(): GuardError {
  return new GuardError("store_unavailable", "the counters of the limits were lost and are being rebuilt: try again shortly", { retryAfterMs: 1000 });
}

function checkOpId(opId: string): void {
  if (typeof opId !== "string" || opId === "") throw new RangeError("an opId must be a text that is not empty");
  if (opId.length > MOST_KEY_CHARACTERS) throw new RangeError(`an opId must have at most ${MOST_KEY_CHARACTERS} characters, not ${opId.length}`);
}

function checkKey(key: string): void {
  if (key.length > MOST_KEY_CHARACTERS)
    throw new RangeError(`the key of a limit must have at most ${MOST_KEY_CHARACTERS} characters, not ${key.length}`);
}

function checkCharges(charges: readonly Charge[]): void {
  if (charges.length > MOST_CHARGES) throw new RangeError(`a reservation must have at most ${MOST_CHARGES} charges, not ${charges.length}`);
  for (let i = 0; i < charges.length; i += 1) {
    const charge = charges[i] as Charge;
    checkCharge(charge);
    checkKey(charge.key);
    for (let j = 0; j < i; j += 1) {
      if (charges[j]?.key === charge.key)
        throw new RangeError(`limit ${charge.key} occurs twice in one reservation: add the amounts up to one charge`);
    }
  }
}
