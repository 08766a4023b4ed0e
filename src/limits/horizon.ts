import type { CompiledLimit } from "./registry.ts";
import { isDynamic, ruleOf, type LimitFacts, type LimitNumbers } from "./limit.ts";
import { isPromise } from "../core/time.ts";
import type { Rule } from "../core/store.ts";

/** Where no request asks: only functions look at it, and none is called. */
export const NO_FACTS: LimitFacts = { scopes: {}, principal: undefined, req: undefined as never };

/**
 * How many times the time from empty to full a bucket's rows must reach back: so long after its last use it is full again, if its debt was not above
 * one capacity. A request is admitted by what is left, so only what it uses beyond its hold becomes debt.
 */
const TURNS_NEEDED = 2;
/** With rows this far back a bucket whose use stays below 7/8 of its refill has been full on the way, and is known to the unit. */
const TURNS_USEFUL = 8;

/** What a Date can say. */
const LAST_DATE_MS = 8_640_000_000_000_000;

/** How far back in the ledger a limit's counters reach. Wall clock, ms; 0 = everything there ever was. */
export interface Horizon {
  /** What happened from here on must be known, or a counter might stand higher than the truth. */
  readonly neededFromMs: number;
  /** Rows from here on make it more exact. */
  readonly usefulFromMs: number;
}

/** Whether its charges are decided only on whole counters. Such limits are rebuilt; also one that begins to enforce later. */
export const isStrict = ({ definition }: CompiledLimit): boolean => definition.mode === "enforce" && definition.onStoreError === "deny";

/** `numbers`: those that are set at run time for values of this limit. */
export function horizonOf(limit: CompiledLimit, numbers: readonly LimitNumbers[], nowMs: number): Horizon {
  const { kind } = limit.definition;
  if ("concurrency" in kind) return { neededFromMs: nowMs, usefulFromMs: nowMs };
  if ("bucket" in kind) {
    const turnMs = turnOf(limit, numbers, nowMs);
    return { neededFromMs: Math.max(0, nowMs - TURNS_NEEDED * turnMs), usefulFromMs: Math.max(0, nowMs - TURNS_USEFUL * turnMs) };
  }
  const rule = fixedRule(limit, {}, nowMs);
  const fromMs = rule.kind === "calendar" ? rule.bounds[1] : rule.kind === "sliding" ? nowMs - rule.perMs - rule.cellMs : nowMs;
  return { neededFromMs: fromMs, usefulFromMs: fromMs };
}

/** The longest that rows of this limit are ever needed for, ms; Infinity = for good. */
export function reachMs(limit: CompiledLimit, numbers: readonly LimitNumbers[], nowMs: number): number {
  const { kind } = limit.definition;
  if ("concurrency" in kind) return 0;
  if ("bucket" in kind) return TURNS_NEEDED * turnOf(limit, numbers, nowMs);
  const rule = fixedRule(limit, {}, nowMs);
  if (rule.kind === "sliding") return rule.perMs + rule.cellMs;
  if (rule.kind !== "calendar") return 0;
  // Of three months in a row one is as long as months get.
  const [first, ...later] = rule.bounds;
  return Math.max(...later.map((end, i) => end - (i === 0 ? first : (later[i - 1] as number))));
}

/** When what happened before `knownSinceMs` will have expired by itself; null = never. */
export function expiresAt(limit: CompiledLimit, numbers: readonly LimitNumbers[], knownSinceMs: number, nowMs: number): number | null {
  const { neededFromMs } = horizonOf(limit, numbers, nowMs);
  if (knownSinceMs <= neededFromMs) return nowMs;
  if ("bucket" in limit.definition.kind) {
    const atMs = knownSinceMs + TURNS_NEEDED * turnOf(limit, numbers, nowMs);
    return atMs > LAST_DATE_MS ? null : atMs;
  }
  const rule = fixedRule(limit, {}, nowMs);
  return rule.kind === "calendar" ? rule.bounds[2] : knownSinceMs + (nowMs - neededFromMs);
}

/**
 * The rule with a number of its own even where a function gives it: what such a function said of past requests nobody knows. A window counts the same
 * under any number; a bucket of size 0 holds nothing but debt, which is never more than the truth.
 */
export function fixedRule(limit: CompiledLimit, numbers: LimitNumbers, nowMs: number): Rule {
  const rule = ruleOf(limit.definition, { ...numbers, limit: 0 }, NO_FACTS, nowMs);
  if (rule === null || isPromise(rule)) throw new Error(`limit ${limit.name} has no rule although its number is given`);
  return rule;
}

/** Ms from empty to full, of the slowest bucket of this limit. */
function turnOf(limit: CompiledLimit, numbers: readonly LimitNumbers[], nowMs: number): number {
  const { definition, onlySet } = limit;
  if (isDynamic(definition.kind)) return Infinity;
  const own: readonly LimitNumbers[] = onlySet ? [] : [{}];
  const variants = [...own, ...Object.values(definition.overrides).map((size) => ({ limit: size })), ...numbers];
  let longest = 0;
  for (const variant of variants) {
    const rule = ruleOf(definition, variant, NO_FACTS, nowMs);
    if (rule === null || isPromise(rule) || rule.kind !== "bucket") continue;
    longest = Math.max(longest, rule.n === 0 ? Infinity : Math.ceil((rule.capacity / rule.n) * rule.d));
  }
  return longest;
}
