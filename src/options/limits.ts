/** Limits as they are written, and as the guard uses them. */
import { z } from "zod";
import type { IncomingMessage } from "node:http";
import type { Principal } from "../core/context.ts";
import { usdToNano } from "../core/money.ts";
import type { ScopeName, Scopes } from "../core/scope.ts";
import { UNITS, type Unit } from "../core/store.ts";
import type { CalendarPeriod, LimitDefinition, LimitKind } from "../limits/limit.ts";
import type { MaybePromise } from "../core/time.ts";
import { hint } from "../core/nearest.ts";
import type { Problem } from "./tree.ts";
import { callback, formatDuration, instant, list, name, parseDuration, scopeName } from "./values.ts";

declare global {
  // Express and what extends it (passport, for one) describe their requests here; without them it stays empty.
  namespace Express {
    // oxlint-disable-next-line typescript/no-empty-object-type -- an interface, so that it merges with theirs
    interface Request {}
  }
}

/**
 * The host's request, as its callbacks get it: with whatever your app's types put on `Express.Request`. Or name your own type:
 * `scopes: (req: MyRequest) => …`.
 */
export interface HostRequest extends IncomingMessage, Express.Request {}

/** What a limit's function may look at. Name your own request type with `LimitAbout<Request>`. */
export interface LimitAbout<R extends IncomingMessage = HostRequest> {
  readonly scopes: Scopes;
  readonly principal: Principal | undefined;
  readonly req: R;
}

/** Computes a limit's number for one request, in the limit's own unit (USD for money); -1 = unlimited. */
export type LimitFunction = {
  // A method, so that a host may name its own request type for `req`.
  of(about: LimitAbout): MaybePromise<number>;
}["of"];

/** Capacity, limit and debt: `capacity - level` stays exact in a double. */
const MAX_CAPACITY = 4_000_000_000_000_000;
/** Units per second: a million million per ms is what the arithmetic takes. */
export const MAX_REFILL_PER_SEC = 1_000_000_000_000_000;

const CALENDAR = ["day", "week", "month"] as const;
const SLIDING_MS: Readonly<Record<string, number>> = { second: 1_000, minute: 60_000, hour: 3_600_000 };
const MIN_WINDOW_MS = 1_000;
const MAX_WINDOW_MS = 366 * 86_400_000;

const limitNumber = () => z.union([z.number(), callback<LimitFunction>()], { error: "expected a number (-1 = unlimited) or, in code, a function" });

export const limitSchema = z.strictObject({
  /** Appears in refusals, headers and metrics. The same name and shape is the same counter everywhere. */
  name: name(),
  /** What is counted apart: one scope, or several for a composite (`["user", "model"]`). */
  scope: z.union([scopeName(), list(scopeName()).refine((names) => names.length > 0 && names.length <= 5, "must name 1 to 5 scopes")], {
    error: "expected a scope name or a list of them",
  }),
  unit: z.enum(UNITS as readonly [Unit, ...Unit[]]),
  /** Starts full and refills all the time. Capacity in the limit's unit, USD for money; -1 = unlimited. */
  bucket: z.strictObject({ capacity: limitNumber(), refillPerSec: z.number() }).optional(),
  /** At most `limit` per period: sliding for `second`, `minute`, `hour` or a duration, calendar for `day`, `week`, `month`. */
  window: z
    .strictObject({
      limit: limitNumber(),
      per: z.union([z.string(), z.number()], { error: "expected second, minute, hour, day, week, month or a duration such as 10m" }),
      /** IANA name; for calendar windows only. @default "UTC" */
      timeZone: z.string().optional(),
    })
    .optional(),
  /** At most `limit` at one time; for the unit `concurrent`. */
  concurrency: z.strictObject({ limit: limitNumber() }).optional(),
  /** `shadow` counts and reports what it would refuse, and refuses nothing. */
  mode: z.enum(["enforce", "shadow"]).default("enforce"),
  /** When the store cannot answer. @default "deny" for usd, else "local" */
  onStoreError: z.enum(["deny", "allow", "local"]).optional(),
  /** Whether a request without the scope is refused (400) instead of not limited. @default true on your own routes, false in the gateway */
  required: z.boolean().optional(),
  /** Other numbers for single scope values; -1 = unlimited. */
  overrides: z.record(z.string(), z.number()).default({}),
  /** Shadow until then. */
  enforceFrom: instant().optional(),
  /** `shorten` holds what is left and sends that upstream as the output cap. */
  whenShort: z.enum(["refuse", "shorten"]).default("refuse"),
  /** What is held before the answer is known. @default "ceiling" for usd, else "expected" */
  estimate: z.enum(["ceiling", "expected"]).optional(),
});

type WrittenLimit = z.input<typeof limitSchema>;

/** Suggested to whoever types; limits that are kept in variables have plain strings, and those are checked at the start. */
type AnyScope = ScopeName | (string & Record<never, never>);

/** A limit as it is written in code. `Name` is its literal name, so that a guard knows which limits it has. */
export interface LimitOptions<Name extends string = string> extends Omit<WrittenLimit, "name" | "scope" | "bucket" | "window" | "concurrency"> {
  /** Appears in refusals, headers and metrics. The same name and shape is the same counter everywhere. */
  readonly name: Name;
  /** What is counted apart: one scope, or several for a composite (`["user", "model"]`). One that nobody declares is a start-up error. */
  readonly scope: AnyScope | readonly AnyScope[];
  // Named, because a declaration file spells out what is only inferred, and then a function may not name its own request type any more.
  /** Starts full and refills all the time. Capacity in the limit's unit, USD for money; -1 = unlimited. */
  readonly bucket?: (Omit<NonNullable<WrittenLimit["bucket"]>, "capacity"> & { readonly capacity: number | LimitFunction }) | undefined;
  /** At most `limit` per period: sliding for `second`, `minute`, `hour` or a duration, calendar for `day`, `week`, `month`. */
  readonly window?: (Omit<NonNullable<WrittenLimit["window"]>, "limit"> & { readonly limit: number | LimitFunction }) | undefined;
  /** At most `limit` at one time; for the unit `concurrent`. */
  readonly concurrency?: { readonly limit: number | LimitFunction } | undefined;
}

/** Numbers are in the limit's own unit, USD for money; -1 = unlimited. */
export type ResolvedLimit = LimitDefinition;

export function resolveLimit(limit: z.output<typeof limitSchema>): ResolvedLimit {
  const isMoney = limit.unit === "usd";
  return {
    name: limit.name,
    scope: typeof limit.scope === "string" ? [limit.scope] : limit.scope,
    unit: limit.unit,
    kind: kindOf(limit),
    mode: limit.mode,
    onStoreError: limit.onStoreError ?? (isMoney ? "deny" : "local"),
    required: limit.required,
    overrides: limit.overrides,
    enforceFrom: limit.enforceFrom,
    whenShort: limit.whenShort,
    estimate: limit.estimate ?? (isMoney ? "ceiling" : "expected"),
  };
}

function kindOf({ name: limitName, bucket, window, concurrency }: z.output<typeof limitSchema>): LimitKind {
  if (bucket) return { bucket };
  if (window) return { window: { limit: window.limit, per: periodOf(window.per) ?? MIN_WINDOW_MS, timeZone: window.timeZone ?? "UTC" } };
  if (concurrency) return { concurrency };
  throw new Error(`limit ${limitName} was not checked before it was resolved`);
}

const isCalendar = (per: unknown): per is CalendarPeriod => CALENDAR.includes(per as CalendarPeriod);

function periodOf(per: string | number): CalendarPeriod | number | null {
  if (typeof per === "number" || isCalendar(per)) return per;
  return SLIDING_MS[per] ?? parseDuration(per);
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

/** What the schema cannot say about one limit. `limit` may still be malformed: what the schema reports anyway is passed over here. */
export function limitProblems(limit: Readonly<Record<string, unknown>>): Problem[] {
  const problems: Problem[] = [];
  const report = (path: Problem["path"], message: string): void => void problems.push({ path, message });
  const { unit } = limit;
  const checkNumber = (path: Problem["path"], value: unknown): void => {
    const problem = typeof value === "number" ? numberProblem(value, unit) : null;
    if (problem !== null) report(path, problem);
  };

  const kinds = ["bucket", "window", "concurrency"].filter((kind) => limit[kind] !== undefined);
  const wanted = unit === "concurrent" ? "concurrency" : "bucket or window";
  if (kinds.length === 0) report([], `needs ${unit === "concurrent" ? "" : "exactly one of "}${wanted}`);
  else if (kinds.length > 1) report([], `has ${kinds.join(" and ")}; it needs exactly one of bucket, window, concurrency`);
  else if (unit === "concurrent" && kinds[0] !== "concurrency") report([kinds[0] as string], "the unit concurrent is limited by concurrency");
  else if (unit !== "concurrent" && kinds[0] === "concurrency" && UNITS.includes(unit as Unit)) {
    report(["concurrency"], `the unit ${String(unit)} is limited by ${wanted}; concurrency is for the unit concurrent`);
  }

  const { bucket, window, concurrency, overrides } = limit;
  if (isObject(bucket)) {
    checkNumber(["bucket", "capacity"], bucket.capacity);
    const { refillPerSec } = bucket;
    const most = unit === "usd" ? MAX_REFILL_PER_SEC / 1e9 : MAX_REFILL_PER_SEC;
    if (typeof refillPerSec === "number" && !(refillPerSec >= 0 && refillPerSec <= most)) {
      report(["bucket", "refillPerSec"], `must be between 0 and ${most}`);
    }
  }
  if (isObject(concurrency)) checkNumber(["concurrency", "limit"], concurrency.limit);
  if (isObject(window)) {
    checkNumber(["window", "limit"], window.limit);
    problems.push(...windowProblems(window));
  }
  if (isObject(overrides)) for (const [value, number] of Object.entries(overrides)) checkNumber(["overrides", value], number);
  if (limit.whenShort === "shorten" && (unit === "requests" || unit === "concurrent" || unit === "input_tokens")) {
    report(["whenShort"], `shorten cuts the output, so it is for usd, tokens and output_tokens, not for ${unit}`);
  }
  return problems;
}

function windowProblems({ per, timeZone }: Readonly<Record<string, unknown>>): Problem[] {
  const problems: Problem[] = [];
  if (typeof per === "string" || typeof per === "number") {
    const period = periodOf(per);
    if (period === null || (typeof period === "number" && !Number.isInteger(period))) {
      const names = [...Object.keys(SLIDING_MS), ...CALENDAR];
      problems.push({ path: ["window", "per"], message: `expected ${names.join(", ")} or a duration such as 10m${hint(String(per), names)}` });
    } else if (typeof period === "number" && (period < MIN_WINDOW_MS || period > MAX_WINDOW_MS)) {
      problems.push({ path: ["window", "per"], message: `must be between ${formatDuration(MIN_WINDOW_MS)} and ${formatDuration(MAX_WINDOW_MS)}` });
    } else if (timeZone !== undefined && typeof period === "number") {
      problems.push({ path: ["window", "timeZone"], message: "is for the calendar periods day, week and month; this window slides" });
    }
  }
  if (typeof timeZone === "string" && !isTimeZone(timeZone)) {
    problems.push({
      path: ["window", "timeZone"],
      message: `expected an IANA time zone such as Europe/Berlin${hint(timeZone, ["UTC", ...Intl.supportedValuesOf("timeZone")])}`,
    });
  }
  return problems;
}

function isTimeZone(timeZone: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone }).format();
    // Offsets such as +02:00 are accepted by Intl but have no daylight saving, which is hardly ever meant.
    return /^[A-Za-z]/.test(timeZone);
  } catch {
    return false;
  }
}

/** A number of a limit: -1 (unlimited), or something the integer arithmetic can hold. */
export function numberProblem(value: number, unit: unknown): string | null {
  if (value === -1) return null;
  if (!(value >= 0)) return "must be 0 or more, or -1 for unlimited";
  if (unit === "usd") {
    const nano = value * 1e9;
    if (Math.abs(nano - Math.round(nano)) > 1e-3) return "must be a whole number of nano-USD (at most 9 decimal places)";
    return usdToNano(value) > MAX_CAPACITY ? `must be at most ${MAX_CAPACITY / 1e9} USD` : null;
  }
  if (!Number.isInteger(value)) return "must be a whole number";
  return value > MAX_CAPACITY ? `must be at most ${MAX_CAPACITY}` : null;
}
