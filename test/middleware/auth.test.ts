import { describe, expect, test } from "vitest";
import type { Context, Headers } from "../../src/core/context.ts";
import { GuardError } from "../../src/core/errors.ts";
import { Secret } from "../../src/core/secret.ts";
import { isPromise } from "../../src/core/time.ts";
import { authStep, modelAccess, presentedKey, type AuthMode, type ClientKey } from "../../src/middleware/auth.ts";
import { callOf, contextWith, kit, refusalOf, rejectionOf, type Kit } from "../core/context-kit.ts";

const ALICE = "qg-key-of-alice";
const BOB = "qg-key-of-bob";
const MASTER = "sk-master";

const clientKey = (name: string, key: string, more: Partial<ClientKey> = {}): ClientKey => ({
  name,
  key: new Secret(key),
  scopes: { user: name },
  models: null,
  expiresAt: null,
  mayAssertScopes: false,
  ...more,
});

const MODE: AuthMode = {
  kind: "keys",
  masterKey: new Secret(MASTER),
  keys: [clientKey("alice", ALICE), clientKey("bob", BOB, { models: ["gpt-*"] })],
  pepper: null,
};

const asked = (headers: Headers, from: Kit = kit(), more: Parameters<typeof contextWith>[1] = {}): Context =>
  contextWith(from.services, { headers, ...more });

function principalOf(mode: AuthMode, headers: Headers, from: Kit = kit()) {
  const ctx = asked(headers, from);
  expect(authStep(mode)(ctx)).toBeUndefined();
  return ctx.principal;
}

describe("a configured key", () => {
  test.each<[string, Headers]>([
    ["Bearer", { authorization: `Bearer ${ALICE}` }],
    ["bearer, in any case and with spaces", { authorization: `bEaReR   ${ALICE}` }],
    ["x-api-key", { "x-api-key": ALICE }],
    ["x-goog-api-key", { "x-goog-api-key": ALICE }],
    ["all of them", { authorization: `Bearer ${ALICE}`, "x-api-key": ALICE, "x-goog-api-key": ALICE }],
  ])("by %s is one and the same principal", (_name, headers) => {
    const step = authStep(MODE);
    const [first, second] = [asked({ authorization: `Bearer ${ALICE}` }), asked(headers)];
    void step(first);
    void step(second);
    expect(second.principal).toBe(first.principal);
    expect(second.principal).toEqual({ kind: "key", name: "alice", scopes: { user: "alice" }, models: null, mayAssertScopes: false });
  });

  test("is the master's, who may name any scope", () => {
    expect(principalOf(MODE, { authorization: `Bearer ${MASTER}` })).toEqual({
      kind: "master",
      name: "master",
      scopes: {},
      models: null,
      mayAssertScopes: true,
    });
  });

  test("works until the ms it expires", () => {
    const from = kit();
    const expiresAt = from.clock.now() + 5_000;
    const mode: AuthMode = { ...MODE, keys: [clientKey("alice", ALICE, { expiresAt })] };
    const step = authStep(mode);
    from.clock.advance(4_999);
    expect(() => step(asked({ "x-api-key": ALICE }, from))).not.toThrow();
    from.clock.advance(1);
    expect(refusalOf(() => step(asked({ "x-api-key": ALICE }, from))).code).toBe("unauthenticated");
  });

  test.each([["short"], [null]])("is found whatever the pepper (%s)", (pepper) => {
    expect(principalOf({ ...MODE, pepper }, { "x-api-key": BOB })?.name).toBe("bob");
  });

  test("of 512 characters is the longest", () => {
    const long = "k".repeat(512);
    const mode: AuthMode = { ...MODE, keys: [clientKey("long", long), clientKey("too long", `${long}k`)] };
    expect(principalOf(mode, { "x-api-key": long })?.name).toBe("long");
    expect(refusalOf(() => principalOf(mode, { "x-api-key": `${long}k` })).code).toBe("unauthenticated");
  });
});

describe("401", () => {
  test.each<[string, Headers]>([
    ["no key", {}],
    ["an unknown key", { authorization: "Bearer nobody" }],
    ["a key with something in front", { "x-api-key": `x${ALICE}` }],
    ["a key cut short", { "x-api-key": ALICE.slice(0, -1) }],
    ["a key in other case", { "x-api-key": ALICE.toUpperCase() }],
    ["Basic", { authorization: `Basic ${Buffer.from(`x:${ALICE}`).toString("base64")}` }],
    ["Basic beside a right key", { authorization: "Basic eDp5", "x-api-key": ALICE }],
    ["an empty header", { authorization: "" }],
    ["Bearer and nothing", { authorization: "Bearer " }],
    ["Bearer without a space", { authorization: `Bearer${ALICE}` }],
    ["an empty x-api-key", { "x-api-key": "" }],
    ["600 characters", { "x-api-key": "k".repeat(600) }],
    ["600 kB", { authorization: `Bearer ${"k".repeat(600_000)}` }],
    ["no ASCII", { "x-api-key": "ключ" }],
    ["a control character", { "x-api-key": `${ALICE}\u0000` }],
    ["a repeated header", { "x-api-key": `${ALICE}, ${ALICE}` }],
    ["a key in the path only", {}],
    ["a name from the prototype", { "x-api-key": "__proto__" }],
  ])("for %s", (_name, headers) => {
    const ctx = contextWith(kit().services, { headers, path: `/v1/chat/completions?key=${ALICE}` });
    const error = refusalOf(() => authStep(MODE)(ctx));
    expect(error).toMatchObject({ code: "unauthenticated", status: 401, headers: { "www-authenticate": "Bearer" } });
    expect(error.message).not.toContain(ALICE);
    expect(ctx.principal).toBeUndefined();
  });
});

describe("two different keys", () => {
  test.each<[string, Headers]>([
    ["Bearer and x-api-key", { authorization: `Bearer ${ALICE}`, "x-api-key": BOB }],
    ["x-api-key and x-goog-api-key", { "x-api-key": ALICE, "x-goog-api-key": BOB }],
    ["a right one and an empty one", { authorization: `Bearer ${ALICE}`, "x-api-key": "" }],
  ])("are a conflict: %s", (_name, headers) => {
    expect(refusalOf(() => presentedKey(headers))).toMatchObject({ code: "auth_conflict", status: 400 });
  });
});

describe("the host's own function", () => {
  const custom = (authenticate: Extract<AuthMode, { kind: "custom" }>["authenticate"]): AuthMode => ({ kind: "custom", authenticate });

  test("that answers at once keeps it synchronous, and gets the key and the host's request", () => {
    const calls: unknown[] = [];
    const host = {};
    const ctx = contextWith(kit().services, { headers: { "x-api-key": "theirs" }, host });
    const result = authStep(custom((key, req) => (calls.push([key, req]), { name: "u7", scopes: { user: 7, org: null }, models: ["gpt-*"] })))(ctx);
    expect([isPromise(result), calls]).toEqual([false, [["theirs", host]]]);
    expect(ctx.principal).toEqual({ kind: "host", name: "u7", scopes: { user: "7" }, models: ["gpt-*"], mayAssertScopes: false });
  });

  test("may be asynchronous", async () => {
    const ctx = asked({ authorization: "Bearer theirs" });
    await authStep(custom(async () => ({ name: "u7" })))(ctx);
    expect(ctx.principal).toMatchObject({ name: "u7", scopes: {}, models: null, mayAssertScopes: false });
  });

  test("is asked even when there is no key", () => {
    const ctx = asked({});
    void authStep(custom((key) => (key === null ? { name: "by cookie" } : null)))(ctx);
    expect(ctx.principal?.name).toBe("by cookie");
  });

  test("refuses with null, at once or later", async () => {
    expect(refusalOf(() => authStep(custom(() => null))(asked({}))).code).toBe("unauthenticated");
    expect((await rejectionOf(authStep(custom(async () => null))(asked({})) as Promise<void>)).code).toBe("unauthenticated");
  });

  test("that throws or rejects is a fault of the host, not a refusal, and lets nobody in", async () => {
    const failing = new Error("database away");
    const [now, later] = [asked({}), asked({})];
    expect(() =>
      authStep(
        custom(() => {
          throw failing;
        }),
      )(now),
    ).toThrow(failing);
    await expect(authStep(custom(() => Promise.reject(failing)))(later)).rejects.toBe(failing);
    expect([now.principal, later.principal]).toEqual([undefined, undefined]);
  });

  test("cannot smuggle in a scope value that a header could not", () => {
    expect(refusalOf(() => authStep(custom(() => ({ name: "x", scopes: { user: "a b" } })))(asked({})))).toMatchObject({
      code: "scope_invalid",
      scope: "user",
    });
  });

  test("is not asked when two different keys are presented", () => {
    let calls = 0;
    const mode = custom(() => ((calls += 1), { name: "x" }));
    expect(refusalOf(() => authStep(mode)(asked({ "x-api-key": "a", "x-goog-api-key": "b" }))).code).toBe("auth_conflict");
    expect(calls).toBe(0);
  });
});

test("with the host's own auth in front everybody is the host, whatever key they send", () => {
  expect(principalOf({ kind: "host" }, { authorization: "Basic eDp5" })).toMatchObject({
    kind: "host",
    name: "host",
    scopes: {},
    mayAssertScopes: false,
  });
});

describe("with fail2ban in front", () => {
  const out = new GuardError("banned", "out");

  function gated(mode: AuthMode, headers: Headers) {
    const ctx = asked(headers);
    const admitted: unknown[] = [];
    ctx.gate = { admit: (principal) => void admitted.push([principal.name, ctx.principal?.name]), refusal: () => out };
    return { ctx, admitted, run: () => authStep(mode)(ctx) };
  }

  test.each<[string, AuthMode, string]>([
    ["a configured key", MODE, "alice"],
    ["whom the host's function names", { kind: "custom", authenticate: () => ({ name: "u7" }) }, "u7"],
    ["whom it names later", { kind: "custom", authenticate: async () => ({ name: "u7" }) }, "u7"],
    ["the host", { kind: "host" }, "host"],
  ])("%s is shown at the gate once it is known who it is", async (_name, mode, name) => {
    const { run, admitted } = gated(mode, { "x-api-key": ALICE });
    await run();
    expect(admitted).toEqual([[name, name]]);
  });

  test("a key seen before is shown at the gate like any other", () => {
    const step = authStep(MODE);
    const first = asked({ authorization: `Bearer ${ALICE}` });
    void step(first);
    const second = asked({ authorization: `Bearer ${ALICE}` });
    second.gate = {
      admit() {
        throw out;
      },
      refusal: (error) => error,
    };
    expect(refusalOf(() => step(second))).toBe(out);
  });

  test.each<[string, AuthMode, Headers]>([
    ["an unknown key", MODE, { "x-api-key": "nobody" }],
    ["no key", MODE, {}],
    ["an expired key", { ...MODE, keys: [clientKey("alice", ALICE, { expiresAt: 1 })] }, { "x-api-key": ALICE }],
    ["two different keys", MODE, { "x-api-key": ALICE, "x-goog-api-key": BOB }],
    ["what is no key", MODE, { authorization: "Basic eDp5" }],
    ["one that the host's function refuses", { kind: "custom", authenticate: () => null }, { "x-api-key": "nobody" }],
    ["one that it refuses later", { kind: "custom", authenticate: async () => null }, { "x-api-key": "nobody" }],
    ["two different keys for it", { kind: "custom", authenticate: () => null }, { "x-api-key": "a", "x-goog-api-key": "b" }],
  ])("%s gets the gate's refusal", async (_name, mode, headers) => {
    const { run, admitted } = gated(mode, headers);
    expect(await rejectionOf((async () => run())())).toBe(out);
    expect(admitted).toEqual([]);
  });

  test("a fault of the host's function stays what it is", async () => {
    const failing = new Error("database away");
    const { run } = gated({ kind: "custom", authenticate: () => Promise.reject(failing) }, { "x-api-key": "x" });
    await expect(run()).rejects.toBe(failing);
  });
});

describe("which models a key may use", () => {
  const aliases: Record<string, string> = { fast: "gpt-4o-mini", cheap: "claude-haiku" };
  const check = (models: readonly string[] | null, model: string) => {
    const ctx = contextWith(kit().services, { reader: { call: () => callOf(model) } });
    ctx.principal = { kind: "key", name: "k", scopes: {}, models, mayAssertScopes: false };
    return modelAccess((name) => aliases[name] ?? name.replace(/^openai:/, ""))(ctx);
  };

  test.each<[readonly string[] | null, string]>([
    [null, "anything"],
    [["gpt-*"], "gpt-4o"],
    [["gpt-4o-mini"], "fast"],
    [["fast"], "fast"],
    [["gpt-4o"], "openai:gpt-4o"],
    [["x", "*"], "claude"],
  ])("%j may use %s", (models, model) => {
    expect(check(models, model)).toBeUndefined();
  });

  test.each<[readonly string[], string]>([
    [["gpt-*"], "claude-haiku"],
    [["gpt-*"], "cheap"],
    [["gpt-4o"], "gpt-4o-mini"],
    [["gpt-4o"], "GPT-4o"],
    [[], "gpt-4o"],
  ])("%j may not use %s", (models, model) => {
    expect(refusalOf(() => check(models, model))).toMatchObject({ code: "model_not_allowed", status: 403, param: "model" });
  });

  test("is decided when the call has arrived", async () => {
    const ctx = contextWith(kit().services, { reader: { call: () => Promise.resolve(callOf("claude")) } });
    ctx.principal = { kind: "key", name: "k", scopes: {}, models: ["gpt-*"], mayAssertScopes: false };
    expect((await rejectionOf(modelAccess((name) => name)(ctx) as Promise<void>)).code).toBe("model_not_allowed");
  });
});
