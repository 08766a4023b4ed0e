/**
 * Counters of misbehaviour. rate-limiter-flexible counts; its own memory has neither a bound nor a clock that can be injected, so it counts in
 * ours, by the same base class as its Redis limiter, which may take this one as its insurance.
 */
import { LRUCache } from "lru-cache";
import RateLimiterRes from "rate-limiter-flexible/lib/RateLimiterRes.js";
import RateLimiterStoreAbstract from "rate-limiter-flexible/lib/RateLimiterStoreAbstract.js";
import type { StrikeStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";

export interface StrikeStoreOptions {
  readonly clock: Clock;
  /** How many keys are counted at one time. Beyond it the least recently struck one is forgotten. Default 100,000, about 30 MB. */
  readonly maxKeys?: number;
}

interface Count {
  points: number;
  /** Monotonic ms; Infinity = never. */
  endsAt: number;
}

export class LocalLimiter extends RateLimiterStoreAbstract<Count> {
  readonly #clock: Clock;
  readonly #maxKeys: number;
  /** Made with the first strike: the cache reserves its whole size at once. */
  #counts: LRUCache<string, Count> | undefined;

  constructor(clock: Clock, maxKeys: number) {
    // The points that are allowed are the caller's to judge, and each strike names its own duration.
    super({ storeClient: null, keyPrefix: "", points: 0, duration: 0 });
    this.#clock = clock;
    this.#maxKeys = maxKeys;
  }

  protected override _upsert(key: string, points: number, msDuration: number, forceExpire: boolean): Promise<Count> {
    let count = forceExpire ? undefined : this.#live(key);
    if (count) count.points += points;
    else {
      // Whole ms: the library turns them to seconds and back.
      count = { points, endsAt: msDuration > 0 ? this.#clock.monotonic() + Math.round(msDuration) : Infinity };
      // Its own expiry is not used: that is a timer of the real clock, and takes what was written at 0 for eternal.
      (this.#counts ??= new LRUCache({ max: this.#maxKeys })).set(key, count);
    }
    // A copy: of two strikes at the same time each learns its own number.
    return Promise.resolve({ ...count });
  }

  protected override _get(key: string): Promise<Count | null> {
    return Promise.resolve(this.#live(key) ?? null);
  }

  protected override _delete(key: string): Promise<boolean> {
    const count = this.#live(key);
    // Not taken out: when its last entry goes, the cache wipes the places of all that it could hold.
    if (count) count.endsAt = -Infinity;
    return Promise.resolve(count !== undefined);
  }

  protected override _getRateLimiterRes(_key: string, changedPoints: number, { points, endsAt }: Count): RateLimiterRes {
    const msLeft = endsAt === Infinity ? -1 : Math.max(0, endsAt - this.#clock.monotonic());
    return new RateLimiterRes(Math.max(0, this.points - points), msLeft, points, points === changedPoints);
  }

  #live(key: string): Count | undefined {
    const count = this.#counts?.get(key);
    return count && count.endsAt > this.#clock.monotonic() ? count : undefined;
  }
}

/**
 * Strikes in this process, gone when it ends. An answer is always a promise. It runs on the monotonic clock, so setting the system's time forgives
 * nobody.
 */
export function strikeStore({ clock, maxKeys = 100_000 }: StrikeStoreOptions): StrikeStore {
  const limiter = new LocalLimiter(clock, maxKeys);
  return {
    async strike(key, windowMs) {
      const { consumedPoints } = await limiter.penalty(key, 1, { customDuration: windowMs / 1_000 });
      return consumedPoints;
    },
    async clear(key) {
      await limiter.delete(key);
    },
  };
}
