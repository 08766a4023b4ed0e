/** Remembers which key and address a credential had, so that what was held against the old ones is not held against new ones. */
import { hash } from "node:crypto";
import type { Credential } from "./core/credential.ts";
import type { Logger } from "./core/logger.ts";
import type { RecordStore } from "./core/store.ts";
import type { Health } from "./pool/health.ts";

/** Enough to see that something changed, far too little to try keys against. */
const MARK_CHARS = 6;

export interface CredentialMarksOptions {
  readonly credentials: Iterable<Credential>;
  readonly records: RecordStore;
  readonly health: Health;
  readonly logger: Logger;
}

const proofOf = ({ provider, origin, basePath, apiKey, headers }: Credential): string =>
  JSON.stringify([provider, origin, basePath, apiKey?.reveal() ?? null, headers]);

const markOf = (credential: Credential): string => hash("sha256", proofOf(credential), "base64url").slice(0, MARK_CHARS);

/** Whether two go to the same address with the same key. */
export const hasSameProof = (one: Credential, other: Credential): boolean => one === other || proofOf(one) === proofOf(other);

/** Ends bans and cooldowns of credentials whose key or address is another one than before. Never rejects. */
export async function liftReplaced({ credentials, records, health, logger }: CredentialMarksOptions): Promise<void> {
  try {
    for (const credential of credentials) {
      const { name } = credential;
      const mark = markOf(credential);
      const known = await records.get(`credential/${name}`);
      if (known?.value === mark) continue;
      await records.put(`credential/${name}`, mark);
      if (!known) continue;
      const lifted = health.lift("banned", name, null) + health.lift("cooling", name, null);
      if (lifted > 0)
        logger.warn({ credential: name, lifted }, "a credential has another key or address than before: its bans and cooldowns are over");
    }
  } catch (error) {
    logger.warn({ err: error }, "the store does not tell whether keys of credentials were replaced; their bans and cooldowns stand");
  }
}
