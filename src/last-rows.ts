import { GuardError } from "./core/errors.ts";
import type { MaybePromise } from "./core/time.ts";

/** Whoever stops a process is told what that may cost, and not which call was late. */
export async function lastRows(flush: () => MaybePromise<void>): Promise<void> {
  try {
    await flush();
  } catch (error) {
    if (!GuardError.is(error) || error.code !== "store_unavailable") throw error;
    throw new GuardError("store_unavailable", "the ledger has not taken its last rows in time: those still in memory may be lost", { cause: error });
  }
}
