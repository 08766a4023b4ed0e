import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";

import type { Logger } from "../../core/logger.ts";
import { startProblem } from "./trouble.ts";

export const MEMORY_PATH = ":memory:";

/** How long a statement may wait for another process's lock. SQLite waits inside the call, so this is how long our event loop can stand still. */
const BUSY_TIMEOUT_MS = 500;
/** While starting nobody waits for the event loop, and another process may be migrating. */
const START_BUSY_TIMEOUT_MS = 2000;
/** A WAL that a long reader let grow is cut back to this. */
const WAL_BYTES = 64 * 1024 * 1024;

export interface OpenOptions {
  readonly synchronous: "normal" | "full";
  readonly logger: Logger;
}

/**
 * Opens (and creates, readable by its owner alone) a database file in WAL mode. Throws a ConfigError that names the path and what to do.
 */
export function openDatabase(path: string, { synchronous, logger }: OpenOptions): DatabaseSync {
  let db: DatabaseSync | undefined;
  try {
    if (path !== MEMORY_PATH) {
      createFolder(dirname(path));
      // SQLite would create the file with the umask's mode, and its -wal and -shm files take theirs from it.
      closeSync(openSync(path, "a", 0o600));
    }
    db = new DatabaseSync(path);
    db.exec(`pragma busy_timeout = ${START_BUSY_TIMEOUT_MS}`);
    const mode = db.prepare("pragma journal_mode = wal").get()?.journal_mode;
    if (mode !== "wal" && path !== MEMORY_PATH) {
      logger.warn({ path, journalMode: mode }, "SQLite cannot use WAL on this file system: commits are slower and readers block writers");
    }
    db.exec(`pragma synchronous = ${synchronous}; pragma foreign_keys = on; pragma journal_size_limit = ${WAL_BYTES}`);
    warnOfWalReset(db, logger);
    return db;
  } catch (error) {
    db?.close();
    throw startProblem(error, path);
  }
}

/** Like `mkdir -p`. Node's own recursion never returns where mkdir keeps answering ENOENT (below /proc, on some mounts). */
function createFolder(folder: string): void {
  if (existsSync(folder)) return;
  const parent = dirname(folder);
  if (parent !== folder) createFolder(parent);
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    // Another process may have been quicker.
    if (!existsSync(folder)) throw error;
  }
}

/** From the end of the start on, a lock may hold a request up only briefly. */
export function startServing(db: DatabaseSync): void {
  db.exec(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`);
}

/**
 * SQLite from 3.7.0 to 3.51.2 can damage a WAL database when two connections write and checkpoint at the same instant (fixed in 3.51.3,
 * also in 3.44.6 and 3.50.7: https://www.sqlite.org/wal.html#walresetbug). One process alone is not affected, and distributions backport
 * fixes without a new number, so this is a warning and not a refusal.
 */
function warnOfWalReset(db: DatabaseSync, logger: Logger): void {
  const version = String(db.prepare("select sqlite_version() as version").get()?.version);
  if (hasWalResetBug(version)) {
    logger.warn({ sqlite: version }, "this SQLite has the WAL-reset bug: let only one process use the file, or update Node (SQLite 3.51.3 or later)");
  }
}

export function hasWalResetBug(version: string): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number);
  if (major !== 3) return false;
  if (minor === 44) return patch < 6;
  if (minor === 50) return patch < 7;
  return minor >= 7 && (minor < 51 || (minor === 51 && patch < 3));
}
