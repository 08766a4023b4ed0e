import { ConfigError } from "./core/errors.ts";
import type { Clock, MaybePromise, Timer } from "./core/time.ts";

/** A timer's delay is a 32-bit number of ms: a longer one would fire at once. */
const MOST_MS = 2 ** 31 - 1;
/** Of one plugin. */
const MOST_TIMERS = 256;

export interface PluginTimers {
  every(ms: number, fn: () => MaybePromise<void>): () => void;
  /** Nothing begins any more; resolves when what runs has ended. */
  stop(): Promise<void>;
}

/** Repeated work by the injected clock. What takes longer than its turn misses turns, and is never there twice. */
export function pluginTimers(plugin: string, clock: Clock, failed: (error: unknown) => void): PluginTimers {
  const timers = new Set<Timer>();
  const running = new Set<Promise<void>>();
  return {
    every(ms, fn) {
      if (typeof ms !== "number" || !(ms >= 1 && ms <= MOST_MS))
        throw new ConfigError([`the plugin ${plugin}: every(ms, fn) takes 1 to ${MOST_MS} ms`]);
      if (typeof fn !== "function") throw new ConfigError([`the plugin ${plugin}: every(ms, fn) needs a function`]);
      if (timers.size >= MOST_TIMERS) throw new ConfigError([`the plugin ${plugin} has ${MOST_TIMERS} timers; stop one before you start another`]);
      let isRunning = false;
      const turn = (): void => {
        timer.refresh();
        if (isRunning) return;
        isRunning = true;
        const work = run(fn).finally(() => {
          isRunning = false;
          running.delete(work);
        });
        running.add(work);
      };
      const timer = clock.timer(ms, turn);
      timers.add(timer);
      return () => {
        timer.cancel();
        timers.delete(timer);
      };
    },
    async stop() {
      for (const timer of timers) timer.cancel();
      timers.clear();
      await Promise.all(running);
    },
  };

  async function run(fn: () => MaybePromise<void>): Promise<void> {
    try {
      await fn();
    } catch (error) {
      failed(error);
    }
  }
}
