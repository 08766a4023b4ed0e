/** Asks one account's provider what is left, and says what came of it. Answers of others may be anything: nothing of them gets further than what was read. */
import { isIP } from "node:net";
import type { Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { GuardedFetch, GuardedFetchInit } from "../../core/plugin.ts";
import type { Collector, CollectorId, QuotaRequest } from "./collector.ts";
import { fieldsOf, isFields, textOf, type Fields } from "./fields.ts";
import type { Outcome } from "./outcome.ts";
import { retryAfterMs } from "./pace.ts";

const MOST_BYTES = 2 * 1024 * 1024;

export interface Asking {
  readonly fetch: GuardedFetch;
  readonly now: () => number;
  /** By collector; without a slash at the end. */
  readonly endpoints: Readonly<Partial<Record<CollectorId, string>>>;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

interface Base {
  readonly url: string;
  /** Origins that may be private. */
  readonly allow: readonly string[];
}

/** The statuses that say "not this way": another question may find an answer. */
const OTHER_WAY = new Set([400, 404, 405, 410, 501]);

/** Never rejects. */
export async function askQuotas(collector: Collector, credential: Credential, asking: Asking): Promise<Outcome> {
  const base = baseOf(collector, credential, asking.endpoints);
  let last: Outcome = { kind: "unknown", reason: "there is nothing to ask", isMissing: true };
  try {
    for (const request of collector.requests(credential)) {
      last = await asked(request, credential, base, asking);
      if (!("tryNext" in last)) return last;
    }
  } catch (error) {
    return { kind: "failed", reason: whyOf(error) };
  }
  return last;
}

function baseOf(collector: Collector, credential: Credential, endpoints: Asking["endpoints"]): Base {
  const endpoint = endpoints[collector.id];
  if (endpoint !== undefined) return { url: endpoint, allow: [new URL(endpoint).origin] };
  if (collector.isAtHome(credential)) return { url: collector.baseUrl(credential), allow: [] };
  const { origin, basePath, allowPrivate } = credential;
  return { url: origin + basePath, allow: allowPrivate || isWrittenOut(origin) ? [origin] : [] };
}

/** The operator has named the very address, so a private one is meant. */
function isWrittenOut(origin: string): boolean {
  const { hostname } = new URL(origin);
  return hostname === "localhost" || isIP(hostname.replace(/^\[|\]$/g, "")) !== 0;
}

type Asked = Outcome | (Outcome & { readonly tryNext: true });

async function asked(request: QuotaRequest, credential: Credential, { url, allow }: Base, asking: Asking): Promise<Asked> {
  const { fetch, timeoutMs, signal, now } = asking;
  const headers = headersOf(request, credential);
  const init: GuardedFetchInit = { method: request.method, headers, allow, timeoutMs, signal, maxBytes: MOST_BYTES, proxyUrl: credential.proxyUrl };
  const answer = await fetch(url + request.path, request.body ? { ...init, body: JSON.stringify(request.body) } : init);
  const { status } = answer;
  if (status === 401 || status === 403) return { kind: "needs-login", reason: `status ${status}` };
  if (status === 429) return { kind: "limited", reason: "status 429", waitMs: retryAfterMs(answer.headers, now()) };
  if (OTHER_WAY.has(status)) return { kind: "unknown", reason: `status ${status}`, isMissing: true, tryNext: true };
  if (!answer.ok) return { kind: "failed", reason: `status ${status}` };
  const body = objectOf(await answer.text());
  if (!body) return { kind: "failed", reason: "the answer is no JSON object" };
  if (isRefusal(body)) return { kind: "needs-login", reason: "the answer is an authentication error" };
  const readings = request.read(body, now());
  if (readings.length > 0) return { kind: "ok", readings };
  return { kind: "unknown", reason: "the answer names no quota", isMissing: false, tryNext: true };
}

function headersOf({ headers = {}, body }: QuotaRequest, credential: Credential): Record<string, string> {
  const proof: Record<string, string> = {};
  if (credential.row) credential.row.authorize(proof, credential);
  else if (credential.apiKey) proof.authorization = `Bearer ${credential.apiKey.reveal()}`;
  // As in requests: what the operator writes counts before what the provider's row would send, however it is written.
  const own = Object.entries(credential.headers).map(([name, value]) => [name.toLowerCase(), value] as const);
  return { ...proof, ...Object.fromEntries(own), accept: "application/json", ...headers, ...(body ? { "content-type": "application/json" } : {}) };
}

function objectOf(text: string): Fields | null {
  try {
    const body: unknown = JSON.parse(text);
    return isFields(body) ? body : null;
  } catch {
    return null;
  }
}

/** Some say so with status 200. */
const isRefusal = (body: Fields): boolean => body.type === "error" && /^(?:authentication|permission)_error$/.test(textOf(fieldsOf(body.error).type));

/** Without what somebody else's error may quote. */
const whyOf = (error: unknown): string => (GuardError.is(error) ? error.code : error instanceof Error ? error.name : "error");
