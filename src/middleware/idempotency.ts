/**
 * One key, one charge: a request that a client sends again, because it does not know what became of the first, gets that one's answer instead of another
 * call. Without the header it costs a look at the headers.
 */
import type { Answer } from "../core/answer.ts";
import type { Call } from "../core/call.ts";
import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Step } from "../core/step.ts";
import { andThen, type Clock } from "../core/time.ts";
import { change } from "./idempotency/change.ts";
import type { Claim, Claims, Ending, Lost, Taken } from "./idempotency/claims.ts";
import { digestOf, KEY_HEADER, keyOf, placeOf } from "./idempotency/fingerprint.ts";
import { Recording } from "./idempotency/recording.ts";
import { replay } from "./idempotency/replay.ts";

/** How long a twin waits for the first one's answer before it is told to come back. */
const WAIT_MS = 10_000;
/** A store's messages may be lost. */
const LOOK_MS = 1_000;
const RETRY_AFTER_MS = 2_000;

/** `first` was sent on · `replayed` · `in_progress` · `mismatch` · `lost`: told that its answer is gone. */
export type IdempotencyOutcome = "first" | "replayed" | "in_progress" | "mismatch" | "lost";

export interface IdempotencyOptions {
  readonly claims: Claims;
  readonly clock: Clock;
  /** Larger answers are passed on and not kept. */
  readonly maxBodyBytes: number;
  readonly counted: (outcome: IdempotencyOutcome) => void;
  /** A request cost nothing, because an answer was given again: neither do the requests that it was made inside of. */
  readonly servedBefore: (ctx: Context) => void;
}

const LOST: Readonly<Record<Lost, string>> = {
  partial: "ended before its answer was complete, and was charged for what it used",
  too_large: "was answered and charged, and its answer was too large to be kept",
  dropped: "was answered and charged, and its answer could not be kept",
  crashed: "was cut off; what became of it is unknown, and it is charged as estimated",
};

/** An SDK would send it again, in vain. */
const FINAL = { "x-should-retry": "false" };

const lost = (why: Lost): GuardError =>
  new GuardError("idempotency_mismatch", `the request with this Idempotency-Key ${LOST[why]}; to ask again, and pay again, use another key`, {
    status: 409,
    headers: FINAL,
  });

const mismatch = (): GuardError =>
  new GuardError("idempotency_mismatch", "this Idempotency-Key was used for another request; use another key", { headers: FINAL });

const inProgress = (): GuardError =>
  new GuardError("idempotency_in_progress", "the first request with this Idempotency-Key is still being answered; try again", {
    retryAfterMs: RETRY_AFTER_MS,
  });

/** What is kept of a request that is over; null = nothing, because nothing was charged. */
function endingOf({ charged }: Context, recording: Recording): Ending | null {
  if (charged === undefined || charged.kind === "nothing") return null;
  const recorded = recording.recorded();
  return typeof recorded === "string" ? { state: "lost", why: recorded } : { state: "answered", answer: recorded };
}

/** Must stand behind whatever says who asks and what it may do, and before what charges. */
export function idempotencyStep({ claims, clock, maxBodyBytes, counted, servedBefore }: IdempotencyOptions): Step {
  /** A twin waits for a moment: most answers come soon. It may also become the first, when that one was refused. */
  async function waited(ctx: Context, take: () => Promise<Taken>, place: string): Promise<Taken> {
    const changed = change(clock);
    const stop = claims.watch(place, changed.wake);
    ctx.onGone(changed.wake);
    try {
      const deadline = clock.monotonic() + WAIT_MS;
      for (;;) {
        const taken = await take();
        const leftMs = deadline - clock.monotonic();
        if (taken.state !== "open" || leftMs <= 0) return taken;
        if (ctx.gone) throw new GuardError("upstream_unreachable", "the client left before the request was sent");
        await changed.next(Math.min(leftMs, LOOK_MS));
      }
    } finally {
      ctx.onGone(undefined);
      stop();
    }
  }

  function begin(ctx: Context, claim: Claim): void {
    const recording = new Recording(maxBodyBytes);
    ctx.recording = recording.answer;
    ctx.after(() => claims.end(claim, endingOf(ctx, recording)));
  }

  async function answered(ctx: Context, call: Call, key: string): Promise<Answer | void> {
    const place = placeOf(ctx, call, key);
    const about = { digest: digestOf(call), requestId: ctx.requestId, id: ctx.id };
    const take = (): Promise<Taken> => claims.take(place, about);
    const first = await take();
    const taken = first.state === "open" ? await waited(ctx, take, place) : first;
    switch (taken.state) {
      case "taken":
        counted("first");
        return begin(ctx, taken.claim);
      case "answered":
        counted("replayed");
        ctx.replayOf = taken.requestId;
        ctx.charged = { kind: "nothing" };
        servedBefore(ctx);
        return replay(taken.answer);
      case "open":
        counted("in_progress");
        throw inProgress();
      case "mismatch":
        counted("mismatch");
        throw mismatch();
      case "lost":
        counted("lost");
        throw lost(taken.why);
    }
  }

  return function idempotency(ctx) {
    const header = ctx.headers[KEY_HEADER];
    // Only answers of model calls are known to be whole; and a request that has a claim keeps it.
    if (header === undefined || !ctx.carriesCall || ctx.recording) return undefined;
    const key = keyOf(String(header));
    return andThen(ctx.call(), (call) => answered(ctx, call, key));
  };
}
