// A ledger that can be away, and a disk that can fail.
import * as files from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { onTestFinished } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import type { LedgerIntent, LedgerRow } from "../../../src/core/ledger.ts";
import type { LedgerStore } from "../../../src/core/store.ts";
import { memoryStore } from "../../../src/stores/memory.ts";
import type { SpoolDisk } from "../../../src/stores/spool/spool-folder.ts";
import { spooledLedger, type SpooledLedger, type SpooledLedgerOptions } from "../../../src/stores/spool/spooled-ledger.ts";
import { testClock, type TestClock } from "../../../src/testing/clock.ts";
import { keptLogger } from "../../core/context-kit.ts";
import { tempFolder } from "../sqlite-kit.ts";

export const refusal = (): GuardError => new GuardError("store_unavailable", "the database is away");

export interface AwayLedger extends LedgerStore {
  replay: NonNullable<LedgerStore["replay"]>;
  isAway: boolean;
  /** What the database holds: open intents by id, and rows in the order in which they came. */
  readonly intents: Map<string, LedgerIntent>;
  readonly rows: Map<string, LedgerRow>;
  readonly gaps: number[];
  /** Rows that stay away with it; they come when it is back. */
  readonly queued: LedgerRow[];
}

/** As the Postgres ledger behaves: refuses intents and keeps finished rows in memory while it is away. */
export function awayLedger(clock: TestClock): AwayLedger {
  const base = memoryStore({ clock });
  const intents = new Map<string, LedgerIntent>();
  const rows = new Map<string, LedgerRow>();
  const gaps: number[] = [];
  const queued: LedgerRow[] = [];
  const waiters: (() => void)[] = [];
  const put = (row: LedgerRow, corrects: boolean): void => {
    intents.delete(row.id);
    const known = rows.get(row.id);
    if (known === undefined || (corrects && known.state === "unknown" && row.state !== "unknown")) rows.set(row.id, row);
  };
  const caughtUp = (): void => {
    for (const row of queued.splice(0)) put(row, false);
    for (const resolve of waiters.splice(0)) resolve();
  };
  const store: AwayLedger = {
    ...base,
    intents,
    rows,
    gaps,
    queued,
    isAway: false,
    ledger: {
      ...base.ledger,
      async intent(row) {
        if (store.isAway) throw refusal();
        intents.set(row.id, row);
      },
      close(row) {
        queued.push(row);
        if (!store.isAway) queueMicrotask(caughtUp);
      },
      async flush() {
        if (!store.isAway) return caughtUp();
        return new Promise((resolve) => waiters.push(resolve));
      },
      completeSince: () => 0,
    },
    async replay(given, gapUntilMs) {
      if (store.isAway) throw refusal();
      caughtUp();
      for (const row of given) put(row, true);
      if (gapUntilMs !== null) gaps.push(gapUntilMs);
    },
  };
  return store;
}

export interface DiskFaults {
  /** Throws, or does not, before the flush of that number, counted from 1. */
  onSync?: (number: number) => Promise<void> | void;
  onWrite?: (text: string, handle: FileHandle) => Promise<void> | void;
}

/** The real disk, but for what the faults say. */
export function faultyDisk(faults: DiskFaults): SpoolDisk & { readonly syncs: number } {
  let syncs = 0;
  return {
    ...files,
    get syncs() {
      return syncs;
    },
    async open(...args: Parameters<typeof files.open>) {
      const handle = await files.open(...args);
      return new Proxy(handle, {
        get(target, name) {
          if (name === "datasync") {
            return async () => {
              await faults.onSync?.((syncs += 1));
              await target.datasync();
            };
          }
          if (name === "appendFile") {
            return async (text: string) => {
              await faults.onWrite?.(text, target);
              await target.appendFile(text);
            };
          }
          const value: unknown = Reflect.get(target, name);
          return typeof value === "function" ? (value.bind(target) as unknown) : value;
        },
      });
    },
  };
}

export const diskError = (code: string): Error => Object.assign(new Error(`${code}: the disk failed`), { code });

export interface SpoolKit {
  readonly clock: TestClock;
  readonly logger: ReturnType<typeof keptLogger>;
  readonly store: AwayLedger;
  readonly spool: SpooledLedger;
  readonly folder: string;
  /** Codes of the log lines so far. */
  codes(): string[];
  /** Lets time pass until it is so. */
  until(is: () => boolean): Promise<void>;
}

/** A spool before a ledger that a test sends away. */
export async function spoolKit(more: Partial<SpooledLedgerOptions> & { readonly store?: AwayLedger } = {}): Promise<SpoolKit> {
  const clock = (more.clock as TestClock | undefined) ?? testClock();
  const logger = keptLogger();
  const store = more.store ?? awayLedger(clock);
  const folder = more.path ?? `${tempFolder()}/spool`;
  const spool = spooledLedger({ name: "test", maxBytes: 1_000_000, maxTimeMs: 900_000, clock, logger, ...more, path: folder, store });
  await spool.start();
  onTestFinished(async () => {
    store.isAway = false;
    await spool.close();
  });
  return {
    clock,
    logger,
    store,
    spool,
    folder,
    codes: () => logger.lines.flatMap(({ fields }) => (typeof fields["code"] === "string" ? [fields["code"]] : [])),
    async until(is) {
      for (const startedAt = performance.now(); !is() && performance.now() - startedAt < 10_000;) {
        clock.advance(20);
        await new Promise(setImmediate);
      }
      if (!is()) throw new Error("it does not come to that");
    },
  };
}
