import { z } from "zod";
import type { ModelPrice } from "../metering/price.ts";

/** A price as a file has it: of one provider, under the names that it may be asked for by. */
export interface FilePrice {
  readonly provider: string;
  readonly names: readonly string[];
  /** Null = not by the token, or not said. */
  readonly price: ModelPrice | null;
  /** Null = not said. */
  readonly maxOutputTokens: number | null;
}

/** No price of anything that is sold by the token is near this: a file in other units is refused. */
const MOST_USD = 1_000_000;

export const usd = () => z.number().min(0).max(MOST_USD);

/** Decimal text of `value x 10^places`: the point moves, no digit changes. */
export function shifted(value: number, places: number): string {
  const [digits, exponent] = Number(value.toPrecision(15)).toExponential().split("e") as [string, string];
  return `${digits}e${Number(exponent) + places}`;
}

/** USD per token as decimal text per million tokens. */
export const perMtok = (usdPerToken: number): string => shifted(usdPerToken, 6);

/** An account that only speaks somebody's dialect may be anybody's. */
export const isAnybody = (provider: string): boolean => provider === "openai-compatible";

/** More is a mistake, or means "no limit". */
const MOST_OUTPUT_TOKENS = 10_000_000;

/** The most tokens that a model writes. What fills its whole window is the window's size: no request could ask for so much, as its input needs room, too. */
export function outputMaximum(written: unknown, window: unknown): number | null {
  if (typeof written !== "number" || !Number.isInteger(written) || written < 1 || written > MOST_OUTPUT_TOKENS) return null;
  return typeof window === "number" && written >= window ? null : written;
}
