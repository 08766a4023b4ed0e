import { deepStrictEqual, rejects, strictEqual } from "node:assert/strict";
import type { Charge, LimitStore, ReserveResult, Rule, Standing, Unit } from "../../core/store.ts";
import type { MaybePromise } from "../../core/time.ts";

/** A midnight in UTC: the T of the vectors. */
export const T = Date.UTC(2026, 10, 20);
export const DAY = 86_400_000;
/** How long the holds of the vectors last. */
export const TTL = 300_000;

/** Limits whose clocks stand where a case puts them, forwards or backwards. */
export interface Limits {
  readonly store: LimitStore;
  /** Ms after {@link T}. */
  at(ms: number): this;
  now(): number;
}

/** What a store must do, by number. Each is a trap that an ordinary implementation falls into: `trap` says how. */
export interface Vector {
  readonly id: number;
  readonly trap: string;
  run(limits: Limits): Promise<void>;
}

// The notation of the vectors.
export const B = (capacity: number, n: number, d = 1): Rule => ({ kind: "bucket", capacity, n, d });
export const W = (limit: number, perMs: number, cellMs: number): Rule => ({ kind: "sliding", limit, perMs, cellMs });
export const C = (limit: number): Rule => ({ kind: "concurrency", limit });

/** A limit per UTC day; `ms` is the caller's clock. */
export function K(limit: number, ms = 0): Rule {
  const today = T + Math.floor(ms / DAY) * DAY;
  return { kind: "calendar", limit, bounds: [today - DAY, today, today + DAY, today + 2 * DAY] };
}

export function charge(key: string, rule: Rule, amount: number, more: { readonly unit?: Unit; readonly enforce?: boolean } = {}): Charge {
  return { key, rule, amount, unit: "tokens", enforce: true, ...more };
}

let ops = 0;

/** Reserves under an opId of its own. */
export async function ask(h: Limits, ms: number, charges: readonly Charge[], opId = `op${(ops += 1)}`): Promise<ReserveResult> {
  return h.at(ms).store.reserve(opId, charges, TTL);
}

/** Asserts that it was admitted now, and tells how the limits stand. */
export async function allowed(answer: MaybePromise<ReserveResult>): Promise<readonly Standing[]> {
  const result = await answer;
  if (result.kind !== "allowed" || result.replayed) deepStrictEqual(result, "allowed for the first time");
  return result.kind === "allowed" ? result.standings : [];
}

/** Asserts that it was admitted now, and tells what is left of each limit. */
export async function leaves(answer: MaybePromise<ReserveResult>): Promise<readonly number[]> {
  return (await allowed(answer)).map(({ available }) => available);
}

export interface Refusal {
  readonly waitMs: number | null;
  readonly needed?: number;
  readonly available?: number;
  readonly index?: number;
  readonly tooSmall?: boolean;
  /** The waits of all enforcing limits that failed, by their index. */
  readonly failing?: Readonly<Record<number, number | null>>;
}

/** Asserts that it was refused for this reason. */
export async function refused(answer: MaybePromise<ReserveResult>, { failing, ...reason }: Refusal): Promise<void> {
  const result = await answer;
  if (result.kind !== "limited") return deepStrictEqual(result, { kind: "limited", worst: reason });
  const { worst } = result;
  deepStrictEqual(worst, { ...worst, tooSmall: false, ...reason });
  if (failing !== undefined) deepStrictEqual(Object.fromEntries(result.failing.map(({ index, waitMs }) => [index, waitMs])), failing);
}

/** What is left, or undefined where the store told nothing. */
export async function left(h: Limits, key: string, rule: Rule): Promise<number | undefined> {
  return (await h.store.peek([{ key, rule }]))[0]?.available;
}

export async function leftOf(h: Limits, limits: Readonly<Record<string, Rule>>): Promise<Readonly<Record<string, number | undefined>>> {
  const keys = Object.keys(limits);
  const standings = await h.store.peek(keys.map((key) => ({ key, rule: limits[key] as Rule })));
  return Object.fromEntries(keys.map((key, i) => [key, standings[i]?.available]));
}

/** Asserts that a verb ends so, whether its answer is a promise or not. */
export async function ends<T>(answer: MaybePromise<T>, expected: T): Promise<void> {
  deepStrictEqual(await answer, expected);
}

/** Asserts that a mistake of the caller is told as one, at once or by a rejection. */
export async function outOfRange(verb: () => unknown, what: string, words = /./): Promise<void> {
  await rejects(
    async () => await verb(),
    (error: Error) => {
      strictEqual(error.name, "RangeError", `${what}: ${error.message}`);
      strictEqual(words.test(error.message), true, `${what}: the message does not say ${String(words)}: ${error.message}`);
      return true;
    },
    `${what} was accepted`,
  );
}

/** What a store must do beside the vectors. */
export interface LimitScene {
  readonly name: string;
  run(limits: Limits): Promise<void>;
}
