/** Whether the counters of a store say what its verbs did to them (I1). */
import type { Charge, Rule, Standing } from "../../core/store.ts";
import type { Violation } from "../../metering/conservation.ts";
import type { Verb } from "../recording-store.ts";
import type { Reservation } from "./reservations.ts";

/** What was in a counter before the first verb that named it. */
export interface Baseline {
  readonly key: string;
  readonly rule: Rule;
  readonly available: number;
  readonly atMs: number;
}

/** When a counter was looked at in the end: wall clock and monotonic ms, before and after. */
export interface Look {
  readonly fromMs: number;
  readonly toMs: number;
  readonly wallMs: number;
}

const sameRule = (a: Rule, b: Rule): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);

type Reserve = Extract<Verb, { verb: "reserve" }>;

/** The counters whose whole story the verbs tell: one rule all the time, every reserve answered, and a standing to start from. */
export function baselinesOf(verbs: readonly Verb[]): readonly Baseline[] {
  const found = new Map<string, (Baseline & { readonly firstEnd: number }) | null>();
  for (const verb of verbs) {
    if (verb.verb !== "reserve") continue;
    verb.charges.forEach(({ key, rule }, i) => {
      const known = found.get(key);
      if (known === null) return;
      const available = availableBefore(verb, i);
      // Without an answer nobody knows what was taken; another definition, or the next window, takes over what only the store knows.
      if (available === undefined || (known && !sameRule(known.rule, rule))) return void found.set(key, null);
      if (known === undefined) found.set(key, { key, rule, available, atMs: verb.startMs, firstEnd: verb.endOrder });
      // Of several that were under way at one time the one that was first found most.
      else if (verb.startOrder < known.firstEnd && available > known.available) found.set(key, { ...known, available });
    });
  }
  return [...found.values()].filter((baseline) => baseline !== null);
}

function availableBefore(verb: Reserve, index: number): number | undefined {
  const { result } = verb;
  const standing = standingOf(verb, index);
  if (standing === undefined) return undefined;
  const wasTaken = result?.kind === "allowed" && !result.replayed && !result.skipped.some((short) => short.index === index);
  return standing.available + (wasTaken ? (verb.charges[index] as Charge).amount : 0);
}

function standingOf({ result }: Reserve, index: number): Standing | undefined {
  return result?.kind === "allowed" || result?.kind === "limited" ? result.standings[index] : undefined;
}

/** A part of what stays charged, and when it was charged: an overage is charged when it becomes known. */
interface Piece {
  readonly amount: number;
  readonly startMs: number;
  readonly endMs: number;
}

function piecesOf(reservations: readonly Reservation[]): ReadonlyMap<string, readonly Piece[] | null> {
  const pieces = new Map<string, Piece[] | null>();
  for (const { charges, kept, made, ended, corrected } of reservations) {
    charges.forEach(({ key, amount }: Charge, i) => {
      if (kept === null || pieces.get(key) === null) return void pieces.set(key, null);
      const list = pieces.get(key) ?? [];
      pieces.set(key, list);
      const actual = kept[i] as number;
      list.push({ amount: Math.min(amount, actual), ...made });
      if (actual > amount) list.push({ amount: actual - amount, ...(corrected ?? ended ?? made) });
    });
  }
  return pieces;
}

/** Compares what counters say with what was there at first and what stays charged. To be asked when nothing is held. */
export function counterViolations(
  baselines: readonly Baseline[],
  standings: readonly Standing[],
  reservations: readonly Reservation[],
  look: Look,
): Violation[] {
  const charged = piecesOf(reservations);
  return baselines.flatMap((baseline, i) => {
    const pieces = charged.get(baseline.key) ?? [];
    const available = standings[i]?.available;
    const bounds = charged.get(baseline.key) === null || available === undefined ? null : boundsOf(baseline, pieces, look);
    if (bounds === null || available === undefined || (available >= bounds.least && available <= bounds.most)) return [];
    const expected = bounds.least === bounds.most ? `${bounds.least}` : `at least ${bounds.least} and at most ${bounds.most}`;
    const sum = pieces.reduce((total, { amount }) => total + amount, 0);
    const message = `${baseline.key}: ${baseline.available} were available and ${sum} were charged, so ${expected} must be left, and the counter says ${available}`;
    return [{ invariant: "I1", message }];
  });
}

/** What may be left. Null = nobody can tell from outside. */
function boundsOf(
  { rule, available, atMs }: Baseline,
  pieces: readonly Piece[],
  { fromMs, toMs, wallMs }: Look,
): { least: number; most: number } | null {
  const sum = (some: readonly Piece[]): number => some.reduce((total, { amount }) => total + amount, 0);
  const all = sum(pieces);
  switch (rule.kind) {
    case "bucket": {
      // One more for the part of a unit that standings do not show.
      const flowedIn = rule.n === 0 ? 0 : 1 + Math.ceil((rule.n / rule.d) * (Math.ceil(toMs) - Math.floor(atMs)));
      return { least: available - all, most: Math.min(rule.capacity, available - all + flowedIn) };
    }
    case "sliding": {
      const inside = sum(pieces.filter(({ startMs }) => startMs > toMs - rule.perMs));
      const perhaps = sum(pieces.filter(({ endMs }) => endMs >= fromMs - rule.perMs - rule.cellMs - 1));
      return { least: available - perhaps, most: rule.limit - inside };
    }
    case "calendar":
      return wallMs < rule.bounds[2] && wallMs >= rule.bounds[1] ? { least: available - all, most: available - all } : null;
    case "concurrency":
      return { least: available, most: rule.limit };
  }
}
