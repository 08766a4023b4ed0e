/**
 * Who asks: the master key, a client key of the configuration or of the store, or whatever the host's own function says. Runs before the body is read, so a
 * stranger costs nothing but a digest.
 */
import { hash, randomBytes } from "node:crypto";
import type { Context, Principal } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { scopesFrom, type Scopes, type ScopesInput } from "../core/scope.ts";
import type { Secret } from "../core/secret.ts";
import type { Step } from "../core/step.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import { matchesAny } from "../pool/patterns.ts";
import { isApiKey } from "./auth/api-key.ts";
import type { FoundKey } from "./auth/key-lookup.ts";

const BEARER = /^bearer +(.+)$/i;
/** Visible ASCII: what a key can be made of. */
const KEY = /^[\x21-\x7e]{1,512}$/;

export interface ClientKey {
  readonly name: string;
  readonly key: Secret;
  readonly scopes: Scopes;
  /** Model patterns; null = all. */
  readonly models: readonly string[] | null;
  /** Wall clock, ms; null = never. */
  readonly expiresAt: number | null;
  readonly mayAssertScopes: boolean;
}

/** The host's own check. Null = refuse. `key` is what the client presented, or null. */
export type Authenticate = (
  key: string | null,
  host: unknown,
) => MaybePromise<{ readonly name: string; readonly scopes?: ScopesInput; readonly models?: readonly string[] } | null>;

/** Finds a key that was made at run time; undefined = there is none. */
export type StoredKeys = (key: string) => MaybePromise<FoundKey | undefined>;

/** `host`: the app in front of us authenticated; its scopes come from `scopes`. */
export type AuthMode =
  | { readonly kind: "host" }
  | {
      readonly kind: "keys";
      readonly masterKey: Secret | null;
      readonly keys: readonly ClientKey[];
      readonly pepper: string | null;
      readonly stored?: StoredKeys;
    }
  | { readonly kind: "custom"; readonly authenticate: Authenticate };

const HOST: Principal = Object.freeze({ kind: "host", name: "host", scopes: Object.freeze({}), models: null, mayAssertScopes: false });

/** The one key a request presents, however it spells it. Two different ones are refused: nobody can say which was meant. */
export function presentedKey(headers: Context["headers"]): string | null {
  let found: string | null = null;
  const authorization = headers.authorization;
  if (authorization !== undefined) {
    const bearer = BEARER.exec(String(authorization))?.[1];
    if (bearer === undefined) throw unauthenticated("the authorization header must be: Bearer <key>");
    found = bearer.trim();
  }
  for (const name of ["x-api-key", "x-goog-api-key"] as const) {
    const value = headers[name];
    if (value === undefined) continue;
    if (found !== null && found !== value) throw new GuardError("auth_conflict", "the request presents two different keys; send one");
    found = String(value);
  }
  return found;
}

function unauthenticated(message: string): GuardError {
  return new GuardError("unauthenticated", message, { headers: { "www-authenticate": "Bearer" } });
}

const wrongKey = (): GuardError =>
  unauthenticated("the key is missing, unknown or expired; send it as Authorization: Bearer <key>, x-api-key or x-goog-api-key");

/** What a wrong key is told: fail2ban may know more of who presents it. */
const refusalOf = (ctx: Context, error: GuardError): GuardError => ctx.gate?.refusal(error) ?? error;

/** {@link presentedKey}, where presenting none that can be read counts as a wrong one. */
function keyOf(ctx: Context): string | null {
  try {
    return presentedKey(ctx.headers);
  } catch (error) {
    throw GuardError.is(error) ? refusalOf(ctx, error) : error;
  }
}

/** Lets a principal in, unless fail2ban knows better. */
function enter(ctx: Context, principal: Principal): void {
  ctx.principal = principal;
  ctx.gate?.admit(principal);
}

/** Looks keys up by a digest keyed with a secret: no comparison of key bytes, nothing learnt from timing, no key kept in clear. */
function keyTable(mode: Extract<AuthMode, { kind: "keys" }>): (key: string) => FoundKey | undefined {
  const pepper = mode.pepper ?? randomBytes(32).toString("hex");
  const digest = (key: string): string => hash("sha256", `${pepper}\n${key}`, "base64");
  const table = new Map<string, FoundKey>();
  for (const { name, key, scopes, models, expiresAt, mayAssertScopes } of mode.keys) {
    table.set(digest(key.reveal()), { principal: Object.freeze({ kind: "key", name, scopes, models, mayAssertScopes }), expiresAt });
  }
  if (mode.masterKey) {
    const principal: Principal = Object.freeze({ kind: "master", name: "master", scopes: Object.freeze({}), models: null, mayAssertScopes: true });
    table.set(digest(mode.masterKey.reveal()), { principal, expiresAt: null });
  }
  return (key) => table.get(digest(key));
}

/** Sets `ctx.principal` or refuses with 401; with `banned` when fail2ban says so. */
export function authStep(mode: AuthMode): Step {
  if (mode.kind === "host") {
    return function auth(ctx) {
      enter(ctx, ctx.principal ?? HOST);
    };
  }
  if (mode.kind === "custom") {
    const { authenticate } = mode;
    const accept = (ctx: Context, found: Awaited<ReturnType<Authenticate>>): void => {
      if (!found) throw refusalOf(ctx, wrongKey());
      const { name, scopes, models } = found;
      enter(ctx, { kind: "host", name, scopes: scopesFrom(scopes ?? {}), models: models ?? null, mayAssertScopes: false });
    };
    return function auth(ctx) {
      return andThen(authenticate(keyOf(ctx), ctx.host), (found) => accept(ctx, found));
    };
  }
  const lookUp = keyTable(mode);
  const { stored } = mode;
  /** Right keys by the header that carried them, as many as there are keys: they are in this process's options anyway, others never get here. */
  const seen = new Map<string, FoundKey>();
  const most = mode.keys.length + 1;

  function admit(ctx: Context, known: FoundKey | undefined): void {
    if (!known || (known.expiresAt !== null && known.expiresAt <= ctx.services.clock.now())) throw refusalOf(ctx, wrongKey());
    enter(ctx, known.principal);
  }

  return function auth(ctx) {
    const { headers } = ctx;
    const { authorization } = headers;
    const isPlain = typeof authorization === "string" && headers["x-api-key"] === undefined && headers["x-goog-api-key"] === undefined;
    const before = isPlain ? seen.get(authorization) : undefined;
    if (before) return admit(ctx, before);
    const key = keyOf(ctx);
    const known = key !== null && KEY.test(key) ? lookUp(key) : undefined;
    if (known && isPlain && seen.size < most) seen.set(authorization, known);
    if (known || key === null || !stored || !isApiKey(key)) return admit(ctx, known);
    return andThen(stored(key), (found) => admit(ctx, found));
  };
}

/** Reads the call and refuses a model that the principal may not use, by the name asked for or the one it stands for. */
export function modelAccess(resolve: (model: string) => string): Step {
  const check = (ctx: Context, model: string): void => {
    const allowed = ctx.principal?.models;
    if (!allowed || matchesAny(allowed, model) || matchesAny(allowed, resolve(model))) return;
    throw new GuardError("model_not_allowed", "this key may not use this model; GET /v1/models lists what it may use", { param: "model" });
  };
  return function checkModel(ctx) {
    return andThen(ctx.call(), (call) => check(ctx, call.model));
  };
}
