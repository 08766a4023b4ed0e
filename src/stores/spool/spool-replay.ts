/** Writes one spool to its ledger. All of it may happen again: a row is known by its id. */
import type { LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { LedgerStore } from "../../core/store.ts";
import { orphanRow } from "../sql/ledger-rows.ts";
import { openToRead, type SpoolDisk, type SpoolFolder } from "./spool-folder.ts";
import { readSpool } from "./spool-lines.ts";

/** Rows of one statement. */
const BATCH_ROWS = 500;

export interface SpoolReplayOptions {
  readonly path: string;
  /** Of a process that is gone: what it left open ends as `unknown`. */
  readonly isOrphaned: boolean;
  readonly replay: NonNullable<LedgerStore["replay"]>;
  readonly disk: SpoolDisk | undefined;
  /** True = stop between two writes. */
  readonly isStopped: () => boolean;
  /** Wall clock, ms. */
  readonly now: () => number;
  readonly logger: Logger;
}

export interface SpoolReplayed {
  readonly rows: number;
  /** Of them, requests whose process died: charged as held. */
  readonly orphans: number;
  /** False = there are lines that nobody can read: the file must be kept. */
  readonly isWhole: boolean;
}

/** A spool that cannot be read any further, although its file is there. */
class UnreadableSpoolError extends Error {}

/** Resolves when all that can be read is committed; null = it was stopped. Rejects when the ledger does not take it: then it begins anew. */
export async function replaySpool(options: SpoolReplayOptions): Promise<SpoolReplayed | null> {
  const { path, isOrphaned, replay, isStopped, logger } = options;
  const open = new Map<string, LedgerRow>();
  let batch = new Map<string, LedgerRow>();
  let rows = 0;
  let broken = 0;

  async function commit(gapUntilMs: number | null = null): Promise<void> {
    const given = [...batch.values()];
    batch = new Map();
    if (given.length > 0 || gapUntilMs !== null) await replay(given, gapUntilMs);
    rows += given.length;
  }

  /** Of a repeated id the first row counts, as in the ledger. */
  async function add(row: LedgerRow): Promise<void> {
    if (!batch.has(row.id)) batch.set(row.id, row);
    if (batch.size >= BATCH_ROWS) await commit();
  }

  try {
    for await (const lines of linesOf(path, options.disk)) {
      if (isStopped()) return null;
      broken += lines.broken;
      for (const { kind, row } of lines.entries) {
        if (kind === "intent") open.set(row.id, row);
        else {
          open.delete(row.id);
          await add(row);
        }
      }
    }
  } catch (error) {
    if (!(error instanceof UnreadableSpoolError)) throw error;
    broken += 1;
    logger.error({ code: "QG_LEDGER_SPOOL_BROKEN", path, err: error.cause }, "a spool of the ledger cannot be read to its end");
  }
  let orphans = 0;
  if (isOrphaned) {
    for (const row of open.values()) {
      if (isStopped()) return null;
      await add(orphanRow(row));
    }
    orphans = open.size;
  }
  await commit(broken > 0 ? options.now() : null);
  return { rows, orphans, isWhole: broken === 0 };
}

/** The end of a file whose rows are in the ledger. Never rejects. */
export async function discardSpool(folder: SpoolFolder, path: string, isWhole: boolean, logger: Logger): Promise<void> {
  try {
    if (isWhole) return await folder.remove(path);
    const aside = await folder.setAside(path);
    logger.error(
      { code: "QG_LEDGER_SPOOL_BROKEN", path: aside },
      "a spool of the ledger has lines that cannot be read: the other ones are in the ledger, and the file is kept",
    );
  } catch (error) {
    // Another process took it, and writes it too.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    logger.warn(
      { err: error, path },
      "a spool that is in the ledger could not be removed: the next start writes it once more, which changes nothing",
    );
  }
}

async function* linesOf(path: string, disk: SpoolDisk | undefined): ReturnType<typeof readSpool> {
  const unreadable = (cause: unknown): never => {
    throw new UnreadableSpoolError("", { cause });
  };
  const file = await openToRead(path, disk).catch((error: unknown) =>
    (error as NodeJS.ErrnoException).code === "ENOENT" ? null : unreadable(error),
  );
  // Another process took this one for dead and its file: it writes it to the ledger.
  if (file === null) return;
  try {
    yield* readSpool((into, position) => file.read(into, position).catch(unreadable));
  } finally {
    await file.close().catch(() => {});
  }
}
