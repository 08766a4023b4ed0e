import type { Charge } from "../../src/core/store.ts";
import type { LimitBackend } from "../../src/limits/backend.ts";
import { bucket, timeTo } from "../../src/limits/bucket.ts";
import { calendar } from "../../src/limits/calendar.ts";
import { concurrency } from "../../src/limits/concurrency.ts";
import { exactKinds, type LimitEngine } from "../../src/limits/engine.ts";
import type { BucketState, Kinds } from "../../src/limits/kind.ts";
import { sliding } from "../../src/limits/window.ts";
import type { Parts } from "./harness.ts";

/** A bucket whose own passing of time is replaced. */
export function bucketWith(pass: (s: BucketState, now: number) => void): Partial<Kinds> {
  const at = (s: BucketState, now: number): BucketState => {
    const copy = { ...s };
    pass(copy, now);
    return copy;
  };
  return {
    bucket: {
      ...bucket,
      available: (s, rule, now) => bucket.available(at(s, now), rule, now),
      wait: (s, rule, amount, now) => bucket.wait(at(s, now), rule, amount, now),
      reset: (s, rule, now) => bucket.reset(at(s, now), rule, now),
      advance(s, rule, now) {
        pass(s, now);
        bucket.advance(s, rule, now);
      },
    },
  };
}

export const kinds = (part: Partial<Kinds>): Parts => ({ kinds: { ...exactKinds, ...part } });
export const verbs = (change: (engine: LimitEngine) => Partial<LimitEngine>): Parts => ({ store: (engine) => ({ ...engine, ...change(engine) }) });

/** A backend whose methods keep their `this`. */
export function backed(change: (backend: LimitBackend) => Partial<LimitBackend>): Parts {
  return {
    backend: (backend) => ({
      now: () => backend.now(),
      wall: () => backend.wall(),
      state: (place) => backend.state(place),
      insert: (state) => backend.insert(state),
      save: (state) => backend.save(state),
      find: (opId, now) => backend.find(opId, now),
      open: (opId, reservation) => backend.open(opId, reservation),
      update: (opId, reservation) => backend.update(opId, reservation),
      close: (opId, now) => backend.close(opId, now),
      overdue: (now, most) => backend.overdue(now, most),
      ...change(backend),
    }),
  };
}

const enforced = (charges: readonly Charge[], enforce: (charge: Charge, i: number) => boolean): Charge[] =>
  charges.map((charge, i) => ({ ...charge, enforce: enforce(charge, i) }));

/** The engine with one mistake that limiters really make. */
export interface Mutant {
  readonly bug: string;
  readonly parts: () => Parts;
  /** The check that cannot see it, and why. */
  readonly blind?: "vectors" | "model";
}

export const mutants: readonly Mutant[] = [
  {
    bug: "float refill: the part of a unit is rounded away with the stamp",
    parts: () =>
      kinds(
        bucketWith((s, now) => {
          if (now <= s.t) return;
          s.level = Math.min(s.capacity, s.level + Math.floor((now - s.t) * (s.n / s.d)));
          s.carry = 0;
          s.t = now;
        }),
      ),
  },
  {
    bug: "the stamp moves backwards with the clock",
    parts: () => kinds(bucketWith((s, now) => void (s.t = Math.min(s.t, now)))),
  },
  {
    bug: "the stamp is skipped at capacity",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          advance(s, rule, now) {
            const full = s.level >= s.capacity;
            const t = s.t;
            bucket.advance(s, rule, now);
            if (full) s.t = t;
          },
        },
      }),
  },
  {
    bug: "a refusal debits the limits that would have passed",
    parts: () =>
      verbs((engine) => ({
        reserve(opId, charges, ttlMs) {
          const result = engine.reserve(opId, charges, ttlMs);
          if (result.kind !== "limited") return result;
          const failing = new Set(result.failing.map(({ index }) => index));
          engine.reserve(
            `${opId}~${Math.random()}`,
            charges.filter(({ enforce }, i) => enforce && !failing.has(i)),
            ttlMs,
          );
          return result;
        },
      })),
  },
  {
    bug: "only the first scope is checked",
    parts: () =>
      verbs((engine) => ({
        reserve: (opId, charges, ttlMs) =>
          engine.reserve(
            opId,
            enforced(charges, ({ enforce }, i) => enforce && i === 0),
            ttlMs,
          ),
      })),
  },
  {
    bug: "settle is not idempotent: the record stays",
    parts: () => backed(() => ({ close: () => undefined })),
  },
  {
    bug: "release gives back more than was held",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          settle: (s, rule, place, held, actual, now, opId) => bucket.settle(s, rule, place, actual < held ? held + 1 : held, actual, now, opId),
        },
      }),
  },
  {
    bug: "a refund lifts the level above the capacity",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          settle(s, _rule, _place, held, actual, now) {
            bucket.advance(s, { kind: "bucket", capacity: s.capacity, n: s.n, d: s.d }, now);
            s.level += held - actual;
            return true;
          },
        },
      }),
  },
  {
    bug: "a refund goes to the current cell of a window",
    parts: () =>
      kinds({
        sliding: {
          ...sliding,
          settle: (s, rule, place, held, actual, now, opId) =>
            sliding.settle(s, rule, actual < held ? Math.floor(now / s.cellMs) + s.shift : place, held, actual, now, opId),
        },
      }),
  },
  {
    bug: "a refund of yesterday makes room today",
    parts: () =>
      kinds({
        calendar: {
          ...calendar,
          settle(s, rule, place, held, actual, now, opId) {
            calendar.advance(s, rule, now);
            return calendar.settle(s, rule, actual < held ? s.start : place, held, actual, now, opId);
          },
        },
      }),
  },
  {
    bug: "the overage of a bucket is dropped",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          settle: (s, rule, place, held, actual, now, opId) => bucket.settle(s, rule, place, held, Math.min(held, actual), now, opId),
        },
      }),
  },
  {
    bug: "the overage of a window is booked into the cell of the charge",
    parts: () =>
      kinds({
        sliding: {
          ...sliding,
          settle(s, rule, place, held, actual, now, opId) {
            if (actual <= held) return sliding.settle(s, rule, place, held, actual, now, opId);
            const i = s.indexes.indexOf(place);
            if (i < 0) return false;
            s.counts[i] = (s.counts[i] as number) + actual - held;
            s.sum += actual - held;
            return true;
          },
        },
      }),
  },
  {
    bug: "the overage of a day is lost at midnight",
    parts: () =>
      kinds({
        calendar: {
          ...calendar,
          settle(s, rule, place, held, actual, now, opId) {
            if (actual > held && now >= s.end) return false;
            return calendar.settle(s, rule, place, held, actual, now, opId);
          },
        },
      }),
  },
  {
    bug: "zero cost passes in debt",
    parts: () =>
      verbs((engine) => ({
        reserve: (opId, charges, ttlMs) =>
          engine.reserve(
            opId,
            enforced(charges, ({ enforce, amount }) => enforce && amount > 0),
            ttlMs,
          ),
      })),
  },
  {
    bug: "shadow is charged although it fails",
    parts: () =>
      backed((backend) => ({
        open(opId, reservation) {
          for (const i of reservation.skipped ?? []) {
            const charge = reservation.charges[i] as Charge;
            const { rule, amount } = charge;
            const state = backend.state(charge);
            if (state?.kind === "bucket" && rule.kind === "bucket") bucket.take(state, amount, backend.now(), opId, 0);
          }
          backend.open(opId, { ...reservation, skipped: null });
        },
      })),
  },
  {
    bug: "a place is freed twice: the second time it is somebody else's",
    parts: () =>
      kinds({
        concurrency: {
          ...concurrency,
          settle(s, _rule, _place, _held, _actual, _now, opId) {
            const [other] = s.holds.keys();
            return s.holds.delete(opId) || (other !== undefined && s.holds.delete(other));
          },
        },
      }),
  },
  {
    bug: "a place is free only when somebody has swept",
    parts: () =>
      kinds({
        concurrency: {
          ...concurrency,
          available: (s, rule) => rule.limit - s.holds.size,
          advance: () => undefined,
        },
      }),
  },
  {
    bug: "expiry gives the money back",
    parts: () =>
      verbs((engine) => ({
        expire(most) {
          const expired = engine.expire(most);
          for (const { opId } of expired) engine.release(opId);
          return expired;
        },
      })),
  },
  {
    bug: "a late figure is ignored",
    parts: () =>
      backed((backend) => ({
        find: (opId, now) => {
          const known = backend.find(opId, now);
          return typeof known === "object" && (known.expired || now >= known.expiresAt) ? "closed" : known;
        },
      })),
  },
  {
    bug: "no tombstone for a release that came first",
    parts: () =>
      backed((backend) => ({
        close(opId, now) {
          if (backend.find(opId, now) !== undefined) backend.close(opId, now);
        },
      })),
  },
  {
    bug: "the new rate is applied to the past",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          available: (s, rule, now) => bucket.available({ ...s, capacity: rule.capacity, n: rule.n, d: rule.d }, rule, now),
          moved: () => false,
          advance(s, rule, now) {
            s.n = rule.n;
            s.d = rule.d;
            bucket.advance(s, rule, now);
          },
        },
      }),
  },
  {
    bug: "a new definition is forgotten by a refusal",
    parts: () => kinds({ bucket: { ...bucket, moved: () => false } }),
  },
  {
    bug: "a lower capacity leaves the level",
    parts: () =>
      kinds({
        bucket: {
          ...bucket,
          available: (s, rule, now) => bucket.available(s, { ...rule, capacity: Math.max(rule.capacity, s.capacity) }, now),
          advance: (s, rule, now) => bucket.advance(s, { ...rule, capacity: Math.max(rule.capacity, s.capacity) }, now),
        },
      }),
  },
  {
    bug: "an empty bucket without refill lapses: absent means full",
    parts: () => kinds({ bucket: { ...bucket, lapsesAt: (s) => (s.n === 0 ? s.t + 120_000 : bucket.lapsesAt(s)) } }),
  },
  {
    bug: "the wait forgets the part of a unit that is there",
    parts: () =>
      kinds({
        bucket: { ...bucket, wait: (s, rule, amount, now) => timeTo({ ...s, carry: 0 }, amount) + s.t - now + (rule.n === 0 ? Infinity : 0) },
      }),
  },
  {
    bug: "the first failing limit is named, not the one with the longest wait",
    parts: () =>
      verbs((engine) => ({
        reserve(opId, charges, ttlMs) {
          const result = engine.reserve(opId, charges, ttlMs);
          const [first] = result.kind === "limited" ? result.failing : [];
          return result.kind === "limited" && first !== undefined ? { ...result, worst: first } : result;
        },
      })),
  },
  {
    bug: "a cell leaves the window one cell early",
    parts: () =>
      kinds({
        sliding: {
          ...sliding,
          available: (s, rule, now) => sliding.available(s, rule, now + s.cellMs),
          wait: (s, rule, amount, now) => sliding.wait(s, rule, amount, now + s.cellMs),
        },
      }),
  },
  {
    bug: "a day goes back to its predecessor with the clock",
    blind: "vectors",
    parts: () =>
      kinds({
        calendar: {
          ...calendar,
          available: (s, rule, now) => (now < s.start ? rule.limit - s.prevUsed : calendar.available(s, rule, now)),
        },
      }),
  },
];
