// Requests of one session stay on one account, for its cache of prompts; nobody else's do, and no session is kept from a better account.
import { afterEach, describe, expect, test } from "vitest";
import { KEY, OTHER_KEY } from "../helpers/app.ts";
import { accounts, endAccounts, MODEL, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;
const busy = { status: 429, headers: { "retry-after": "10" } };

const stay = async (kit: Accounts, count: number, session: string, key = KEY): Promise<string> => {
  const before = kit.asked().length;
  for (let i = 0; i < count; i += 1) await kit.ask({}, { key, headers: { "x-session-id": session } });
  return kit.asked().slice(before);
};

test("a hundred requests of a session go to one account, while others take turns", async () => {
  const kit = await accounts(["a", "b", "c"]);
  let mine = "";
  let others = "";
  for (let i = 0; i < 100; i += 1) {
    mine += await stay(kit, 1, "s");
    others += await kit.several(1);
  }
  expect(mine).toBe("a".repeat(100));
  expect(new Set(others.slice(0, 9))).toEqual(new Set("abc"));
});

test.each<[string, Record<string, unknown>]>([
  ["session_id", { session_id: "s" }],
  ["prompt_cache_key", { prompt_cache_key: "s" }],
])("named in the body by %s", async (_what, body) => {
  const kit = await accounts(["a", "b"]);
  expect([await kit.several(3, body), await kit.several(4)]).toEqual(["aaa", "baba"]);
});

test("Anthropic's client, by its metadata; and one in this process", async () => {
  const kit = await accounts(["a", "b"]);
  for (let i = 0; i < 3; i += 1) {
    const answer = await fetch(`${kit.gateway.url}/llm/v1/messages`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": KEY },
      body: JSON.stringify({
        model: MODEL,
        max_tokens: 5,
        messages: [{ role: "user", content: "one" }],
        metadata: { user_id: "user_1_account_2_session_11111111-2222-3333-4444-555555555555" },
      }),
    });
    expect(answer.status).toBe(200);
  }
  const call = kit.guard.fetch();
  for (let i = 0; i < 3; i += 1) {
    const body = JSON.stringify({ model: MODEL, messages: [], prompt_cache_key: "p" });
    await (await call("https://api.openai.com/v1/chat/completions", { method: "POST", body })).text();
  }
  expect(kit.asked()).toBe("aaabbb");
});

test("the same name under another key is another session", async () => {
  const kit = await accounts(["a", "b"]);
  expect([await stay(kit, 3, "s"), await stay(kit, 3, "s", OTHER_KEY), await stay(kit, 2, "s")]).toEqual(["aaa", "bbb", "aa"]);
});

describe("an account that is closed", () => {
  test("is left, and the session stays where it went", async () => {
    const kit = await accounts(["a", "b", "c"]);
    expect(await stay(kit, 2, "s")).toBe("aa");
    kit.answer("a", busy);
    expect(await stay(kit, 3, "s")).toBe("abbb");
    kit.answer("a", {});
    kit.clock.advance(10 * SECOND);
    expect(await stay(kit, 3, "s")).toBe("bbb");
  });

  test("a session that fell to fallbacks comes back to where it was", async () => {
    const kit = await accounts(
      [...["a", "b"].map((name) => ({ name, models: [MODEL] })), ...["x", "y"].map((name) => ({ name, models: ["other"] }))],
      { router: { fallbackChains: { [MODEL]: ["other"] } }, resilience: { maxRetries: 3 } },
    );
    await kit.several(1);
    expect(await stay(kit, 2, "s")).toBe("bb");
    for (const name of ["a", "b"]) kit.answer(name, busy);
    expect(await stay(kit, 3, "s")).toBe("baxxx");
    for (const name of ["a", "b"]) kit.answer(name, {});
    kit.clock.advance(10 * SECOND);
    expect(await stay(kit, 2, "s")).toBe("bb");
  });
});

test("a session that rests is forgotten", async () => {
  const kit = await accounts(["a", "b"], { router: { sticky: { ttl: "1m" } } });
  expect(await stay(kit, 2, "s")).toBe("aa");
  kit.clock.advance(60 * SECOND);
  expect(await stay(kit, 2, "s")).toBe("bb");
});

test("by a scope; and not at all", async () => {
  const kit = await accounts(["a", "b"], { router: { sticky: { by: ["user"] } } });
  const of = async (key: string): Promise<void> => void (await kit.ask({}, { key }));
  for (const key of [KEY, OTHER_KEY, KEY, OTHER_KEY, OTHER_KEY]) await of(key);
  expect(kit.asked()).toBe("ababb");
  const off = await accounts(["a", "b"], { router: { sticky: false } });
  expect(await stay(off, 4, "s")).toBe("abab");
});

test.each([
  ["fill-first", "a"],
  ["weighted", "b"],
] as const)("with %s, too; a new session goes where that sends it", async (strategy, next) => {
  const kit = await accounts(["a", "b"], { router: { strategy } });
  kit.answer("a", busy);
  expect(await stay(kit, 2, "s")).toBe("abb");
  kit.answer("a", {});
  kit.clock.advance(10 * SECOND);
  expect(await stay(kit, 2, "s")).toBe("bb");
  expect(await stay(kit, 1, "t")).toBe(next);
});
