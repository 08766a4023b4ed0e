import type { Charged, Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import { addUsage, NO_USAGE, type Usage } from "../core/usage.ts";
import { findUsage } from "../dialects/usage.ts";
import { usdToNano } from "../core/money.ts";
import { knownContext } from "./open.ts";

/** Usage as a host reports it by hand. Tokens; `usd` when it knows the cost itself. Each report adds. */
export interface ReportedUsage {
  readonly model?: string;
  readonly inputTokens?: number;
  readonly outputTokens?: number;
  readonly usd?: number;
}

/** What a handler behind `budgets()` can do with its request's budget. */
export interface RequestQuota {
  readonly requestId: string;
  readonly scopes: Scopes;
  /** Aborted when the client leaves: hand it to the SDK call. */
  readonly signal: AbortSignal;
  /**
   * Reports what was used: by hand, or any OpenAI, Anthropic or Gemini response, chunk or event (one without usage is ignored; the same response
   * again replaces, another adds). Without a report the estimate stands. After the response it still counts, as a correction.
   */
  meter(usage: ReportedUsage | object): void;
  /** Nothing was used: gives everything back when the response ends. */
  release(): void;
}

interface Entry {
  usage: Usage;
  model: string | null;
}

/** What a host metered, by response. Kept beside the context, so that requests that never meter pay nothing. */
class HostMeter implements RequestQuota {
  readonly #ctx: Context;
  readonly #byResponse = new Map<string, Entry>();
  #reported: { rawNanoUsd: number; usage: Usage; priced: boolean } = { rawNanoUsd: 0, usage: NO_USAGE, priced: true };
  #costNanoUsd = 0;

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
    if (isReported(report)) this.#add(report);
    else if (!this.#take(report)) return;
    this.#apply();
  }

  release(): void {
    this.#ctx.charged = { kind: "nothing" };
  }

  #add(report: ReportedUsage): void {
    const usage: Usage = {
      ...NO_USAGE,
      inputTokens: count(report.inputTokens, "inputTokens"),
      outputTokens: count(report.outputTokens, "outputTokens"),
    };
    const known = report.usd !== undefined ? usdToNano(report.usd) : this.#price(report.model ?? null, usage);
    const { rawNanoUsd, priced } = this.#reported;
    this.#reported = { usage: addUsage(this.#reported.usage, usage), rawNanoUsd: rawNanoUsd + (known ?? 0), priced: priced && known !== null };
  }

  #take(report: object): boolean {
    const found = findUsage(report);
    if (!found) return false;
    // An event that carries only the output belongs to the response that is under way.
    const id = found.id ?? [...this.#byResponse.keys()].at(-1) ?? "";
    const before = this.#byResponse.get(id);
    const usage = found.outputOnly && before ? { ...before.usage, outputTokens: found.usage.outputTokens } : found.usage;
    this.#byResponse.set(id, { usage, model: found.model ?? before?.model ?? null });
    return true;
  }

  #price(model: string | null, usage: Usage): number | null {
    return model === null ? null : (this.#ctx.services.pricer.cost(model, null, usage)?.billedNanoUsd ?? null);
  }

  #apply(): void {
    let { usage, priced } = this.#reported;
    this.#costNanoUsd = this.#reported.rawNanoUsd;
    for (const entry of this.#byResponse.values()) {
      usage = addUsage(usage, entry.usage);
      const cost = this.#price(entry.model, entry.usage);
      if (cost === null) priced = false;
      else this.#costNanoUsd += cost;
    }
    const billed = priced ? this.#costNanoUsd : null;
    const charged: Charged = { kind: "usage", usage, provenance: "exact", rawNanoUsd: billed, billedNanoUsd: billed };
    this.#ctx.charged = charged;
    if (this.#ctx.closed) this.#ctx.correct();
  }
}

const isReported = (report: object): report is ReportedUsage =>
  ["inputTokens", "outputTokens", "usd"].some((field) => Object.hasOwn(report, field)) && !Object.hasOwn(report, "usage");

function count(value: number | undefined, field: string): number {
  if (value === undefined) return 0;
  if (!Number.isInteger(value) || value < 0) throw new TypeError(`meter: ${field} must be a whole number of tokens`);
  return value;
}

const meters = new WeakMap<Context, RequestQuota>();

/** The quota of a request that passed one of our steps. Throws when none ran. */
export function contextOf(req: object): RequestQuota {
  const ctx = knownContext(req);
  if (!ctx)
    throw new GuardError("internal", "contextOf: no quotaguard step ran on this request; mount guard.budgets() or guard.scopes() before the handler");
  let meter = meters.get(ctx);
  if (!meter) meters.set(ctx, (meter = new HostMeter(ctx)));
  return meter;
}
