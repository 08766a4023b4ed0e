import { performance } from "node:perf_hooks";
import { Redis } from "ioredis";
import { RateLimiterRedis } from "rate-limiter-flexible";
import { HELD_TOKENS, keysOf, USERS } from "./charges.ts";
import type { Contender, Job } from "./job.ts";
import type { Meter } from "./meter.ts";

const SCOPES = 5;
/** Goes through all users, neighbours in time being no neighbours in number. */
const STRIDE = 1_597;

/**
 * What an app does with rate-limiter-flexible for the same five scopes: one limiter each, on ioredis with its usual settings. It counts fixed windows
 * and takes from each limiter by itself: a refusal by one leaves the others charged, and nothing is ever given back.
 */
export function flexibleLimiters(redisUrl: string): Contender {
  const client = new Redis(redisUrl);
  const limiters = Array.from(
    { length: SCOPES },
    (_, scope) => new RateLimiterRedis({ storeClient: client, keyPrefix: `rlf${scope}`, points: 1e15, duration: 60 }),
  );
  const keys = Array.from({ length: USERS }, (_, user) => keysOf(user));
  let turn = 0;

  async function caller({ verbs }: Job, meter: Meter, stopping: () => boolean): Promise<void> {
    while (!stopping()) {
      turn = (turn + STRIDE) % USERS;
      const mine = keys[turn] as readonly string[];
      const sentMs = performance.now();
      try {
        if (verbs === "together") await Promise.all(limiters.map((limiter, scope) => limiter.consume(mine[scope] as string, HELD_TOKENS)));
        else for (const [scope, limiter] of limiters.entries()) await limiter.consume(mine[scope] as string, HELD_TOKENS);
        meter.answered(sentMs);
      } catch (error) {
        meter.fail(error instanceof Error ? error.message : "refused");
      }
    }
  }

  return {
    async run(job, meter, stopping) {
      await Promise.all(Array.from({ length: job.inFlight }, () => caller(job, meter, stopping)));
    },
    tidy: async () => undefined,
    close: async () => client.disconnect(),
  };
}
