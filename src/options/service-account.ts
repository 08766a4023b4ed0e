/** A Google service account as an option: the JSON key that the console hands out, as an object, as text, or as the file that it came in. */
import { createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { z } from "zod";
import type { ServiceAccount } from "../core/credential.ts";
import { Secret } from "../core/secret.ts";
import { checkBaseUrl } from "../upstream/egress.ts";

const MAX_BYTES = 64 * 1024;
const TOKEN_URI = "https://oauth2.googleapis.com/token";
const EXPECTED = "expected a service account: the path of its JSON key, or the key itself as text or object";

/** Whether the option names a file. */
export const isKeyFile = (value: unknown): value is string => typeof value === "string" && !value.trimStart().startsWith("{");

export const serviceAccount = () =>
  z.union([z.string(), z.record(z.string(), z.unknown())], { error: EXPECTED }).transform((value, ctx): ServiceAccount => {
    try {
      return accountOf(typeof value === "string" ? parsed(isKeyFile(value) ? contentOf(value) : value) : value);
    } catch (error) {
      ctx.addIssue({ code: "custom", message: (error as Error).message });
      return z.NEVER;
    }
  });

/** Messages name the system's code only: a path may be a key that was pasted into the wrong place. */
function contentOf(path: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new Error(`its file cannot be read (${(error as NodeJS.ErrnoException).code ?? "unknown"}); check the path and its permissions`, {
      cause: error,
    });
  }
  if (bytes.length > MAX_BYTES) throw new Error(`its file is larger than ${MAX_BYTES / 1024} KiB, so it is no service account's key`);
  return bytes.toString("utf8");
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Told without the parser's own complaint, which quotes the key.
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Error("is no JSON object; download the key of the service account as JSON");
  return value as Readonly<Record<string, unknown>>;
}

function accountOf(key: Readonly<Record<string, unknown>>): ServiceAccount {
  if (key.type !== undefined && key.type !== "service_account") throw new Error('is no service account: its "type" must be service_account');
  const text = (field: string): string => {
    const value = key[field];
    if (typeof value !== "string" || value === "") throw new Error(`lacks ${field}; download the key of the service account as JSON again`);
    return value;
  };
  const tokenUri = key.token_uri === undefined ? TOKEN_URI : text("token_uri");
  try {
    checkBaseUrl(tokenUri);
  } catch (error) {
    throw new Error((error as Error).message.replace(/^base_url/, "token_uri"), { cause: error });
  }
  return {
    clientEmail: text("client_email"),
    privateKey: new Secret(pemOf(text("private_key"))),
    privateKeyId: key.private_key_id === undefined ? null : text("private_key_id"),
    projectId: text("project_id"),
    tokenUri,
  };
}

/** PKCS#1 and PKCS#8 with any line ends, also those that a shell or a spreadsheet has escaped or lost. Returns PKCS#8. */
function pemOf(text: string): string {
  const [, kind, body] = /-----BEGIN ((?:RSA )?PRIVATE KEY)-----([^-]*)-----END \1-----/.exec(text.replaceAll(/\\r|\\n|\r/g, "\n")) ?? [];
  const lines = body?.replaceAll(/\s+/g, "").match(/.{1,64}/g);
  if (!lines) throw new Error("private_key is no PEM of a private key; download the key of the service account as JSON again");
  const pem = `-----BEGIN ${kind}-----\n${lines.join("\n")}\n-----END ${kind}-----\n`;
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType === "rsa") return key.export({ type: "pkcs8", format: "pem" }) as string;
  } catch {
    // Told below, without the parser's own complaint.
  }
  throw new Error("private_key is no usable RSA key; download the key of the service account as JSON again");
}
