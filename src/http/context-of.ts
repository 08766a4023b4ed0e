import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import { addUsage, NO_USAGE, USAGE_COUNTS, type Usage, type UsageCount } from "../core/usage.ts";
import { aiSdkUsage, findUsage, laterUsage, type FoundUsage } from "../dialects/usage.ts";
import { MAX_AMOUNT, NANO_PER_USD, usdToNano } from "../core/money.ts";
import { knownContext } from "./open.ts";

/**
 * Usage as a host reports it by hand. The counts are those of {@link Usage}: disjoint classes, so `inputTokens` is without what was cached, `outputTokens`
 * without reasoning. `usd` when it knows the cost itself. Each report adds. Of what no report names, the estimate stands.
 */
export type ReportedUsage = { readonly [name in UsageCount]?: number } & {
  /** What its price is looked up by; without it, and without `usd`, it has no cost. */
  readonly model?: string;
  readonly usd?: number;
  /** What the provider says that it billed, as {@link Usage} has it: the cost before the markup. */
  readonly reportedUsd?: number;
};

/** What a handler behind `budgets()` can do with its request's budget. */
export interface RequestQuota {
  readonly requestId: string;
  readonly scopes: Scopes;
  /** Aborted when the client leaves: hand it to the SDK call. */
  readonly signal: AbortSignal;
  /**
   * Reports what was used: by hand, or any OpenAI, Anthropic, Gemini or AI SDK response, chunk or event (one without usage is ignored; the same
   * response again replaces, another adds; a bare usage object adds). Without a report the estimate stands. After the response a first report still replaces the
   * estimate in the budgets (the ledger row keeps what was charged at the end). What calls of `guard.fetch()` use is charged with them already: a
   * report here adds to it.
   */
  meter(usage: ReportedUsage | object): void;
  /** Nothing was used: gives everything back when the response ends. */
  release(): void;
}

/** What a host metered, by response. Kept beside the context, so that requests that never meter pay nothing. */
class HostMeter implements RequestQuota {
  readonly #ctx: Context;
  readonly #byResponse = new Map<string, FoundUsage>();
  #reported: Reported = { usage: null, cost: NO_COST };

  constructor(ctx: Context) {
    this.#ctx = ctx;
  }

  get requestId(): string {
    return this.#ctx.requestId;
  }

  get scopes(): Scopes {
    return this.#ctx.scopes ?? {};
  }

  get signal(): AbortSignal {
    return this.#ctx.signal;
  }

  meter(report: ReportedUsage | object): void {
    // An SDK's `chunk.usage` may be null.
    if (typeof report !== "object" || report === null) return;
    if (isReported(report)) this.#add(reportedUsage(report), report.model ?? null, report.usd);
    else if (!this.#take(report)) return;
    this.#apply();
  }

  release(): void {
    this.#ctx.charged = { kind: "nothing" };
  }

  #add(usage: Usage | null, model: string | null, usd?: number): void {
    const known = usd === undefined ? this.#price(model, usage ?? NO_USAGE) : sameCost(usdToNano(amount(usd)));
    const before = this.#reported.usage;
    this.#reported = { usage: usage ? addUsage(before ?? NO_USAGE, usage) : before, cost: addCost(this.#reported.cost, known) };
  }

  #take(report: object): boolean {
    const found = findUsage(report);
    if (!found) return false;
    if (found.isBare) {
      this.#add(found.usage, found.model);
      return true;
    }
    // An event that carries only the output belongs to the response that is under way.
    const id = found.id ?? [...this.#byResponse.keys()].at(-1) ?? "";
    const before = this.#byResponse.get(id);
    this.#byResponse.set(id, before ? laterUsage(before, found) : found);
    return true;
  }

  #price(model: string | null, usage: Usage): Cost | null {
    return model === null ? null : this.#ctx.services.pricer.of(this.#ctx).cost(model, null, usage);
  }

  #apply(): void {
    // A response that has only begun was not used up to here: should nothing follow, the estimate stands.
    if ([...this.#byResponse.values()].some(({ isBeginning }) => isBeginning)) {
      this.#ctx.charged = { kind: "estimate" };
      return;
    }
    let { usage, cost } = this.#reported;
    for (const entry of this.#byResponse.values()) {
      usage = addUsage(usage ?? NO_USAGE, entry.usage);
      cost = addCost(cost, this.#price(entry.model, entry.usage));
    }
    const { rawNanoUsd, billedNanoUsd, priceVersion } = cost ?? { rawNanoUsd: null, billedNanoUsd: null, priceVersion: null };
    this.#ctx.charged = { kind: "usage", usage, provenance: "exact", rawNanoUsd, billedNanoUsd, priceVersion: priceVersion ?? null };
    if (this.#ctx.closed) this.#ctx.correct();
  }
}

/** A version of undefined = nothing was priced so far, of null = some of it was said by the host. */
type Cost = { readonly rawNanoUsd: number; readonly billedNanoUsd: number; readonly priceVersion: string | null | undefined };

/** What was reported by hand so far; a usage of null = no tokens were; a cost of null = some of it has no price. */
interface Reported {
  readonly usage: Usage | null;
  readonly cost: Cost | null;
}

const NO_COST: Cost = { rawNanoUsd: 0, billedNanoUsd: 0, priceVersion: undefined };

const sameCost = (nanoUsd: number): Cost => ({ rawNanoUsd: nanoUsd, billedNanoUsd: nanoUsd, priceVersion: null });

function addCost(a: Cost | null, b: Cost | null): Cost | null {
  if (!a || !b) return null;
  const priceVersion = a.priceVersion === undefined || a.priceVersion === b.priceVersion ? b.priceVersion : "mixed";
  return { rawNanoUsd: sumOf(a.rawNanoUsd, b.rawNanoUsd), billedNanoUsd: sumOf(a.billedNanoUsd, b.billedNanoUsd), priceVersion };
}

/** More than this no limit can be charged, and no row can say. */
const sumOf = (a: number, b: number): number => Math.min(MAX_AMOUNT, a + b);

/** Fields that an SDK leaves undefined say nothing: zero is said by a 0. A provider's answer may have a list of `images`. */
const isNamed = (report: ReportedUsage, name: UsageCount | "usd"): boolean =>
  report[name] !== undefined && (typeof report[name] !== "object" || (name !== "images" && name !== "requests"));

const isReported = (report: ReportedUsage): report is ReportedUsage =>
  (USAGE_COUNTS.some((name) => isNamed(report, name)) || isNamed(report, "usd")) && !Object.hasOwn(report, "usage");

/** Null = the report says only what it cost. */
function reportedUsage(report: ReportedUsage): Usage | null {
  // The AI SDK's usage has our names, and the parts are in its totals.
  const total = aiSdkUsage(report);
  if (total) return total;
  const counts: { [name in UsageCount]?: number } = {};
  for (const name of USAGE_COUNTS) if (isNamed(report, name)) counts[name] = count(report[name], name);
  if (Object.keys(counts).length === 0) return null;
  const { reportedUsd } = report;
  return { ...NO_USAGE, ...counts, ...(reportedUsd === undefined ? {} : { reportedUsd: amount(reportedUsd, "reportedUsd") }) };
}

function count(value: unknown, name: UsageCount): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_AMOUNT) return value;
  throw new TypeError(`meter: ${name} must be a whole number${name.endsWith("Tokens") ? " of tokens" : ""} from 0 up, at most 9e15`);
}

function amount(usd: number, name = "usd"): number {
  if (typeof usd !== "number" || !(usd >= 0)) throw new TypeError(`meter: ${name} must be an amount of 0 or more`);
  if (usd > MAX_AMOUNT / NANO_PER_USD) throw new TypeError(`meter: ${name} must be US dollars, at most ${MAX_AMOUNT / NANO_PER_USD}, not ${usd}`);
  return usd;
}

const meters = new WeakMap<Context, RequestQuota>();

/** The quota of a request that passed one of our steps. Throws when none ran. */
export function contextOf(req: object): RequestQuota {
  const ctx = knownContext(req);
  if (!ctx)
    throw new GuardError("internal", "contextOf: no quotaguard step ran on this request; mount guard.budgets() or guard.scopes() before the handler");
  return quotaOf(ctx);
}

/** The quota of a request that is known already. */
export function quotaOf(ctx: Context): RequestQuota {
  let meter = meters.get(ctx);
  if (!meter) meters.set(ctx, (meter = new HostMeter(ctx)));
  return meter;
}
