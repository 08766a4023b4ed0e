import { performance } from "node:perf_hooks";
import type { Charge, LimitStore } from "quotaguard";
import { idFactory } from "../../src/core/id.ts";
import { ACTUAL, chargesOf, HELD_TOKENS, preparedCharges, USERS, type Shape } from "./charges.ts";
import type { Contender, Job } from "./job.ts";
import type { Meter } from "./meter.ts";

/** As long as the gateway holds at first. */
const TTL_MS = 300_000;
/** Goes through all users, neighbours in time being no neighbours in number. */
const STRIDE = 1_597;
const RELEASES_AT_ONCE = 128;
/** Between two looks at the clock. */
const PAIRS_AT_ONCE = 256;

/** The verbs of a limit store as jobs. */
export function limitJobs(limits: LimitStore): Omit<Contender, "close"> {
  const prepared: Record<Shape, readonly (readonly Charge[])[]> = { buckets: preparedCharges("buckets"), mixed: preparedCharges("mixed") };
  const nextId = idFactory(Date.now);
  let open: string[] = [];
  let turn = 0;

  const nextUser = (): number => (turn = (turn + STRIDE) % USERS);

  function nextCharges({ verbs, shape }: Job): readonly Charge[] {
    const user = nextUser();
    return verbs === "fresh-pairs" ? chargesOf(shape, user, HELD_TOKENS + (turn % 100)) : (prepared[shape][user] as readonly Charge[]);
  }

  async function caller(job: Job, meter: Meter, stopping: () => boolean): Promise<void> {
    const settles = job.verbs !== "reserve";
    while (!stopping()) {
      const opId = nextId();
      const charges = nextCharges(job);
      try {
        const reserveMs = performance.now();
        const { kind } = await limits.reserve(opId, charges, TTL_MS);
        meter.answered(reserveMs);
        if (kind !== "allowed") meter.fail(`reserve: ${kind}`);
        else if (!settles) open.push(opId);
        else {
          const settleMs = performance.now();
          const result = await limits.settle(opId, ACTUAL);
          meter.answered(settleMs);
          if (result !== "applied") meter.fail(`settle: ${result}`);
        }
      } catch (error) {
        meter.fail(error instanceof Error ? error.message : String(error));
        // A store that fails at once would otherwise keep the event loop from ever hearing of its server.
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  }

  /** Pairs in a store that answers at once: a promise for each would cost more than the verb. */
  function blockingPairs(job: Job, meter: Meter, stopping: () => boolean): void {
    while (!stopping()) {
      for (let i = 0; i < PAIRS_AT_ONCE; i += 1) {
        const opId = nextId();
        const reserved = limits.reserve(opId, nextCharges(job), TTL_MS);
        if (!("kind" in reserved)) throw new Error("this store does not answer at once");
        if (reserved.kind !== "allowed") meter.fail(`reserve: ${reserved.kind}`);
        const settled = limits.settle(opId, ACTUAL);
        if (typeof settled !== "string") throw new Error("this store does not answer at once");
        if (settled !== "applied") meter.fail(`settle: ${settled}`);
      }
      meter.count(2 * PAIRS_AT_ONCE);
    }
  }

  return {
    async run(job, meter, stopping) {
      if (job.inFlight === 0) blockingPairs(job, meter, stopping);
      else await Promise.all(Array.from({ length: job.inFlight }, () => caller(job, meter, stopping)));
    },

    async tidy() {
      const left = open;
      open = [];
      for (let i = 0; i < left.length; i += RELEASES_AT_ONCE) {
        await Promise.all(left.slice(i, i + RELEASES_AT_ONCE).map((opId) => limits.release(opId)));
      }
      await limits.expire(1);
    },
  };
}
