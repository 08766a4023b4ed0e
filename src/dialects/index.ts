import type { DialectId } from "../core/call.ts";
import { anthropic } from "./anthropic/index.ts";
import { gemini } from "./gemini/index.ts";
import type { CallPath, Dialect } from "./dialect.ts";
import { openai } from "./openai/index.ts";
import { responses } from "./responses/index.ts";

const DIALECTS: Readonly<Partial<Record<DialectId, Dialect>>> = { openai, anthropic, gemini, responses };

export const dialect = (id: DialectId): Dialect => DIALECTS[id] as Dialect;

/** What a path asks for. `models` lists models; everything else is a call. */
export type Matched =
  | { readonly kind: "call"; readonly method: "POST" | "GET"; readonly route: string; readonly dialect: DialectId; readonly path: CallPath }
  | { readonly kind: "models"; readonly method: "GET"; readonly route: string; readonly dialect: DialectId; readonly id: string | null };

const CALLS = new Map<string, Matched>();
/** Routes with the model in their path. */
const TEMPLATES: { readonly before: string; readonly after: string; readonly of: (model: string) => Matched }[] = [];
for (const { id, routes } of Object.values(DIALECTS)) {
  for (const { method, path, operation, stream = null } of routes) {
    const called = (model: string | null): Matched => ({ kind: "call", method, route: path, dialect: id, path: { operation, model, stream } });
    const [before, after] = path.split("{model}");
    if (after === undefined) CALLS.set(path, called(null));
    else TEMPLATES.push({ before: before as string, after, of: called });
  }
}

/** A model's name may hold slashes and colons, and come escaped. */
function templated(path: string): Matched | undefined {
  for (const { before, after, of } of TEMPLATES) {
    if (path.length <= before.length + after.length || !path.startsWith(before) || !path.endsWith(after)) continue;
    const name = path.slice(before.length, path.length - after.length);
    try {
      return of(decodeURIComponent(name));
    } catch {
      return undefined;
    }
  }
  return undefined;
}

const MODELS = "/v1/models";

/**
 * Finds the operation of a path below the mount (no query). With `versionOptional` (a mount under a prefix) the `/v1` may be missing.
 * Undefined = not one of ours.
 */
export function matchPath(path: string, versionOptional: boolean): Matched | undefined {
  const found = CALLS.get(path) ?? (versionOptional ? CALLS.get(`/v1${path}`) : undefined) ?? templated(path);
  if (found) return found;
  const full = versionOptional && !path.startsWith("/v1/") ? `/v1${path}` : path;
  if (full === MODELS) return { kind: "models", method: "GET", route: MODELS, dialect: "openai", id: null };
  if (!full.startsWith(`${MODELS}/`)) return undefined;
  const id = full.slice(MODELS.length + 1);
  return id === "" ? undefined : { kind: "models", method: "GET", route: `${MODELS}/{id}`, dialect: "openai", id };
}
