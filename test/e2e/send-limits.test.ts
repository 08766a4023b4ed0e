// What may go out with an account per minute and at one time: exact under load, on every store, and given back when nothing was used.
import { afterEach, describe, expect, test } from "vitest";
import { GuardError, memoryStore, type GuardOptions, type Store } from "quotaguard";
import { pacer, type FakeReply } from "quotaguard/testing";
import { chat } from "../helpers/app.ts";
import { endChildren, folder, serving } from "../helpers/child.ts";
import {
  accounts,
  asking,
  atOnce,
  billing,
  databasePath,
  endAccounts,
  INPUT_TOKENS,
  keyOf,
  MODEL,
  movedClock,
  PATIENTLY,
  quiet,
  replyOf,
  type Accounts,
  type Reply,
} from "./accounts-kit.ts";

afterEach(endAccounts);

const MINUTE_MS = 60_000;
const statusesOf = (replies: readonly Reply[]): Readonly<Record<number, number>> =>
  Object.fromEntries([...Map.groupBy(replies, ({ status }) => status)].map(([status, those]) => [status, those.length]));
const limitsOf = (rpm: number): GuardOptions => ({ models: [{ name: MODEL, rpm }] });

/** Answers a turn of the event loop later, as one across a network would. */
function laterStore(clock: Accounts["clock"]): Store {
  const { limits, ...store } = memoryStore({ clock });
  const later =
    <A extends readonly unknown[], R>(verb: (...args: A) => R | Promise<R>) =>
    async (...args: A) => {
      await new Promise((resolve) => void setImmediate(resolve));
      return verb(...args);
    };
  const { reserve, settle, release, extend, lapse, expire, peek } = limits;
  return {
    ...store,
    limits: {
      reserve: later(reserve),
      settle: later(settle),
      release: later(release),
      extend: later(extend),
      lapse: later(lapse),
      expire: later(expire),
      peek: later(peek),
    },
  };
}

type Start = (given: Parameters<typeof accounts>[0], more?: GuardOptions) => Promise<Accounts>;

/** Starts accounts whose gateway counts in a store of its own. */
const inStore =
  (storeOf: (clock: Accounts["clock"]) => GuardOptions["store"]): Start =>
  (given, more) => {
    const clock = movedClock();
    return accounts(given, { store: storeOf(clock), ...more }, clock);
  };

const STORES: readonly (readonly [string, Start])[] = [
  ["in memory", inStore((clock) => memoryStore({ clock }))],
  ["in a store that answers later", inStore(laterStore)],
  ["in SQLite", inStore(() => ({ url: `sqlite:${databasePath()}` }))],
];

describe.each(STORES)("requests per minute, counted %s", (_where, start) => {
  test("200 at once: the model's 50 go out on each of three accounts, and the account's 60 hold for its models together", async () => {
    const kit = await start(
      ["a", "b", "c"].map((name) => ({ name, rpm: 60 })),
      { ...limitsOf(50) },
    );
    const replies = await atOnce(200, () => kit.ask());
    expect(statusesOf(replies)).toEqual({ 200: 150, 429: 50 });
    expect(kit.counts()).toEqual({ a: 50, b: 50, c: 50 });
    for (const { code, retryAfter } of replies.filter(({ status }) => status === 429)) {
      expect(code).toBe("all_credentials_limited");
      // Counted by the second, and a second is forgotten only once all of it has left the minute.
      expect(retryAfter).toBeGreaterThanOrEqual(60);
      expect(retryAfter).toBeLessThanOrEqual(61);
    }
    // What the model could not take is still the account's: ten each for another model.
    expect(statusesOf(await atOnce(100, () => kit.ask({ model: "gpt-4o" })))).toEqual({ 200: 30, 429: 70 });
    expect(kit.counts()).toEqual({ a: 60, b: 60, c: 60 });
    for (const name of ["a", "b", "c"]) expect(kit.credential(name).rpm).toEqual({ used: 60, limit: 60 });

    kit.clock.advance(MINUTE_MS - 2_000);
    expect((await kit.ask()).status).toBe(429);
    kit.clock.advance(3_000);
    expect(statusesOf(await atOnce(200, () => kit.ask()))).toEqual({ 200: 150, 429: 50 });
  });

  test("whoever waits as long as Retry-After says is served", async () => {
    const kit = await start([{ name: "a", rpm: 3 }]);
    for (let i = 0; i < 3; i += 1) {
      expect((await kit.ask()).status).toBe(200);
      kit.clock.advance(7_300);
    }
    const { retryAfter } = await kit.ask();
    kit.clock.advance((retryAfter as number) * 1_000);
    expect((await kit.ask()).status).toBe(200);
    expect((await kit.ask()).status).toBe(429);
  });

  test("a retried attempt gives its slot back, on both levels", async () => {
    const kit = await start(
      [
        { name: "a", rpm: 2, tpm: 10_000 },
        { name: "b", rpm: 5, tpm: 10_000 },
      ],
      { router: { strategy: "fill-first" }, models: [{ name: MODEL, rpm: 2, tpm: 10_000, credential: "a" }, { name: MODEL }] },
    );
    kit.answer("a", { status: 502 });
    expect((await kit.ask()).status).toBe(200);
    expect(kit.asked()).toBe("ab");
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 0, limit: 2 }, tpm: { used: 0, limit: 10_000 } });
    expect(kit.credential("a").models).toMatchObject([{ name: MODEL, rpm: { used: 0, limit: 2 }, tpm: { used: 0 } }]);
    expect(kit.credential("b").rpm.used).toBe(1);
    // The window itself is untouched, too: both of its places are still free within the same minute.
    kit.answer("a", {});
    expect(await kit.manage("DELETE", "cooldowns/a")).toEqual({ status: 200, body: { cleared: 1 } });
    expect(await kit.several(3)).toBe("aab");
  });
});

describe("two gateways on one SQLite file", () => {
  test("keep one account's limit together", async () => {
    const kit = await accounts([{ name: "a", rpm: 60 }, { name: "b" }], {
      store: { url: `sqlite:${databasePath()}` },
      models: [
        { name: MODEL, rpm: 50, credential: "b" },
        { name: MODEL, credential: "a" },
      ],
    });
    const second = await kit.another();
    const replies = await atOnce(200, (i) => kit.ask({}, i % 2 === 0 ? {} : { of: second }));
    expect(statusesOf(replies)).toEqual({ 200: 110, 429: 90 });
    expect(kit.counts()).toEqual({ a: 60, b: 50 });
  });

  test("as processes of their own, too", async () => {
    const place = folder();
    const kit = await accounts(["a", "b"]);
    const yaml = `
server: { port: 0 }
store: { url: "sqlite:./state/quota.db" }
keys: [{ name: alice, key: qg-key-of-alice-0001 }]
credentials:
${["a", "b"].map((name) => `  - { name: ${name}, api_key: ${keyOf(name)}, base_url: "${kit.providers[name]?.url}", rpm: 30 }`).join("\n")}
`;
    place.write("quotaguard.yaml", yaml);
    try {
      const gateways = await Promise.all([serving([], { cwd: place.path }), serving([], { cwd: place.path })]);
      const post = (i: number): Promise<Reply> =>
        replyOf(
          fetch(`${gateways[i % 2]?.url}/v1/chat/completions`, {
            method: "POST",
            headers: { authorization: "Bearer qg-key-of-alice-0001" },
            body: JSON.stringify({ model: MODEL, messages: [] }),
          }),
        );
      expect(statusesOf(await atOnce(160, post))).toEqual({ 200: 60, 429: 100 });
      expect(kit.counts()).toEqual({ a: 30, b: 30 });
    } finally {
      await endChildren();
      place.remove();
    }
  });

  test("a restart forgets nothing", async () => {
    const kit = await accounts([{ name: "a", rpm: 5 }], { store: { url: `sqlite:${databasePath()}` } });
    await kit.several(3);
    await kit.restart();
    expect(await kit.several(4)).toBe("aa");
  });
});

describe.each(STORES)("tokens per minute, counted %s", (_where, start) => {
  test("are held before the answer and corrected after it", async () => {
    const kit = await start([{ name: "a", tpm: 1_000 }]);
    kit.answer("a", billing(100));
    // Nine times 107 are held at first, and a tenth would not fit: as many at once.
    const replies = await atOnce(12, () => kit.ask(asking(100)));
    expect(statusesOf(replies)).toEqual({ 200: 9, 429: 3 });
    expect(kit.credential("a").tpm).toEqual({ used: 9 * (INPUT_TOKENS + 100), limit: 1_000 });

    kit.clock.advance(2 * MINUTE_MS);
    kit.answer("a", billing(10));
    kit.forget();
    // One after the other each takes only what it used: the last 90 of the estimate come back.
    for (let i = 0; i < 20; i += 1) await kit.ask(asking(100));
    expect(kit.counts()).toEqual({ a: 20 });
    expect(kit.credential("a").tpm.used).toBe(20 * (INPUT_TOKENS + 10));
  });

  test("100 used of 100 refuse the next, and what an answer used beyond is owed", async () => {
    const kit = await start([{ name: "a", tpm: 100 }]);
    kit.answer("a", billing(93));
    expect((await kit.ask(asking(1))).status).toBe(200);
    expect(kit.credential("a").tpm.used).toBe(100);
    expect(await kit.ask(asking(1))).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 61 });

    kit.clock.advance(2 * MINUTE_MS);
    kit.answer("a", billing(293));
    expect((await kit.ask(asking(1))).status).toBe(200);
    expect(kit.credential("a").tpm).toEqual({ used: 300, limit: 100 });
    kit.clock.advance(MINUTE_MS - 2_000);
    expect((await kit.ask(asking(1))).status).toBe(429);
    kit.clock.advance(4_000);
    expect((await kit.ask(asking(1))).status).toBe(200);
  });

  test("hold for the model on the account, and another model has its own", async () => {
    const kit = await start([{ name: "a" }], { models: [{ name: MODEL, tpm: 100 }, { name: "gpt-4o" }] });
    kit.answer("a", billing(93));
    expect((await kit.ask(asking(93))).status).toBe(200);
    expect((await kit.ask(asking(93))).status).toBe(429);
    expect((await kit.ask({ ...asking(93), model: "gpt-4o" })).status).toBe(200);
  });

  test("a streamed answer's tokens are booked under the client's name of the model", async () => {
    const kit = await start([{ name: "a" }], { models: [{ name: MODEL, model: "deployment-7", tpm: 1_000 }] });
    kit.answer("a", billing(93));
    expect((await kit.ask({ ...asking(93), stream: true })).text).toContain("[DONE]");
    await quiet(kit.guard);
    expect(kit.credential("a").models).toMatchObject([{ name: MODEL, tpm: { used: 100, limit: 1_000 } }]);
  });
});

describe("requests at one time", () => {
  const held = (kit: Accounts, name: string): (() => void) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    kit.answer(name, () => ({ hold: promise }));
    return resolve;
  };

  test.each(STORES)(
    "max_concurrent, counted %s: the next account takes over, then it is refused, and a place is free with the answer",
    async (_where, start) => {
      const kit = await start(
        [
          { name: "a", maxConcurrent: 2 },
          { name: "b", maxConcurrent: 1 },
        ],
        { router: { strategy: "fill-first" } },
      );
      const [letA, letB] = [held(kit, "a"), held(kit, "b")];
      const open = Array.from({ length: 3 }, () => kit.ask());
      await Promise.all([kit.providers["a"]?.received(2), kit.providers["b"]?.received(1)]);
      expect(kit.counts()).toEqual({ a: 2, b: 1 });
      expect(["a", "b"].map((name) => kit.credential(name).inFlight)).toEqual([2, 1]);
      expect(await kit.ask()).toMatchObject({ status: 429, code: "all_credentials_limited" });
      letB();
      await open[2];
      letA();
      expect(statusesOf(await Promise.all(open))).toEqual({ 200: 3 });
      await quiet(kit.guard);
      for (const name of ["a", "b"]) kit.answer(name, {});
      expect(statusesOf(await Promise.all([kit.ask(), kit.ask(), kit.ask()]))).toEqual({ 200: 3 });
    },
  );

  test("a stream holds its place to its end", async () => {
    const kit = await accounts([{ name: "a", maxConcurrent: 1 }]);
    const events = pacer();
    kit.answer("a", { pacer: events });
    events.step(2);
    const response = await chat(kit.gateway.url, { stream: true });
    expect(await kit.ask()).toMatchObject({ status: 429, code: "all_credentials_limited" });
    events.open();
    expect(await response.text()).toContain("[DONE]");
    await quiet(kit.guard);
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(200);
  });

  test("a client that leaves frees its place", async () => {
    const kit = await accounts([{ name: "a", maxConcurrent: 1 }]);
    held(kit, "a");
    const leaving = new AbortController();
    const pending = kit.ask({}, { signal: leaving.signal });
    await kit.providers["a"]?.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await quiet(kit.guard);
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(200);
  });
});

describe.each(STORES)("whatever happens to 300 requests at once, counted %s", (_where, start) => {
  const FATES: readonly FakeReply[] = [
    {},
    { status: 500 },
    { status: 400 },
    { status: 429, headers: { "retry-after": "0.01" } },
    { fault: { at: "start", how: "reset" } },
    { fault: { at: "headers", how: "close" } },
    { fault: { at: 2, how: "reset" } },
    { fault: { at: "start", how: "hang" } },
  ];

  test("every place and every slot is free again", async () => {
    const names = ["a", "b", "c"];
    const kit = await start(
      names.map((name) => ({ name, rpm: 10_000, tpm: 10_000_000, maxConcurrent: 40 })),
      { resilience: { circuitBreaker: false, maxRetries: 2 } },
    );
    let turn = 0;
    let hanging = 0;
    const fate = (): FakeReply => {
      const reply = FATES[(turn += 1) % FATES.length] as FakeReply;
      if (reply.fault?.how === "hang") hanging += 1;
      return reply;
    };
    for (const name of names) kit.answer(name, fate);
    const leaving = Array.from({ length: 300 }, () => new AbortController());
    const ends: unknown[] = [];
    const all = leaving.map(async ({ signal }, i) => {
      const reply = await kit.ask({ stream: i % 2 === 0, model: `model-${i}` }, { signal }).catch(() => null);
      ends.push(reply?.status ?? "left");
    });
    // Some clients leave at any moment, the others when only those are left that nobody will ever answer.
    setImmediate(() => leaving.forEach((client, i) => i % 5 === 0 && client.abort()));
    await expect.poll(() => ends.length + hanging, PATIENTLY).toBeGreaterThanOrEqual(300);
    for (const client of leaving) client.abort();
    await Promise.all(all);
    expect(ends).toContain("left");
    expect(ends).toContain(200);
    await quiet(kit.guard);
    await expect.poll(() => kit.health().waitingSettlements, PATIENTLY).toBe(0);
    expect(names.map((name) => kit.credential(name).inFlight)).toEqual([0, 0, 0]);

    kit.clock.advance(2 * MINUTE_MS);
    const letGo = Promise.withResolvers<void>();
    kit.forget();
    for (const name of names) kit.answer(name, () => ({ hold: letGo.promise }));
    const open = Array.from({ length: 130 }, () => kit.ask());
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual({ a: 40, b: 40, c: 40 });
    letGo.resolve();
    expect(statusesOf(await Promise.all(open))).toEqual({ 200: 120, 429: 10 });
    for (const name of names) expect(kit.credential(name).rpm.used).toBe(40);
  });
});

describe("numbers that say something else", () => {
  test("-1 is unlimited, and counted all the same", async () => {
    const kit = await accounts([{ name: "a", rpm: -1, tpm: -1, maxConcurrent: -1 }], { models: [{ name: MODEL, rpm: -1, tpm: -1 }] });
    kit.answer("a", billing(93));
    expect(statusesOf(await atOnce(70, () => kit.ask(asking(93))))).toEqual({ 200: 70 });
    expect(kit.credential("a")).toMatchObject({ state: "ready", rpm: { used: 70, limit: -1 }, tpm: { used: 7_000, limit: -1 } });
    expect(kit.credential("a").models).toMatchObject([{ name: MODEL, rpm: { used: 70, limit: -1 }, tpm: { used: 7_000, limit: -1 } }]);
    kit.clock.advance(2 * MINUTE_MS);
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 0 }, tpm: { used: 0 } });
  });

  test("nothing said is the default: unlimited for credentials, the server's default for models", async () => {
    const kit = await accounts(["a"]);
    expect(statusesOf(await atOnce(70, () => kit.ask()))).toEqual({ 200: 70 });
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 70, limit: -1 }, tpm: { limit: -1 } });
  });

  test("an explicit 0 lets nothing out, of an account and of a model", async () => {
    const kit = await accounts([{ name: "a", rpm: 0 }, { name: "b" }], { models: [{ name: MODEL, rpm: 0 }, { name: "gpt-4o" }] });
    const refused = await kit.ask();
    expect(refused).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: null });
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect((await kit.ask({ model: "gpt-4o" })).status).toBe(200);
    expect(kit.asked()).toBe("b");
  });

  test("a table entry without numbers blocks nothing", async () => {
    const kit = await accounts(["a"], { models: [{ name: MODEL }, { name: "gpt-4o", credential: "a" }] });
    expect(statusesOf(await atOnce(30, (i) => kit.ask({ model: i % 2 ? MODEL : "gpt-4o" })))).toEqual({ 200: 30 });
  });

  test("default_models_rpm is for models that say nothing, each on each account", async () => {
    const kit = await accounts(["a", "b"], {
      server: { defaultModelsRpm: 2 },
      models: [{ name: MODEL, rpm: 5 }, { name: "gpt-4o", rpm: -1 }, { name: "gpt-3.5-turbo" }],
    });
    const served = async (model: string): Promise<number> => statusesOf(await atOnce(20, () => kit.ask({ model })))[200] ?? 0;
    expect([await served(MODEL), await served("gpt-4o"), await served("gpt-3.5-turbo"), await served("not-in-the-table")]).toEqual([10, 20, 4, 4]);
  });

  test("an entry for one account goes before the one for all", async () => {
    const kit = await accounts(["a", "b"], {
      models: [
        { name: MODEL, rpm: 4 },
        { name: MODEL, credential: "b", rpm: 1 },
      ],
    });
    expect(statusesOf(await atOnce(20, () => kit.ask()))).toEqual({ 200: 5, 429: 15 });
    expect(kit.counts()).toEqual({ a: 4, b: 1 });
  });
});

describe("a minute's use and the choice", () => {
  test("a full account is passed over for one with room, and a full tier for the next one", async () => {
    const kit = await accounts([
      { name: "a", rpm: 1 },
      { name: "b", rpm: 2 },
      { name: "c", isFallback: true },
    ]);
    expect(await kit.several(6)).toBe("abbccc");
    expect(kit.credential("a")).toMatchObject({ state: "limited", until: kit.clock.now() + 61_000 });
  });

  test("the earliest time at which any account has room again is named", async () => {
    const kit = await accounts([
      { name: "a", rpm: 1 },
      { name: "b", rpm: 1 },
    ]);
    await kit.ask();
    kit.clock.advance(20_000);
    await kit.ask();
    const { retryAfter } = await kit.ask();
    expect(retryAfter).toBeGreaterThanOrEqual(40);
    expect(retryAfter).toBeLessThanOrEqual(41);
  });

  test("refusals take nothing: neither from the account nor from the client's own budget", async () => {
    const kit = await accounts([{ name: "a", rpm: 10 }], {
      models: [{ name: MODEL, rpm: 1 }, { name: "gpt-4o" }],
      limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 10, per: "hour" } }],
    });
    await kit.ask();
    for (let i = 0; i < 20; i += 1) expect((await kit.ask()).code).toBe("all_credentials_limited");
    expect(kit.credential("a").rpm.used).toBe(1);
    expect(statusesOf(await atOnce(10, () => kit.ask({ model: "gpt-4o" })))).toEqual({ 200: 9, 429: 1 });
  });

  test("when all others are at their limit, the failure of the only one with room is what the client sees", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b", rpm: 0 }], { router: { strategy: "fill-first" } });
    kit.answer("a", { status: 500, body: { error: { message: "down", type: "server_error", param: null, code: "down" } } });
    expect(await kit.ask()).toMatchObject({ status: 500, code: "down" });
  });

  test("an account whose companions are all at their limit is the last that may be used: one failure does not take it out", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b", rpm: 1 }]);
    expect(await kit.several(4)).toBe("abaa");
    kit.answer("a", { status: 500 });
    expect((await kit.ask()).status).toBe(500);
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(200);
  });

  test("a primary without tokens left and an idle fallback: the fallback answers", async () => {
    const kit = await accounts([
      { name: "a", tpm: 100 },
      { name: "x", isFallback: true },
    ]);
    kit.answer("a", billing(93));
    for (let i = 0; i < 3; i += 1) expect((await kit.ask(asking(1))).status).toBe(200);
    expect(kit.asked()).toBe("axx");
  });

  test("calls from within the process count on the same account", async () => {
    const kit = await accounts([{ name: "a", rpm: 3 }]);
    const inProcess = kit.guard.fetch();
    const call = async (): Promise<number> =>
      (await inProcess("https://api.openai.com/v1/chat/completions", { method: "POST", body: JSON.stringify({ model: MODEL, messages: [] }) }))
        .status;
    expect([await call(), (await kit.ask()).status, await call(), await call(), (await kit.ask()).status]).toEqual([200, 200, 200, 429, 429]);
  });

  test("on three levels at once, nothing is sent that any of them has no room for", async () => {
    const kit = await accounts([{ name: "a", rpm: 60, tpm: 50 * (INPUT_TOKENS + 93), maxConcurrent: 500 }], { models: [{ name: MODEL, rpm: 55 }] });
    kit.answer("a", billing(93));
    expect(statusesOf(await atOnce(200, () => kit.ask(asking(93))))).toEqual({ 200: 50, 429: 150 });
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 50 }, tpm: { used: 5_000 } });
  });
});

describe("what was used stays used", () => {
  test("a stream that broke halfway: its request, and the tokens that it delivered", async () => {
    const kit = await accounts([{ name: "a", rpm: 10, tpm: 1_000 }]);
    const events = pacer();
    kit.answer("a", { text: ["one", " two", " three", " four"], fault: { at: 4, how: "reset" }, pacer: events });
    events.step(3);
    const response = await chat(kit.gateway.url, { stream: true, ...asking(500) });
    let text = "";
    for await (const bytes of response.body as AsyncIterable<Uint8Array>) {
      text += Buffer.from(bytes).toString();
      // Two words have arrived, so they count; what comes with the break may not.
      if (text.includes("two")) events.open();
    }
    await quiet(kit.guard);
    const row = await kit.guard.ledger.get(response.headers.get("x-request-id") as string);
    expect(row).toMatchObject({ state: "settled", provenance: "counted", usage: { inputTokens: INPUT_TOKENS } });
    const outputTokens = row?.usage?.outputTokens ?? 0;
    expect(outputTokens).toBeGreaterThanOrEqual(2);
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 1 }, tpm: { used: INPUT_TOKENS + outputTokens } });
  });

  test("an answer that never came may have been billed: its request and its input", async () => {
    const kit = await accounts([{ name: "a", rpm: 10, tpm: 1_000 }], { server: { requestTimeout: "30s" } });
    kit.answer("a", { fault: { at: "start", how: "hang" } });
    const pending = kit.ask(asking(500));
    await kit.providers["a"]?.received(1);
    kit.clock.advance(30_000);
    expect((await pending).status).toBe(504);
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 1 }, tpm: { used: INPUT_TOKENS } });
  });

  test("a client that left: its request and its input", async () => {
    const kit = await accounts([{ name: "a", rpm: 10, tpm: 1_000 }]);
    kit.answer("a", { fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const pending = kit.ask(asking(500), { signal: leaving.signal });
    await kit.providers["a"]?.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await quiet(kit.guard);
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 1 }, tpm: { used: INPUT_TOKENS }, inFlight: 0 });
  });
});

test("while the store is away requests go out all the same, and the limits are kept in this process", async () => {
  const away = () => {
    throw new GuardError("store_unavailable", "away");
  };
  const start = inStore((clock) => {
    const store = memoryStore({ clock });
    return { ...store, limits: { ...store.limits, reserve: away } };
  });
  const kit = await start([{ name: "a", rpm: 3 }]);
  expect(statusesOf(await atOnce(10, () => kit.ask()))).toEqual({ 200: 3, 429: 7 });
});
