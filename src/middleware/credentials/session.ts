/** What a request says it belongs to, so that it may stay on one account. */
import { hash } from "node:crypto";
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";

/** What is longer, or holds what nobody can see, names no session. */
const NAME = /^\P{C}{1,256}$/u;

/** Claude's clients put who they are and the session into one text: joined by underscores, or as JSON. */
const JOINED = /_session_([A-Za-z0-9-]{1,128})$/;
const MAX_METADATA = 4_096;

type Fields = Readonly<Record<string, unknown>>;

const fieldsOf = (value: unknown): Fields => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {});

const named = (value: unknown): string | null => (typeof value === "string" && NAME.test(value) ? value : null);

function sessionInMetadata(metadata: unknown): string | null {
  const { user_id: text } = fieldsOf(metadata);
  if (typeof text !== "string" || text.length > MAX_METADATA) return null;
  if (!text.startsWith("{")) return JOINED.exec(text)?.[1] ?? null;
  try {
    return named(fieldsOf(JSON.parse(text)).session_id);
  } catch {
    return null;
  }
}

const sessionIn = ({ headers }: Context, { body }: Call): string | null =>
  named(headers["x-session-id"]) ?? named(body.session_id) ?? named(body.prompt_cache_key) ?? sessionInMetadata(body.metadata);

function valueOf(by: string, ctx: Context, call: Call): string | null {
  if (by === "session") return sessionIn(ctx, call);
  if (by === "key") return ctx.principal?.name ?? null;
  return ctx.scopes?.[by] ?? null;
}

/**
 * Names what a request belongs to by the first of these that has a value: `session`, or a scope. Clients choose such names, so each counts only within the key
 * and the organisation that it came with: nobody can name another's. A digest, whatever was sent; null = it belongs to nothing.
 */
export function sessions(by: readonly string[]): (ctx: Context, call: Call) => string | null {
  return (ctx, call) => {
    for (const each of by) {
      const value = valueOf(each, ctx, call);
      if (value === null) continue;
      const { principal, scopes } = ctx;
      const whose = [principal?.kind ?? null, principal?.name ?? null, scopes?.org ?? principal?.scopes.org ?? null];
      return hash("sha256", JSON.stringify([...whose, each, value]), "base64url");
    }
    return null;
  };
}
