import { createHash } from "node:crypto";

import { ConfigError } from "../core/errors.ts";
import { MAX_AMOUNT } from "../core/money.ts";
import { totalInputTokens, type Usage } from "../core/usage.ts";

type Usd = number | string | undefined;

/** USD, as numbers or decimal text, per million tokens or per thousand: each class in one of the two. */
export interface WrittenRates {
  readonly inputPerMtok?: Usd;
  readonly outputPerMtok?: Usd;
  /** Input that a prompt cache served. Default: as input. */
  readonly cacheReadPerMtok?: Usd;
  /** Input that was stored in a prompt cache. Default: as input (Anthropic asks a quarter more: say so). */
  readonly cacheWritePerMtok?: Usd;
  /** Hidden output. Default: as output. */
  readonly reasoningPerMtok?: Usd;
  readonly inputPerKtok?: Usd;
  readonly outputPerKtok?: Usd;
  readonly cacheReadPerKtok?: Usd;
  readonly cacheWritePerKtok?: Usd;
  readonly reasoningPerKtok?: Usd;
  /** USD for each request, on top. Default 0. */
  readonly perRequest?: Usd;
}

/** What all of a request costs whose whole input is larger; what it does not say is as below it. */
export interface PriceTier extends WrittenRates {
  readonly aboveInputTokens: number;
}

/** What a model costs, as written. */
export interface ModelPrice extends WrittenRates {
  readonly tiers?: readonly PriceTier[] | undefined;
}

/** A price in whole numbers: a cost is `(sum of tokens x class + perRequest) / divisor` nano-USD. */
export interface Rates {
  readonly inputTokens: Factor;
  readonly cacheReadTokens: Factor;
  readonly cacheWriteTokens: Factor;
  readonly outputTokens: Factor;
  readonly reasoningTokens: Factor;
  readonly perRequest: Factor;
  readonly divisor: number;
}

/** Rates for requests whose whole input is larger than `above`. */
export interface Band {
  readonly above: number;
  readonly rates: Rates;
  /** The same with all input at its dearest class and all output at its dearest. */
  readonly worst: Rates;
}

/** Bands by size; the first begins below every request. */
export interface Price {
  readonly bands: readonly Band[];
}

/** `exact` is used where a product leaves the safe integers, and only there `near` may be rounded. */
interface Factor {
  readonly near: number;
  readonly exact: bigint;
}

const CLASSES = ["inputTokens", "cacheReadTokens", "cacheWriteTokens", "outputTokens", "reasoningTokens"] as const;
const INPUT_CLASSES = ["inputTokens", "cacheReadTokens", "cacheWriteTokens"] as const;
const OUTPUT_CLASSES = ["outputTokens", "reasoningTokens"] as const;

type Class = (typeof CLASSES)[number];

/** What a class is called where it is written, and which one it costs as when it is not. */
const WRITTEN: {
  readonly [name in Class]: { readonly text: "input" | "cacheRead" | "cacheWrite" | "output" | "reasoning"; readonly as: Class | null };
} = {
  inputTokens: { text: "input", as: null },
  cacheReadTokens: { text: "cacheRead", as: "inputTokens" },
  cacheWriteTokens: { text: "cacheWrite", as: "inputTokens" },
  outputTokens: { text: "output", as: null },
  reasoningTokens: { text: "reasoning", as: "outputTokens" },
};

/** USD per million tokens is 1000 nano-USD per token. */
const NANO_PER_TOKEN_DIGITS = 3;
const NANO_DIGITS = 9;
/** USD per thousand tokens is a thousand times as much per million. */
const PER_KTOK_DIGITS = 3;
/** More decimals than any price has; what lies beyond is rounded up. */
const MOST_DECIMALS = 12;

/** A decimal: `digits / 10^decimals`. */
export interface Decimal {
  readonly digits: bigint;
  readonly decimals: number;
}

const ZERO: Decimal = { digits: 0n, decimals: 0 };

const DECIMAL = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d{1,3}))?$/;

/** Reads `value x 10^shift`. */
export function decimalOf(value: number | string, option: string, shift = 0): Decimal {
  // Fifteen digits are what a double can hold of a decimal: 0.1 + 0.2 is meant to be 0.3.
  const parts = DECIMAL.exec(typeof value === "number" ? value.toPrecision(15) : value);
  if (!parts) throw new ConfigError([`${option}: expected USD as a number or decimal text from 0 up, such as 2.5 or "0.075"`]);
  const fraction = parts[2] ?? "";
  let digits = BigInt((parts[1] as string) + fraction);
  let decimals = fraction.length - Number(parts[3] ?? 0) - shift;
  if (decimals < 0) return { digits: digits * 10n ** BigInt(-decimals), decimals: 0 };
  while (decimals > 0 && digits % 10n === 0n) {
    digits /= 10n;
    decimals -= 1;
  }
  if (decimals <= MOST_DECIMALS) return { digits, decimals };
  return { digits: dividedUp(digits, 10n ** BigInt(decimals - MOST_DECIMALS)), decimals: MOST_DECIMALS };
}

export const dividedUp = (dividend: bigint, divisor: bigint): bigint => (dividend + divisor - 1n) / divisor;

/** Not `Math.ceil(a / b)`: the quotient of two large integers may round to a whole number. */
export function dividedUpSafely(dividend: number, divisor: number): number {
  const rest = dividend % divisor;
  return (dividend - rest) / divisor + (rest > 0 ? 1 : 0);
}

export const clamped = (amount: bigint): number => (amount > BigInt(MAX_AMOUNT) ? MAX_AMOUNT : Number(amount));

/** Reads a price. Throws {@link ConfigError} that names what cannot be one; `option` is where it is written. */
export function compilePrice(price: ModelPrice, option: string): Price {
  const { tiers = [], ...base } = price;
  const bands = [bandOf(-1, compileRates(base, option))];
  let below: WrittenRates = base;
  for (const [i, tier] of [...tiers.entries()].sort(([, a], [, b]) => a.aboveInputTokens - b.aboveInputTokens)) {
    const { aboveInputTokens: above, ...rates } = tier;
    below = over(below, rates);
    bands.push(bandOf(above, compileRates(below, `${option}.tiers[${i}]`)));
  }
  return { bands };
}

/** A class that is said anew in one unit is no longer what it was in the other. */
function over(below: WrittenRates, rates: WrittenRates): WrittenRates {
  const merged: Record<string, Usd> = { ...below };
  for (const [name, value] of Object.entries(rates) as [string, Usd][]) {
    if (value === undefined) continue;
    const other = name.endsWith("PerKtok") ? name.replace(/PerKtok$/, "PerMtok") : name.replace(/PerMtok$/, "PerKtok");
    delete merged[other];
    merged[name] = value;
  }
  return merged;
}

const bandOf = (above: number, rates: Rates): Band => ({ above, rates, worst: worstClass(rates) });

function compileRates(written: WrittenRates, option: string): Rates {
  const known = new Map<Class, Decimal>();
  for (const name of CLASSES) {
    const { text, as } = WRITTEN[name];
    const [mtok, thousand] = [written[`${text}PerMtok`], written[`${text}PerKtok`]];
    const own = mtok === undefined ? thousand : mtok;
    if (own === undefined) known.set(name, (as && known.get(as)) ?? ZERO);
    else known.set(name, decimalOf(own, `${option}.${text}${mtok === undefined ? "PerKtok" : "PerMtok"}`, mtok === undefined ? PER_KTOK_DIGITS : 0));
  }
  const perRequest = decimalOf(written.perRequest ?? 0, `${option}.perRequest`);
  // The smallest common divisor keeps almost every product among the safe integers.
  const places = Math.max(0, perRequest.decimals - NANO_DIGITS, ...[...known.values()].map(({ decimals }) => decimals - NANO_PER_TOKEN_DIGITS));
  const scaled = ({ digits, decimals }: Decimal, nanoDigits: number): Factor => {
    const exact = digits * 10n ** BigInt(places + nanoDigits - decimals);
    return { near: Number(exact), exact };
  };
  const perToken = (name: Class): Factor => scaled(known.get(name) as Decimal, NANO_PER_TOKEN_DIGITS);
  return {
    inputTokens: perToken("inputTokens"),
    cacheReadTokens: perToken("cacheReadTokens"),
    cacheWriteTokens: perToken("cacheWriteTokens"),
    outputTokens: perToken("outputTokens"),
    reasoningTokens: perToken("reasoningTokens"),
    perRequest: scaled(perRequest, NANO_DIGITS),
    divisor: 10 ** places,
  };
}

function bandFor({ bands }: Price, inputTokens: number): Band {
  let found = bands[0] as Band;
  for (let i = 1; i < bands.length; i += 1) {
    const band = bands[i] as Band;
    if (inputTokens > band.above) found = band;
  }
  return found;
}

/** Nano-USD for these tokens, the exact sum rounded up once. */
export function costOf(price: Price, usage: Usage): number {
  return price.bands.length === 1
    ? ratedCost((price.bands[0] as Band).rates, usage)
    : ratedCost(bandFor(price, totalInputTokens(usage)).rates, usage);
}

function ratedCost(rates: Rates, usage: Usage): number {
  let sum = rates.perRequest.near;
  for (const name of CLASSES) sum += usage[name] * rates[name].near;
  // Every term is an exact integer as long as the sum is a safe one; a rounded term would have made it larger.
  if (sum <= Number.MAX_SAFE_INTEGER) return Math.min(MAX_AMOUNT, rates.divisor === 1 ? sum : dividedUpSafely(sum, rates.divisor));
  let exact = rates.perRequest.exact;
  for (const name of CLASSES) exact += BigInt(usage[name]) * rates[name].exact;
  return clamped(dividedUp(exact, BigInt(rates.divisor)));
}

/** The most nano-USD that at most so many tokens can cost. A larger request may be the cheaper one, so every band within reach counts. */
export function mostOf({ bands }: Price, inputTokens: number, outputTokens: number): number {
  let most = 0;
  for (let i = 0; i < bands.length; i += 1) {
    const { above, worst } = bands[i] as Band;
    if (i > 0 && inputTokens <= above) break;
    const largest = Math.min(inputTokens, bands[i + 1]?.above ?? inputTokens);
    most = Math.max(most, ratedCost(worst, { inputTokens: largest, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens, reasoningTokens: 0 }));
  }
  return most;
}

/** A price that is, in each class, the dearest of several; null = there are none. */
export function dearest(prices: Iterable<Price>): Price | null {
  let most: Price | null = null;
  for (const price of prices) most = most === null ? price : dearer(most, price);
  return most;
}

function dearer(a: Price, b: Price): Price {
  const begins = [...new Set([...a.bands, ...b.bands].map(({ above }) => above))].sort((x, y) => x - y);
  return { bands: begins.map((above) => bandOf(above, dearerRates(bandFor(a, above + 1).rates, bandFor(b, above + 1).rates))) };
}

function dearerRates(a: Rates, b: Rates): Rates {
  const divisor = Math.max(a.divisor, b.divisor);
  const higher = (name: Class | "perRequest"): Factor => {
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

function worstClass(rates: Rates): Rates {
  const most = (names: readonly Class[]): Factor => names.map((name) => rates[name]).reduce((a, b) => (b.exact > a.exact ? b : a));
  return { ...rates, inputTokens: most(INPUT_CLASSES), outputTokens: most(OUTPUT_CLASSES) };
}

const VERSION_DIGITS = 10;

/** Tells prices apart: the same text for the same rates and markup, wherever and however they are written. */
export function versionOf(price: Price | null, markupPct: number): string {
  const rates = price?.bands.map(({ above, rates: { divisor, ...factors } }) => [
    above,
    // As fractions in lowest terms would be: 2.5 and "2.50" are one price.
    ...Object.values(factors).map(({ exact }) => `${(exact * 10n ** 30n) / BigInt(divisor)}`),
  ]);
  return createHash("sha256")
    .update(JSON.stringify([rates ?? null, markupPct]))
    .digest("hex")
    .slice(0, VERSION_DIGITS);
}
