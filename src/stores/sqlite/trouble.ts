import { ConfigError } from "../../core/errors.ts";
import { NewerSchemaError } from "../sql/migrations.ts";

export { storeUnavailable } from "../sql/store-unavailable.ts";

/** SQLite's primary result codes that we tell apart. */
const BUSY = 5;
const LOCKED = 6;
const READONLY = 8;
const IOERR = 10;
const CORRUPT = 11;
const FULL = 13;
const CANTOPEN = 14;
const TOOBIG = 18;
const CONSTRAINT = 19;
const MISMATCH = 20;
const RANGE = 25;
const NOTADB = 26;

/** The primary code of an error of node:sqlite, which carries the extended one. */
function resultCode(error: unknown): number | undefined {
  const code = (error as { errcode?: unknown } | null)?.errcode;
  return typeof code === "number" ? code & 0xff : undefined;
}

/** True when the row itself cannot be stored: writing it again will never help, and the rows beside it are fine. */
export function isRowFault(error: unknown): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return true;
  const code = resultCode(error);
  return code === CONSTRAINT || code === MISMATCH || code === TOOBIG || code === RANGE;
}

const ADVICE: Readonly<Record<string, string>> = {
  EACCES: "the process may not write there: give its user write access to the folder and the file, or name another path",
  EPERM: "the process may not write there: give its user write access to the folder and the file, or name another path",
  EROFS: "the file system is read-only: name a path on a writable volume",
  EISDIR: "it is a folder: name a file inside it",
  ENOTDIR: "a part of the path is a file, not a folder",
  EEXIST: "a part of the path is a file, not a folder",
  ENOENT: "its folder cannot be created",
  ENOSPC: "the disk is full: free space or name a path on another volume",
  EDQUOT: "the disk quota is used up: free space or name a path on another volume",
  [`sqlite ${BUSY}`]: "another process holds the file locked: end it (or its long transaction) and start again",
  [`sqlite ${LOCKED}`]: "another connection holds the file locked: end its transaction and start again",
  [`sqlite ${READONLY}`]: "the file or its folder is read-only: give the process's user write access to both",
  [`sqlite ${IOERR}`]: "the disk reported an error: check the volume (network file systems do not support WAL)",
  [`sqlite ${CORRUPT}`]: "the file is damaged: restore a backup, or move it (with its -wal and -shm files) aside to start anew",
  [`sqlite ${FULL}`]: "the disk is full: free space or name a path on another volume",
  [`sqlite ${CANTOPEN}`]: "the file cannot be opened: check that its folder exists and is writable",
  [`sqlite ${NOTADB}`]: "the file is not a SQLite database: name another path, or move the file aside",
};

/** Names the setting, the path and the way out for anything that keeps the store from starting. */
export function startProblem(error: unknown, path: string): Error {
  if (error instanceof ConfigError) return error;
  const code = resultCode(error);
  const advice = ADVICE[code === undefined ? String((error as { code?: unknown } | null)?.code) : `sqlite ${code}`];
  const message = error instanceof Error ? error.message : String(error);
  const what = error instanceof NewerSchemaError ? message : advice === undefined ? message : `${advice} (${message})`;
  const problem = new ConfigError([`the SQLite path "${path}" (store.url, ledger.url or sqliteStore's first argument) cannot be used: ${what}`]);
  problem.cause = error;
  return problem;
}
