import { describe, expect, test } from "vitest";
import type { Headers, Principal } from "../../src/core/context.ts";
import type { Scopes, ScopesInput } from "../../src/core/scope.ts";
import { isPromise } from "../../src/core/time.ts";
import { scopesStep, type ScopesOptions } from "../../src/middleware/scopes.ts";
import { contextWith, kit, refusalOf, rejectionOf } from "../core/context-kit.ts";

const HEADERS = { user: "x-user-id", team: "x-team-id", org: "x-org-id" };
const options = (more: Partial<ScopesOptions> = {}): ScopesOptions => ({ headers: HEADERS, trustHeaders: false, of: null, ...more });
const principal = (scopes: Scopes, more: Partial<Principal> = {}): Principal => ({
  kind: "key",
  name: "k",
  scopes,
  models: null,
  mayAssertScopes: false,
  ...more,
});

function contextOf(who: Principal | undefined, headers: Headers = {}, host: unknown = {}) {
  const ctx = contextWith(kit().services, { headers, host });
  ctx.principal = who;
  return ctx;
}

function scopesOf(given: ScopesOptions, who: Principal | undefined, headers: Headers = {}): Scopes | undefined {
  const ctx = contextOf(who, headers);
  expect(scopesStep(given)(ctx)).toBeUndefined();
  return ctx.scopes;
}

describe("scope headers", () => {
  const sent = { "x-user-id": "eve", "x-team-id": "data" };
  const own = { user: "alice" };

  test.each<[string, ScopesOptions, Principal | undefined, Scopes]>([
    ["of a key without leave are ignored, and its own scopes stand", options(), principal(own), own],
    ["of a key with leave count, over its own", options(), principal(own, { mayAssertScopes: true }), { user: "eve", team: "data" }],
    ["of the master count", options(), principal({}, { kind: "master", mayAssertScopes: true }), { user: "eve", team: "data" }],
    ["of anybody count behind a proxy that sets them", options({ trustHeaders: true }), principal(own), { user: "eve", team: "data" }],
    ["of nobody in particular count there too", options({ trustHeaders: true }), undefined, { user: "eve", team: "data" }],
    ["of a request without auth are ignored", options(), undefined, {}],
    ["of the host's own users are ignored", options(), principal(own, { kind: "host" }), own],
    [
      "that are not configured mean nothing",
      options({ headers: { team: "x-team-id" }, trustHeaders: true }),
      principal(own),
      { user: "alice", team: "data" },
    ],
  ])("%s", (_name, given, who, expected) => {
    expect(scopesOf(given, who, sent)).toEqual(expected);
  });

  test("that are absent leave the key's own scopes, the same object", () => {
    const who = principal(own, { mayAssertScopes: true });
    expect(scopesOf(options(), who)).toBe(who.scopes);
  });

  test.each([["alice, bob"], [""], ["a b"], ["а"], ["x".repeat(129)], ["a\nb"], [["alice", "bob"]]])(
    "%j is refused by the scope's name, from somebody trusted",
    (value) => {
      const error = refusalOf(() => scopesOf(options({ trustHeaders: true }), principal(own), { "x-user-id": value }));
      expect(error).toMatchObject({ code: "scope_invalid", status: 400, scope: "user" });
    },
  );

  test("that are hostile are not even looked at, from anybody else", () => {
    expect(scopesOf(options(), principal(own), { "x-user-id": "alice, bob" })).toEqual(own);
  });
});

describe("the host's own word", () => {
  const of = (given: ScopesOptions["of"], more: Partial<ScopesOptions> = {}): ScopesOptions => options({ of: given, ...more });

  test("is asked with the host's request, and adds to the key's scopes", () => {
    const host = { user: { id: 42 } };
    const ctx = contextOf(principal({ team: "data", user: "key" }), {}, host);
    const result = scopesStep(of((req) => ({ user: (req as typeof host).user.id })))(ctx);
    expect([isPromise(result), ctx.scopes]).toEqual([false, { team: "data", user: "42" }]);
    expect(Object.isFrozen(ctx.scopes)).toBe(true);
  });

  test("may be asynchronous, or nothing", async () => {
    const ctx = contextOf(undefined);
    await scopesStep(of(async () => ({ user: "late" })))(ctx);
    expect(ctx.scopes).toEqual({ user: "late" });
    expect(
      scopesOf(
        of(() => ({})),
        principal({ user: "k" }),
      ),
    ).toEqual({ user: "k" });
    expect(
      scopesOf(
        of(() => ({ user: undefined })),
        principal({ user: "k" }),
      ),
    ).toEqual({ user: "k" });
    expect(
      scopesOf(
        of(() => undefined as unknown as ScopesInput),
        principal({ user: "k" }),
      ),
    ).toEqual({ user: "k" });
  });

  test("stands below trusted headers", () => {
    expect(
      scopesOf(
        of(() => ({ user: "host", org: "acme" }), { trustHeaders: true }),
        undefined,
        { "x-user-id": "header" },
      ),
    ).toEqual({ user: "header", org: "acme" });
  });

  test("is refused when it cannot be a scope value", async () => {
    expect(
      refusalOf(() =>
        scopesOf(
          of(() => ({ user: "a/b" })),
          undefined,
        ),
      ),
    ).toMatchObject({ scope: "user" });
    expect(await rejectionOf(scopesStep(of(async () => ({ team: {} as unknown as string })))(contextOf(undefined)) as Promise<void>)).toMatchObject({
      scope: "team",
    });
  });

  test("that throws or rejects sets nothing", async () => {
    const failing = new Error("session store away");
    const ctx = contextOf(undefined);
    await expect(scopesStep(of(() => Promise.reject(failing)))(ctx)).rejects.toBe(failing);
    expect(ctx.scopes).toBeUndefined();
  });
});

test("a second step adds to the first", () => {
  const ctx = contextOf(principal({ team: "data" }));
  void scopesStep(options({ of: () => ({ user: "a" }) }))(ctx);
  void scopesStep(options({ of: () => ({ org: "acme", user: "b" }) }))(ctx);
  expect(ctx.scopes).toEqual({ team: "data", user: "b", org: "acme" });
});
