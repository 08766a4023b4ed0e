import type { DialectId, Operation } from "../core/call.ts";
import type { Dialect } from "./dialect.ts";
import { openai } from "./openai/index.ts";

const DIALECTS: Readonly<Record<DialectId, Dialect>> = { openai };

export const dialect = (id: DialectId): Dialect => DIALECTS[id];

/** What a path asks for. `models` lists models; everything else is a call. */
export type Matched =
  | { readonly kind: "call"; readonly method: "POST" | "GET"; readonly route: string; readonly dialect: DialectId; readonly operation: Operation }
  | { readonly kind: "models"; readonly method: "GET"; readonly route: string; readonly dialect: DialectId; readonly id: string | null };

const CALLS = new Map<string, Matched>();
for (const { id, routes } of Object.values(DIALECTS)) {
  for (const { method, path, operation } of routes) CALLS.set(path, { kind: "call", method, route: path, dialect: id, operation });
}

const MODELS = "/v1/models";

/**
 * Finds the operation of a path below the mount (no query). With `versionOptional` (a mount under a prefix) the `/v1` may be missing.
 * Undefined = not one of ours.
 */
export function matchPath(path: string, versionOptional: boolean): Matched | undefined {
  const found = CALLS.get(path) ?? (versionOptional ? CALLS.get(`/v1${path}`) : undefined);
  if (found) return found;
  const full = versionOptional && !path.startsWith("/v1/") ? `/v1${path}` : path;
  if (full === MODELS) return { kind: "models", method: "GET", route: MODELS, dialect: "openai", id: null };
  if (!full.startsWith(`${MODELS}/`)) return undefined;
  const id = full.slice(MODELS.length + 1);
  return id === "" ? undefined : { kind: "models", method: "GET", route: `${MODELS}/{id}`, dialect: "openai", id };
}
