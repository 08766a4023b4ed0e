import { GuardError } from "../src/core/errors.ts";
import type { LedgerRow } from "../src/core/ledger.ts";
import type { Continuity, CounterState, Ledger, LimitStore, RecordStore } from "../src/core/store.ts";
import type { TestClock } from "../src/testing/clock.ts";
import { decodeState } from "../src/limits/codec.ts";
import { limitEngine, type LimitEngine } from "../src/limits/engine.ts";
import { MemoryLimits } from "../src/stores/memory-limits.ts";
import { memoryLedger } from "../src/stores/memory-ledger.ts";
import { memoryRecords } from "../src/stores/memory-records.ts";
import { silentLogger } from "../src/core/logger.ts";

/** A server of counters that can be emptied, and processes that share it. */
export interface Server {
  readonly node: (name: string) => Node;
  /** Comes back empty. */
  lose(): void;
  /** Whether its verbs work. */
  isAway: boolean;
  /** What was restored, by whom. */
  readonly restored: { readonly node: string; readonly keys: readonly string[] }[];
  readonly begun: (string | null)[];
  readonly claims: string[];
  readonly limits: LimitEngine;
}

export interface Node {
  readonly limits: LimitStore;
  readonly continuity: Continuity;
}

export function server(clock: TestClock): Server {
  let backend = new MemoryLimits(clock, 1_000_000);
  let engine = limitEngine(backend);
  let meta: { epoch: string; isWhole: boolean } | null = null;
  let lock: { readonly node: string; readonly untilMs: number } | null = null;
  let epochs = 0;

  const reached = (): void => {
    if (it.isAway) throw new GuardError("store_unavailable", "the server is away");
  };
  const found = (lastSeen: string | null) => (meta ??= { epoch: `e${(epochs += 1)}`, isWhole: lastSeen === null });

  function node(name: string): Node {
    let known: { epoch: string; isWhole: boolean } | null = null;
    const watchers = new Set<() => void>();
    const adopt = (lastSeen: string | null): void => {
      reached();
      const now = { ...found(lastSeen) };
      const isNews = known !== null && (known.epoch !== now.epoch || known.isWhole !== now.isWhole);
      known = now;
      if (isNews) for (const watcher of watchers) watcher();
    };
    const continuity: Continuity = {
      get epoch() {
        return known?.epoch ?? "";
      },
      get isWhole() {
        return known?.isWhole ?? false;
      },
      async begin(lastSeen) {
        await Promise.resolve();
        it.begun.push(lastSeen);
        adopt(lastSeen);
      },
      watch(fn) {
        watchers.add(fn);
        return () => void watchers.delete(fn);
      },
      async claim(ttlMs) {
        await Promise.resolve();
        reached();
        it.claims.push(name);
        if (lock !== null && lock.node !== name && lock.untilMs > clock.monotonic()) return false;
        lock = { node: name, untilMs: clock.monotonic() + ttlMs };
        return true;
      },
      async restore(counters: readonly CounterState[]) {
        await Promise.resolve();
        reached();
        if (meta?.isWhole !== false) throw new Error("counters were overwritten that are whole");
        it.restored.push({ node: name, keys: counters.map(({ key }) => key) });
        for (const { key, state } of counters) backend.insert(decodeState(key, state));
      },
      async complete() {
        await Promise.resolve();
        reached();
        if (meta?.epoch !== known?.epoch) throw new GuardError("store_unavailable", "lost once more");
        meta = { epoch: known?.epoch ?? "", isWhole: true };
        lock = null;
        adopt(null);
      },
    };
    const limits: LimitStore = {
      continuity,
      reserve(opId, charges, ttlMs) {
        reached();
        if (meta?.epoch !== known?.epoch || meta?.isWhole !== known?.isWhole) adopt("");
        if (charges.some(({ strict }) => strict === true) && known?.isWhole !== true)
          throw new GuardError("store_unavailable", "the counters were lost and are being rebuilt");
        return engine.reserve(opId, charges, ttlMs);
      },
      settle: (opId, actual) => engine.settle(opId, actual),
      release: (opId) => engine.release(opId),
      extend: (opId, ttlMs) => engine.extend(opId, ttlMs),
      lapse: (opId) => engine.lapse(opId),
      expire: (most) => engine.expire(most),
      peek: (asked) => engine.peek(asked),
    };
    return { limits, continuity };
  }

  const it: Server = {
    node,
    lose() {
      backend = new MemoryLimits(clock, 1_000_000);
      engine = limitEngine(backend);
      meta = null;
      lock = null;
    },
    isAway: false,
    restored: [],
    begun: [],
    claims: [],
    get limits() {
      return engine;
    },
  };
  return it;
}

/** A ledger that lasts, whose scan can be held up and that can fail. */
export interface LastingLedger extends Ledger {
  /** Scans wait until it is called. */
  hold(): () => void;
  readonly scans: number[];
  failures: number;
  since: number;
  readonly records: RecordStore;
}

export function lastingLedger(clock: TestClock): LastingLedger {
  const rows = memoryLedger(1_000_000, 0);
  let gate: Promise<void> | null = null;
  const it: LastingLedger = {
    ...rows,
    scans: [],
    failures: 0,
    since: 0,
    records: memoryRecords(clock.now, silentLogger),
    hold() {
      let open!: () => void;
      gate = new Promise<void>((resolve) => (open = resolve));
      return () => {
        gate = null;
        open();
      };
    },
    flush() {
      if (it.failures === 0) return undefined;
      it.failures -= 1;
      throw new GuardError("store_unavailable", "the ledger is away");
    },
    async *scan(fromMs): AsyncGenerator<readonly LedgerRow[]> {
      it.scans.push(fromMs);
      if (gate) await gate;
      yield* rows.scan(fromMs);
    },
    completeSince: () => it.since,
  };
  return it;
}

/** Lets everything run that needs no time to pass. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 30; i += 1) await new Promise(setImmediate);
}
