/** Where a request of the lane goes below a provider's base URL. A client names an operation, never a destination. */
import type { IncomingMessage } from "node:http";
import { GuardError } from "../../core/errors.ts";
import { pathBelowMount } from "../../http/open.ts";

/**
 * Plain characters in every part, and none that begins with a dot: no escapes, no backslashes, no empty parts. Whatever server stands behind the
 * provider's name, it cannot read such a path in two ways.
 */
const PLAIN = /^(?:\/[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]*)+$/;

const VISIBLE = /^[\x21-\x7e]*$/;

/** Parameters that carry somebody's key. */
const KEY_NAME = /^(?:(?:x-)?(?:goog-)?api[-_]?key|key|(?:access[-_]?)?token|authorization)$/i;

export interface LaneAddress {
  /** With its `/v1`, without the query. */
  readonly path: string;
  /** As the client wrote it, without the `?`. */
  readonly query: string;
}

const unusual = (what: string): GuardError => new GuardError("body_invalid", `the query ${what}`);

export function queryOf(url: string): string {
  const at = url.indexOf("?");
  return at < 0 ? "" : url.slice(at + 1);
}

/**
 * The path that a request below a mount asks for; null = none that could be the lane's. Mounted below a prefix, `/v1` may be missing; as a part of a
 * route of the host's own, everything before the last `/v1/` is the host's.
 */
export function laneAddress(req: IncomingMessage, isPart: boolean): LaneAddress | null {
  const url = (req as { originalUrl?: string }).originalUrl ?? req.url ?? "/";
  const { path, mounted } = pathBelowMount(req);
  const found = isPart ? afterPrefix(url) : withVersion(path, mounted);
  return found === null ? null : { path: found, query: queryOf(req.url ?? url) };
}

function withVersion(path: string, mounted: boolean): string | null {
  if (path.startsWith("/v1/")) return path;
  return mounted && path.startsWith("/") ? `/v1${path}` : null;
}

/** The path of a URL from its last `/v1/` on: `/any/prefix/v1/files?limit=1` is `/v1/files`. */
export function afterPrefix(url: string): string | null {
  const query = url.indexOf("?");
  const whole = query < 0 ? url : url.slice(0, query);
  const version = whole.lastIndexOf("/v1/");
  return version < 0 || !whole.startsWith("/") ? null : whole.slice(version);
}

/** Throws `not_found` for a path that could be read in two ways. */
export function checkPath(path: string): void {
  if (!PLAIN.test(path)) throw new GuardError("not_found", "there is nothing at this path; write it plainly, without escapes, dots or empty parts");
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    throw unusual("is not encoded as a URL's must be");
  }
}

interface Parameter {
  /** As written. */
  readonly text: string;
  readonly name: string;
  readonly value: string;
}

function parametersOf(query: string): readonly Parameter[] {
  if (!VISIBLE.test(query)) throw unusual("contains characters that must be escaped");
  return query
    .split("&")
    .filter((text) => text !== "")
    .map((text) => {
      const at = text.indexOf("=");
      return { text, name: decoded(at < 0 ? text : text.slice(0, at)), value: at < 0 ? "" : decoded(text.slice(at + 1)) };
    });
}

/**
 * The query as it goes on: byte for byte the client's, without the parameters that carry a key (by their name, or because their value is the key that
 * this client presented), and with another name for the model if one is given.
 */
export function forwardedQuery(query: string, key: string | null, model: string | null): string {
  if (query === "") return "";
  const kept = parametersOf(query)
    .filter(({ name, value }) => !KEY_NAME.test(name) && (key === null || (value !== key && value !== `Bearer ${key}`)))
    .map(({ text, name }) => (model !== null && name === "model" ? `model=${encodeURIComponent(model)}` : text));
  return kept.length === 0 ? "" : `?${kept.join("&")}`;
}

/** The one value of a parameter; null = it is absent. Throws `body_invalid` when it stands twice: nobody can say which one the provider reads. */
export function parameter(query: string, name: string): string | null {
  const found = parametersOf(query).filter((each) => each.name === name);
  if (found.length > 1) throw new GuardError("body_invalid", `${name} stands twice in the query`, { param: name });
  return found[0]?.value ?? null;
}
