// The library's base class for limiters over a store of one's own. It is no export of the package's index, so it is imported from its own file,
// which has no types beside it; the members that a store implements are missing from the package's types too.
declare module "rate-limiter-flexible/lib/RateLimiterStoreAbstract.js" {
  import type { RateLimiterStoreAbstract as Published, RateLimiterRes } from "rate-limiter-flexible";

  abstract class RateLimiterStoreAbstract<Stored> extends Published {
    /** Adds points to what stands, or begins anew; returns what {@link _getRateLimiterRes} reads. */
    protected abstract _upsert(key: string, points: number, msDuration: number, forceExpire: boolean): Promise<Stored>;
    protected abstract _get(key: string): Promise<Stored | null>;
    protected abstract _delete(key: string): Promise<boolean>;
    protected abstract _getRateLimiterRes(key: string, changedPoints: number, stored: Stored): RateLimiterRes;
  }
  export = RateLimiterStoreAbstract;
}

declare module "rate-limiter-flexible/lib/RateLimiterRes.js" {
  import type { RateLimiterRes as Published } from "rate-limiter-flexible";

  class RateLimiterRes extends Published {}
  export = RateLimiterRes;
}

declare module "rate-limiter-flexible/lib/RateLimiterRedis.js" {
  import { RateLimiterRedis } from "rate-limiter-flexible";

  export = RateLimiterRedis;
}
