/**
 * Digests that were made with one secret key are of no use with another, and every client's key would be called wrong. So the database says which secret key
 * its digests were made with.
 */
import { hkdfSync } from "node:crypto";
import { ConfigError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { Secret } from "./core/secret.ts";
import type { RecordStore } from "./core/store.ts";

const RECORD = "secret-key";
const MARK_BYTES = 8;

interface MarkRecord {
  readonly mark: string;
}

/** Names a secret key and tells nothing about it. */
const markOf = (key: Secret): string => Buffer.from(hkdfSync("sha256", key.reveal(), "", "quotaguard api-keys mark", MARK_BYTES)).toString("hex");

/** The mark of the secret key that the digests were made with; undefined = nobody has said so. */
async function keptMark(records: RecordStore): Promise<string | undefined> {
  return ((await records.get(RECORD))?.value as MarkRecord | undefined)?.mark;
}

/** Whether digests in the database were made with a secret key. */
export const isMarked = async (records: RecordStore): Promise<boolean> => (await keptMark(records)) !== undefined;

/** Says it before the first digest is kept, and when another secret key takes its place. */
export async function keepMark(records: RecordStore, key: Secret): Promise<void> {
  const mark = markOf(key);
  if ((await keptMark(records)) !== mark) await records.put(RECORD, { mark } satisfies MarkRecord);
}

export interface MarkedKeyParts {
  readonly records: RecordStore;
  /** Throws ConfigError when there is none, and where it must not be made anew. */
  readonly secretKey: (mayMake: boolean) => Secret;
  /** The mark of a key that is lost. */
  readonly replaces: string | null;
  readonly logger: Logger;
}

/**
 * The secret key that the digests in the database were made with.
 *
 * @throws ConfigError when it is gone, or another one; it says what to do.
 */
export async function markedKey({ records, secretKey, replaces, logger }: MarkedKeyParts): Promise<Secret> {
  const kept = await keptMark(records);
  const isLost = kept !== undefined && kept === replaces;
  const key = found(secretKey, isLost, kept);
  if (kept === markOf(key)) return key;
  if (kept !== undefined && !isLost) throw another(kept);
  if (isLost)
    logger.warn({ replaces }, "another secret key takes the place of a lost one: clients' keys from before have ended; rotate or revoke them");
  await keepMark(records, key);
  return key;
}

/** What a start would refuse; null = nothing. Changes nothing. */
export async function markProblem({ records, secretKey, replaces }: Omit<MarkedKeyParts, "logger">): Promise<ConfigError | null> {
  const kept = await keptMark(records);
  if (kept === undefined || kept === replaces) return null;
  try {
    return markOf(found(secretKey, false, kept)) === kept ? null : another(kept);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
}

function another(kept: string): ConfigError {
  const again = "set that one again, here, as QUOTAGUARD_SECRET_KEY, or in the key file beside the database";
  return new ConfigError([`secrets.key: is another one than the keys of clients in the database were made with; ${again}. ${ifLost(kept)}`]);
}

function found(secretKey: MarkedKeyParts["secretKey"], mayMake: boolean, kept: string | undefined): Secret {
  try {
    return secretKey(mayMake);
  } catch (error) {
    if (kept === undefined || !(error instanceof ConfigError)) throw error;
    throw new ConfigError(error.problems.map((problem) => `${problem}. ${ifLost(kept)}`));
  }
}

const ifLost = (kept: string): string =>
  `If it is lost, those keys have ended: set secrets.replaces to ${kept}, start, and rotate or revoke each of them`;
