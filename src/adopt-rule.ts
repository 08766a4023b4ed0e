import type { BucketRule, Charge, LimitStore, Unit } from "./core/store.ts";
import type { Clock } from "./core/time.ts";

/** How often a store may ask for a charge again because limits have changed: this one carries the numbers that were just set. */
const MOST_REPEATS = 3;
const TTL_MS = 60_000;

/** Makes a bucket's state take a new rule over now, not at its next request: a new rate counts from now on. `take` is charged beside it. */
export type AdoptRule = (bucket: { readonly key: string; readonly unit: Unit; readonly rule: BucketRule }, take: number) => Promise<void>;

export function adoptRule(store: LimitStore, clock: Clock): AdoptRule {
  let writes = 0;
  return async function adopt({ key, unit, rule }, take) {
    writes += 1;
    const opId = `admin.${clock.now()}.${process.pid}.${writes}`;
    const charges: Charge[] = [{ key, rule, unit, amount: 0, enforce: true }];
    let result = await store.reserve(opId, charges, TTL_MS);
    for (let i = 0; i < MOST_REPEATS && result.kind === "stale"; i += 1) result = await store.reserve(opId, charges, TTL_MS);
    if (result.kind === "allowed") await store.settle(opId, { [unit]: take });
  };
}
