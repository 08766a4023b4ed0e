/**
 * Which headers cross the lane. Allow-lists both ways, as on the inference lane: what they do not name stays where it is, in particular cookies, keys, and
 * whatever says who the client is or whose account it uses.
 */
import type { Credential } from "../../core/credential.ts";
import { requestHeaders, responseHeaders } from "../../upstream/headers.ts";
import { rowOf } from "../../upstream/providers.ts";

export type HeaderFields = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Besides those that every request may carry. Framing is not among them: it follows from the body that is sent. */
const SENT = ["content-type", "accept", "range", "if-range", "if-none-match", "if-match", "if-modified-since", "openai-beta"] as const;

/** A WebSocket's own, RFC 6455 4.1; the list of protocols is checked for keys before. */
const SENT_BY_UPGRADE = ["sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "openai-beta"] as const;

const RETURNED = ["content-length", "content-disposition", "content-range", "accept-ranges", "etag", "last-modified", "cache-control"] as const;

const RETURNED_BY_UPGRADE = ["sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"] as const;

const NO_NAMES: ReadonlySet<string> = new Set();

/** The names that a Connection header makes hop-by-hop, RFC 9110 7.6.1. */
function hopByHop(connection: HeaderFields[string]): ReadonlySet<string> {
  if (connection === undefined) return NO_NAMES;
  return new Set(
    String(connection)
      .split(",")
      .map((name) => name.trim().toLowerCase()),
  );
}

/** Adds those of the named headers that are there, not hop-by-hop and not set yet. */
function pick(to: Record<string, string>, from: HeaderFields, names: readonly string[]): void {
  const dropped = hopByHop(from.connection);
  for (const name of names) {
    const value = from[name];
    if (typeof value === "string" && to[name] === undefined && !dropped.has(name)) to[name] = value;
  }
}

/** Ours, the provider's proof and the operator's extra headers, which win over the client's. */
function ownHeaders(credential: Credential): Record<string, string> {
  const pairs = requestHeaders({}, rowOf(credential), credential, null);
  const headers: Record<string, string> = {};
  for (let i = 0; i < pairs.length; i += 2) headers[pairs[i] as string] = pairs[i + 1] as string;
  return headers;
}

/** What the provider gets with a request whose body has this length; null = it is not known, or there is none. */
export function sentHeaders(client: HeaderFields, credential: Credential, bodyBytes: number | null): Record<string, string> {
  const headers = ownHeaders(credential);
  pick(headers, client, SENT);
  if (bodyBytes !== null) headers["content-length"] = String(bodyBytes);
  return headers;
}

/** What the provider gets with a request for a WebSocket. */
export function upgradeHeaders(client: HeaderFields, credential: Credential, protocols: readonly string[]): Record<string, string> {
  const headers = ownHeaders(credential);
  pick(headers, client, SENT_BY_UPGRADE);
  if (protocols.length > 0) headers["sec-websocket-protocol"] = protocols.join(", ");
  headers.connection = "Upgrade";
  headers.upgrade = "websocket";
  return headers;
}

/** The key that a client presents, in whichever header: it must not go on in any other place either. */
export function presentedKey({ authorization, ...headers }: HeaderFields): string | null {
  const key = authorization ?? headers["x-api-key"] ?? headers["x-goog-api-key"];
  return typeof key === "string" ? key.replace(/^bearer +/i, "").trim() : null;
}

export const isEventStream = (headers: HeaderFields): boolean => /^text\/event-stream\b/i.test(String(headers["content-type"] ?? ""));

/** What the client gets back: alternating names and values. */
export function returnedHeaders(provider: HeaderFields): string[] {
  const more: Record<string, string> = {};
  pick(more, provider, RETURNED);
  const type = String(provider["content-type"] ?? "");
  if (isEventStream(provider)) {
    more["cache-control"] = "no-cache, no-transform";
    more["x-accel-buffering"] = "no";
  } else if (!/\bjson\b/i.test(type) || provider["content-range"] !== undefined) {
    // A host's compression would change what a range, a length or a digest speaks of.
    more["cache-control"] = more["cache-control"] === undefined ? "no-transform" : `${more["cache-control"]}, no-transform`;
  }
  // Files are made by clients: a browser that shows one must not take it for a page of the host's.
  more["x-content-type-options"] = "nosniff";
  more["content-security-policy"] = "sandbox";
  return [...responseHeaders(provider), ...Object.entries(more).flat()];
}

/** What the client gets back when the provider changes to the WebSocket. */
export function switchedHeaders(provider: HeaderFields): string[] {
  const more: Record<string, string> = {};
  pick(more, provider, RETURNED_BY_UPGRADE);
  return ["upgrade", "websocket", "connection", "Upgrade", ...Object.entries(more).flat(), ...responseHeaders(provider)];
}
