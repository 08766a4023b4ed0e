/** The options of `budgets()` on a host's own route: which limits, and what one request may cost. */
import type { ServerResponse } from "node:http";
import { z } from "zod";
import { ConfigError, type GuardError } from "../core/errors.ts";
import { BUILT_IN_SCOPES } from "../core/scope.ts";
import type { MaybePromise } from "../core/time.ts";
import { schemaProblems } from "../options.ts";
import { oneLimitProblems } from "./checks.ts";
import { cost, COST_FORMS, costOf, type ResolvedCost, type WrittenCost } from "./cost.ts";
import { limitSchema, resolveLimit, type HostRequest, type ResolvedLimit } from "./limits.ts";
import { hint } from "../core/nearest.ts";
import type { ScopesFunction } from "./schema.ts";
import { formatPath, optionTree, type OptionNode, type Problem } from "./tree.ts";
import { callback, list } from "./values.ts";

/** What is held: USD, or amounts, or the price of a model call (`input` defaults to the request's body). */
export type CostValue = z.input<typeof costSchema>;

export type CostFunction = { of(req: HostRequest): MaybePromise<CostValue> }["of"];

export type { ResolvedCost } from "./cost.ts";

/** Replaces the refusal that is sent. */
export type RefusedFunction = { of(error: GuardError, req: HostRequest, res: ServerResponse, next: (error?: unknown) => void): void }["of"];

const costSchema = cost(`expected ${COST_FORMS} or a function of the request`);

const routeSchema = z.strictObject({
  /** Names of the guard's limits, or limits of this route. @default all of the guard's */
  limits: list(z.union([z.string(), limitSchema], { error: "expected the name of a limit, or a limit" })).optional(),
  cost: z.union([callback<CostFunction>(), costSchema], { error: "expected USD, an object or a function of the request" }).optional(),
  /** Whose budgets, when the guard's own `scopes` does not say. */
  scopes: callback<ScopesFunction>().optional(),
  onRefused: callback<RefusedFunction>().optional(),
});

export type RouteBudgetOptions = z.input<typeof routeSchema>;

export interface ResolvedRouteBudget {
  readonly limits: readonly ResolvedLimit[];
  /** Null = the call itself says what it costs, or nothing but requests and concurrency is counted. */
  readonly cost: ResolvedCost | CostFunction | null;
  readonly scopes: ScopesFunction | null;
  readonly onRefused: RefusedFunction | null;
}

export interface RouteSurroundings {
  /** The guard's limits. */
  readonly limits: readonly ResolvedLimit[];
  /** Beside the built-in ones. */
  readonly declaredScopes: ReadonlySet<string>;
  /** Whether the request is an LLM call that we can price ourselves; on any other route limits of tokens and usd need `cost`. */
  readonly pricesCalls: boolean;
}

let names: OptionNode | undefined;

/** Checks and resolves the options of one `budgets()`. Throws ConfigError that names every problem. */
export function resolveRouteBudget(input: RouteBudgetOptions, around: RouteSurroundings): ResolvedRouteBudget {
  const tree = (names ??= optionTree(routeSchema));
  const parsed = routeSchema.safeParse(input);
  const problems: Problem[] = parsed.success ? [] : schemaProblems(parsed.error.issues, input, tree, "code");
  problems.push(...(parsed.success ? limitsProblems(parsed.data, input, around) : []));
  const limits = parsed.success && problems.length === 0 ? limitsOf(parsed.data, around) : [];
  if (parsed.success && parsed.data.cost === undefined && !around.pricesCalls) {
    const needing = limits.find(({ unit }) => unit !== "requests" && unit !== "concurrent");
    if (needing) {
      problems.push({
        path: ["cost"],
        message: `is required: limit ${needing.name} counts ${needing.unit}, and nothing else says what this route costs`,
      });
    }
  }
  if (!parsed.success || problems.length > 0) {
    throw new ConfigError(problems.map(({ path, message }) => `budgets() ${formatPath(tree, path, "code")}: ${message}`));
  }
  const { cost: given, scopes, onRefused } = parsed.data;
  return Object.freeze({ limits, cost: given === undefined ? null : resolveGiven(given), scopes: scopes ?? null, onRefused: onRefused ?? null });
}

/** Checks what a cost function returned. Throws ConfigError. */
export function resolveCost(value: CostValue): ResolvedCost {
  const parsed = costSchema.safeParse(value);
  if (parsed.success) return costOf(parsed.data);
  const tree = optionTree(costSchema);
  throw new ConfigError(
    schemaProblems(parsed.error.issues, value, tree, "code").map(({ path, message }) => `cost ${formatPath(tree, path, "code")}: ${message}`),
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
  return (route.limits ?? []).flatMap((limit, index): Problem[] => {
    const path = ["limits", index];
    if (typeof limit !== "string") return oneLimitProblems(input.limits?.[index] as Readonly<Record<string, unknown>>, path, scopes);
    if (known.includes(limit)) return [];
    return [{ path, message: `there is no limit ${limit} among the guard's${hint(limit, known)}` }];
  });
}
