import type { Principal } from "../core/context.ts";
import { ConfigError } from "../core/errors.ts";
import { usdToNano } from "../core/money.ts";
import type { Scopes } from "../core/scope.ts";
import type { Rule, Unit } from "../core/store.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import { calendarBounds } from "./calendar.ts";
import { rateFrom } from "./rate.ts";

/** What a function limit may look at. `req` is the host's own request. */
export interface LimitFacts {
  readonly scopes: Scopes;
  readonly principal: Principal | undefined;
  readonly req: never;
}

/** A number, or a function of the request, asked on every call. Money in USD; -1 = unlimited. */
export type LimitValue = number | ((facts: LimitFacts) => MaybePromise<number>);

export type CalendarPeriod = "day" | "week" | "month";

export type LimitKind =
  | { readonly bucket: { readonly capacity: LimitValue; readonly refillPerSec: number } }
  /** `per` in ms is a sliding window, a name is a calendar one. */
  | { readonly window: { readonly limit: LimitValue; readonly per: number | CalendarPeriod; readonly timeZone: string } }
  | { readonly concurrency: { readonly limit: LimitValue } };

export interface LimitDefinition {
  readonly name: string;
  /** One scope, or several for a composite. */
  readonly scope: readonly string[];
  readonly unit: Unit;
  readonly kind: LimitKind;
  readonly mode: "enforce" | "shadow";
  readonly onStoreError: "deny" | "allow" | "local";
  /** Whether a request without the scope is refused; undefined = as the place where the limit is used has it. */
  readonly required?: boolean | undefined;
  /** Limit or capacity for single scope values. */
  readonly overrides: Readonly<Record<string, number>>;
  /** Wall clock, ms: shadow before it. */
  readonly enforceFrom?: number | undefined;
  readonly whenShort: "refuse" | "shorten";
  readonly estimate: "ceiling" | "expected";
}

/** Numbers that replace a definition's own for one scope value. */
export interface LimitNumbers {
  /** Capacity of a bucket, limit of a window or of concurrency. */
  readonly limit?: number;
  readonly refillPerSec?: number;
}

const CELLS = 60;

/** Shape of a limit as it stands in its keys: another shape is another counter. */
export function shapeOf(kind: LimitKind): string {
  if ("bucket" in kind) return "b";
  if ("concurrency" in kind) return "c";
  const { per, timeZone } = kind.window;
  return typeof per === "number" ? `w${per}.${CELLS}` : `k${per}.${timeZone}`;
}

/** Everything that makes two limits of one name the same counter. */
export const sameCounter = (a: LimitDefinition, b: LimitDefinition): boolean =>
  a.unit === b.unit && a.scope.join() === b.scope.join() && shapeOf(a.kind) === shapeOf(b.kind);

function numberOf(name: string, value: LimitValue, facts: LimitFacts): MaybePromise<number> {
  if (typeof value === "number") return value;
  return andThen(value(facts), (number) => {
    if (typeof number === "number" && Number.isFinite(number)) return number;
    throw new ConfigError([`the function of limit ${name} must return a number, or -1 for unlimited`]);
  });
}

const valueOf = (kind: LimitKind): LimitValue =>
  "bucket" in kind ? kind.bucket.capacity : "window" in kind ? kind.window.limit : kind.concurrency.limit;

/** Whether the number must be asked for anew on each request. */
export const isDynamic = (kind: LimitKind): boolean => typeof valueOf(kind) === "function";

/** The rule that a charge carries. Null = unlimited (-1). `nowMs` is wall clock and chooses a calendar window. */
export function ruleOf(definition: LimitDefinition, numbers: LimitNumbers, facts: LimitFacts, nowMs: number): MaybePromise<Rule | null> {
  const { kind, name } = definition;
  const size = numbers.limit ?? numberOf(name, valueOf(kind), facts);
  return andThen(size, (limit) => (limit === -1 ? null : ruleWith(definition, limit, numbers, nowMs)));
}

function ruleWith({ kind, unit }: LimitDefinition, size: number, numbers: LimitNumbers, nowMs: number): Rule {
  const limit = unit === "usd" ? usdToNano(size) : Math.floor(size);
  if ("bucket" in kind) {
    const perSec = numbers.refillPerSec ?? kind.bucket.refillPerSec;
    return { kind: "bucket", capacity: limit, ...rateFrom(unit === "usd" ? usdToNano(perSec) : perSec) };
  }
  if ("concurrency" in kind) return { kind: "concurrency", limit };
  const { per, timeZone } = kind.window;
  if (typeof per === "number") return { kind: "sliding", limit, perMs: per, cellMs: Math.ceil(per / CELLS) };
  return { kind: "calendar", limit, bounds: calendarBounds(per, timeZone, nowMs) };
}
