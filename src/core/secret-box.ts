/** Encryption at rest: values that nobody reads in a database, or moves within it, without the secret key. */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { ConfigError, GuardError } from "./errors.ts";
import { Secret } from "./secret.ts";

/*
 * base64url of: version (1 byte), id of the key (4), nonce (12), AES-256-GCM ciphertext, tag (16). What is authenticated besides the text: version, key
 * id, and the place where the value lies. The id only says which key a value needs; it is derived as the key itself is and tells nothing about it.
 */
const VERSION = 1;
const HEAD_BYTES = 5;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface SecretBox {
  /** Text that only this key opens, and only at this place (a record's key). Never the same twice. */
  seal(value: string, place: string): string;
  /**
   * @throws ConfigError when another key sealed it; GuardError `internal` when it was changed, or sealed for another place.
   */
  open(sealed: string, place: string): Secret;
}

const derived = (key: Buffer, use: string, bytes: number): Buffer => Buffer.from(hkdfSync("sha256", key, "", `quotaguard ${use}`, bytes));

/** A box for one purpose: what is sealed for one opens in no other. `key` is the operator's secret key, of at least 16 characters. */
export function secretBox(key: Secret, purpose: string): SecretBox {
  const material = Buffer.from(key.reveal());
  const cipherKey = derived(material, `${purpose} key`, 32);
  const head = Buffer.concat([Buffer.of(VERSION), derived(material, `${purpose} key id`, 4)]);
  const authenticated = (place: string): Buffer => Buffer.concat([head, Buffer.from(place)]);

  return {
    seal(value, place) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv("aes-256-gcm", cipherKey, nonce).setAAD(authenticated(place));
      const text = Buffer.concat([cipher.update(value, "utf8"), cipher.final()]);
      return Buffer.concat([head, nonce, text, cipher.getAuthTag()]).toString("base64url");
    },

    open(sealed, place) {
      const bytes = Buffer.from(sealed, "base64url");
      if (bytes.length < HEAD_BYTES + NONCE_BYTES + TAG_BYTES) throw damaged(place);
      if (bytes[0] !== VERSION) throw new GuardError("internal", `the secret ${place} was written by a newer version of quotaguard; update this one`);
      if (!bytes.subarray(0, HEAD_BYTES).equals(head)) {
        throw new ConfigError([
          `secrets.key: the secret ${place} was encrypted with another key; set the key that it was written with (here, as QUOTAGUARD_SECRET_KEY, or in the key file beside the database), or store the value anew`,
        ]);
      }
      const nonce = bytes.subarray(HEAD_BYTES, HEAD_BYTES + NONCE_BYTES);
      const tag = bytes.subarray(bytes.length - TAG_BYTES);
      const decipher = createDecipheriv("aes-256-gcm", cipherKey, nonce, { authTagLength: TAG_BYTES }).setAAD(authenticated(place)).setAuthTag(tag);
      try {
        const text = decipher.update(bytes.subarray(HEAD_BYTES + NONCE_BYTES, bytes.length - TAG_BYTES));
        return new Secret(Buffer.concat([text, decipher.final()]).toString());
      } catch {
        throw damaged(place);
      }
    },
  };
}

const damaged = (place: string): GuardError =>
  new GuardError("internal", `the secret ${place} was changed in the database, or belongs to another place; store the value anew`);
