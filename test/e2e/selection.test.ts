// Which account gets the next request: in turn, in order, by weight; by priority, with fallbacks last; and by which name it knows the model.
import { afterEach, describe, expect, test } from "vitest";
import type { FakeReply } from "quotaguard/testing";
import { accounts, endAccounts, MODEL, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const OTHER = "gpt-4o";
const SECOND = 1_000;
const busy: FakeReply = { status: 429, headers: { "retry-after": "60" } };
const counted = (text: string): Readonly<Record<string, number>> =>
  Object.fromEntries([...Map.groupBy(text, (name) => name)].map(([name, those]) => [name, those.length]));
const sentModels = (kit: Accounts, account: string): unknown[] =>
  (kit.providers[account]?.log ?? []).flatMap(({ method, body }) =>
    method === "POST" ? [(JSON.parse(String(body)) as { model: string }).model] : [],
  );

describe("in turn", () => {
  test("three accounts: 1 2 3 1 2 3", async () => {
    const kit = await accounts(["1", "2", "3"]);
    expect(await kit.several(6)).toBe("123123");
  });

  test("ten requests for another set of accounts in between change nothing", async () => {
    const kit = await accounts([
      ...["v", "w", "x", "y"].map((name) => ({ name, models: ["vertex-model"] })),
      ...["a", "b", "c"].map((name) => ({ name, models: [MODEL] })),
    ]);
    let turns = "";
    let between = "";
    for (let i = 0; i < 8; i += 1) {
      turns += await kit.several(1, { model: "vertex-model" });
      between += await kit.several(10);
    }
    expect(turns).toBe("vwxyvwxy");
    expect(between).toBe("abc".repeat(27).slice(0, 80));
  });

  test("sets that overlap keep turns of their own, and models of one set share theirs", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b" }, { name: "c", models: [OTHER, "gpt-4"] }]);
    let small = "";
    let large = "";
    for (let i = 0; i < 6; i += 1) {
      small += await kit.several(1);
      large += await kit.several(1, { model: i % 2 === 0 ? OTHER : "gpt-4" });
    }
    expect([small, large]).toEqual(["ababab", "abcabc"]);
  });

  test("without the first and third of four: 2 4 2", async () => {
    const kit = await accounts(["1", "2", "3", "4"]);
    kit.answer("1", busy);
    kit.answer("3", busy);
    // Both drop out on the way, and the turn is at 1 again.
    expect(await kit.several(2)).toBe("1234");
    expect(await kit.several(3)).toBe("242");
  });

  test("a hundred at once are shared out evenly", async () => {
    const kit = await accounts(["a", "b", "c", "d"]);
    await Promise.all(Array.from({ length: 100 }, () => kit.ask()));
    expect(kit.counts()).toEqual({ a: 25, b: 25, c: 25, d: 25 });
  });

  test("one request each a minute on two accounts: the third is refused", async () => {
    const kit = await accounts(["a", "b"], { models: [{ name: MODEL, rpm: 1 }] });
    const statuses: number[] = [];
    for (let i = 0; i < 3; i += 1) statuses.push((await kit.ask()).status);
    expect(statuses).toEqual([200, 200, 429]);
    expect(kit.asked()).toBe("ab");
  });

  test("goes on where it was when an account comes back", async () => {
    const kit = await accounts(["a", "b", "c"]);
    kit.answer("b", { status: 429, headers: { "retry-after": "10" } });
    expect(await kit.several(4)).toBe("abcac");
    kit.answer("b", {});
    kit.clock.advance(10 * SECOND);
    expect(await kit.several(6)).toBe("abcabc");
  });
});

describe("in order", () => {
  test("fill-first uses up one account before it touches the next", async () => {
    const kit = await accounts([{ name: "a", rpm: 3 }, { name: "b", rpm: 2 }, { name: "c" }], { router: { strategy: "fill-first" } });
    expect(await kit.several(7)).toBe("aaabbcc");
    kit.clock.advance(61 * SECOND);
    expect(await kit.several(4)).toBe("aaab");
  });
});

describe("by weight", () => {
  test("3 to 1: three quarters and a quarter, never four in a row", async () => {
    const kit = await accounts([{ name: "a", weight: 3 }, { name: "b" }], { router: { strategy: "weighted" } });
    const order = await kit.several(80);
    expect(counted(order)).toEqual({ a: 60, b: 20 });
    expect(order).not.toMatch(/aaaa|bb/);
  });

  test("shares hold under load and for fractions", async () => {
    const kit = await accounts(
      [
        { name: "a", weight: 0.5 },
        { name: "b", weight: 1 },
        { name: "c", weight: 2.5 },
      ],
      { router: { strategy: "weighted" } },
    );
    await Promise.all(Array.from({ length: 160 }, () => kit.ask()));
    expect(kit.counts()).toEqual({ a: 20, b: 40, c: 100 });
  });

  test("an account that was away does not make up for it", async () => {
    const kit = await accounts([{ name: "a", weight: 3 }, { name: "b" }], { router: { strategy: "weighted" } });
    kit.answer("a", { status: 429, headers: { "retry-after": "10" } });
    expect(counted(await kit.several(40))).toEqual({ a: 1, b: 40 });
    kit.answer("a", {});
    kit.clock.advance(10 * SECOND);
    expect(counted(await kit.several(8))).toEqual({ a: 6, b: 2 });
  });

  test("another set of accounts has shares of its own", async () => {
    const kit = await accounts([{ name: "a", weight: 3 }, { name: "b" }, { name: "c", weight: 4, models: [OTHER] }], {
      router: { strategy: "weighted" },
    });
    let small = "";
    let large = "";
    for (let i = 0; i < 16; i += 1) {
      small += await kit.several(1);
      large += await kit.several(1, { model: OTHER });
    }
    expect([counted(small), counted(large)]).toEqual([
      { a: 12, b: 4 },
      { a: 6, b: 2, c: 8 },
    ]);
  });
});

describe("by rank", () => {
  test("higher priority first; a lower one only while no higher one may be used, and in turn within each", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b" }, { name: "c", priority: 5 }, { name: "d", priority: 5 }]);
    expect(await kit.several(4)).toBe("cdcd");
    kit.answer("c", busy);
    expect(await kit.several(3)).toBe("cddd");
    kit.answer("d", busy);
    expect(await kit.several(3)).toBe("daba");
    kit.clock.advance(60 * SECOND);
    for (const name of ["c", "d"]) kit.answer(name, {});
    expect(counted(await kit.several(4))).toEqual({ c: 2, d: 2 });
  });

  test.each<readonly [string, (kit: Accounts) => Promise<void>]>([
    [
      "limited",
      async (kit) => {
        await kit.several(2);
      },
    ],
    [
      "cooling",
      async (kit) => {
        for (const name of ["a", "b"]) kit.answer(name, busy);
        await kit.ask();
      },
    ],
    [
      "banned",
      async (kit) => {
        for (const name of ["a", "b"]) kit.answer(name, { status: 403 });
        await kit.ask();
      },
    ],
  ])("fallbacks only when all others are %s, whatever their priority, and in turn", async (_how, wearOut) => {
    const kit = await accounts(
      [
        { name: "x", isFallback: true, priority: 100 },
        { name: "a", rpm: 1 },
        { name: "b", rpm: 1, priority: -100 },
        { name: "y", isFallback: true, priority: 100 },
      ],
      { fail2ban: { maxAttempts: 1, errorCodes: [403] } },
    );
    await wearOut(kit);
    expect(counted(kit.asked())).toMatchObject({ a: 1, b: 1 });
    kit.forget();
    expect(counted(await kit.several(4))).toEqual({ x: 2, y: 2 });
    for (const name of ["a", "b"]) kit.answer(name, {});
    for (const what of ["bans", "cooldowns"]) await kit.manage("DELETE", `${what}/a`);
    kit.clock.advance(61 * SECOND);
    expect(await kit.several(1)).toBe("a");
  });

  test("a busy account and a fallback that can: one request each", async () => {
    const kit = await accounts([{ name: "a" }, { name: "x", isFallback: true }]);
    kit.answer("a", busy);
    expect((await kit.ask()).status).toBe(200);
    expect(kit.counts()).toEqual({ a: 1, x: 1 });
  });

  test("a fallback's own failure is what the client sees, as it came", async () => {
    const kit = await accounts([{ name: "a" }, { name: "x", isFallback: true }]);
    kit.answer("a", busy);
    kit.answer("x", { status: 500, body: { error: { message: "x is down", type: "server_error", param: null, code: "down" } } });
    expect(await kit.ask()).toMatchObject({ status: 500, code: "down" });
  });

  test("a model that nobody has goes to no fallback", async () => {
    const kit = await accounts([{ name: "a" }, { name: "x", isFallback: true }]);
    kit.answer("a", {
      status: 404,
      body: { error: { message: "The model does not exist", type: "invalid_request_error", param: null, code: null } },
    });
    expect((await kit.ask()).status).toBe(404);
    expect(kit.asked()).toBe("a");
  });
});

describe("by name", () => {
  test("an alias stands for a model everywhere: in the choice, the limits, what operators see and what the provider is asked for", async () => {
    const kit = await accounts(["a", { name: "b", models: [OTHER] }], { models: [{ name: MODEL, rpm: 3 }], modelAlias: { fast: MODEL } });
    for (const model of ["fast", MODEL, `openai:${MODEL}`]) expect((await kit.ask({ model })).status).toBe(200);
    expect(sentModels(kit, "a")).toEqual([MODEL, MODEL, MODEL]);
    expect(await kit.ask({ model: "fast" })).toMatchObject({ status: 429, code: "all_credentials_limited" });
    expect(kit.credential("a").models).toMatchObject([{ name: MODEL, state: "limited", rpm: { used: 3, limit: 3 } }]);
  });

  test("response-model-rewritten-to-alias-only-with-force-mapping: nothing forces it, so an answer names the model that was asked", async () => {
    const kit = await accounts(["a"], { modelAlias: { fast: MODEL } });
    const answered = (await kit.ask({ model: "fast" })).text;
    expect(JSON.parse(answered)).toMatchObject({ model: MODEL });
    const streamed = (await kit.ask({ model: "fast", stream: true })).text;
    expect(streamed).toContain(`"model":"${MODEL}"`);
    expect(streamed).not.toContain("fast");
  });

  test("each account may know the model by a name of its own", async () => {
    const kit = await accounts(["a", "b", "c"], {
      models: [
        { name: MODEL, credential: "a", model: "deployment-7" },
        { name: MODEL, credential: "b", model: "mini-2024-07-18" },
        { name: MODEL, model: "the-usual-name" },
      ],
      modelAlias: { fast: MODEL },
    });
    expect(await kit.several(3)).toBe("abc");
    expect(await kit.several(3, { model: "fast" })).toBe("abc");
    expect(["a", "b", "c"].map((name) => sentModels(kit, name))).toEqual([
      ["deployment-7", "deployment-7"],
      ["mini-2024-07-18", "mini-2024-07-18"],
      ["the-usual-name", "the-usual-name"],
    ]);
  });

  test("a retry asks the next account by that account's own name", async () => {
    const kit = await accounts(["a", "b"], {
      models: [
        { name: MODEL, credential: "a", model: "deployment-7" },
        { name: MODEL, credential: "b", model: "mini-2024-07-18" },
      ],
    });
    kit.answer("a", { status: 500 });
    expect((await kit.ask()).status).toBe(200);
    expect([sentModels(kit, "a"), sentModels(kit, "b")]).toEqual([["deployment-7"], ["mini-2024-07-18"]]);
  });

  test("only the model's own field is renamed, wherever and however it stands", async () => {
    const kit = await accounts(["a"], { models: [{ name: "m", model: "deployment-7" }] });
    const body = '{"metadata":{"model":"m"},"messages":[{"role":"user","content":"say \\"model\\":\\"m\\""}] , "model" :\t"m"}';
    const response = await fetch(`${kit.gateway.url}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: "Bearer qg-test-key-of-alice-0001" },
      body,
    });
    expect(response.status).toBe(200);
    expect(String(kit.providers["a"]?.log[0]?.body)).toBe(body.replace('\t"m"', '\t"deployment-7"'));
  });

  test("an entry binds a model to its account, and a table knows where a model is not", async () => {
    const kit = await accounts(["a", "b", { name: "c", models: ["claude-*"] }], { models: [{ name: "only-b", credential: "b" }] });
    expect(await kit.several(3, { model: "only-b" })).toBe("bbb");
    expect(await kit.several(4)).toBe("abab");
    expect(await kit.several(3, { model: "claude-opus" })).toBe("abc");
  });

  test("a name that nobody offers is 400 and reaches nobody", async () => {
    const kit = await accounts([{ name: "a", models: ["gpt-*"] }]);
    expect(await kit.ask({ model: "claude-opus" })).toMatchObject({ status: 400, code: "model_not_found" });
    expect(kit.asked()).toBe("");
  });

  test("provider:model goes to that provider's accounts only, in turn, under the plain name", async () => {
    const kit = await accounts([{ name: "a" }, { name: "x", provider: "openai-compatible" }, { name: "y", provider: "openai-compatible" }]);
    expect(await kit.several(3, { model: "openai-compatible:llama" })).toBe("xyx");
    expect(await kit.several(2, { model: "openai:gpt-4" })).toBe("aa");
    expect(sentModels(kit, "x")).toEqual(["llama", "llama"]);
    // Not every colon names a provider.
    expect((await kit.ask({ model: "ft:gpt-4o:org" })).status).toBe(200);
  });
});
