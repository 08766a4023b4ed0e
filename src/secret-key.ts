/** The key that encrypts at rest: what the operator gave, or one of our own, as lasting as what it encrypts. */
import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, fsyncSync, linkSync, mkdirSync, openSync, readSync, unlinkSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { DIAGNOSTICS } from "./core/diagnostics.ts";
import { ConfigError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import { Secret } from "./core/secret.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

const MEMORY_PATH = ":memory:";
const KEY = /^[0-9a-f]{64}$/;
const MAX_BYTES = 256;
const GIVE = "set secrets.key (QUOTAGUARD_SECRET_KEY); make one with: openssl rand -hex 32";

let ofThisProcess: Secret | undefined;

/**
 * `secrets.key`; else a file beside the SQLite database that keeps the ledger (made once, readable by its owner alone); else, where nothing outlives the process,
 * a random key that does not either.
 *
 * @param mayMake false = what stands in the database was made with it: then a file that is gone is not made anew
 * @throws ConfigError when there is none, or its file cannot be used.
 */
export function secretKey({ secrets, store, ledger }: Pick<ResolvedOptions, "secrets" | "store" | "ledger">, mayMake = true): Secret {
  if (secrets.key) return secrets.key;
  const kept = ledger.kind === "store" ? store : ledger;
  const inMemory =
    kept.kind === "memory" || (kept.kind === "sqlite" && kept.path === MEMORY_PATH) || (kept.kind === "given" && kept.store.name === "memory");
  if (inMemory) return (ofThisProcess ??= new Secret(randomBytes(32).toString("hex")));
  if (kept.kind === "sqlite") return keyFile(`${kept.path}.key`, mayMake);
  throw new ConfigError([
    `secrets.key: is required to encrypt what is kept in ${kept.kind === "given" ? "a store that was given as an object" : kept.kind}; ${GIVE}`,
  ]);
}

/**
 * The key that rows are sealed by; null = there is none, and they are written without seals.
 *
 * @param mayMake false = it is asked for again once the database can tell whether a file that is not there is lost
 */
export function sealKey(options: Pick<ResolvedOptions, "secrets" | "store" | "ledger">, logger: Logger, mayMake: boolean): Secret | null {
  try {
    return secretKey(options, mayMake);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    if (!mayMake) return null;
    // Whoever brings a store along and no key has chosen so. A key file that cannot be used is an accident, and no reason to serve nobody.
    const kept = options.ledger.kind === "store" ? options.store : options.ledger;
    if (kept.kind !== "given") logger.warn({ code: "QG_LEDGER_UNSEALED", err: error }, DIAGNOSTICS.QG_LEDGER_UNSEALED.wrong);
    return null;
  }
}

/** The key in a file; made if there is none, and it may be. Of several processes that start at the same time all get the same one. */
export function keyFile(path: string, mayMake = true): Secret {
  try {
    const found = readKey(path);
    if (found) return found;
    if (mayMake) return makeKey(path);
    throw new ConfigError([
      `secrets.key: the key file ${path} is gone, and keys of clients in the database were made with it; put it back from a backup`,
    ]);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const { code = "unknown error" } = error as NodeJS.ErrnoException;
    throw new ConfigError([`secrets.key: the key file ${path} cannot be used (${code}); make its folder writable for this user, or ${GIVE}`]);
  }
}

function readKey(path: string): Secret | null {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  try {
    const stats = fstatSync(file);
    const mode = stats.mode & 0o777;
    // Windows has no such modes.
    if (process.platform !== "win32" && (mode & 0o077) !== 0) {
      throw new ConfigError([
        `secrets.key: others may read the key file ${path} (mode ${mode.toString(8)}); chmod 600 it, and change the key if somebody did`,
      ]);
    }
    const bytes = Buffer.alloc(MAX_BYTES);
    const text = bytes.toString("latin1", 0, readSync(file, bytes, 0, MAX_BYTES, 0)).trim();
    if (!stats.isFile() || !KEY.test(text)) {
      throw new ConfigError([
        `secrets.key: the key file ${path} holds no key of ours; restore it from a backup, since what was encrypted with it cannot be read without`,
      ]);
    }
    return new Secret(text);
  } finally {
    closeSync(file);
  }
}

/** Written elsewhere and linked to its name: it is there as a whole or not at all, and only one process can put it there. */
function makeKey(path: string): Secret {
  const key = new Secret(randomBytes(32).toString("hex"));
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const file = openSync(draft, "wx", 0o600);
  try {
    writeSync(file, `${key.reveal()}\n`);
    fsyncSync(file);
    linkSync(draft, path);
    return key;
  } catch (error) {
    const made = (error as NodeJS.ErrnoException).code === "EEXIST" ? readKey(path) : null;
    if (made) return made;
    throw error;
  } finally {
    closeSync(file);
    unlinkSync(draft);
  }
}
