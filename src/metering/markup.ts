import { MAX_AMOUNT } from "../core/money.ts";
import { clamped, decimalOf, dividedUp, dividedUpSafely } from "./price.ts";

/** Adds percent to an amount in nano-USD, rounded up once. Throws ConfigError for what is no percentage; `option` is where it is written. */
export function markup(pct: number, option: string): (nanoUsd: number) => number {
  const { digits, decimals } = decimalOf(pct, option);
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
