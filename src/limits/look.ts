import { GuardError } from "../core/errors.ts";
import type { Charge, LimitStore, ReserveResult, Shortfall, Standing } from "../core/store.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import { checkCharge } from "./check.ts";
import { sizeOf } from "./share.ts";
import { worstShortfall } from "./worst-shortfall.ts";

/**
 * What a store would say to a reservation now. Nothing is taken, and nobody is kept from taking it meanwhile. Standings are those before the charges. Throws as
 * a reservation does.
 */
export function lookedUp(store: LimitStore, charges: readonly Charge[]): MaybePromise<ReserveResult> {
  for (const charge of charges) checkCharge(charge);
  if (store.continuity?.isWhole === false && charges.some(({ strict }) => strict === true)) {
    throw new GuardError("store_unavailable", "the counters of the limits were lost and are being rebuilt: try again shortly", {
      retryAfterMs: 1_000,
    });
  }
  return andThen(store.peek(charges), (standings) => verdict(charges, standings));
}

function verdict(charges: readonly Charge[], standings: readonly Standing[]): ReserveResult {
  const short = charges.flatMap(({ amount, rule }, index): Shortfall[] => {
    const { available, waitMs = null } = standings[index] as Standing;
    return available >= amount ? [] : [{ index, needed: amount, available, waitMs, tooSmall: amount > sizeOf(rule) }];
  });
  const failing = short.filter(({ index }) => charges[index]?.enforce);
  if (failing.length > 0) return { kind: "limited", worst: worstShortfall(failing), failing, standings };
  return { kind: "allowed", replayed: false, skipped: short, standings };
}
