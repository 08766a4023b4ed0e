/** What the rows of all providers judge errors with. */
import type { Fault, ProviderRow, Verdict } from "../../core/credential.ts";
import { fieldsOf } from "../../dialects/usage.ts";

export type Headers = Parameters<ProviderRow["classify"]>[1];
type Fields = Readonly<Record<string, unknown>>;

const BODY_START = 8_192;
const CHALLENGE_WAIT_MS = 10_000;

export const verdict = (fault: Fault, isAccountWide = false, waitMs: number | null = null): Verdict =>
  Object.freeze({ fault, isAccountWide, waitMs });

export const REQUEST = verdict("request");
export const CREDENTIAL = verdict("credential");
export const ACCOUNT = verdict("credential", true);
export const CAPACITY = verdict("capacity");
/** All of the account's models share what has run out. */
export const ACCOUNT_CAPACITY = verdict("capacity", true);
const CHALLENGE = verdict("capacity", false, CHALLENGE_WAIT_MS);

/** Codes of an account that cannot serve, whatever the status and the model. */
const ACCOUNT_CODE = /^(?:insufficient_quota|invalid_api_key|account_deactivated|access_terminated(?:_error)?|invalid_grant|billing_\w+)$/;

/** A refusal of this very call, although its status may speak of access: providers tell it in words only. */
const REQUEST_WORDS =
  /content policy|content management policy|policy violation|requires moderation|input was flagged|model not found|model does not exist|unsupported model/i;

/** What is looked at of an error's body. */
export const startOf = (body: Buffer | string): string =>
  typeof body === "string" ? body.slice(0, BODY_START) : body.toString("latin1", 0, BODY_START);

/** An error's body; null = it is no JSON object, or too long to be one of an error. */
export function errorFields(start: string): Fields | null {
  try {
    return fieldsOf(JSON.parse(start));
  } catch {
    return null;
  }
}

/**
 * The error codes of a JSON answer. Only where providers put them: a server that repeats the client's request in its refusal must not let the client
 * speak for it.
 */
function codesOf(start: string): readonly unknown[] {
  const body = errorFields(start);
  if (!body) return [];
  const error = fieldsOf(body.error);
  return [error?.code, error?.type, body.error, body.code, body.type];
}

const textIn = (value: Headers[string], part: string): boolean => typeof value === "string" && value.toLowerCase().includes(part);

/** Cloudflare stands in front of the provider and takes us for a robot. The credential was not looked at. */
function isChallenge(status: number, headers: Headers): boolean {
  if (textIn(headers["cf-mitigated"], "challenge")) return true;
  return (status === 403 || status === 503) && textIn(headers.server, "cloudflare") && textIn(headers["content-type"], "text/html");
}

/** What most providers mean by a status and OpenAI's codes; others begin with what is particular about them, and end here. */
export function usualVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  if (isChallenge(status, headers)) return CHALLENGE;
  if (status >= 500 || status < 400) return CAPACITY;
  const start = startOf(body);
  const codes = codesOf(start);
  if (codes.some((code) => typeof code === "string" && ACCOUNT_CODE.test(code))) return ACCOUNT;
  if (status === 401 || status === 402 || codes.includes("authentication_error")) return CREDENTIAL;
  if (status === 429) return CAPACITY;
  if (REQUEST_WORDS.test(start)) return REQUEST;
  if (status === 403) return CREDENTIAL;
  return status === 408 ? CAPACITY : REQUEST;
}
