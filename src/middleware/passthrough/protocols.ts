/**
 * Browsers cannot set headers on a WebSocket, so OpenAI's clients put the key among the subprotocols they offer. It is read as the client's key, and never
 * goes on.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { Context } from "../../core/context.ts";

const KEY_PROTOCOL = "openai-insecure-api-key.";
/** They say whose account is meant, and the account is ours. */
const ACCOUNT_PROTOCOL = /^openai-(?:organization|project)\./;

const KEY_HEADERS = ["authorization", "x-api-key", "x-goog-api-key"] as const;

const listed = (headers: IncomingHttpHeaders): readonly string[] =>
  (headers["sec-websocket-protocol"] ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");

/** The subprotocols that the provider may hear of. */
export function offeredProtocols(headers: IncomingHttpHeaders): readonly string[] {
  return listed(headers).filter((name) => !name.startsWith(KEY_PROTOCOL) && !ACCOUNT_PROTOCOL.test(name));
}

/** The headers, with the key among the protocols in the first header that could have carried it: two different keys are then seen as such. */
export function withProtocolKey(headers: IncomingHttpHeaders): Context["headers"] {
  const key = listed(headers).find((name) => name.startsWith(KEY_PROTOCOL));
  const free = key === undefined ? undefined : KEY_HEADERS.find((name) => headers[name] === undefined);
  if (key === undefined || free === undefined) return headers;
  const value = key.slice(KEY_PROTOCOL.length);
  return { ...headers, [free]: free === "authorization" ? `Bearer ${value}` : value };
}
