import { describe, expect, test } from "vitest";
import type { Principal } from "../../../src/core/context.ts";
import { sessions } from "../../../src/middleware/credentials/session.ts";
import { callOf, contextWith, kit } from "../../core/context-kit.ts";

interface Given {
  readonly header?: string | readonly string[];
  readonly body?: Record<string, unknown>;
  readonly scopes?: Record<string, string>;
  readonly principal?: Partial<Principal>;
}

const ALICE: Principal = { kind: "key", name: "alice", scopes: {}, models: null, mayAssertScopes: false };

function named({ header, body = {}, scopes, principal = {} }: Given, by: readonly string[] = ["session"]): string | null {
  const ctx = contextWith(kit().services, header === undefined ? {} : { headers: { "x-session-id": header } });
  ctx.principal = { ...ALICE, ...principal };
  ctx.scopes = scopes;
  return sessions(by)(ctx, callOf("m", { body }));
}

const UUID = "0b1f0b9e-8f43-4e0c-9d5b-1c2d3e4f5a6b";
const sameAs = (name: string): string | null => named({ header: name });

describe("where a session is named", () => {
  test.each<[string, Given, string]>([
    ["the header", { header: "a", body: { session_id: "b", prompt_cache_key: "c" } }, "a"],
    ["the body's session_id", { body: { session_id: "b", prompt_cache_key: "c" } }, "b"],
    ["prompt_cache_key", { body: { prompt_cache_key: "c", metadata: { user_id: `x_session_${UUID}` } } }, "c"],
    ["Claude's user_id, joined", { body: { metadata: { user_id: `user_9f_account_${UUID}_session_${UUID}` } } }, UUID],
    ["Claude's user_id, as JSON", { body: { metadata: { user_id: JSON.stringify({ device_id: "d", session_id: UUID }) } } }, UUID],
    ["the next one when one is no text", { body: { session_id: 7, prompt_cache_key: "c" } }, "c"],
    ["the next one when one is empty", { header: "", body: { session_id: "b" } }, "b"],
    ["the next one when one is too long", { header: "x".repeat(257), body: { session_id: "b" } }, "b"],
    ["the next one when one cannot be printed", { header: "a\u0007", body: { session_id: "b" } }, "b"],
    ["the next one when it was sent twice", { header: ["a", "a2"], body: { session_id: "b" } }, "b"],
  ])("%s", (_what, given, expected) => {
    expect(named(given)).toBe(sameAs(expected));
    expect(named(given)).toMatch(/^[\w-]{43}$/);
  });

  test.each<[string, Record<string, unknown>]>([
    ["nothing", {}],
    ["a user without a session", { metadata: { user_id: "alice" } }],
    ["broken JSON", { metadata: { user_id: '{"session_id":' } }],
    ["JSON without a session", { metadata: { user_id: '{"device_id":"d"}' } }],
    ["JSON that is no object", { metadata: { user_id: "{}[1]" } }],
    ["metadata that is none", { metadata: "session" }],
    ["a list of them", { metadata: [{ user_id: `x_session_${UUID}` }] }],
    ["a text without end", { metadata: { user_id: `{"session_id":"${"x".repeat(5_000)}"}` } }],
  ])("%s names none", (_what, body) => {
    expect(named({ body })).toBeNull();
  });
});

describe("whose it is", () => {
  const mine = named({ header: "s" });

  test.each<[string, Given]>([
    ["another key's", { header: "s", principal: { name: "bob" } }],
    ["the master key's", { header: "s", principal: { kind: "master", name: "alice" } }],
    ["the same key's in an organisation", { header: "s", scopes: { org: "acme" } }],
    ["that of a key of an organisation", { header: "s", principal: { scopes: { org: "acme" } } }],
  ])("%s is another one", (_what, given) => {
    expect(named(given)).not.toBe(mine);
  });

  test("of two organisations behind one host, each has its own", () => {
    const of = (org: string): string | null => named({ header: "s", scopes: { org }, principal: { kind: "host", name: "host" } });
    expect(of("a")).not.toBe(of("b"));
    expect(of("a")).toBe(of("a"));
  });

  test("no name can be put together to be another's", () => {
    expect(named({ header: 's","x', principal: { name: "a" } })).not.toBe(named({ header: "x", principal: { name: 'a","s' } }));
  });
});

describe("by scopes", () => {
  test("the first that has a value, in the order given; each kind apart", () => {
    const scopes = { user: "u", team: "t" };
    const by = (...names: readonly string[]): string | null => named({ scopes }, names);
    expect(by("session", "user")).toBe(by("user"));
    expect(by("team", "user")).toBe(by("team"));
    expect(by("role", "session")).toBeNull();
    expect(named({ header: "s", scopes }, ["session", "user"])).toBe(sameAs("s"));
    expect(named({ scopes: { user: "s" } }, ["user"])).not.toBe(sameAs("s"));
  });

  test("`key` is the key's name", () => {
    expect(named({}, ["key"])).toMatch(/^[\w-]{43}$/);
    expect(named({ principal: { name: "bob" } }, ["key"])).not.toBe(named({}, ["key"]));
  });
});
