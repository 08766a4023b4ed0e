import { isIP } from "node:net";
import { GuardError } from "./core/errors.ts";
import type { GuardedFetch } from "./core/plugin.ts";
import type { Clock } from "./core/time.ts";
import { VERSION } from "./core/version.ts";
import { collected } from "./upstream/collected.ts";
import { addressKind, refusedHost } from "./upstream/egress.ts";
import type { Transport } from "./upstream/transport.ts";

const TIMEOUT_MS = 10_000;
const MOST_BYTES = 10 * 1024 * 1024;

/** The transport makes these itself, and a body is asked for as it is. */
const OURS: ReadonlySet<string> = new Set([
  "host",
  "connection",
  "content-length",
  "transfer-encoding",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "upgrade",
  "expect",
  "accept-encoding",
]);

/** Statuses that a Response must not have a body with. */
const BODYLESS = new Set([204, 205, 304]);

export interface GuardedFetchParts {
  readonly clock: Clock;
  /** One that checks each address when it is dialled and follows no redirect. */
  readonly transport: () => Transport;
  /** Aborted when nobody may fetch any more. */
  readonly signal: AbortSignal;
}

/** `fetch` for code whose URLs may come from anywhere: a private address is dialled only where an origin in `allow` names it. No cookies are kept. */
export function guardedFetch({ clock, transport, signal: ending }: GuardedFetchParts): GuardedFetch {
  return async function fetchGuarded(input, init = {}) {
    const { maxBytes = MOST_BYTES, timeoutMs = TIMEOUT_MS, allow = [], proxyUrl = null, ...plain } = init;
    const url = new URL(input);
    if (url.protocol !== "http:" && url.protocol !== "https:") throw new TypeError(`fetch: ${url.protocol} is not http: or https:`);
    // Said here, because whoever says it otherwise repeats the URL.
    if (url.username !== "" || url.password !== "") throw new TypeError("fetch: the URL holds a user or a password; send an authorization header");
    if (plain.redirect === "follow") throw new TypeError("fetch: redirects are never followed; leave redirect out, or ask the target itself");
    const request = new Request(url, plain);
    const allowPrivate = allow.map(originOf).includes(url.origin);
    checkHost(url.hostname, allowPrivate);
    const signal = AbortSignal.any([request.signal, ending]);
    signal.throwIfAborted();
    const from = clock.monotonic();
    const body = request.body && (await readBody(request.body, { clock, timeoutMs, signal }));
    const leftMs = timeoutMs - (clock.monotonic() - from);

    const path = url.pathname + url.search;
    const headers = headersOf(request.headers);
    const outgoing = { origin: url.origin, path, method: request.method, headers, body, allowPrivate, proxyUrl };
    const asking = collected(transport(), clock, outgoing, { timeoutMs: leftMs, maxBytes });
    const giveUp = (): void => asking.giveUp(new GuardError("upstream_unreachable", "the call was given up"));
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      const { status, headers: answered, body: bytes } = await asking.answer;
      const response = new Headers();
      for (const [name, value] of Object.entries(answered)) for (const one of [value ?? []].flat()) response.append(name, one);
      return new Response(BODYLESS.has(status) ? null : new Uint8Array(bytes), { status, headers: response });
    } catch (error) {
      signal.throwIfAborted();
      throw isEgress(error) ? refused(error.cause) : error;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  };
}

interface Waiting {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What is to be sent may be a stream, too, and one without end. Whoever makes it is told when nobody reads it any more. */
async function readBody(stream: ReadableStream<Uint8Array>, { clock, timeoutMs, signal }: Waiting): Promise<Buffer> {
  const reader = stream.getReader();
  const late = new AbortController();
  const timer = clock.timer(timeoutMs, () => late.abort(new GuardError("upstream_timeout", "fetch: the body to send was not complete in time")));
  const given = AbortSignal.any([signal, late.signal]);
  const giveUp = (): void => void reader.cancel(given.reason).catch(() => undefined);
  given.addEventListener("abort", giveUp, { once: true });
  try {
    const chunks: Uint8Array[] = [];
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) chunks.push(piece.value);
    given.throwIfAborted();
    return Buffer.concat(chunks);
  } finally {
    timer.cancel();
    given.removeEventListener("abort", giveUp);
  }
}

function originOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || url.origin === "null" || text.replace(/\/$/, "").toLowerCase() !== url.origin) {
    throw new TypeError("fetch: allow holds origins, scheme, host and port, such as http://127.0.0.1:8317");
  }
  return url.origin;
}

/** Names are judged when they are dialled; an address that is written out, and `localhost`, never come to a name server. */
function checkHost(hostname: string, allowPrivate: boolean): void {
  const never = refusedHost(hostname);
  if (never !== null) throw refused(new Error(never));
  const host = hostname.replace(/^\[|\]$/g, "");
  const isPrivate = isIP(host) === 0 ? host === "localhost" : addressKind(host) !== "public";
  if (isPrivate && !allowPrivate) throw refused(new Error(`${host} is not a public address`));
}

const refused = (cause: unknown): GuardError =>
  new GuardError(
    "upstream_unreachable",
    "fetch: the address is private, loopback or a metadata service; where the operator's options name it, put its origin into allow",
    {
      cause,
    },
  );

const isEgress = (error: unknown): error is GuardError =>
  GuardError.is(error) && (error.cause as { code?: unknown } | undefined)?.code === "EGRESS_REFUSED";

function headersOf(given: Headers): string[] {
  const headers: string[] = ["accept-encoding", "identity"];
  if (!given.has("user-agent")) headers.push("user-agent", `quotaguard/${VERSION}`);
  for (const [name, value] of given) {
    if (OURS.has(name)) throw new TypeError(`fetch: the header ${name} is set by the transport and cannot be given`);
    headers.push(name, value);
  }
  return headers;
}
