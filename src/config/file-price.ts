import { z } from "zod";
import type { ModelPrice } from "../metering/price.ts";

/** A price as a file has it: of one provider, under the names that it may be asked for by. */
export interface FilePrice {
  readonly provider: string;
  readonly names: readonly string[];
  readonly price: ModelPrice;
}

/** No price of anything that is sold by the token is near this: a file in other units is refused. */
const MOST_USD = 1_000_000;

export const usd = () => z.number().min(0).max(MOST_USD);

/** USD per token as decimal text per million tokens: the point moves, no digit changes. */
export function perMtok(usdPerToken: number): string {
  const [digits, exponent] = Number(usdPerToken.toPrecision(15)).toExponential().split("e") as [string, string];
  return `${digits}e${Number(exponent) + 6}`;
}
