import type { BucketRule } from "../core/store.ts";

/** A refill of `n` units per `d` ms, reduced. */
export interface Rate {
  readonly n: number;
  readonly d: number;
}

/** The refill multiplies a remainder below d by n and adds a carry below d: d·(n+1) has to stay exact in a double. */
const MAX_PRODUCT = 9_000_000_000_000_000n;
const MAX_N = 1_000_000_000_000n;

const DECIMAL = /^(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/;

/**
 * The exact rate for a number of units per second, taken from its decimal text: 0.1 means one tenth, not the nearest double. A rate that does
 * not fit becomes the best fraction below it. Throws RangeError for anything but a finite number from 0 to 1e15.
 */
export function rateFrom(refillPerSec: number): Rate {
  return rateOf({ amount: refillPerSec, perMs: 1000 });
}

/** The exact rate for `amount` units per `perMs` ms, e.g. 10 per day. Throws RangeError as {@link rateFrom}. */
export function rateOf({ amount, perMs }: { readonly amount: number; readonly perMs: number }): Rate {
  if (!Number.isFinite(amount) || amount < 0) throw new RangeError(`a refill must be a number from 0 up, not ${amount}`);
  if (!Number.isSafeInteger(perMs) || perMs < 1) throw new RangeError(`a refill's period must be a whole number of ms from 1 up, not ${perMs}`);
  const [numerator, denominator] = fractionOf(amount);
  const p = numerator;
  const q = denominator * BigInt(perMs);
  if (p > MAX_N * q) throw new RangeError(`a refill of ${amount} per ${perMs} ms is too fast: at most 1e12 units per ms`);
  const [n, d] = fits(...reduced(p, q)) ? reduced(p, q) : bestBelow(p, q);
  return { n: Number(n), d: Number(d) };
}

/** A bucket that starts full and refills by `refillPerSec`. */
export function bucketRule({ capacity, refillPerSec }: { readonly capacity: number; readonly refillPerSec: number }): BucketRule {
  return { kind: "bucket", capacity, ...rateFrom(refillPerSec) };
}

function fractionOf(value: number): [bigint, bigint] {
  // String(0) also covers -0.
  const [, whole = "0", fraction = "", exponent = "0"] = DECIMAL.exec(String(value)) ?? [];
  const scale = Number(exponent) - fraction.length;
  const digits = BigInt(whole + fraction);
  return scale >= 0 ? [digits * 10n ** BigInt(scale), 1n] : [digits, 10n ** BigInt(-scale)];
}

function reduced(p: bigint, q: bigint): [bigint, bigint] {
  let a = p;
  let b = q;
  while (b !== 0n) [a, b] = [b, a % b];
  return [p / a, q / a];
}

function fits(n: bigint, d: bigint): boolean {
  return n <= MAX_N && d * (n + 1n) <= MAX_PRODUCT;
}

/**
 * The greatest fraction not above p/q that fits: walks down the continued fraction, where every fraction on the lower side is the best one of its
 * size. Between two of them (a0 + k·a1 over b0 + k·b1) the largest k that fits is taken.
 */
function bestBelow(p: bigint, q: bigint): [bigint, bigint] {
  // Even convergents lie below. [n0/d0] is the last one below, [n1/d1] the last one above (1/0 at first).
  let n0 = 0n;
  let d0 = 1n;
  let n1 = 1n;
  let d1 = 0n;
  let a = p;
  let b = q;
  let below = true;
  while (b !== 0n) {
    const k = a / b;
    if (below) {
      const most = largest(k, (j) => fits(n0 + j * n1, d0 + j * d1));
      n0 += most * n1;
      d0 += most * d1;
      if (most < k) break;
    } else {
      n1 += k * n0;
      d1 += k * d0;
    }
    [a, b] = [b, a % b];
    below = !below;
  }
  return [n0, d0];
}

function largest(upTo: bigint, holds: (k: bigint) => boolean): bigint {
  let low = 0n;
  let high = upTo;
  while (low < high) {
    const middle = (low + high + 1n) / 2n;
    if (holds(middle)) low = middle;
    else high = middle - 1n;
  }
  return low;
}
