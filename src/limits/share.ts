import type { BucketRule, Rule } from "../core/store.ts";
import { rateOf } from "./rate.ts";

/** The most that a limit can ever let through at once. */
export const sizeOf = (rule: Rule): number => (rule.kind === "bucket" ? rule.capacity : rule.limit);

/** At least one, of what is at least one: a share of nothing would close a limit that is merely small. */
const part = (size: number, nodes: number): number => Math.min(size, Math.max(1, Math.floor(size / nodes)));

function refillOf({ n, d }: BucketRule, nodes: number): { readonly n: number; readonly d: number } {
  const perMs = d * nodes;
  // Exact, or else the best fraction below; a period that no double holds leaves the coarser one.
  return Number.isSafeInteger(perMs) ? rateOf({ amount: n, perMs }) : { n: Math.floor(n / nodes), d };
}

function shareOfRule(rule: Rule, nodes: number): Rule {
  if (rule.kind === "bucket") return { kind: "bucket", capacity: part(rule.capacity, nodes), ...refillOf(rule, nodes) };
  return { ...rule, limit: part(rule.limit, nodes) };
}

/** Rules are few and live long, and a share is asked for by each request while a store is away. */
let shares = new WeakMap<Rule, Rule>();
let sharesOf = 1;

/** What one of so many processes may let through by itself while they cannot count together. Never more than its part, but at least 1 of what is at least 1. */
export function shareOf(rule: Rule, nodes: number): Rule {
  if (nodes <= 1) return rule;
  if (nodes !== sharesOf) {
    sharesOf = nodes;
    shares = new WeakMap();
  }
  let share = shares.get(rule);
  if (!share) shares.set(rule, (share = shareOfRule(rule, nodes)));
  return share;
}
