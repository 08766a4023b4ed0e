/** What a key that we make looks like, and what is kept of it. */
import { createHmac, hkdfSync, randomBytes, timingSafeEqual } from "node:crypto";
import type { Secret } from "../../core/secret.ts";

/*
 * `qg_`, 32 random bytes as base64url (43 characters), and 6 characters of a checksum. The checksum is keyed: only who has the secret key can make one that is right, so a key
 * that is guessed is refused without a look at the database.
 */
const FORM = /^qg_[A-Za-z0-9_-]{49}$/;
const HEAD_LENGTH = 46;
const PREFIX_LENGTH = 8;
const CHECKSUM_LENGTH = 6;

/** Whether a text could be one of our keys. */
export const isApiKey = (text: string): boolean => FORM.test(text);

/** Its first characters, which may be shown. */
export const prefixOf = (key: string): string => key.slice(0, PREFIX_LENGTH);

export interface ApiKeys {
  make(): string;
  /** The keyed digest under which a key is kept; null = nobody with this secret key has made it. */
  digestOf(key: string): string | null;
}

/** `secret` is the guard's secret key: with another one nothing that was made before is known. */
export function apiKeys(secret: Secret): ApiKeys {
  const derived = (use: string): Buffer => Buffer.from(hkdfSync("sha256", secret.reveal(), "", `quotaguard api-keys ${use}`, 32));
  const [forDigests, forChecksums] = [derived("digest"), derived("checksum")];
  const checksum = (head: string): string => createHmac("sha256", forChecksums).update(head).digest("base64url").slice(0, CHECKSUM_LENGTH);

  return {
    make() {
      const head = `qg_${randomBytes(32).toString("base64url")}`;
      return head + checksum(head);
    },
    digestOf(key) {
      if (!isApiKey(key)) return null;
      const head = key.slice(0, HEAD_LENGTH);
      if (!timingSafeEqual(Buffer.from(checksum(head)), Buffer.from(key.slice(HEAD_LENGTH)))) return null;
      return createHmac("sha256", forDigests).update(key).digest("base64url");
    },
  };
}
