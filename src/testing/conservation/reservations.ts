import type { Amounts, Charge } from "../../core/store.ts";
import type { Violation } from "../../metering/conservation.ts";
import type { Verb, VerbSpan } from "../recording-store.ts";

/** How a reservation ended; `open` = it has not, `unclear` = a verb without an answer may have ended it. */
export type ReservationEnd = "open" | "settled" | "released" | "lapsed" | "expired" | "unclear";

/** What the verbs say of one opId. */
export interface Reservation {
  readonly opId: string;
  /** Without shadow charges that did not fit. */
  readonly charges: readonly Charge[];
  /** When it was made: somewhere in between. */
  readonly made: VerbSpan;
  /** Until when it was held at least, ms. */
  readonly deadlineMs: number;
  readonly end: ReservationEnd;
  /** When it ended, and when a late settle replaced what was charged then. */
  readonly ended: VerbSpan | null;
  readonly corrected: VerbSpan | null;
  /** What stays charged, by charge. Null = unclear. */
  readonly kept: readonly number[] | null;
}

type Finish = Extract<Verb, { verb: "settle" | "release" | "lapse" }>;

interface Life {
  readonly opId: string;
  charges: readonly Charge[];
  /** A reserve that failed: it may have been carried out. */
  attempted: VerbSpan | null;
  made: VerbSpan | null;
  deadlineMs: number;
  end: ReservationEnd;
  ended: VerbSpan | null;
  corrected: VerbSpan | null;
  actual: Amounts | "nothing" | "held";
  /** A finish that failed: it may have been carried out. */
  unanswered: Finish | null;
}

/** Follows each reservation through the verbs, and tells where one was made or ended twice, or out of nothing (I4). */
export function reservationsOf(verbs: readonly Verb[]): { readonly reservations: readonly Reservation[]; readonly violations: readonly Violation[] } {
  const lives = new Map<string, Life>();
  const violations: Violation[] = [];
  const broken = (message: string): void => void violations.push({ invariant: "I4", message });

  function lifeOf(opId: string): Life {
    let life = lives.get(opId);
    if (!life) {
      const blank = { charges: [], attempted: null, made: null, deadlineMs: 0, ended: null, corrected: null, unanswered: null };
      lives.set(opId, (life = { opId, end: "open", actual: "held", ...blank }));
    }
    return life;
  }

  function reserved(life: Life, verb: Extract<Verb, { verb: "reserve" }>): void {
    const { result, charges, ttlMs } = verb;
    if (result === null) life.attempted ??= verb;
    if (life.charges.length === 0) life.charges = charges;
    if (result?.kind !== "allowed") return;
    if (life.made && !result.replayed) broken(`reservation ${life.opId} was made twice`);
    life.made ??= spanning(life.attempted ?? verb, verb);
    life.charges = charges.filter((_, i) => !result.skipped.some(({ index }) => index === i));
    life.deadlineMs = Math.max(life.deadlineMs, life.made.startMs + ttlMs);
  }

  function finished(life: Life, verb: Finish): void {
    const { result } = verb;
    if (result === null) {
      life.unanswered ??= verb;
      return;
    }
    // A failed reserve was carried out after all: only then is there something to end.
    if (result === "applied" && !life.made && life.attempted) life.made = spanning(life.attempted, verb);
    if (result === "applied") {
      if (!life.made) broken(`reservation ${life.opId} was ended (${verb.verb}) and never made`);
      else if (life.end !== "open") broken(`reservation ${life.opId} was ended twice: ${life.end}, then ${verb.verb}`);
      apply(life, verb);
    } else if (result === "late") {
      if (life.corrected) broken(`reservation ${life.opId} was corrected twice`);
      else if (life.end !== "lapsed" && life.end !== "expired")
        broken(`reservation ${life.opId} was corrected (${verb.verb}) while it was ${life.end}`);
      life.corrected = verb;
      life.actual = verb.verb === "settle" ? verb.actual : "nothing";
    } else if (result === "done" && life.end === "open" && life.made) {
      // Whoever lost the answer asks again, and hears that it is done.
      if (life.unanswered) apply(life, life.unanswered);
      else broken(`reservation ${life.opId}: a ${verb.verb} was answered "done", and nothing had ended it`);
    } else if (result === "unknown" && life.end === "open" && life.made) {
      broken(`reservation ${life.opId} was made, and at its ${verb.verb} the store did not know it`);
      life.end = "unclear";
    }
  }

  function apply(life: Life, verb: Finish): void {
    life.end = verb.verb === "settle" ? "settled" : verb.verb === "release" ? "released" : "lapsed";
    life.ended = verb;
    life.actual = verb.verb === "settle" ? verb.actual : verb.verb === "release" ? "nothing" : "held";
  }

  function expired(life: Life, verb: VerbSpan): void {
    if (life.end !== "open") broken(`reservation ${life.opId} expired after it was ${life.end}`);
    life.end = "expired";
    life.ended = verb;
  }

  for (const verb of verbs) {
    if (verb.verb === "reserve") reserved(lifeOf(verb.opId), verb);
    else if (verb.verb === "extend") {
      if (verb.result === true) lifeOf(verb.opId).deadlineMs = Math.max(lifeOf(verb.opId).deadlineMs, verb.startMs + verb.ttlMs);
    } else if (verb.verb === "expire") {
      // A hold that this recording has not seen is another process's.
      for (const { opId } of verb.result ?? []) if (lives.has(opId)) expired(lifeOf(opId), verb);
    } else finished(lifeOf(verb.opId), verb);
  }

  const reservations: Reservation[] = [];
  for (const life of lives.values()) {
    const { opId, charges, made, deadlineMs, ended, corrected } = life;
    if (!made) continue;
    const end = life.end === "open" && life.unanswered ? "unclear" : life.end;
    reservations.push({ opId, charges, made, deadlineMs, end, ended, corrected, kept: keptOf(life, end) });
  }
  return { reservations, violations };
}

/** It happened somewhere from the question of one to the answer of the other. */
const spanning = ({ startMs, startOrder }: VerbSpan, { endMs, endOrder }: VerbSpan): VerbSpan => ({ startMs, startOrder, endMs, endOrder });

function keptOf({ charges, actual }: Life, end: ReservationEnd): readonly number[] | null {
  if (end === "unclear") return null;
  return charges.map(({ unit, amount }) => {
    if (end === "open") return amount;
    if (unit === "concurrent" || actual === "nothing") return 0;
    return actual === "held" ? amount : (actual[unit] ?? amount);
  });
}

const STILL_OPEN = "is still open: it was neither settled nor released";

/** At a quiet moment nothing is held (I5). */
export function openHolds(reservations: readonly Reservation[], nowMs: number): Violation[] {
  return reservations
    .filter(({ end }) => end === "open")
    .map(({ opId, charges, made, deadlineMs }) => {
      const holds = charges.map(({ key, amount, unit }) => `${amount} ${unit} of ${key}`).join(", ");
      const age = `${Math.round(nowMs - made.endMs)} ms old${nowMs > deadlineMs ? `, ${Math.round(nowMs - deadlineMs)} ms over its time` : ""}`;
      return { invariant: "I5", message: `reservation ${opId} (${holds}; ${age}) ${STILL_OPEN}` };
    });
}
