import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { silentLogger, type Logger } from "../core/logger.ts";
import { systemClock } from "../core/time.ts";
import { openStores } from "../open-stores.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import { markProblem } from "../key-mark.ts";
import { keptRecords } from "../reselling.ts";
import { secretKey } from "../secret-key.ts";
import { countStoredKeys } from "../stored-keys.ts";
import { ledgerName } from "../spooling.ts";
import { brokenIn, folderProblem, isSpoolOf, spoolsIn, type SpoolFile } from "../stores/spool/spool-folder.ts";
import { placeOf, type ResolvedLedger, type ResolvedStore } from "../options/stores.ts";

/** SQLite's own word for a database without a file. */
const MEMORY_PATH = ":memory:";

export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly detail: string;
}

const isMissing = (kept: ResolvedStore | ResolvedLedger): boolean => kept.kind === "sqlite" && kept.path !== MEMORY_PATH && !existsSync(kept.path);

/** Keys that were made at run time. */
export interface StoredKeys {
  /** Null = they cannot be read: why is told as what it is. */
  readonly count: number | null;
  /** Why a start would refuse to go on with them. */
  readonly problem: string | null;
}

export async function storedKeysOf(options: ResolvedOptions): Promise<StoredKeys> {
  // A ledger of its own has them; a store that is not there yet says nothing about it, and is not made here.
  const asked: ResolvedOptions = options.ledger.kind === "store" ? options : { ...options, store: { kind: "memory" } };
  if (isMissing(asked.ledger.kind === "store" ? asked.store : asked.ledger)) return { count: 0, problem: null };
  try {
    const stores = await openStores(asked, systemClock, silentLogger);
    try {
      const records = keptRecords(stores, stores.store.records, asked, systemClock);
      const count = await countStoredKeys(records);
      const wrong = await markProblem({ records, secretKey: () => secretKey(options, false), replaces: options.secrets.replaces });
      return { count, problem: wrong?.problems.join("; ") ?? null };
    } finally {
      await stores.close();
    }
  } catch {
    return { count: null, problem: null };
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

/** A folder that could not take a spool is found out now, and not by the outage that needs it. */
export async function spoolFindings({ ledger }: ResolvedOptions): Promise<readonly Finding[]> {
  if (ledger.kind !== "postgres" || ledger.spool === null) return [];
  const { path } = ledger.spool;
  const problem = await spoolProblem(path);
  const detail = problem === null ? `takes the rows while the ledger is away (${path})` : `would take no row while the ledger is away: ${problem}`;
  return [{ what: "ledger.spool", ok: problem === null, detail }];
}

async function spoolProblem(path: string): Promise<string | null> {
  try {
    if (existsSync(path)) return await folderProblem(path);
    lookAbove(path);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Spools that wait for their ledger, as warnings: a gateway that runs takes them by itself, and where none does, their rows are in no report. */
export async function spoolWarnings({ ledger }: ResolvedOptions): Promise<readonly string[]> {
  if (ledger.kind !== "postgres" || ledger.spool === null) return [];
  const { path } = ledger.spool;
  try {
    const [found, broken] = await Promise.all([spoolsIn(path), brokenIn(path)]);
    const ours = found.filter((file) => isSpoolOf(ledgerName(ledger), file));
    const others = found.filter((file) => !ours.includes(file));
    const filesText = (files: readonly SpoolFile[]): string =>
      `${files.length} ${files.length === 1 ? "file" : "files"} (${files.reduce((sum, file) => sum + file.bytes, 0)} bytes)`;
    return [
      ...(ours.length > 0
        ? [
            `ledger.spool: ${filesText(ours)} in ${path}, not yet in the ledger: a gateway that runs writes them to it by itself, else the next start does`,
          ]
        : []),
      ...(others.length > 0
        ? [`ledger.spool: ${filesText(others)} in ${path} of another ledger.url: start a gateway with that one to save their rows`]
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

/** Throws what the store would say. */
async function canBeMade(path: string): Promise<void> {
  try {
    lookAbove(path);
  } catch (error) {
    const { startProblem } = await import("../stores/sqlite/trouble.ts");
    throw startProblem(error, path);
  }
}

/** At the nearest folder that is there. */
function lookAbove(path: string): void {
  let folder = dirname(path);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  if (!statSync(folder).isDirectory()) throw Object.assign(new Error(`${folder} is not a folder`), { code: "ENOTDIR" });
  accessSync(folder, constants.W_OK | constants.X_OK);
}
