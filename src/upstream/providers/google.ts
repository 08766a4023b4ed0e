/** What Google's APIs have in common: the form of their errors (AIP-193) and where they say when to come back. */
import type { Verdict } from "../../core/credential.ts";
import { durationMs } from "../../core/reset-time.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { ACCOUNT, CAPACITY, CREDENTIAL, errorFields, REQUEST, startOf, usualVerdict, verdict, type Headers } from "./verdicts.ts";
import { plausibleWait } from "./waits.ts";

type Fields = Readonly<Record<string, unknown>>;

interface GoogleError {
  readonly status: string | null;
  readonly message: string;
  /** Of its `ErrorInfo`. */
  readonly reason: string | null;
  /** Of its `ErrorInfo`. */
  readonly metadata: Fields;
  /** Of its `QuotaFailure`: what was too much. */
  readonly violations: readonly Fields[];
  /** Ms; null = not said. */
  readonly waitMs: number | null;
}

export const textOf = (value: unknown): string | null => (typeof value === "string" ? value : null);

/** What an error of Google's says; null = it is none. Streams that fail before they begin wrap it into a list. */
export function googleError(start: string): GoogleError | null {
  const error = fieldsOf(errorFields(start.replace(/^\s*\[([^]*)\]\s*$/, "$1"))?.error);
  if (!error) return null;
  const details = allFields(error.details);
  const message = textOf(error.message) ?? "";
  const info = detailOf(details, "ErrorInfo");
  return {
    status: textOf(error.status),
    message,
    reason: textOf(info?.reason),
    metadata: fieldsOf(info?.metadata) ?? {},
    violations: allFields(detailOf(details, "QuotaFailure")?.violations),
    waitMs: waitOf(details, info, message),
  };
}

/** Those of a list that are objects. */
function allFields(value: unknown): readonly Fields[] {
  const listed: readonly unknown[] = Array.isArray(value) ? value : [];
  return listed.flatMap((each): readonly Fields[] => {
    const fields = fieldsOf(each);
    return fields ? [fields] : [];
  });
}

const detailOf = (details: readonly Fields[], type: string): Fields | undefined =>
  details.find((detail) => textOf(detail["@type"])?.endsWith(`.${type}`) === true);

/** The delay of its `RetryInfo`, else that of the quota, else what its words say: `after 12s`, `after 1h2m3s`. */
function waitOf(details: readonly Fields[], info: Fields | undefined, message: string): number | null {
  const said =
    durationMs(detailOf(details, "RetryInfo")?.retryDelay) ??
    durationMs(fieldsOf(info?.metadata)?.quotaResetDelay) ??
    durationMs(/\bafter ((?:\d+(?:\.\d+)?(?:ms|[smhd]))+)/.exec(message)?.[1]);
  return plausibleWait(said);
}

export function googleVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  const usual = usualVerdict(status, headers, body);
  if (usual.waitMs !== null) return usual;
  const error = googleError(startOf(body));
  if (!error) return usual;
  // A wrong key is told as a fault of the request, and a place that is not served as one of the state.
  if (error.reason === "API_KEY_INVALID" || error.reason === "API_KEY_EXPIRED" || /api key (?:not valid|expired)/i.test(error.message))
    return ACCOUNT;
  if (status === 400 && error.status === "FAILED_PRECONDITION" && /billing|location is not supported/i.test(error.message)) return ACCOUNT;
  if (error.reason === "VALIDATION_REQUIRED" || error.reason === "SERVICE_DISABLED" || error.reason === "CONSUMER_SUSPENDED") return ACCOUNT;
  if (status === 429 || error.status === "RESOURCE_EXHAUSTED") return error.waitMs === null ? CAPACITY : verdict("capacity", false, error.waitMs);
  if (status === 403) return CREDENTIAL;
  if (status >= 400 && status < 500 && status !== 401 && status !== 408) return usual.fault === "credential" ? usual : REQUEST;
  return error.waitMs === null ? usual : verdict(usual.fault, usual.isAccountWide, error.waitMs);
}
