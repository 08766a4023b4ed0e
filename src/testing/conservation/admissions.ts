/** Whether limits let through more than they may, from what was reserved and given back when (I3). */
import type { BucketRule, Rule } from "../../core/store.ts";
import type { Violation } from "../../metering/conservation.ts";
import type { VerbSpan } from "../recording-store.ts";
import type { Reservation } from "./reservations.ts";

/** A verb was carried out somewhere in its span. Wherever that leaves a choice, the limit has the benefit of the doubt. */
interface Taken {
  readonly amount: number;
  readonly made: VerbSpan;
  /** What of it was given back, and when. */
  readonly back: { readonly amount: number; readonly at: VerbSpan } | null;
  /** From when on it counts no longer, whether or not it was given back. */
  readonly leavesMs: number;
}

interface Counter {
  readonly key: string;
  readonly rules: Rule[];
  readonly taken: Taken[];
}

/** What the rounding of a rate to a double may cost. */
const TOLERANCE = 1e-6;

/** Before all that happens at the same time. */
const FIRST = -1;

function countersOf(reservations: readonly Reservation[]): Iterable<Counter> {
  const counters = new Map<string, Counter>();
  for (const reservation of reservations) {
    reservation.charges.forEach(({ key, rule, amount, enforce }, i) => {
      if (!enforce) return;
      // Each calendar window counts for itself.
      const name = rule.kind === "calendar" ? `${key} in the window from ${new Date(rule.bounds[1]).toISOString()}` : key;
      let counter = counters.get(name);
      if (!counter) counters.set(name, (counter = { key: name, rules: [], taken: [] }));
      counter.rules.push(rule);
      counter.taken.push(takenBy(reservation, i, rule, amount));
    });
  }
  return counters.values();
}

function takenBy({ made, ended, corrected, deadlineMs, kept }: Reservation, index: number, rule: Rule, amount: number): Taken {
  // A place is free from the end on, whatever is corrected later.
  const at = rule.kind === "concurrency" ? ended : (corrected ?? ended);
  // Unclear is given the benefit of the doubt, too: as if all of it had been given back at once.
  const back = kept === null ? { amount, at: made } : at === null ? null : { amount: Math.max(0, amount - (kept[index] ?? 0)), at };
  if (rule.kind === "sliding") return { amount, made, back, leavesMs: made.startMs + rule.perMs };
  return { amount, made, back, leavesMs: rule.kind === "concurrency" ? deadlineMs : Infinity };
}

/** The first limit, if any, that was passed by what it let through. */
export function admissionViolations(reservations: readonly Reservation[]): Violation[] {
  const violations: Violation[] = [];
  for (const counter of countersOf(reservations)) {
    const [first] = counter.rules;
    const message = first?.kind === "bucket" ? overBucket(counter, counter.rules as BucketRule[]) : overLimit(counter);
    if (message !== null) violations.push({ invariant: "I3", message });
  }
  return violations;
}

/** Reserved minus given back, in any interval, is at most the capacity and what flowed in meanwhile. */
function overBucket({ key, taken }: Counter, rules: readonly BucketRule[]): string | null {
  const capacity = Math.max(...rules.map((rule) => rule.capacity));
  const perMs = Math.max(...rules.map(({ n, d }) => n / d));
  const starts = taken.toSorted((a, b) => a.made.startOrder - b.made.startOrder);
  const ends = taken.toSorted((a, b) => a.made.endOrder - b.made.endOrder);
  const refunds = taken.flatMap(({ back }) => (back && back.amount > 0 ? [back] : []));
  const begun = sumBefore(refunds.map(({ amount, at }) => ({ amount, order: at.startOrder })));
  const over = sumBefore(refunds.map(({ amount, at }) => ({ amount, order: at.endOrder })));
  let [reserved, reservedBefore, nextStart] = [0, 0, 0];
  /** The beginning of the interval that would show most. */
  let best = { worth: -Infinity, fromMs: 0, net: 0 };

  for (const { amount, made } of ends) {
    reserved += amount;
    const returned = begun(made.endOrder);
    for (; (starts[nextStart]?.made.startOrder ?? Infinity) < made.endOrder; nextStart += 1) {
      const start = starts[nextStart] as Taken;
      const fromMs = Math.floor(start.made.startMs);
      const net = reservedBefore - over(start.made.startOrder);
      const worth = perMs * fromMs - net;
      if (worth > best.worth) best = { worth, fromMs, net };
      reservedBefore += start.amount;
    }
    const net = reserved - returned - best.net;
    // Stores count in whole ms.
    const ms = Math.ceil(made.endMs) - best.fromMs;
    const most = capacity + Math.floor(perMs * ms + TOLERANCE);
    if (net > most)
      return `${key}: ${net} were reserved and not given back within ${ms} ms; a capacity of ${capacity} and ${perMs} a ms allow ${most}`;
  }
  return null;
}

/** A function of growing orders: the sum of what lies before each. */
function sumBefore(items: readonly { readonly amount: number; readonly order: number }[]): (order: number) => number {
  const sorted = items.toSorted((a, b) => a.order - b.order);
  let [sum, next] = [0, 0];
  return (order) => {
    for (; (sorted[next]?.order ?? Infinity) < order; next += 1) sum += sorted[next]?.amount ?? 0;
    return sum;
  };
}

/** What counts at one time is at most the limit. */
function overLimit({ key, taken, rules }: Counter): string | null {
  const limit = Math.max(...rules.map((rule) => (rule.kind === "bucket" ? Infinity : rule.limit)));
  const steps: { readonly atMs: number; readonly order: number; readonly by: number }[] = [];
  for (const { amount, made, back, leavesMs } of taken) {
    if (made.endMs >= leavesMs) continue;
    steps.push({ atMs: made.endMs, order: made.endOrder, by: amount });
    const returned = back && back.at.startMs < leavesMs ? back : null;
    // What is given back while it is still being taken counts no longer from when it was taken.
    if (returned && returned.at.startOrder > made.endOrder)
      steps.push({ atMs: returned.at.startMs, order: returned.at.startOrder, by: -returned.amount });
    else if (returned) steps.push({ atMs: made.endMs, order: made.endOrder, by: -returned.amount });
    steps.push({ atMs: leavesMs, order: FIRST, by: (returned?.amount ?? 0) - amount });
  }
  // What goes, goes first.
  steps.sort((a, b) => (a.atMs === b.atMs ? a.order - b.order || a.by - b.by : a.atMs - b.atMs));
  let counted = 0;
  for (const { by } of steps) {
    counted += by;
    if (counted > limit) return `${key}: ${counted} counted at one time; the limit is ${limit}`;
  }
  return null;
}
