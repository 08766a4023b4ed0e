import { GuardError } from "../core/errors.ts";
import { hint } from "../core/nearest.ts";
import type { Continuity, LimitStore, Store } from "../core/store.ts";
import { systemClock, type Clock, type MaybePromise } from "../core/time.ts";
import { recordingStore, type StoreRecording } from "./recording-store.ts";
import { seededRandom } from "./seeded-random.ts";
import { STORE_PLACES, tappedStore, type StoreCall, type StorePlace } from "./tapped-store.ts";

/**
 * What becomes of a call:
 * - `refuses`: fails at once with `store_unavailable`, as our stores say it; nothing was done
 * - `throws`: fails at once with a driver's own error; nothing was done
 * - `reply lost`: is carried out, and fails nevertheless
 * - `hangs`: is never answered; nothing was done
 * - `late`: is carried out and answered when the test calls `deliver()`
 * - `slow`: is carried out after `delayMs` of the clock
 */
export type StoreFault = "refuses" | "throws" | "reply lost" | "hangs" | "late" | "slow";

export interface StoreFaultRule {
  readonly fault: StoreFault;
  /** Only this call, counted from 1 among those that the rule is for. Default: every one. */
  readonly call?: number;
  /** Only so many of them, from 0 to 1; the store's seed decides which. Default 1. */
  readonly probability?: number;
  /** For `slow`, in ms of the clock. */
  readonly delayMs?: number;
}

export interface FaultyStoreOptions {
  /** What is done when nothing is at fault. Default: a memory store on the same clock. */
  readonly store?: Store;
  /** Default: the system's clock. */
  readonly clock?: Clock;
  /** For `probability`: the same seed strikes the same calls. Default 1. */
  readonly seed?: number;
  /** Whether it passes for one that several processes share. Default: as a server's would. */
  readonly shared?: boolean;
  /** How many processes it says share it. Default 1. */
  readonly nodes?: number;
}

export interface FaultyStore extends Store {
  /** `limits.reserve`, `ledger.intent`, … in the order in which they were asked for, whatever became of them. The first 100,000. */
  readonly asked: readonly StoreCall[];
  /** What the store behind the faults did: for `expectConserved()`. */
  readonly recording: StoreRecording;
  /**
   * From now on calls of these places fare like this. Of several rules for one call the newest decides that applies to it.
   * @example
   * store.fail("reply lost", "limits.settle");
   * store.fail({ fault: "refuses", probability: 0.1 }, "limits", "records");
   * store.fail({ fault: "throws", call: 3 }, "ledger.intent");
   */
  fail(fault: StoreFault | StoreFaultRule, ...where: readonly StorePlace[]): void;
  /** Ends all faults, or those that were named with exactly these places. What hangs or is late stays so. */
  recover(...where: readonly StorePlace[]): void;
  /** Carries out what was late, and answers it. */
  deliver(): Promise<void>;
  /** Says that the counters are lost, as a server that came back empty: what must not be guessed is refused. Nobody here may rebuild them. */
  loseCounters(): void;
  /** Says that the counters are whole again. */
  findCounters(): void;
}

/** What a driver may say: neither a client nor anybody without a key may ever see it. */
export const DRIVER_ERROR = "connect ECONNREFUSED redis://:hunter2@10.0.0.7:6379";

const MAX_ASKED = 100_000;

interface ActiveRule extends StoreFaultRule {
  readonly where: readonly StorePlace[];
  seen: number;
}

/**
 * A store that fails when a test says so, around any store. Without a fault it does what the store inside does, though never at once: its answers are
 * promises, as a server's are, and nobody promises that they come.
 * @example
 * const store = faultyStore({ clock });
 * const guard = createGuard({ store, clock, … });
 * store.fail("reply lost", "limits.settle");
 * // … a request …
 * store.recover();
 */
export function faultyStore(options: FaultyStoreOptions = {}): FaultyStore {
  const { clock = systemClock, seed = 1, shared = true, nodes = 1 } = options;
  const recorded = recordingStore({ clock, ...(options.store ? { store: options.store } : {}) });
  const chance = seededRandom(seed);
  const asked: StoreCall[] = [];
  const history = losableHistory(recorded.limits.continuity);
  let rules: ActiveRule[] = [];
  let late: (() => void)[] = [];

  function ruleFor(call: StoreCall): ActiveRule | undefined {
    for (const rule of rules.toReversed()) {
      if (!rule.where.some((place) => call === place || call.startsWith(`${place}.`))) continue;
      rule.seen += 1;
      if (rule.call !== undefined && rule.call !== rule.seen) continue;
      if (rule.probability !== undefined && chance() >= rule.probability) continue;
      return rule;
    }
    return undefined;
  }

  /** A place to wait: the call is carried out when `begin` is called. */
  const postponed = <T>(run: () => MaybePromise<T>, schedule: (begin: () => void) => void): Promise<T> =>
    new Promise((resolve, reject) => schedule(() => void promised(run).then(resolve, reject)));

  function suffer<T>({ fault, delayMs = 0 }: StoreFaultRule, run: () => MaybePromise<T>): Promise<T> {
    switch (fault) {
      case "refuses":
        return Promise.reject(new GuardError("store_unavailable", "the store is away", { cause: new Error(DRIVER_ERROR) }));
      case "throws":
        return Promise.reject(new Error(DRIVER_ERROR));
      case "reply lost":
        return promised(run).then(() => {
          throw new GuardError("store_unavailable", "the store is away");
        });
      case "hangs":
        return new Promise(() => {});
      case "late":
        return postponed(run, (begin) => void late.push(begin));
      case "slow":
        return postponed(run, (begin) => void clock.timer(delayMs, begin));
    }
  }

  const tapped = tappedStore(recorded, (call, run) => {
    if (asked.length < MAX_ASKED) asked.push(call);
    const rule = ruleFor(call);
    if (call !== "ledger.close") return rule ? suffer(rule, run) : promised(run);
    // Closing a row has no answer: what fails is told at once, what is lost or late is not told at all.
    if (rule?.fault === "refuses" || rule?.fault === "throws") throw new Error(DRIVER_ERROR);
    if (rule) void suffer(rule, run).catch(() => {});
    return rule ? (undefined as never) : run();
  });

  const { reserve } = tapped.limits;
  const limits: LimitStore = {
    ...tapped.limits,
    reserve(opId, charges, ttlMs) {
      if (!history.isLost() || !charges.some(({ strict }) => strict)) return reserve(opId, charges, ttlMs);
      if (asked.length < MAX_ASKED) asked.push("limits.reserve");
      return Promise.reject(new GuardError("store_unavailable", "the counters were lost and are being rebuilt"));
    },
    continuity: history.continuity,
  };

  // Whether its calls end is what the faults are about.
  const { isBounded: _, ...rest } = tapped;
  return {
    ...rest,
    name: "faulty",
    shared,
    limits,
    nodes: () => nodes,
    asked,
    recording: recorded.recording,
    fail(fault, ...where) {
      const rule = typeof fault === "object" ? checked(fault) : { fault };
      checkNames(rule.fault, where);
      rules.push({ ...rule, where, seen: 0 });
    },
    recover(...where) {
      rules =
        where.length === 0 ? [] : rules.filter((rule) => rule.where.length !== where.length || !where.every((place) => rule.where.includes(place)));
    },
    async deliver() {
      const all = late;
      late = [];
      for (const begin of all) begin();
      await new Promise(setImmediate);
    },
    loseCounters: () => history.set(true),
    findCounters: () => history.set(false),
  };
}

const promised = async <T>(run: () => MaybePromise<T>): Promise<T> => run();

const FAULTS: { readonly [fault in StoreFault]: true } = { refuses: true, throws: true, "reply lost": true, hangs: true, late: true, slow: true };

/** A fault that never strikes would let a test pass that proves nothing. */
function checkNames(fault: string, where: readonly string[]): void {
  if (!Object.hasOwn(FAULTS, fault)) throw new RangeError(`fail(): there is no fault ${fault}${hint(fault, Object.keys(FAULTS))}`);
  if (where.length === 0) throw new RangeError('fail(): say where: "limits", "records", "strikes", "ledger", or one call such as "limits.reserve"');
  for (const place of where) if (!STORE_PLACES.includes(place)) throw new RangeError(`fail(): a store has no ${place}${hint(place, STORE_PLACES)}`);
}

function checked(rule: StoreFaultRule): StoreFaultRule {
  const { fault, call, probability, delayMs } = rule;
  if (call !== undefined && !(Number.isInteger(call) && call >= 1)) throw new RangeError(`fail({ call: ${call} }): calls are counted from 1`);
  if (probability !== undefined && !(probability >= 0 && probability <= 1))
    throw new RangeError(`fail({ probability: ${probability} }): expected 0 to 1`);
  if ((fault === "slow") !== (delayMs !== undefined))
    throw new RangeError('fail(): "slow" needs delayMs, in ms of the clock, and nothing else has one');
  return rule;
}

/** The history of the counters, which a test may declare lost on top of what the store inside says. */
function losableHistory(inner: Continuity | undefined): { readonly continuity: Continuity; isLost(): boolean; set(lost: boolean): void } {
  const watchers = new Set<() => void>();
  let lost = false;
  const continuity: Continuity = {
    get epoch() {
      return inner?.epoch ?? "1";
    },
    get isWhole() {
      return !lost && (inner?.isWhole ?? true);
    },
    begin: async (lastSeen) => inner?.begin(lastSeen),
    watch(fn) {
      const stop = inner?.watch(fn);
      watchers.add(fn);
      return () => {
        stop?.();
        watchers.delete(fn);
      };
    },
    // While a test holds the counters for lost, somebody else is always the one to rebuild them.
    claim: async (ttlMs) => !lost && ((await inner?.claim(ttlMs)) ?? true),
    restore: async (counters) => inner?.restore(counters),
    complete: async () => inner?.complete(),
  };
  return {
    continuity,
    isLost: () => lost,
    set(next) {
      lost = next;
      for (const fn of watchers) fn();
    },
  };
}
