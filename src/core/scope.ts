import { ConfigError, GuardError } from "./errors.ts";

/** The value of each scope for one request: `{ team: "data", user: "alice" }`. An absent scope has no entry. */
export type Scopes = Readonly<Record<string, string>>;

/** Scopes that exist without being declared, widest first. */
export const BUILT_IN_SCOPES = ["global", "org", "team", "rolegroup", "role", "user", "key", "route", "model", "credential"] as const;

/**
 * A host types its own scopes with `declare module "quotaguard" { interface CustomScopes { feature: "search" | "summarise" } }`: names that are neither here nor
 * built in are compile errors, and so are other values. At run time they are declared by `scopes.names` or `scopes.headers`.
 */
// oxlint-disable-next-line typescript/no-empty-object-type -- an interface, so that hosts can merge into it
export interface CustomScopes {}

export type ScopeName = (typeof BUILT_IN_SCOPES)[number] | keyof CustomScopes;

/** What a host's callback may return for one scope. Nullish = this request has no such scope. */
export type ScopeInput = string | number | bigint | null | undefined;

/** Values by scope: the built-in ones and those of {@link CustomScopes}. */
export type ScopesInput = {
  readonly [name in ScopeName]?: name extends keyof CustomScopes ? Extract<CustomScopes[name], ScopeInput> | null | undefined : ScopeInput;
};

const VALUE = /^[A-Za-z0-9._@:-]{1,128}$/;

/** Checks one scope value. Throws `scope_invalid` that names the scope, never the value's bytes. */
export function scopeValue(name: string, value: string): string {
  if (!VALUE.test(value)) {
    throw new GuardError("scope_invalid", `the value of scope ${name} must be 1 to 128 characters of A-Z a-z 0-9 . _ @ : -`, { scope: name });
  }
  return value;
}

/** Turns what a host gave into checked, frozen scopes. Nullish = none. */
export function scopesFrom(input: Readonly<Record<string, unknown>> | null | undefined): Scopes {
  if (typeof (input ?? {}) !== "object" || Array.isArray(input)) throw new ConfigError(["scopes: expected an object such as { user: req.user?.id }"]);
  const scopes: Record<string, string> = {};
  for (const [name, value] of Object.entries(input ?? {})) {
    if (value === null || value === undefined || value === "") continue;
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "bigint") {
      throw new GuardError("scope_invalid", `the value of scope ${name} must be a string, a number or a bigint`, { scope: name });
    }
    scopes[name] = scopeValue(name, String(value));
  }
  return Object.freeze(scopes);
}
