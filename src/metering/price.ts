import { createHash } from "node:crypto";

import { ConfigError } from "../core/errors.ts";
import { MAX_AMOUNT } from "../core/money.ts";
import {
  INPUT_CLASSES,
  NO_USAGE,
  OUTPUT_CLASSES,
  TOKEN_CLASSES,
  totalInputTokens,
  totalOutputTokens,
  type TokenClass,
  type Usage,
} from "../core/usage.ts";

type Usd = number | string | undefined;

/** What a class is called where it is written, and which one it costs as when it is not. */
const WRITTEN = {
  inputTokens: { text: "input", as: null },
  cacheReadTokens: { text: "cacheRead", as: "inputTokens" },
  cacheWriteTokens: { text: "cacheWrite", as: "inputTokens" },
  cacheWriteLongTokens: { text: "cacheWriteLong", as: "cacheWriteTokens" },
  audioInputTokens: { text: "audioInput", as: "inputTokens" },
  imageInputTokens: { text: "imageInput", as: "inputTokens" },
  outputTokens: { text: "output", as: null },
  reasoningTokens: { text: "reasoning", as: "outputTokens" },
  audioOutputTokens: { text: "audioOutput", as: "outputTokens" },
  imageOutputTokens: { text: "imageOutput", as: "outputTokens" },
  predictionTokens: { text: "prediction", as: "outputTokens" },
} as const satisfies { readonly [name in TokenClass]: { readonly text: string; readonly as: TokenClass | null } };

/** The token classes as prices name them. */
export type RateName = (typeof WRITTEN)[TokenClass]["text"];
export const RATE_NAMES: readonly RateName[] = TOKEN_CLASSES.map((name) => WRITTEN[name].text);
/** What is billed one by one. */
const COUNTED = ["perRequest", "perImage"] as const;

/**
 * USD, as numbers or decimal text: for each class per million tokens or per thousand, in one of the two; `perRequest` and `perImage` on top, 0 by default.
 * Classes that are not said cost as input (`cacheRead`, `cacheWrite`, `audioInput`, `imageInput`), as `cacheWrite` (`cacheWriteLong`: stored for an
 * hour) or as output (`reasoning`, `audioOutput`, `imageOutput`, `prediction`).
 */
export type WrittenRates = { readonly [name in `${RateName}PerMtok` | `${RateName}PerKtok` | (typeof COUNTED)[number]]?: Usd };

/** What requests cost whose whole input is larger; what it does not say is as below it. */
export interface PriceTier extends WrittenRates {
  readonly aboveInputTokens: number;
}

/** What a model costs, as written. */
export interface ModelPrice extends WrittenRates {
  readonly tiers?: readonly PriceTier[] | undefined;
  /**
   * `request` (default): all of a request is at the prices of the tier that its input reaches. `excess`: a tier's prices are for the input tokens beyond its
   * beginning and for the output tokens beyond the same number, in each class its share.
   */
  readonly tiersApplyTo?: "request" | "excess" | undefined;
}

/** A price in whole numbers: a cost is `(sum of tokens x class + requests x perRequest + images x perImage) / divisor` nano-USD. */
export type Rates = { readonly [name in TokenClass | (typeof COUNTED)[number]]: Factor } & { readonly divisor: number };

/** Rates for requests whose whole input is larger than `above`. */
export interface Band {
  readonly above: number;
  readonly rates: Rates;
  /** The same with all input at its dearest class and all output at its dearest. */
  readonly worst: Rates;
  /** The same where no audio and no image can be in the input. */
  readonly worstOfText: Rates;
}

/** Bands by size; the first begins below every request. */
export interface Price {
  readonly bands: readonly Band[];
  /** A band's rates are for the tokens beyond its beginning only. */
  readonly isExcess: boolean;
}

/** `exact` is used where a product leaves the safe integers, and only there `near` may be rounded. */
interface Factor {
  readonly near: number;
  readonly exact: bigint;
}

const TEXT_INPUT_CLASSES = ["inputTokens", "cacheReadTokens", "cacheWriteTokens", "cacheWriteLongTokens"] as const;

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
  const { tiers = [], tiersApplyTo = "request", ...base } = price;
  const bands = [bandOf(-1, compileRates(base, option))];
  let below: WrittenRates = base;
  for (const [i, tier] of [...tiers.entries()].sort(([, a], [, b]) => a.aboveInputTokens - b.aboveInputTokens)) {
    const { aboveInputTokens: above, ...rates } = tier;
    below = over(below, rates);
    bands.push(bandOf(above, compileRates(below, `${option}.tiers[${i}]`)));
  }
  return { bands, isExcess: tiersApplyTo === "excess" && bands.length > 1 };
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

const bandOf = (above: number, rates: Rates): Band => ({
  above,
  rates,
  worst: worstClass(rates, INPUT_CLASSES),
  worstOfText: worstClass(rates, TEXT_INPUT_CLASSES),
});

function compileRates(written: WrittenRates, option: string): Rates {
  const known = new Map<TokenClass, Decimal>();
  for (const name of TOKEN_CLASSES) {
    const { text, as } = WRITTEN[name];
    const [mtok, thousand] = [written[`${text}PerMtok`], written[`${text}PerKtok`]];
    const own = mtok === undefined ? thousand : mtok;
    if (own === undefined) known.set(name, (as && known.get(as)) ?? ZERO);
    else known.set(name, decimalOf(own, `${option}.${text}${mtok === undefined ? "PerKtok" : "PerMtok"}`, mtok === undefined ? PER_KTOK_DIGITS : 0));
  }
  const [perRequest, perImage] = COUNTED.map((name) => decimalOf(written[name] ?? 0, `${option}.${name}`)) as [Decimal, Decimal];
  // The smallest common divisor keeps almost every product among the safe integers.
  const places = Math.max(
    0,
    ...[perRequest, perImage].map(({ decimals }) => decimals - NANO_DIGITS),
    ...[...known.values()].map(({ decimals }) => decimals - NANO_PER_TOKEN_DIGITS),
  );
  const scaled = ({ digits, decimals }: Decimal, nanoDigits: number): Factor => factorOf(digits * 10n ** BigInt(places + nanoDigits - decimals));
  return {
    ...byClass((name) => scaled(known.get(name) as Decimal, NANO_PER_TOKEN_DIGITS)),
    perRequest: scaled(perRequest, NANO_DIGITS),
    perImage: scaled(perImage, NANO_DIGITS),
    divisor: 10 ** places,
  };
}

const factorOf = (exact: bigint): Factor => ({ near: Number(exact), exact });

const byClass = (factor: (name: TokenClass) => Factor): { readonly [name in TokenClass]: Factor } =>
  Object.fromEntries(TOKEN_CLASSES.map((name) => [name, factor(name)])) as { [name in TokenClass]: Factor };

function bandFor({ bands }: Price, inputTokens: number): Band {
  let found = bands[0] as Band;
  for (let i = 1; i < bands.length; i += 1) {
    const band = bands[i] as Band;
    if (inputTokens > band.above) found = band;
  }
  return found;
}

/** Nano-USD for this usage, the exact sum rounded up once. */
export function costOf(price: Price, usage: Usage): number {
  const { bands, isExcess } = price;
  const [first, second] = bands as readonly [Band, Band | undefined];
  if (!second) return ratedCost(first.rates, usage);
  const input = totalInputTokens(usage);
  if (!isExcess) return ratedCost(bandFor(price, input).rates, usage);
  return Math.max(input, totalOutputTokens(usage)) <= second.above ? ratedCost(first.rates, usage) : splitCost(bands, "rates", usage);
}

/** Each class by its name: this runs once per request, and more often for what is held. */
function ratedCost(rates: Rates, usage: Usage): number {
  const sum =
    usage.inputTokens * rates.inputTokens.near +
    usage.cacheReadTokens * rates.cacheReadTokens.near +
    usage.cacheWriteTokens * rates.cacheWriteTokens.near +
    (usage.cacheWriteLongTokens ?? 0) * rates.cacheWriteLongTokens.near +
    (usage.audioInputTokens ?? 0) * rates.audioInputTokens.near +
    (usage.imageInputTokens ?? 0) * rates.imageInputTokens.near +
    usage.outputTokens * rates.outputTokens.near +
    usage.reasoningTokens * rates.reasoningTokens.near +
    (usage.audioOutputTokens ?? 0) * rates.audioOutputTokens.near +
    (usage.imageOutputTokens ?? 0) * rates.imageOutputTokens.near +
    (usage.predictionTokens ?? 0) * rates.predictionTokens.near +
    (usage.requests ?? 1) * rates.perRequest.near +
    (usage.images ?? 0) * rates.perImage.near;
  // Every term is an exact integer as long as the sum is a safe one; a rounded term would have made it larger.
  if (sum <= Number.MAX_SAFE_INTEGER) return Math.min(MAX_AMOUNT, rates.divisor === 1 ? sum : dividedUpSafely(sum, rates.divisor));
  return clamped(dividedUp(exactSum(rates, TOKEN_CLASSES, usage) + countedSum(rates, usage), BigInt(rates.divisor)));
}

function exactSum(rates: Rates, names: readonly TokenClass[], usage: Usage): bigint {
  let sum = 0n;
  for (const name of names) sum += BigInt(usage[name] ?? 0) * rates[name].exact;
  return sum;
}

const countedSum = ({ perRequest, perImage }: Rates, { requests = 1, images = 0 }: Usage): bigint =>
  BigInt(requests) * perRequest.exact + BigInt(images) * perImage.exact;

/** The tokens in each band at its rates, in each class its share; exact up to the end, where it is rounded up once. */
function splitCost(bands: readonly Band[], which: "rates" | "worst" | "worstOfText", usage: Usage): number {
  const input = totalInputTokens(usage);
  const output = totalOutputTokens(usage);
  const divisor = BigInt(Math.max(...bands.map((band) => band[which].divisor)));
  const sums = { input: 0n, output: 0n };
  for (const [i, band] of bands.entries()) {
    const rates = band[which];
    const scale = divisor / BigInt(rates.divisor);
    const within = (total: number): bigint => BigInt(Math.max(0, Math.min(total, bands[i + 1]?.above ?? total) - Math.max(0, band.above)));
    sums.input += within(input) * scale * exactSum(rates, INPUT_CLASSES, usage);
    sums.output += within(output) * scale * exactSum(rates, OUTPUT_CLASSES, usage);
  }
  const [whole, written] = [BigInt(Math.max(1, input)), BigInt(Math.max(1, output))];
  // What is counted one by one has no excess: it is said once, below all tiers.
  const { [which]: first } = bands[0] as Band;
  const counted = countedSum(first, usage) * (divisor / BigInt(first.divisor)) * whole * written;
  return clamped(dividedUp(sums.input * written + sums.output * whole + counted, divisor * whole * written));
}

/**
 * The most nano-USD that at most so many tokens and images can cost, of one request. A larger request may be the cheaper one, so every band within reach counts.
 * `isText` = there can be no audio and no image in the input.
 */
export function mostOf({ bands, isExcess }: Price, inputTokens: number, outputTokens: number, isText = false, images = 0): number {
  const which = isText ? "worstOfText" : "worst";
  // Each token more costs more, so the largest request is the dearest.
  if (isExcess) return splitCost(bands, which, { ...NO_USAGE, inputTokens, outputTokens, images });
  let most = 0;
  for (let i = 0; i < bands.length; i += 1) {
    const { above, [which]: worst } = bands[i] as Band;
    if (i > 0 && inputTokens <= above) break;
    const largest = Math.min(inputTokens, bands[i + 1]?.above ?? inputTokens);
    most = Math.max(most, ratedCost(worst, { ...NO_USAGE, inputTokens: largest, outputTokens, images }));
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
  const [x, y] = [asWhole(a), asWhole(b)];
  const begins = [...new Set([...x.bands, ...y.bands].map(({ above }) => above))].sort((one, other) => one - other);
  return { bands: begins.map((above) => bandOf(above, dearerRates(bandFor(x, above + 1).rates, bandFor(y, above + 1).rates))), isExcess: false };
}

/** The dearest of all its bands, where a request may be billed by several. */
const asWhole = (price: Price): Price =>
  price.isExcess ? { bands: [bandOf(-1, price.bands.map(({ rates }) => rates).reduce(dearerRates))], isExcess: false } : price;

function dearerRates(a: Rates, b: Rates): Rates {
  const divisor = Math.max(a.divisor, b.divisor);
  const higher = (name: Exclude<keyof Rates, "divisor">): Factor => {
    const [x, y] = [a[name].exact * BigInt(divisor / a.divisor), b[name].exact * BigInt(divisor / b.divisor)];
    return factorOf(x > y ? x : y);
  };
  return { ...byClass(higher), perRequest: higher("perRequest"), perImage: higher("perImage"), divisor };
}

function worstClass(rates: Rates, inputs: readonly TokenClass[]): Rates {
  const most = (names: readonly TokenClass[]): Factor => names.map((name) => rates[name]).reduce((a, b) => (b.exact > a.exact ? b : a));
  return { ...rates, inputTokens: most(inputs), outputTokens: most(OUTPUT_CLASSES) };
}

const VERSION_DIGITS = 10;

/** Classes that most prices say. Of the others a version knows only what is not as its base class, so that it is what it was before they were there. */
const COMMON = ["inputTokens", "cacheReadTokens", "cacheWriteTokens", "outputTokens", "reasoningTokens"] as const;

/** Tells prices apart: the same text for the same rates and markup, wherever and however they are written. */
export function versionOf(price: Price | null, markupPct: number): string {
  const bands = price?.bands.map(({ above, rates }) => {
    // As fractions in lowest terms would be: 2.5 and "2.50" are one price.
    const textOf = ({ exact }: Factor): string => `${(exact * 10n ** 30n) / BigInt(rates.divisor)}`;
    const rare = TOKEN_CLASSES.filter((name) => !(COMMON as readonly string[]).includes(name))
      .filter((name) => rates[name].exact !== rates[WRITTEN[name].as ?? name].exact)
      .map((name) => `${name}:${textOf(rates[name])}`);
    if (rates.perImage.exact > 0n) rare.push(`perImage:${textOf(rates.perImage)}`);
    return [above, ...COMMON.map((name) => textOf(rates[name])), textOf(rates.perRequest), ...rare];
  });
  return createHash("sha256")
    .update(JSON.stringify([bands ?? null, markupPct, ...(price?.isExcess ? ["excess"] : [])]))
    .digest("hex")
    .slice(0, VERSION_DIGITS);
}
