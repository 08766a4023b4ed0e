import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { silentLogger, type Logger } from "../core/logger.ts";
import { systemClock } from "../core/time.ts";
import { openStores } from "../open-stores.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import { keptRecords } from "../reselling.ts";
import { countStoredKeys } from "../stored-keys.ts";
import { ledgerName } from "../spooling.ts";
import { brokenIn, isSpoolOf, spoolsIn, type SpoolFile } from "../stores/spool/spool-folder.ts";
import { placeOf, type ResolvedLedger, type ResolvedStore } from "../options/stores.ts";

/** SQLite's own word for a database without a file. */
const MEMORY_PATH = ":memory:";

export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly detail: string;
}

const isMissing = (kept: ResolvedStore | ResolvedLedger): boolean => kept.kind === "sqlite" && kept.path !== MEMORY_PATH && !existsSync(kept.path);

/** How many keys were made at run time; 0 also where they cannot be read: that is told as what it is. */
export async function storedKeyCount(options: ResolvedOptions): Promise<number> {
  if ([options.store, options.ledger].some(isMissing)) return 0;
  try {
    const stores = await openStores(options, systemClock, silentLogger);
    try {
      return await countStoredKeys(keptRecords(stores, stores.store.records, options, systemClock));
    } finally {
      await stores.close();
    }
  } catch {
    return 0;
  }
}

/** Opens store and ledger as the server would; what they log of trouble then is worth knowing now. */
export async function checkStores(
  options: ResolvedOptions,
): Promise<{ readonly findings: readonly Finding[]; readonly warnings: readonly string[] }> {
  const { store, ledger } = options;
  const findings = [await checked("store", store, { ...options, ledger: { kind: "store" } })];
  if (ledger.kind !== "store") findings.push(await checked("ledger", ledger, { ...options, store: { kind: "memory" } }));
  const warnings: string[] = [];
  if (findings.every(({ ok }) => ok) && ![store, ledger].some(isMissing)) {
    const note = (_fields: object, message: string): void => void warnings.push(message);
    const logger: Logger = { ...silentLogger, warn: note, error: note };
    await (await openStores(options, systemClock, logger)).close();
  }
  return { findings, warnings };
}

/** Spools that wait for their ledger, as warnings: a gateway that runs takes them by itself, and where none does, their rows are in no report. */
export async function spoolWarnings({ ledger }: ResolvedOptions): Promise<readonly string[]> {
  if (ledger.kind !== "postgres" || ledger.spool === null) return [];
  const { path } = ledger.spool;
  try {
    const [found, broken] = await Promise.all([spoolsIn(path), brokenIn(path)]);
    const ours = found.filter((file) => isSpoolOf(ledgerName(ledger), file));
    const others = found.filter((file) => !ours.includes(file));
    const bytes = (files: readonly SpoolFile[]): number => files.reduce((sum, file) => sum + file.bytes, 0);
    return [
      ...(ours.length > 0
        ? [
            `ledger.spool: ${ours.length} files (${bytes(ours)} bytes) in ${path} wait for the ledger: the next start of a gateway here writes them to it`,
          ]
        : []),
      ...(others.length > 0
        ? [
            `ledger.spool: ${others.length} files (${bytes(others)} bytes) in ${path} are of another ledger.url: start a gateway with that one to save their rows`,
          ]
        : []),
      ...broken.map((file) => `ledger.spool: ${file} has lines that cannot be read; look at them, then move it away`),
    ];
  } catch (error) {
    return [`ledger.spool: the folder ${path} cannot be read (${(error as Error).message})`];
  }
}

/** Makes no file: whoever checks is often not the user that the server runs as, and what is made here could be closed to it. */
async function checked(what: string, wanted: ResolvedStore | ResolvedLedger, options: ResolvedOptions): Promise<Finding> {
  try {
    if (wanted.kind === "sqlite" && isMissing(wanted)) {
      await canBeMade(wanted.path);
      return { what, ok: true, detail: `is made at the first start (${wanted.path})` };
    }
    await (await openStores(options, systemClock, silentLogger)).close();
    return { what, ok: true, detail: `opens (${placeOf(wanted)})` };
  } catch (error) {
    return { what, ok: false, detail: (error as Error).message };
  }
}

/** Looks at the nearest folder that is there. Throws what the store would say. */
async function canBeMade(path: string): Promise<void> {
  let folder = dirname(path);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  try {
    if (!statSync(folder).isDirectory()) throw Object.assign(new Error(`${folder} is not a folder`), { code: "ENOTDIR" });
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { startProblem } = await import("../stores/sqlite/trouble.ts");
    throw startProblem(error, path);
  }
}
