/** What makes two requests the same one: who asks, where, under which key, and for what. */
import { createHash } from "node:crypto";
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";

/** Lower case, as requests have it. */
export const KEY_HEADER = "idempotency-key";

const VISIBLE = /^[\x21-\x7e]{1,255}$/;

/**
 * The key as the client means it. The IETF's draft has it in quotes, most clients send it without: both are the same key.
 *
 * @throws GuardError `body_invalid` unless it has 1 to 255 visible ASCII characters.
 */
export function keyOf(header: string): string {
  const key = header.length >= 2 && header.startsWith('"') && header.endsWith('"') ? header.slice(1, -1).replaceAll(/\\(["\\])/g, "$1") : header;
  if (VISIBLE.test(key)) return key;
  throw new GuardError("body_invalid", "Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID", { param: "Idempotency-Key" });
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("base64url");

/** Where a key's record stands. Nobody reaches anybody else's: the caller, its scopes and the route are part of it, and none of them can be read from it. */
export function placeOf(ctx: Context, { dialect, operation }: Call, key: string): string {
  const { principal, scopes = {}, route } = ctx;
  const whose = Object.entries(scopes).sort(byName);
  return sha256(JSON.stringify([principal?.kind ?? null, principal?.name ?? null, whose, ctx.account ?? null, route, dialect, operation, key]));
}

/** Of what is asked for. The order of fields and the space between them say nothing. */
export function digestOf({ body, model, stream, reasoning }: Call): string {
  // What the path says, and what stood behind the model's name, is not in the body.
  const apart = body.model === undefined || reasoning !== undefined ? [model, stream, reasoning ?? null] : [];
  return sha256(JSON.stringify(apart.length === 0 ? canonical(body) : [canonical(body), ...apart]));
}

/** Recursion is bounded: bodies that are nested deeper are refused when they are read. */
function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== "object" || value === null) return value;
  // Within a list of its own kind: no list of a client's can look like an object.
  return {
    o: Object.entries(value)
      .sort(byName)
      .map(([name, member]) => [name, canonical(member)]),
  };
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : 1);
