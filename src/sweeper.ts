import type { Services } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";
import type { Store } from "./core/store.ts";
import type { Clock } from "./core/time.ts";

/** How often overdue holds are looked for. Correctness never waits for it. */
export const SWEEP_MS = 15_000;
const SWEEP_MOST = 1_000;

/** Frees what crashed requests held. */
export function sweeper(store: Store, clock: Clock, services: Services): { stop(): void } {
  let stopped = false;
  const timer = clock.timer(SWEEP_MS, () => void run());
  async function run(): Promise<void> {
    try {
      const expired = await store.limits.expire(SWEEP_MOST);
      if (expired.length > 0) services.logger.warn({ count: expired.length }, "holds ran out without being settled; they stay charged as estimated");
    } catch (error) {
      // That the store is away is said once, and not by each round.
      if (!GuardError.is(error)) services.logger.warn({ err: error }, "overdue holds could not be looked for; the next round tries again");
    }
    if (!stopped) timer.refresh();
  }
  return {
    stop() {
      stopped = true;
      timer.cancel();
    },
  };
}
