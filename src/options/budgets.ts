/** The options of `budgets()` on a host's own route: which limits, and what one request may cost. */
import type { ServerResponse } from "node:http";
import { z } from "zod";
import { ConfigError, type GuardError } from "../core/errors.ts";
import { BUILT_IN_SCOPES } from "../core/scope.ts";
import type { MaybePromise } from "../core/time.ts";
import { schemaProblems } from "../options.ts";
import { oneLimitProblems } from "./checks.ts";
import type { HeaderStyle } from "../http/rate-limit-headers.ts";
import { cost, COST_FORMS, costOf, isCovered, type ResolvedCost, type WrittenCost } from "./cost.ts";
import { limitSchema, resolveLimit, type HostRequest, type LimitOptions, type ResolvedLimit } from "./limits.ts";
import { hint } from "../core/nearest.ts";
import type { ScopesFunction } from "./schema.ts";
import { formatPath, optionTree, type OptionNode, type Problem } from "./tree.ts";
import { callback, list } from "./values.ts";

/** What is held: USD, or amounts, or the price of a model call (`input` defaults to the request's body). */
export type CostValue = z.input<typeof costSchema>;

export type CostFunction = { of(req: HostRequest): MaybePromise<CostValue> }["of"];

export type { ResolvedCost } from "./cost.ts";

/** Replaces the refusal that is sent. May be async; what it throws goes to the host's error handler. */
export type RefusedFunction = {
  of(error: GuardError, req: HostRequest, res: ServerResponse, next: (error?: unknown) => void): unknown;
}["of"];

/** Whether a request is none of the budgets' business. */
export type SkipFunction = { of(req: HostRequest): MaybePromise<boolean> }["of"];

const HEADER_STYLES = ["all", "standard", "legacy", "none"] as const satisfies readonly HeaderStyle[];

const costSchema = cost(`expected ${COST_FORMS} or a function of the request`);
const returnedCost = cost(`expected ${COST_FORMS}`);

const routeSchema = z.strictObject({
  /** Names of the guard's limits, or limits of this route. @default all of the guard's */
  limits: list(z.union([z.string(), limitSchema], { error: "expected the name of a limit, or a limit" })).optional(),
  cost: z.union([callback<CostFunction>(), costSchema], { error: "expected USD, an object or a function of the request" }).optional(),
  /** Whose budgets: added to what the guard's own `scopes` says, in place of what it says of the same scope. */
  scopes: callback<ScopesFunction>().optional(),
  /** `true` lets the request pass without a budget: nothing is held, no header is sent, no scope is asked for. A throw refuses it (500). */
  skip: callback<SkipFunction>().optional(),
  /**
   * Which headers say what is left: `standard` = `RateLimit` and `RateLimit-Policy`, `legacy` = `x-ratelimit-*`. A refusal has its `Retry-After` anyway.
   * @default "all"
   */
  headers: z.enum(HEADER_STYLES).default("all"),
  /** Answers in place of the refusal, whose headers are set on `res` already. */
  onRefused: callback<RefusedFunction>().optional(),
});

export type RouteBudgetOptions<LimitNames extends string = string> = Omit<WrittenRoute, "limits" | "cost" | "scopes" | "skip" | "onRefused"> & {
  /** Names of the guard's limits, or limits of this route. @default all of the guard's */
  readonly limits?: readonly (LimitNames | LimitOptions)[] | undefined;
  // Named, because a declaration file spells out what is only inferred, and then a callback may not name its own request type any more.
  /** What is held: an amount, or a function of the request. */
  readonly cost?: CostValue | CostFunction | undefined;
  /** Whose budgets: added to what the guard's own `scopes` says, in place of what it says of the same scope. */
  readonly scopes?: ScopesFunction | undefined;
  /** `true` lets the request pass without a budget: nothing is held, no header is sent, no scope is asked for. A throw refuses it (500). */
  readonly skip?: SkipFunction | undefined;
  /** Answers in place of the refusal, whose headers are set on `res` already. */
  readonly onRefused?: RefusedFunction | undefined;
};

type WrittenRoute = z.input<typeof routeSchema>;

export interface ResolvedRouteBudget {
  readonly limits: readonly ResolvedLimit[];
  /** Null = the call itself says what it costs, or nothing but requests and concurrency is counted. */
  readonly cost: ResolvedCost | CostFunction | null;
  /** Whether model calls are priced by what they ask for, where there is no `cost`. */
  readonly pricesCalls: boolean;
  readonly scopes: ScopesFunction | null;
  readonly skip: SkipFunction | null;
  readonly headers: HeaderStyle;
  readonly onRefused: RefusedFunction | null;
}

export interface RouteSurroundings {
  /** The guard's limits. */
  readonly limits: readonly ResolvedLimit[];
  /** Beside the built-in ones. */
  readonly declaredScopes: ReadonlySet<string>;
  /** Whether the request is an LLM call that we can price ourselves; on any other route limits of tokens and usd need `cost`. */
  readonly pricesCalls: boolean;
  /** Whether an empty list is meant: a job may want nothing but the scopes of its calls. */
  readonly mayHaveNone?: boolean;
}

let names: OptionNode | undefined;

/** Checks and resolves the options of one `budgets()`. Throws ConfigError that names every problem. */
export function resolveRouteBudget(input: RouteBudgetOptions, around: RouteSurroundings): ResolvedRouteBudget {
  const tree = (names ??= optionTree(routeSchema));
  const parsed = routeSchema.safeParse(input);
  const problems: Problem[] = parsed.success ? [] : schemaProblems(parsed.error.issues, input, tree, "code");
  // A list that came out empty by mistake would be a route without a budget.
  if (parsed.success && parsed.data.limits?.length === 0 && !around.mayHaveNone) {
    problems.push({ path: ["limits"], message: "is empty, so nothing would be counted; leave it out for all of the guard's limits" });
  }
  problems.push(...(parsed.success ? limitsProblems(parsed.data, input, around) : []));
  const limits = parsed.success && problems.length === 0 ? limitsOf(parsed.data, around) : [];
  if (parsed.success) problems.push(...costProblems(parsed.data.cost, limits, around));
  if (!parsed.success || problems.length > 0) {
    throw new ConfigError(problems.map(({ path, message }) => `budgets() ${formatPath(tree, path, "code")}: ${message}`));
  }
  const { cost: given, scopes = null, skip = null, headers, onRefused = null } = parsed.data;
  const { pricesCalls } = around;
  return Object.freeze({ limits, cost: given === undefined ? null : resolveGiven(given), pricesCalls, scopes, skip, headers, onRefused });
}

/** What a function will say is seen with each request; what is written must cover all that is counted. */
function costProblems(given: WrittenCost | CostFunction | undefined, limits: readonly ResolvedLimit[], around: RouteSurroundings): Problem[] {
  if (typeof given === "function" || (given === undefined && around.pricesCalls)) return [];
  const said: ResolvedCost = given === undefined ? { kind: "amounts" } : costOf(given);
  const needing = limits.find(({ unit }) => !isCovered(said, unit));
  if (!needing) return [];
  const why = `limit ${needing.name} counts ${needing.unit}`;
  const message =
    given === undefined ? `is required: ${why}, and nothing else says what this route costs` : `says nothing about ${needing.unit}: ${why}`;
  return [{ path: ["cost"], message }];
}

/** Checks what the cost function of a route returned. Throws ConfigError. */
export function resolveCost(value: CostValue, route: string): ResolvedCost {
  const parsed = returnedCost.safeParse(value);
  if (parsed.success) return costOf(parsed.data);
  const tree = optionTree(returnedCost);
  const said = schemaProblems(parsed.error.issues, value, tree, "code");
  throw new ConfigError(
    said.map(({ path, message }) => `the cost function of ${route}${path.length === 0 ? "" : `, ${formatPath(tree, path, "code")}`}: ${message}`),
  );
}

const resolveGiven = (given: WrittenCost | CostFunction): ResolvedCost | CostFunction => (typeof given === "function" ? given : costOf(given));

function limitsOf(route: z.output<typeof routeSchema>, around: RouteSurroundings): readonly ResolvedLimit[] {
  if (!route.limits) return around.limits;
  return route.limits.flatMap((limit) => (typeof limit === "string" ? around.limits.filter(({ name }) => name === limit) : [resolveLimit(limit)]));
}

function limitsProblems(route: z.output<typeof routeSchema>, input: RouteBudgetOptions, around: RouteSurroundings): Problem[] {
  const known = around.limits.map(({ name }) => name);
  const scopes = new Set([...BUILT_IN_SCOPES, ...around.declaredScopes]);
  const written: readonly unknown[] = input.limits ?? [];
  return (route.limits ?? []).flatMap((limit, index): Problem[] => {
    const path = ["limits", index];
    if (typeof limit !== "string") return oneLimitProblems(written[index] as Readonly<Record<string, unknown>>, path, scopes);
    if (known.includes(limit)) return [];
    return [{ path, message: `there is no limit ${limit} among the guard's${hint(limit, known)}` }];
  });
}
