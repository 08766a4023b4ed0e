/** An exchange by `fetch`, for requests that a host's SDK sends with a key of its own: whatever the host has set up for `fetch` stays in force. */
import { GuardError } from "../core/errors.ts";
import type { Exchange, ResponseHandler } from "./transport.ts";

export type Fetch = (input: string | URL, init?: RequestInit) => Promise<Response>;

/** undici's own limits, which are Node's defaults: the request was sent, and no answer came. */
const TIMEOUTS: ReadonlySet<unknown> = new Set(["UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT", "TimeoutError"]);

/** Why no answer came, or no whole one. */
function failure(thrown: unknown, host: string): GuardError {
  const { name, cause } = thrown as { readonly name?: unknown; readonly cause?: { readonly code?: unknown; readonly name?: unknown } };
  if (TIMEOUTS.has(name) || TIMEOUTS.has(cause?.code) || TIMEOUTS.has(cause?.name)) {
    return new GuardError("upstream_timeout", `${host} did not answer in time; try again or ask for less output`, { cause: thrown });
  }
  return new GuardError("upstream_unreachable", `the exchange with ${host} failed; look into this server's log for the reason`, { cause: thrown });
}

/** Sends the request and tells the handler of the answer, as a transport would. The body arrives decoded, so its encoding and length are not told. */
export function fetchExchange(fetch: Fetch, url: URL, init: RequestInit, handler: ResponseHandler): Exchange {
  const controller = new AbortController();
  let isOver = false;
  let resumed: (() => void) | undefined;

  async function read(response: Response): Promise<void> {
    handler.head(response.status, Object.fromEntries(response.headers));
    const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
    if (!reader) return;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || isOver) return;
      if (handler.data(Buffer.from(value.buffer, value.byteOffset, value.byteLength)) || isOver) continue;
      await new Promise<void>((resolve) => (resumed = resolve));
    }
  }

  async function exchange(): Promise<void> {
    try {
      const response = await fetch(url, { ...init, signal: controller.signal });
      if (!isOver) await read(response);
    } catch (error) {
      // Of what was given up nothing is told.
      if (!isOver) handler.fail(failure(error, url.host), true);
      isOver = true;
      return;
    }
    if (!isOver) handler.end();
    isOver = true;
  }

  // Nothing is told before the caller has the exchange.
  queueMicrotask(() => void exchange());
  return {
    resume() {
      resumed?.();
      resumed = undefined;
    },
    abort() {
      isOver = true;
      controller.abort();
      resumed?.();
    },
  };
}
