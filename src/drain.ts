/** The orderly end of a guard: open requests finish, what does not finish is cut and told why, and what was opened is closed. */
import type { Context } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { OpenSet } from "./core/open-set.ts";
import type { Clock } from "./core/time.ts";
import type { Runtime } from "./runtime.ts";

/** How long a request that was cut at shutdown has to tell its client. */
const CUT_WAIT_MS = 500;

export interface DrainParts {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly open: OpenSet<Context>;
  /** How long open requests may go on. */
  readonly timeoutMs: number;
  readonly starting: Promise<void>;
  readonly started: () => Runtime | undefined;
}

export interface Drainer {
  /** A request is over. */
  closed(): void;
  /** Resolves when everything is closed. */
  drain(): Promise<void>;
}

export function drainer({ clock, logger, open, timeoutMs, starting, started }: DrainParts): Drainer {
  let idle: (() => void) | undefined;

  /** Resolves true when nothing is open any more, false after `ms`. */
  function idleWithin(ms: number): Promise<boolean> {
    if (open.size === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = clock.timer(ms, () => resolve(false));
      idle = () => {
        timer.cancel();
        resolve(true);
      };
    });
  }

  /** Waits for a start that may never end; one that ends later closes what it opened. */
  function startedWithin(ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = clock.timer(ms, () => {
        logger.warn({}, "the guard was closed before its store could be opened");
        starting.then(() => started()?.close()).catch(() => {});
        resolve(false);
      });
      const settle = (isStarted: boolean): void => {
        timer.cancel();
        resolve(isStarted);
      };
      starting.then(
        () => settle(true),
        () => settle(false),
      );
    });
  }

  return {
    closed() {
      if (open.size === 0) idle?.();
    },
    async drain() {
      if (!(await startedWithin(timeoutMs))) return;
      if (!(await idleWithin(timeoutMs))) {
        logger.warn(
          { open: open.size },
          "requests were still open at the end of the shutdown timeout; they are cut and charged by what they delivered",
        );
        const reason = new GuardError("overloaded", "the gateway is shutting down and had to cut this request; try again", { retryAfterMs: 1_000 });
        for (const ctx of open) ctx.leave(reason);
        await idleWithin(CUT_WAIT_MS);
        await Promise.all([...open].map((ctx) => ctx.close({ status: 503, code: reason.code, error: reason })));
      }
      await started()?.close();
    },
  };
}
