import type { Context } from "../core/context.ts";

const MOST_MS = 50;

/**
 * Waits before a request is tried again: anything from 0 to 50 ms, so that requests which failed together do not come back together. Over at once when
 * the client leaves; undefined when there is nothing to wait for. `random` gives numbers from 0 to below 1.
 */
export type Backoff = (ctx: Context) => Promise<void> | undefined;

export function backoff(random: () => number): Backoff {
  return function wait(ctx) {
    if (ctx.gone) return undefined;
    const delayMs = random() * MOST_MS;
    if (delayMs < 1) return undefined;
    return new Promise((resolve) => {
      const timer = ctx.services.clock.timer(delayMs, resolve);
      ctx.onGone(() => {
        timer.cancel();
        resolve();
      });
    });
  };
}
