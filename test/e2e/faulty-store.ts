import type { LedgerRow } from "../../src/core/ledger.ts";
import { GuardError } from "../../src/core/errors.ts";
import type { Continuity, Ledger, LimitStore, RecordStore, Store, StrikeStore } from "../../src/core/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import type { TestClock } from "../../src/testing/clock.ts";

/**
 * What becomes of a call: it fails before anything was done, as our stores say it or as a driver would; its reply is lost after it was done; it is never
 * answered; or it is carried out and answered when the test says so.
 */
export type Fault = "refuses" | "throws" | "reply lost" | "hangs" | "late";

/** What a driver may say: neither clients nor anybody without a key may see it. */
export const DRIVER_ERROR = "connect ECONNREFUSED redis://:hunter2@10.0.0.7:6379";

type Part = "limits" | "records" | "strikes" | "ledger";

export interface FaultyStore extends Store {
  /** `limits.reserve`, `ledger.intent`, … in the order in which they were asked for. */
  readonly asked: string[];
  /** Rows that were closed. */
  readonly rows: LedgerRow[];
  /** From now on, calls of these parts or operations (`limits`, `limits.settle`) fare like this. */
  fail(fault: Fault, ...where: readonly (Part | `${Part}.${string}`)[]): void;
  recover(): void;
  /** Carries out what was late, and answers it. */
  deliver(): Promise<void>;
  /** Loses the counters, as `Continuity` has it, or has them back. */
  lose(isLost: boolean): void;
}

/** A shared store like one that somebody else wrote: no promise about its calls, and answers that come later, or never. */
export function faultyStore(clock: TestClock, nodes = 1): FaultyStore {
  const real = memoryStore({ clock });
  const asked: string[] = [];
  const rows: LedgerRow[] = [];
  let fault: Fault | null = null;
  let failing: readonly string[] = [];
  let late: (() => void)[] = [];
  let isLost = false;
  let watchers: (() => void)[] = [];

  function act<T>(name: string, run: () => T): Promise<Awaited<T>> {
    asked.push(name);
    const isFailing = fault !== null && failing.some((place) => name === place || name.startsWith(`${place}.`));
    const now = async (): Promise<Awaited<T>> => run() as Awaited<T>;
    if (!isFailing) return now();
    switch (fault as Fault) {
      case "refuses":
        return Promise.reject(new GuardError("store_unavailable", "the store is away", { cause: new Error(DRIVER_ERROR) }));
      case "throws":
        return Promise.reject(new Error(DRIVER_ERROR));
      case "reply lost":
        return now().then(() => {
          throw new GuardError("store_unavailable", "the store is away");
        });
      case "hangs":
        return new Promise(() => {});
      case "late":
        return new Promise((resolve, reject) => {
          late.push(() => void now().then(resolve, reject));
        });
    }
  }

  const continuity: Continuity = {
    epoch: "1",
    get isWhole() {
      return !isLost;
    },
    begin: async () => {},
    watch(fn) {
      watchers.push(fn);
      return () => {
        watchers = watchers.filter((each) => each !== fn);
      };
    },
    claim: async () => true,
    restore: async () => {},
    complete: async () => {},
  };
  const limits: LimitStore = {
    reserve: (opId, charges, ttlMs) =>
      act("limits.reserve", () => {
        if (isLost && charges.some(({ strict }) => strict)) throw new GuardError("store_unavailable", "the counters were lost and are being rebuilt");
        return real.limits.reserve(opId, charges, ttlMs);
      }),
    settle: (opId, actual) => act("limits.settle", () => real.limits.settle(opId, actual)),
    release: (opId) => act("limits.release", () => real.limits.release(opId)),
    extend: (opId, ttlMs) => act("limits.extend", () => real.limits.extend(opId, ttlMs)),
    lapse: (opId) => act("limits.lapse", () => real.limits.lapse(opId)),
    expire: (most) => act("limits.expire", () => real.limits.expire(most)),
    peek: (places) => act("limits.peek", () => real.limits.peek(places)),
    continuity,
  };
  const records: RecordStore = {
    get: (key) => act("records.get", () => real.records.get(key)),
    put: (key, value, how) => act("records.put", () => real.records.put(key, value, how)),
    delete: (key) => act("records.delete", () => real.records.delete(key)),
    list: (prefix) => act("records.list", () => real.records.list(prefix)),
    watch: (prefix, fn) => real.records.watch(prefix, fn),
  };
  const strikes: StrikeStore = {
    strike: (key, windowMs) => act("strikes.strike", () => real.strikes.strike(key, windowMs)),
    clear: (key) => act("strikes.clear", () => real.strikes.clear(key)),
  };
  const ledger: Ledger = {
    intent: (row) => act("ledger.intent", () => real.ledger.intent(row)),
    close(row) {
      asked.push("ledger.close");
      rows.push(row);
      if (fault !== null && failing.includes("ledger.close")) throw new Error(DRIVER_ERROR);
      real.ledger.close(row);
    },
    flush: () => act("ledger.flush", () => real.ledger.flush()),
    get: (id) => act("ledger.get", () => real.ledger.get(id)),
    list: (filter) => act("ledger.list", () => real.ledger.list(filter)),
    totals: (filter, groupBy) => act("ledger.totals", () => real.ledger.totals(filter, groupBy)),
    scan: (fromMs) => real.ledger.scan(fromMs),
    completeSince: () => act("ledger.completeSince", () => real.ledger.completeSince()),
  };
  return {
    name: "faulty",
    shared: true,
    limits,
    records,
    strikes,
    ledger,
    asked,
    rows,
    ready: () => undefined,
    close: () => undefined,
    nodes: () => nodes,
    fail(how, ...where) {
      fault = how;
      failing = where;
    },
    recover() {
      fault = null;
    },
    async deliver() {
      const all = late;
      late = [];
      for (const run of all) run();
      await new Promise(setImmediate);
    },
    lose(lost) {
      isLost = lost;
      for (const fn of watchers) fn();
    },
  };
}
