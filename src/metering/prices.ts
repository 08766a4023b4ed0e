import type { Pricer } from "../core/context.ts";
import { ConfigError } from "../core/errors.ts";
import { MAX_AMOUNT, usdToNano } from "../core/money.ts";
import type { Usage } from "../core/usage.ts";

/** What a model costs, as written: USD per million tokens, as numbers or decimal text. */
export interface ModelPrice {
  readonly inputPerMtok: number | string;
  readonly outputPerMtok: number | string;
  /** Input that a prompt cache served. Default: as input. */
  readonly cacheReadPerMtok?: number | string | undefined;
  /** Input that was stored in a prompt cache. Default: as input (Anthropic asks a quarter more: say so). */
  readonly cacheWritePerMtok?: number | string | undefined;
  /** Hidden output. Default: as output. */
  readonly reasoningPerMtok?: number | string | undefined;
  /** USD for each request, on top. Default 0. */
  readonly perRequest?: number | string | undefined;
}

/** An entry of `models[]`, as far as prices go. */
export interface PricedModel {
  readonly name: string;
  /** As the provider names it. */
  readonly model?: string | undefined;
  /** The price is that of this credential only. */
  readonly credential?: string | undefined;
  readonly price?: ModelPrice | undefined;
}

export interface PriceBookOptions {
  readonly models: readonly PricedModel[];
  /** Percent on top of what the provider bills. */
  readonly markupPct: number;
}

export interface ModelAndCredential {
  readonly model: string;
  readonly credential: string | null;
}

export interface PriceBook extends Pricer {
  /**
   * The price of a model at a credential: of the entry bound to it, else of the unbound one. Without a credential: the unbound one, else the dearest
   * of the bound ones, class by class. Null = not priced, which is never the same as free.
   */
  lookup(model: string, credential: string | null): Price | null;
  /**
   * The most that so many tokens can be billed as, in nano-USD after markup, wherever they may be served. Input may turn out to be cached or
   * written to a cache, output to be reasoning: the dearest class counts. Null = one of the pairs has no price, or there is none.
   */
  ceiling(pairs: readonly ModelAndCredential[], inputTokens: number, outputTokens: number): number | null;
}

/** A price in whole numbers: a cost is `(sum of tokens x class + perRequest) / divisor` nano-USD. */
export interface Price {
  readonly inputTokens: Factor;
  readonly cacheReadTokens: Factor;
  readonly cacheWriteTokens: Factor;
  readonly outputTokens: Factor;
  readonly reasoningTokens: Factor;
  readonly perRequest: Factor;
  readonly divisor: number;
}

/** `exact` is used where a product leaves the safe integers, and only there `near` may be rounded. */
interface Factor {
  readonly near: number;
  readonly exact: bigint;
}

const CLASSES = ["inputTokens", "cacheReadTokens", "cacheWriteTokens", "outputTokens", "reasoningTokens"] as const;
const INPUT_CLASSES = ["inputTokens", "cacheReadTokens", "cacheWriteTokens"] as const;
const OUTPUT_CLASSES = ["outputTokens", "reasoningTokens"] as const;

/** USD per million tokens is 1000 nano-USD per token. */
const NANO_PER_TOKEN_DIGITS = 3;
const NANO_DIGITS = 9;
/** More decimals than any price has; what lies beyond is rounded up. */
const MOST_DECIMALS = 12;

/** A decimal: `digits / 10^decimals`. */
interface Decimal {
  readonly digits: bigint;
  readonly decimals: number;
}

const DECIMAL = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d{1,3}))?$/;

function decimalOf(value: number | string, option: string): Decimal {
  // Fifteen digits are what a double can hold of a decimal: 0.1 + 0.2 is meant to be 0.3.
  const parts = DECIMAL.exec(typeof value === "number" ? value.toPrecision(15) : value);
  if (!parts) throw new ConfigError([`${option}: expected USD as a number or decimal text from 0 up, such as 2.5 or "0.075"`]);
  const fraction = parts[2] ?? "";
  let digits = BigInt((parts[1] as string) + fraction);
  let decimals = fraction.length - Number(parts[3] ?? 0);
  if (decimals < 0) return { digits: digits * 10n ** BigInt(-decimals), decimals: 0 };
  while (decimals > 0 && digits % 10n === 0n) {
    digits /= 10n;
    decimals -= 1;
  }
  if (decimals <= MOST_DECIMALS) return { digits, decimals };
  return { digits: dividedUp(digits, 10n ** BigInt(decimals - MOST_DECIMALS)), decimals: MOST_DECIMALS };
}

const dividedUp = (dividend: bigint, divisor: bigint): bigint => (dividend + divisor - 1n) / divisor;

function compile(price: ModelPrice, option: string): Price {
  const read = (name: keyof ModelPrice, fallback: keyof ModelPrice | null): Decimal => {
    const value = price[name] ?? (fallback === null ? 0 : price[fallback]);
    return decimalOf(value ?? 0, `${option}.${name}`);
  };
  const perToken = {
    inputTokens: read("inputPerMtok", null),
    cacheReadTokens: read("cacheReadPerMtok", "inputPerMtok"),
    cacheWriteTokens: read("cacheWritePerMtok", "inputPerMtok"),
    outputTokens: read("outputPerMtok", null),
    reasoningTokens: read("reasoningPerMtok", "outputPerMtok"),
  };
  const perRequest = read("perRequest", null);
  // The smallest common divisor keeps almost every product among the safe integers.
  const places = Math.max(0, perRequest.decimals - NANO_DIGITS, ...CLASSES.map((name) => perToken[name].decimals - NANO_PER_TOKEN_DIGITS));
  const scaled = ({ digits, decimals }: Decimal, nanoDigits: number): Factor => {
    const exact = digits * 10n ** BigInt(places + nanoDigits - decimals);
    return { near: Number(exact), exact };
  };
  return {
    inputTokens: scaled(perToken.inputTokens, NANO_PER_TOKEN_DIGITS),
    cacheReadTokens: scaled(perToken.cacheReadTokens, NANO_PER_TOKEN_DIGITS),
    cacheWriteTokens: scaled(perToken.cacheWriteTokens, NANO_PER_TOKEN_DIGITS),
    outputTokens: scaled(perToken.outputTokens, NANO_PER_TOKEN_DIGITS),
    reasoningTokens: scaled(perToken.reasoningTokens, NANO_PER_TOKEN_DIGITS),
    perRequest: scaled(perRequest, NANO_DIGITS),
    divisor: 10 ** places,
  };
}

/** Nano-USD for these tokens, the exact sum rounded up once. */
function rawCost(price: Price, usage: Usage): number {
  let sum = price.perRequest.near;
  for (const name of CLASSES) sum += usage[name] * price[name].near;
  // Every term is an exact integer as long as the sum is a safe one; a rounded term would have made it larger.
  if (sum <= Number.MAX_SAFE_INTEGER) return Math.min(MAX_AMOUNT, price.divisor === 1 ? sum : dividedUpSafely(sum, price.divisor));
  let exact = price.perRequest.exact;
  for (const name of CLASSES) exact += BigInt(usage[name]) * price[name].exact;
  return clamped(dividedUp(exact, BigInt(price.divisor)));
}

/** Not `Math.ceil(a / b)`: the quotient of two large integers may round to a whole number. */
function dividedUpSafely(dividend: number, divisor: number): number {
  const rest = dividend % divisor;
  return (dividend - rest) / divisor + (rest > 0 ? 1 : 0);
}

const clamped = (amount: bigint): number => (amount > BigInt(MAX_AMOUNT) ? MAX_AMOUNT : Number(amount));

/** Adds the markup to an amount in nano-USD, rounded up once. */
function markup(markupPct: number): (nanoUsd: number) => number {
  const { digits, decimals } = decimalOf(markupPct, "prices.markupPct");
  const divisor = 100n * 10n ** BigInt(decimals);
  const factor = divisor + digits;
  if (digits === 0n) return (nanoUsd) => nanoUsd;
  const nearFactor = Number(factor);
  const nearDivisor = Number(divisor);
  return (nanoUsd) => {
    const product = nanoUsd * nearFactor;
    if (product <= Number.MAX_SAFE_INTEGER) return Math.min(MAX_AMOUNT, dividedUpSafely(product, nearDivisor));
    return clamped(dividedUp(BigInt(nanoUsd) * factor, divisor));
  };
}

/** The prices of one model name: its own, and those bound to a credential. */
interface Shelf {
  unbound: Price | null;
  readonly bound: Map<string, Price>;
  /** For who names no credential. */
  anywhere: Price | null;
}

/** A price that is, in each class, the dearest of several. */
function dearest(prices: Iterable<Price>): Price | null {
  let most: Price | null = null;
  for (const price of prices) most = most === null ? price : dearer(most, price);
  return most;
}

function dearer(a: Price, b: Price): Price {
  const divisor = Math.max(a.divisor, b.divisor);
  const higher = (name: (typeof CLASSES)[number] | "perRequest"): Factor => {
    const [x, y] = [a[name].exact * BigInt(divisor / a.divisor), b[name].exact * BigInt(divisor / b.divisor)];
    const exact = x > y ? x : y;
    return { near: Number(exact), exact };
  };
  return {
    inputTokens: higher("inputTokens"),
    cacheReadTokens: higher("cacheReadTokens"),
    cacheWriteTokens: higher("cacheWriteTokens"),
    outputTokens: higher("outputTokens"),
    reasoningTokens: higher("reasoningTokens"),
    perRequest: higher("perRequest"),
    divisor,
  };
}

/** The same price with all input at its dearest class and all output at its dearest. */
function worstClass(price: Price): Price {
  const most = (names: readonly (typeof CLASSES)[number][]): Factor => names.map((name) => price[name]).reduce((a, b) => (b.exact > a.exact ? b : a));
  return { ...price, inputTokens: most(INPUT_CLASSES), outputTokens: most(OUTPUT_CLASSES) };
}

/** Reads the prices of the config. Throws {@link ConfigError} that names what cannot be a price, and models that are priced twice. */
export function priceBook(options: PriceBookOptions): PriceBook {
  const withMarkup = markup(options.markupPct);
  const shelves = new Map<string, Shelf>();
  const worst = new Map<Price, Price>();

  const put = (name: string, credential: string | undefined, price: Price, option: string | null): void => {
    let shelf = shelves.get(name);
    if (!shelf) shelves.set(name, (shelf = { unbound: null, bound: new Map(), anywhere: null }));
    const taken = credential === undefined ? shelf.unbound !== null : shelf.bound.has(credential);
    if (taken && option === null) return;
    if (taken)
      throw new ConfigError([`${option}: ${name} already has a price${credential === undefined ? "" : ` at ${credential}`}; keep one of them`]);
    if (credential === undefined) shelf.unbound = price;
    else shelf.bound.set(credential, price);
  };

  const priced = options.models.flatMap(({ name, model, credential, price }, i) =>
    price === undefined ? [] : [{ name, model, credential, option: `models[${i}].price`, price: compile(price, `models[${i}].price`) }],
  );
  for (const { name, credential, price, option } of priced) put(name, credential, price, option);
  // A provider's answer names the model its own way. Clients' names come first.
  for (const { model, credential, price } of priced) if (model !== undefined) put(model, credential, price, null);
  for (const shelf of shelves.values()) {
    shelf.anywhere = shelf.unbound ?? dearest(shelf.bound.values());
    for (const price of [shelf.unbound, shelf.anywhere, ...shelf.bound.values()]) if (price) worst.set(price, worstClass(price));
  }

  function lookup(model: string, credential: string | null): Price | null {
    const shelf = shelves.get(model);
    if (shelf === undefined) return null;
    return credential === null ? shelf.anywhere : (shelf.bound.get(credential) ?? shelf.unbound);
  }

  return {
    lookup,
    cost(model, credential, usage) {
      const { reportedUsd } = usage;
      let raw: number;
      // What the provider says it billed is the cost, whatever our table says.
      if (reportedUsd !== undefined && reportedUsd >= 0 && reportedUsd < Infinity) {
        raw = Math.min(MAX_AMOUNT, usdToNano(reportedUsd));
      } else {
        const price = lookup(model, credential);
        if (price === null) return null;
        raw = rawCost(price, usage);
      }
      return { rawNanoUsd: raw, billedNanoUsd: withMarkup(raw) };
    },
    ceiling(pairs, inputTokens, outputTokens) {
      const usage: Usage = { inputTokens, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens, reasoningTokens: 0 };
      let most: number | null = null;
      let last: Price | null = null;
      for (const { model, credential } of pairs) {
        const price = lookup(model, credential);
        if (price === null) return null;
        // Usually all candidates share one price.
        if (price === last) continue;
        last = price;
        most = Math.max(most ?? 0, rawCost(worst.get(price) as Price, usage));
      }
      return most === null ? null : withMarkup(most);
    },
  };
}
