import { MAX_AMOUNT } from "../core/money.ts";
import type { Amounts, Charge, Rule, Unit } from "../core/store.ts";
import { MAX_CAPACITY } from "./kind.ts";

const MAX_RATE = 1_000_000_000_000;
/** Cells of a sliding window: bounds its state. */
const MAX_CELLS = 10_000;
/** Holds and periods: about 31 years. */
const MAX_MS = 1_000_000_000_000;

const isInteger = (value: unknown, most: number): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= most;

/** Whether a value may be charged: an integer from 0 to 9e15 and not -0, which would not survive being stored as text. */
function isAmount(value: unknown): value is number {
  return isInteger(value, MAX_AMOUNT) && !Object.is(value, -0);
}

/** Checks one charge before anything is read or written. Throws RangeError that names the charge's key. */
export function checkCharge(charge: Charge): void {
  if (!isAmount(charge.amount)) throw new RangeError(`limit ${charge.key}: an amount must be an integer from 0 to 9e15, not ${shown(charge.amount)}`);
  const problem = problemOf(charge.rule);
  if (problem !== undefined) throw new RangeError(`limit ${charge.key}: ${problem}`);
  if (charge.rule.kind === "concurrency" && charge.amount !== 1)
    throw new RangeError(`limit ${charge.key}: a reservation takes exactly 1 place, not ${charge.amount}`);
}

/** Checks the numbers of a rule. Throws RangeError. */
export function checkRule(key: string, rule: Rule): void {
  const problem = problemOf(rule);
  if (problem !== undefined) throw new RangeError(`limit ${key}: ${problem}`);
}

/** Checks the amounts of a settle. Throws RangeError that names the unit. */
export function checkAmounts(actual: Amounts): void {
  // One by one: each name at a place of its own is read much faster than all in a loop.
  checkActual("requests", actual.requests);
  checkActual("tokens", actual.tokens);
  checkActual("input_tokens", actual.input_tokens);
  checkActual("output_tokens", actual.output_tokens);
  checkActual("usd", actual.usd);
  checkActual("concurrent", actual.concurrent);
}

function checkActual(unit: Unit, amount: number | undefined): void {
  if (amount !== undefined && !isAmount(amount)) throw new RangeError(`${unit}: an amount must be an integer from 0 to 9e15, not ${shown(amount)}`);
}

/** Checks how long a hold shall last. Throws RangeError. */
export function checkTtl(ttlMs: number): void {
  if (!isInteger(ttlMs, MAX_MS) || ttlMs === 0) throw new RangeError(`a hold must last a whole number of ms from 1 to 1e12, not ${shown(ttlMs)}`);
}

function problemOf(rule: Rule): string | undefined {
  switch (rule.kind) {
    case "bucket":
      if (!isInteger(rule.capacity, MAX_CAPACITY)) return `a capacity must be an integer from 0 to 4e15, not ${shown(rule.capacity)}`;
      if (isInteger(rule.n, MAX_RATE) && isInteger(rule.d, MAX_AMOUNT) && rule.d > 0 && rule.d * (rule.n + 1) <= MAX_AMOUNT) return undefined;
      return `a rate must come from rateFrom() or rateOf(), not be ${shown(rule.n)}/${shown(rule.d)}`;
    case "sliding":
      if (!isInteger(rule.limit, MAX_CAPACITY)) return limitProblem(rule.limit);
      if (!isInteger(rule.perMs, MAX_MS) || rule.perMs === 0) return `a period must be an integer from 1 to 1e12 ms, not ${shown(rule.perMs)}`;
      if (isInteger(rule.cellMs, rule.perMs) && rule.cellMs * MAX_CELLS >= rule.perMs) return undefined;
      return `a cell must be an integer number of ms, at most the period and at least 1/${MAX_CELLS} of it, not ${shown(rule.cellMs)}`;
    case "calendar": {
      if (!isInteger(rule.limit, MAX_CAPACITY)) return limitProblem(rule.limit);
      const [b0, b1, b2, b3] = rule.bounds;
      // NaN compares false, so one chain refuses it too.
      if (b0 < b1 && b1 < b2 && b2 < b3 && [b0, b1, b2, b3].every(Number.isSafeInteger)) return undefined;
      return `window bounds must be four ascending times in whole ms, not ${rule.bounds.map(shown).join(", ")}`;
    }
    case "concurrency":
      return isInteger(rule.limit, MAX_CAPACITY) ? undefined : limitProblem(rule.limit);
  }
}

const limitProblem = (limit: unknown): string => `a limit must be an integer from 0 to 4e15, not ${shown(limit)}`;

function shown(value: unknown): string {
  if (Object.is(value, -0)) return "-0";
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
