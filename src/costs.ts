/** What a request may cost: from its body in the gateway, from the route's `cost` option elsewhere. */
import type { Call } from "./core/call.ts";
import type { Context } from "./core/context.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import { usdToNano } from "./core/money.ts";
import type { Amounts, Unit } from "./core/store.ts";
import { andThen } from "./core/time.ts";
import { amountsOf, type Estimate, type Estimator } from "./limits/estimate.ts";
import type { Tokenizer } from "./limits/tokenizer.ts";
import type { ModelAndCredential, PriceBook } from "./metering/prices.ts";
import type { Cost, Costs } from "./middleware/budgets.ts";
import { passthroughCosts } from "./middleware/passthrough/costs.ts";
import { resolveCost, type CostFunction, type ResolvedCost } from "./options/budgets.ts";
import { isCovered } from "./options/cost.ts";
import type { HostRequest } from "./options/limits.ts";

export interface CostParts {
  readonly estimate: Estimator;
  readonly countTokens: Tokenizer;
  readonly prices: PriceBook;
  /** Sends the held maximum upstream when neither client nor `models[]` named one. */
  readonly capOutput: boolean;
  /** Per `models[]`: null = not said there. */
  readonly maxOutputTokensOf: (model: string) => number | null;
  readonly defaultMaxOutputTokens: number;
  /** The model that an alias stands for. */
  readonly resolve: (model: string) => string;
}

const notPriced = (): GuardError =>
  new GuardError("model_not_priced", "this model has no price, and a money limit applies; give it one under models[].price or prices.rules", {
    param: "model",
  });

/** Who may serve a call, as far as prices go. */
interface Servers {
  resolve(model: string): string;
  of(model: string): Serving;
  /** The same for one request, however often it is asked, whatever is offered meanwhile. Absent = nothing changes. */
  forRequest?(ctx: Context, model: string): Serving;
  /** From now on without the fallbacks of this request that do not fit. Absent = there are none. */
  keepFitting?(ctx: Context, model: string, fits: (candidate: Server) => boolean): Serving;
}

interface Server {
  /** What prices know the model by there. */
  readonly name: string;
  readonly credential: { readonly name: string };
}

interface Serving {
  readonly candidates: readonly Server[];
}

/** Costs of gateway calls: the dearest candidate that may serve them. */
export function callCosts(parts: CostParts, offers: Servers): Costs {
  const { estimate, prices } = parts;

  /** The largest that a candidate may write, by what a price file says of it; null = the client or `models[]` says it, or no file does. */
  function listedMaximum(ctx: Context, call: Call): number | null {
    if (call.maxOutputTokens !== null || parts.maxOutputTokensOf(offers.resolve(call.model)) !== null) return null;
    return prices.of(ctx).maxOutputTokens(pairsOf(ctx, call), parts.defaultMaxOutputTokens);
  }

  function estimateOf(ctx: Context, call: Call, cap: number | undefined): Estimate {
    const listed = listedMaximum(ctx, call);
    const said = estimate(call, listed ?? parts.maxOutputTokensOf(offers.resolve(call.model)));
    // A list may be wrong about what a model can write: what is held is also what is sent.
    const full = listed === null ? said : { ...said, cappedByDefault: true };
    if (cap === undefined) return full;
    const most = cap * call.choices;
    return {
      ...full,
      ceilingOutputTokens: Math.min(full.ceilingOutputTokens, most),
      expectedOutputTokens: Math.min(full.expectedOutputTokens, most),
    };
  }

  const servingOf = (ctx: Context, { model }: Call): Serving => offers.forRequest?.(ctx, model) ?? offers.of(model);

  function pairsOf(ctx: Context, call: Call): readonly ModelAndCredential[] {
    return servingOf(ctx, call).candidates.map(({ name, credential }) => ({ model: name, credential: credential.name }));
  }

  /** A fallback without a price cannot be held for: the request is served without it. One of the model's own is refused. */
  function leaveOutUnpriced(ctx: Context, { model }: Call): void {
    const sheet = prices.of(ctx);
    offers.keepFitting?.(ctx, model, ({ name, credential }) => sheet.find(name, credential.name) !== null);
  }

  function usdCeiling(ctx: Context, call: Call, { isText }: Estimate, inputTokens: number, outputTokens: number): number {
    const billed = prices.of(ctx).ceiling(pairsOf(ctx, call), inputTokens, outputTokens, isText);
    if (billed === null) throw notPriced();
    return billed;
  }

  return {
    costOf(ctx, given, { units, capsOutput }, cap) {
      const call = given as Call;
      // Also refuses a model that nobody offers, before anything is held.
      servingOf(ctx, call);
      // What only counts tokens is billed by nobody.
      if (!countsTokens(units) || call.operation === "count_tokens") return freeCost;
      if (units.has("usd")) leaveOutUnpriced(ctx, call);
      const known = estimateOf(ctx, call, cap);
      const ceiling = amountsOf(known, "ceiling");
      const expected = amountsOf(known, "expected");
      const capped = cap ?? (capsOutput && parts.capOutput && known.cappedByDefault ? known.ceilingOutputTokens / call.choices : undefined);
      return {
        ceiling: units.has("usd") ? { ...ceiling, usd: usdCeiling(ctx, call, known, ceiling.input_tokens, ceiling.output_tokens) } : ceiling,
        expected: units.has("usd") ? { ...expected, usd: usdCeiling(ctx, call, known, expected.input_tokens, expected.output_tokens) } : expected,
        input: inputPart(known.inputTokens, units.has("usd") ? usdCeiling(ctx, call, known, known.inputTokens, 0) : null),
        outputCap: call.operation === "embeddings" ? undefined : capped,
      };
    },
    affordable(ctx, call, unit, available) {
      const known = estimateOf(ctx, call, undefined);
      const ceiling = amountsOf(known, "ceiling");
      if (unit === "output_tokens") return Math.floor(available / call.choices);
      if (unit === "tokens") return Math.floor((available - ceiling.input_tokens) / call.choices);
      if (unit !== "usd") return 0;
      // Prices grow with the output, so the largest cap that fits is found by halving.
      let [low, high] = [0, Math.floor(ceiling.output_tokens / call.choices)];
      while (low < high) {
        const middle = Math.ceil((low + high) / 2);
        if (usdCeiling(ctx, call, known, ceiling.input_tokens, middle * call.choices) <= available) low = middle;
        else high = middle - 1;
      }
      return low;
    },
  };
}

const inputPart = (tokens: number, usd: number | null): Amounts => ({ input_tokens: tokens, tokens, ...(usd === null ? {} : { usd }) });

/** Costs of what is passed through unread: what the operator says, or nothing where it is free by nature. */
export function operationCosts(parts: CostParts, costs: Readonly<Record<string, ResolvedCost>>): Costs {
  return passthroughCosts({
    costs,
    amounts: (ctx, cost: ResolvedCost, units) => (cost.kind === "amounts" ? statedAmounts(cost) : modelAmounts(parts, ctx, cost, units)),
  });
}

/** Costs of a part that says none: on a path of the API it may stand before `passthrough`; anywhere else it is a mistake in the host's code. */
export function silentCosts(parts: CostParts, operations: Costs): Costs {
  const own = routeCosts(parts, null);
  return { costOf: (ctx, call, needs) => (ctx.path.includes("/v1/") ? operations : own).costOf(ctx, call, needs) };
}

/** Costs of a host's own route: what its `cost` option says, checked, or nothing but requests and slots. */
export function routeCosts(parts: CostParts, option: ResolvedCost | CostFunction | null): Costs {
  return {
    says: (unit) => typeof option === "function" || (option !== null && isCovered(option, unit)),
    costOf(ctx, _call, { units }) {
      if (!countsTokens(units)) return freeCost;
      if (option === null)
        throw new ConfigError([
          `budgets() on ${ctx.route} needs \`cost\`: a limit counts ${[...units].join(", ")}, and this is not a model call we can price`,
        ]);
      if (typeof option !== "function") return costFrom(parts, ctx, option, units);
      return andThen(option(ctx.host as HostRequest), (value) => costFrom(parts, ctx, resolveCost(value, ctx.route), units));
    },
  };
}

const countsTokens = (units: ReadonlySet<Unit>): boolean => [...units].some((unit) => unit !== "requests" && unit !== "concurrent");

const freeCost: Cost = { ceiling: {}, expected: {}, input: {}, outputCap: undefined };

function costFrom(parts: CostParts, ctx: Context, cost: ResolvedCost, units: ReadonlySet<Unit>): Cost {
  const held = cost.kind === "amounts" ? statedAmounts(cost) : modelAmounts(parts, ctx, cost, units);
  for (const unit of units) {
    if (unit !== "requests" && unit !== "concurrent" && held[unit] === undefined) {
      throw new ConfigError([`the cost of ${ctx.route} says nothing about ${unit}, and a limit counts it; add it to cost`]);
    }
  }
  return { ceiling: held, expected: held, input: held, outputCap: undefined };
}

function statedAmounts({ usd, tokens, inputTokens, outputTokens }: Extract<ResolvedCost, { kind: "amounts" }>): Amounts {
  const sum = inputTokens === undefined && outputTokens === undefined ? undefined : (inputTokens ?? 0) + (outputTokens ?? 0);
  return defined({
    usd: usd === undefined ? undefined : usdToNano(usd),
    tokens: tokens ?? sum,
    input_tokens: inputTokens,
    output_tokens: outputTokens,
  });
}

function modelAmounts(parts: CostParts, ctx: Context, cost: Extract<ResolvedCost, { kind: "model" }>, units: ReadonlySet<Unit>): Amounts {
  const input = countInput(parts, ctx, cost.input);
  const output = cost.maxOutputTokens;
  const pairs = [{ model: parts.resolve(cost.model), credential: null }];
  // What a host sends its model may be anything.
  const usd = units.has("usd") ? parts.prices.of(ctx).ceiling(pairs, input, output, false, cost.images) : undefined;
  if (usd === null) throw notPriced();
  return defined({ usd, tokens: input + output, input_tokens: input, output_tokens: output });
}

/** Of what the route says, or of the body. One that no parser has read yet is as long as its bytes: no token is shorter. */
function countInput({ countTokens }: CostParts, { host, headers }: Context, given: unknown): number {
  const input = given ?? (host as { body?: unknown } | null)?.body ?? null;
  return input === null ? Number(headers["content-length"] ?? 0) : countTokens(textOf(input));
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));

function defined(amounts: { readonly [unit in Unit]?: number | undefined }): Amounts {
  return Object.fromEntries(Object.entries(amounts).filter(([, amount]) => amount !== undefined));
}
