import type { Clock, MaybePromise } from "../../core/time.ts";

/** Something that others change, and that nobody must miss. */
export interface Change {
  /** Resolves when it has changed since the last call, at the latest after so long. */
  next(waitMs: number): MaybePromise<void>;
  wake(): void;
}

export function change(clock: Clock): Change {
  let hasChanged = false;
  let tell: (() => void) | undefined;
  return {
    next(waitMs) {
      if (hasChanged) {
        hasChanged = false;
        return undefined;
      }
      return new Promise<void>((resolve) => {
        const timer = clock.timer(waitMs, () => tell?.());
        tell = () => {
          tell = undefined;
          hasChanged = false;
          timer.cancel();
          resolve();
        };
      });
    },
    wake() {
      hasChanged = true;
      tell?.();
    },
  };
}
