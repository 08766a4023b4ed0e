import type { Source } from "./core/answer.ts";
import type { Context } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";

export interface StreamParts {
  readonly ctx: Context;
  /** What the reader is told when the plugin's code fails. */
  readonly refusal: () => GuardError;
  /** Logs and counts what is the plugin's own fault. */
  readonly failed: (error: unknown) => void;
}

/**
 * A plugin's stream as the edge reads it. It is called from sockets and timers, where a throw would end the process, and a guard that closes waits for none
 * that has no end of its own: so what the plugin throws, or pushes that is no Buffer, breaks its answer and nothing else, and so does the end of its request.
 */
export function pluginStream(source: Source, { ctx, refusal, failed }: StreamParts): Source {
  let isOver = false;

  function over(): boolean {
    if (isOver) return false;
    isOver = true;
    ctx.onGone(undefined);
    return true;
  }

  function attempt(work: () => void, onFailure: () => void = () => undefined): void {
    try {
      work();
    } catch (error) {
      failed(error);
      onFailure();
    }
  }

  const cancel = (): void => attempt(() => source.cancel());
  let breakOff: (error: GuardError) => void = () => undefined;

  return {
    start(sink) {
      breakOff = (error) => {
        if (!over()) return;
        cancel();
        sink.error(error);
      };
      ctx.onGone((reason) => reason && breakOff(reason));
      if (isOver) return;
      const begin = (): void =>
        source.start({
          chunk(bytes) {
            if (isOver) return false;
            if (Buffer.isBuffer(bytes)) return sink.chunk(bytes);
            failed(new TypeError("sink.chunk() takes a Buffer"));
            breakOff(refusal());
            return false;
          },
          end: () => void (over() && sink.end()),
          error: (error) => void (over() && sink.error(GuardError.is(error) ? error : refusal())),
        });
      attempt(begin, () => breakOff(refusal()));
    },
    resume() {
      if (!isOver)
        attempt(
          () => source.resume(),
          () => breakOff(refusal()),
        );
    },
    cancel() {
      over();
      cancel();
    },
  };
}
