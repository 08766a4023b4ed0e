import { GuardError } from "../core/errors.ts";
import type { ExpiredReservation, LimitStore, Rule } from "../core/store.ts";
import type { MaybePromise } from "../core/time.ts";
import { limitEngine } from "../limits/engine.ts";
import { holdKey, openKey, OPEN_KEYS, stateKey, TextBackend, Unloaded, type StateWrite } from "./define-backend.ts";

/**
 * What to write, given the texts that the keys hold now (in their order, undefined = nothing) and the store's time (ms since the epoch). It answers
 * at once, never throws, writes only keys that were asked for, and may be called again when a transaction is repeated: the last call counts.
 */
export type StateChange = (states: readonly (string | undefined)[], nowMs: number) => readonly StateWrite[];

/**
 * Reads the keys, calls `change` and stores what it returns, as if nobody else touched those keys meanwhile. When it returns, the writes are
 * there for all processes; when it throws, none of them is.
 */
export type Transact = (keys: readonly string[], change: StateChange) => MaybePromise<void>;

/** The keys of a hold are learned from its record, so a verb needs two transactions. More only when the record is replaced between them. */
const MOST_PASSES = 4;

/** The verbs over {@link Transact}: one transaction reads all that a verb needs, decides, and writes. */
export function transactLimits(transact: Transact): LimitStore {
  const backend = new TextBackend();
  const engine = limitEngine(backend);

  async function run<T>(keys: readonly string[], verb: () => T): Promise<T> {
    const wanted = new Set(keys);
    for (let pass = 0; pass < MOST_PASSES; pass += 1) {
      const ending = await once([...wanted], verb);
      if ("result" in ending) return ending.result;
      // Amounts and rules that are out of range are the caller's mistake, everything else is the store's.
      if (ending.error instanceof RangeError) throw ending.error;
      if (!(ending.error instanceof Unloaded)) throw unavailable(ending.error);
      for (const key of ending.error.keys) wanted.add(key);
    }
    throw unavailable(new Error("the record of a hold was replaced again and again while it was read"));
  }

  async function once<T>(keys: readonly string[], verb: () => T): Promise<{ readonly result: T } | { readonly error: unknown }> {
    let ending: { readonly result: T } | { readonly error: unknown } | undefined;
    try {
      await transact(keys, (states, nowMs) => {
        try {
          backend.begin(keys, states, nowMs);
          const result = verb();
          const writes = backend.writes();
          ending = { result };
          return writes;
        } catch (error) {
          // Not through the author's code: nothing is written, and whose mistake it was stays known.
          ending = { error };
          return [];
        }
      });
    } catch (error) {
      throw unavailable(error);
    }
    if (ending === undefined) throw unavailable(new Error("transact() returned without calling its second argument"));
    return ending;
  }

  const onHold = <T>(opId: string, verb: () => T): Promise<T> => run([holdKey(opId), openKey(opId)], verb);
  const statesOf = (limits: readonly { readonly key: string; readonly rule: Rule }[]): string[] => limits.map(({ key }) => stateKey(key));

  return {
    reserve: (opId, charges, ttlMs) => run([holdKey(opId), openKey(opId), ...statesOf(charges)], () => engine.reserve(opId, charges, ttlMs)),
    settle: (opId, actual) => onHold(opId, () => engine.settle(opId, actual)),
    release: (opId) => onHold(opId, () => engine.release(opId)),
    extend: (opId, ttlMs) => onHold(opId, () => engine.extend(opId, ttlMs)),
    lapse: (opId) => onHold(opId, () => engine.lapse(opId)),
    peek: (limits) => run(statesOf(limits), () => engine.peek(limits)),

    async expire(most) {
      const found: ExpiredReservation[] = [];
      for (const opId of await run(OPEN_KEYS, () => backend.due(most))) {
        // One at a time: whoever else sweeps meanwhile has taken its holds out of the list.
        const expired = await onHold(opId, () => {
          backend.aim(opId);
          return engine.expire(1);
        });
        found.push(...expired);
      }
      return found;
    },
  };
}

function unavailable(cause: unknown): GuardError {
  if (GuardError.is(cause)) return cause;
  return new GuardError("store_unavailable", "the store of the gateway cannot be used at the moment: try again shortly", { cause });
}
