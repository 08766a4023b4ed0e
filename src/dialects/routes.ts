/** Which dialect and operation a path belongs to. */
import type { DialectId } from "../core/call.ts";
import type { CallPath, Dialect } from "./dialect.ts";

/** What a path asks for. `models` lists models; everything else is a call. */
export type Matched =
  | { readonly kind: "call"; readonly method: "POST" | "GET"; readonly route: string; readonly dialect: DialectId; readonly path: CallPath }
  | { readonly kind: "models"; readonly method: "GET"; readonly route: string; readonly dialect: DialectId; readonly id: string | null };

/** Lower-case names, as Node gives them. */
export type CallerHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * Finds the operation of a path below the mount (no query). With `versionOptional` (a mount under a prefix) the `/v1` or `/v1beta` may be missing. Undefined = not
 * one of ours.
 */
export type PathMatcher = (path: string, versionOptional: boolean, headers?: CallerHeaders) => Matched | undefined;

interface Template {
  readonly before: string;
  readonly after: string;
  readonly of: (model: string) => Matched;
}

const VERSION = /^\/v1(?:beta)?(?=\/)/;
const NO_HEADERS: CallerHeaders = {};

export function pathMatcher(dialects: Iterable<Dialect>): PathMatcher {
  const calls = new Map<string, Matched>();
  const templates: Template[] = [];
  for (const { id, routes } of dialects) {
    for (const { method, path, operation, stream = null } of routes) {
      const called = (model: string | null): Matched => ({ kind: "call", method, route: path, dialect: id, path: { operation, model, stream } });
      const [before, after] = path.split("{model}");
      if (after === undefined) calls.set(path, called(null));
      else templates.push({ before: before as string, after, of: called });
    }
  }

  function templated(path: string): Matched | undefined {
    for (const { before, after, of } of templates) {
      if (path.length <= before.length + after.length || !path.startsWith(before) || !path.endsWith(after)) continue;
      const model = decoded(path.slice(before.length, path.length - after.length));
      return model === null ? undefined : of(model);
    }
    return undefined;
  }

  const exact = (path: string, headers: CallerHeaders): Matched | undefined => calls.get(path) ?? templated(path) ?? listing(path, headers);

  return (path, versionOptional, headers = NO_HEADERS) => {
    if (!versionOptional || VERSION.test(path)) return exact(path, headers);
    // The older version first: what both have is written in the shape of the first.
    return exact(`/v1${path}`, headers) ?? exact(`/v1beta${path}`, headers);
  };
}

/** A model's name may hold slashes and colons, and come escaped. Null = it is no text. */
function decoded(name: string): string | null {
  try {
    return decodeURIComponent(name);
  } catch {
    return null;
  }
}

const MODELS = /^\/(v1|v1beta)\/models(?:\/(.+))?$/s;

/** What Google's clients send, whichever version stands in the path. */
const isGoogles = (headers: CallerHeaders): boolean => headers["x-goog-api-key"] !== undefined || headers["x-goog-api-client"] !== undefined;

/** Lists of models stand at the same path in three dialects; who speaks Anthropic's or Gemini's says so. The id is as it came. */
function listing(path: string, headers: CallerHeaders): Matched | undefined {
  const [, version, id = null] = MODELS.exec(path) ?? [];
  if (version === undefined) return undefined;
  const isGemini = version === "v1beta" || isGoogles(headers);
  const dialect = isGemini ? "gemini" : headers["anthropic-version"] === undefined ? "openai" : "anthropic";
  const route = `/${version}/models${id === null ? "" : "/{id}"}`;
  return { kind: "models", method: "GET", route, dialect, id };
}

/** From the first version on that makes a path of ours: a base URL may have any prefix. */
export function matchAnywhere(match: PathMatcher, path: string, headers?: CallerHeaders): Matched | undefined {
  for (const { index } of path.matchAll(/\/v1(?:beta)?\//g)) {
    const found = match(path.slice(index), false, headers);
    if (found) return found;
  }
  return undefined;
}

/** What to speak to somebody whose path is none of ours. */
export function likelyDialect(path: string, headers: CallerHeaders): DialectId {
  if (headers["anthropic-version"] !== undefined || /\/messages(?:\/|$)/.test(path)) return "anthropic";
  return isGoogles(headers) || /\/v1beta\/|:[a-z]+(?:Content|Tokens)$/.test(path) ? "gemini" : "openai";
}
