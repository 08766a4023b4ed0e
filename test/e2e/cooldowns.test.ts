// An account that failed is left alone for a while: how long, for which model, what all of them cooling means, and how the way back is found.
import { afterEach, describe, expect, test } from "vitest";
import { pacer, type FakeReply } from "quotaguard/testing";
import { chat } from "../helpers/app.ts";
import { accounts, atOnce, databasePath, endAccounts, keyOf, MODEL, ordered, PATIENTLY, quiet, silent, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const OTHER = "gpt-4o";

const busy = (retryAfter: string): FakeReply => silent(429, { "retry-after": retryAfter });

const cooldownsOf = async (kit: Accounts) => (await kit.manage("GET", "cooldowns")).body["cooldowns"] as readonly Record<string, unknown>[];
/** How long something of an account is left alone from now on, in ms; null = it is not. */
async function coolsFor(kit: Accounts, credential = "a"): Promise<number | null> {
  const found = (await cooldownsOf(kit)).find((each) => each["credential"] === credential);
  return found === undefined ? null : Date.parse(String(found["until"])) - kit.clock.now();
}

describe("how long", () => {
  test.each<readonly [string, FakeReply, number]>([
    ["401", silent(401), 30 * MINUTE],
    ["402", silent(402), 30 * MINUTE],
    ["403", silent(403), 30 * MINUTE],
    ["429 that says when", busy("42"), 42 * SECOND],
    ["429 that does not", silent(429), SECOND],
    ["500", silent(500), MINUTE],
    ["502", silent(502), MINUTE],
    ["503 that says when", silent(503, { "retry-after": "5" }), 5 * SECOND],
    ["529", silent(529), MINUTE],
    ["408", silent(408), MINUTE],
    ["a reset", { fault: { at: "start", how: "reset" } }, MINUTE],
    ["a polite hang-up", { fault: { at: "start", how: "close" } }, MINUTE],
    ["an answer that is no HTTP", { raw: ["SSH-2.0-not-http\r\n"] }, MINUTE],
    ["a challenge of Cloudflare", { status: 403, headers: { "cf-mitigated": "challenge", "x-ratelimit-reset-requests": "" } }, 10 * SECOND],
  ])("%s: another account answers, and this one is tried again when its time is over", async (_what, fault, coolMs) => {
    const kit = await ordered();
    kit.answer("a", fault);
    expect((await kit.ask()).status).toBe(200);
    expect(kit.asked()).toBe("ab");
    expect(await coolsFor(kit)).toBe(coolMs);
    kit.answer("a", {});
    kit.forget();
    kit.clock.advance(coolMs - 1);
    expect(await kit.several(2)).toBe("bb");
    kit.clock.advance(1);
    expect(await kit.several(2)).toBe("aa");
    expect(await cooldownsOf(kit)).toEqual([]);
  });

  test("a stream that stalls before its first byte: another account answers", async () => {
    const kit = await ordered(["a", "b"], { resilience: { firstByteTimeout: "20s" } });
    kit.answer("a", { fault: { at: "headers", how: "hang" } });
    const pending = kit.ask({ stream: true });
    await kit.providers["a"]?.received(1);
    // The answer's head is there, and nothing after it.
    await expect.poll(() => kit.providers["a"]?.log[0]?.status, PATIENTLY).toBe(200);
    kit.clock.advance(20 * SECOND);
    expect((await pending).text).toContain("[DONE]");
    expect(kit.asked()).toBe("ab");
    expect(await coolsFor(kit)).toBe(MINUTE);
  });

  test.each<readonly [string, string, number]>([
    ["seconds", "90", 90 * SECOND],
    ["a fraction of a second", "0.5", SECOND / 2],
    ["a date", "Thu, 01 Jan 2026 00:02:00 GMT", 2 * MINUTE],
    ["a date that has passed", "Wed, 31 Dec 2025 00:00:00 GMT", SECOND],
    ["zero", "0", SECOND],
    ["a negative number", "-5", SECOND],
    ["more than anybody would wait", "1000000000000", 24 * HOUR],
    ["garbage", "soon, really", SECOND],
    ["nothing", "", SECOND],
  ])("Retry-After as %s", async (_what, retryAfter, coolMs) => {
    const kit = await ordered();
    kit.answer("a", busy(retryAfter));
    expect((await kit.ask()).status).toBe(200);
    expect(await coolsFor(kit)).toBe(coolMs);
  });

  test("nobody is told to wait longer than a day either", async () => {
    const kit = await ordered(["a"]);
    kit.answer("a", busy("1000000000000"));
    for (const code of ["rate_limit_exceeded", "all_credentials_limited"]) {
      expect(await kit.ask()).toMatchObject({ status: 429, code, retryAfter: (24 * HOUR) / SECOND });
    }
  });

  test("the provider's own words for when its limit is whole again", async () => {
    const kit = await ordered();
    kit.answer("a", { status: 429, headers: { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s" } });
    expect((await kit.ask()).status).toBe(200);
    expect(await coolsFor(kit)).toBe(90 * SECOND);
  });

  test("not longer for a clock that was put back", async () => {
    const kit = await ordered();
    kit.answer("a", silent(500));
    await kit.ask();
    kit.answer("a", {});
    kit.clock.set(kit.clock.now() - 30 * 24 * HOUR);
    kit.clock.advance(MINUTE);
    kit.forget();
    expect(await kit.several(2)).toBe("aa");
  });

  test("busy without a time doubles with each new refusal, and parallel ones count once", async () => {
    const kit = await ordered();
    kit.answer("a", silent(429));
    const seen: unknown[] = [];
    for (let i = 0; i < 14; i += 1) {
      await kit.ask();
      const coolMs = (await coolsFor(kit)) as number;
      seen.push(coolMs / SECOND);
      kit.clock.advance(coolMs);
    }
    expect(seen).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_800, 1_800, 1_800]);
    kit.answer("a", {});
    await kit.ask();
    // All of them were sent before the first was refused.
    const letGo = Promise.withResolvers<void>();
    kit.answer("a", { ...silent(429), hold: letGo.promise });
    kit.forget();
    const before = kit.providers["a"]?.totals().requests ?? 0;
    const open = atOnce(8, () => kit.ask());
    await kit.providers["a"]?.received(before + 8);
    letGo.resolve();
    expect((await open).map(({ status }) => status)).toEqual(Array(8).fill(200));
    expect(await coolsFor(kit)).toBe(SECOND);
  });

  test("a later, shorter answer never shortens it", async () => {
    const kit = await ordered();
    const long = Promise.withResolvers<void>();
    const short = Promise.withResolvers<void>();
    kit.answer("a", [
      { ...busy("600"), hold: long.promise },
      { ...busy("5"), hold: short.promise },
    ]);
    const open = [kit.ask(), kit.ask()];
    await kit.providers["a"]?.received(2);
    long.resolve();
    await open[0];
    expect(await coolsFor(kit)).toBe(600 * SECOND);
    short.resolve();
    await open[1];
    expect(await coolsFor(kit)).toBe(600 * SECOND);
  });

  test("an answer that was still under way and ends well shows that it works", async () => {
    const kit = await ordered();
    const letGo = Promise.withResolvers<void>();
    kit.answer("a", { hold: letGo.promise });
    const open = kit.ask();
    await kit.providers["a"]?.received(1);
    kit.answer("a", silent(500));
    await kit.ask();
    expect(await coolsFor(kit)).toBe(MINUTE);
    letGo.resolve();
    expect((await open).status).toBe(200);
    expect(await cooldownsOf(kit)).toEqual([]);
  });
});

describe("what", () => {
  test.each([400, 404, 409, 413, 422])("a %i is the request's own fault: it goes to no other account and cools nothing", async (status) => {
    const kit = await ordered();
    kit.answer("a", silent(status, { "retry-after": "600" }));
    expect((await kit.ask()).status).toBe(status);
    expect(kit.asked()).toBe("a");
    expect(await cooldownsOf(kit)).toEqual([]);
    kit.answer("a", {});
    expect(await kit.several(1)).toBe("a");
  });

  test.each(["Your request violates our content policy.", "The model does not exist or you do not have access to it.", "Unsupported model."])(
    "a refusal of this very request in words, whatever its status: %s",
    async (message) => {
      const kit = await ordered();
      kit.answer("a", { status: 403, body: { error: { message, type: "invalid_request_error", param: null, code: null } } });
      expect((await kit.ask()).status).toBe(403);
      expect(kit.asked()).toBe("a");
      expect(await cooldownsOf(kit)).toEqual([]);
    },
  );

  test("one model of the account, when the provider does not speak of the account", async () => {
    const kit = await ordered();
    kit.answer("a", ({ body }) => (body["model"] === MODEL ? busy("600") : {}));
    await kit.ask();
    expect(await cooldownsOf(kit)).toMatchObject([{ credential: "a", model: MODEL, code: 429 }]);
    kit.forget();
    expect(await kit.several(1, { model: OTHER })).toBe("a");
    expect(await kit.several(1)).toBe("b");
  });

  test.each([
    ["a key that was withdrawn", 401, "invalid_api_key"],
    ["an account without money", 429, "insufficient_quota"],
    ["an account that was closed", 403, "account_deactivated"],
  ])("the whole account, when it does: %s", async (_what, status, code) => {
    const kit = await ordered();
    kit.answer("a", { status, headers: { "x-ratelimit-reset-requests": "" }, body: { error: { message: "no", type: code, param: null, code } } });
    expect((await kit.ask()).status).toBe(200);
    expect(await cooldownsOf(kit)).toMatchObject([{ credential: "a", model: null }]);
    kit.forget();
    expect(await kit.several(1, { model: OTHER })).toBe("b");
  });

  test("nothing for a client that leaves", async () => {
    const kit = await ordered();
    kit.answer("a", { fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const pending = kit.ask({}, { signal: leaving.signal });
    await kit.providers["a"]?.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await quiet(kit.guard);
    expect(await cooldownsOf(kit)).toEqual([]);
  });

  test("an account whose stream broke halfway: one event tells the client, nothing is sent again, and the next request goes elsewhere", async () => {
    const kit = await ordered();
    const events = pacer();
    kit.answer("a", { fault: { at: 3, how: "reset" }, pacer: events });
    events.step(2);
    const response = await chat(kit.gateway.url, { stream: true });
    events.open();
    const text = await response.text();
    expect(text.match(/^data: .*"error"/gm)).toHaveLength(1);
    expect(text).not.toContain("[DONE]");
    expect(text).not.toContain('"finish_reason":"stop"');
    expect(kit.asked()).toBe("a");
    expect(await coolsFor(kit)).toBe(MINUTE);
    kit.forget();
    expect(await kit.several(1)).toBe("b");
  });
});

describe("when no account is left", () => {
  test("all cooling: 429 with the earliest time, and the providers hear nothing", async () => {
    const kit = await ordered(["a", "b", "c"]);
    kit.answer("a", busy("90"));
    kit.answer("b", busy("30"));
    kit.answer("c", busy("60"));
    // The last account's own answer, as it came.
    expect(await kit.ask()).toMatchObject({ status: 429, code: "rate_limit_exceeded", retryAfter: 60 });
    expect(kit.asked()).toBe("abc");
    kit.forget();
    for (const reply of await atOnce(50, () => kit.ask())) {
      expect(reply).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 30 });
      expect(reply.headers.get("x-should-retry")).toBe("false");
    }
    expect(kit.asked()).toBe("");
    kit.answer("b", {});
    kit.clock.advance(30 * SECOND);
    expect((await kit.ask()).status).toBe(200);
    expect(kit.asked()).toBe("b");
  });

  test("some cooling, some at their own limit: still 429, with the earliest of both", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b", rpm: 1 }], { router: { strategy: "fill-first" } });
    kit.answer("a", busy("20"));
    expect((await kit.ask()).status).toBe(200);
    expect(await kit.ask()).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 20 });
  });

  test("none that may be used at all: 503, without a time unless there is one", async () => {
    const kit = await ordered(["a"], { fail2ban: { maxAttempts: 1 } });
    kit.answer("a", silent(500));
    await kit.ask();
    expect(await kit.ask()).toMatchObject({ status: 503, code: "no_credential", retryAfter: null });
    expect(kit.asked()).toBe("a");
  });

  test("the last account that may be used is not left alone without a time of its provider's", async () => {
    const kit = await ordered();
    kit.answer("a", silent(500));
    kit.answer("b", silent(500));
    expect((await kit.ask()).status).toBe(500);
    expect((await cooldownsOf(kit)).map(({ credential }) => credential)).toEqual(["a"]);
    expect(await kit.several(2)).toBe("bb");
    kit.answer("b", {});
    expect((await kit.ask()).status).toBe(200);
    kit.answer("b", busy("7"));
    await kit.ask();
    expect(await coolsFor(kit, "b")).toBe(7 * SECOND);
    expect(await kit.ask()).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 7 });
  });

  test.each([
    ["two", ["a", "b"]],
    ["five", ["a", "b", "c", "d", "e"]],
  ])("a storm of refusals on all %s accounts reaches each of them once", async (_what, names) => {
    const kit = await accounts(names, { resilience: { maxRetries: 10 } });
    for (const name of names) kit.answer(name, busy("3600"));
    const statuses = [(await kit.ask()).status, ...(await atOnce(199, () => kit.ask())).map(({ status }) => status)];
    expect(new Set(statuses)).toEqual(new Set([429]));
    expect(kit.counts()).toEqual(Object.fromEntries(names.map((name) => [name, 1])));
  });
});

describe("operators", () => {
  test("see what cools and why, and end it", async () => {
    const kit = await ordered();
    kit.answer("a", busy("600"));
    await kit.ask();
    await kit.ask({ model: OTHER });
    const since = new Date(kit.clock.now()).toISOString();
    const until = new Date(kit.clock.now() + 600 * SECOND).toISOString();
    const one = (model: string) => ({ credential: "a", model, code: 429, reason: expect.any(String), since, until });
    expect((await cooldownsOf(kit)).toSorted((x, y) => String(x["model"]).localeCompare(String(y["model"])))).toEqual([one(OTHER), one(MODEL)]);
    kit.answer("a", {});
    expect(await kit.manage("DELETE", `cooldowns/a?model=${OTHER}`)).toEqual({ status: 200, body: { cleared: 1 } });
    kit.forget();
    expect(await kit.several(1, { model: OTHER })).toBe("a");
    expect(await kit.several(1)).toBe("b");
    expect(await kit.manage("DELETE", "cooldowns/a")).toEqual({ status: 200, body: { cleared: 1 } });
    expect(await kit.several(1)).toBe("a");
    expect((await kit.manage("DELETE", "cooldowns/nobody")).status).toBe(404);
    expect(JSON.stringify(kit.health())).not.toContain(keyOf("a"));
  });

  test("find it again after a restart with a database", async () => {
    const kit = await ordered(["a", "b"], { store: { url: `sqlite:${databasePath()}` } });
    kit.answer("a", busy("600"));
    await kit.ask();
    kit.answer("a", {});
    kit.forget();
    kit.clock.advance(300 * SECOND);
    await kit.restart();
    expect(await kit.several(2)).toBe("bb");
    expect(await coolsFor(kit)).toBe(300 * SECOND);
    kit.clock.advance(300 * SECOND);
    expect(await kit.several(1)).toBe("a");
  });
});

describe("what failures cost the providers", () => {
  test("30 % errors add at most a tenth of the traffic and ten in ten seconds", async () => {
    const kit = await accounts(["a", "b", "c"], { resilience: { circuitBreaker: false } });
    let count = 0;
    for (const name of ["a", "b", "c"]) {
      kit.answer(name, () => {
        count += 1;
        return count % 10 < 3 ? silent(500) : {};
      });
    }
    const SENT = 600;
    const SECONDS = 30;
    let failed = 0;
    for (let i = 0; i < SENT; i += 1) {
      // A model of its own for each, so that no cooldown takes the pressure away.
      if ((await kit.ask({ model: `model-${i}` })).status !== 200) failed += 1;
      kit.clock.advance((SECONDS * SECOND) / SENT);
    }
    const sent = kit.asked().length;
    expect(sent).toBeLessThanOrEqual(SENT * 1.1 + 10 * (SECONDS / 10 + 1));
    // And that much help there is: without it 180 would have failed.
    expect(sent).toBeGreaterThan(SENT * 1.1);
    expect(failed).toBeLessThan(SENT * 0.3 - 50);
  });

  test("an account that comes and goes every two seconds is felt by nobody, and gets few requests while it is away", async () => {
    const kit = await ordered();
    const startedAt = kit.clock.now();
    const isAway = (): boolean => Math.floor((kit.clock.now() - startedAt) / (2 * SECOND)) % 2 === 0;
    let wasted = 0;
    kit.answer("a", () => {
      if (isAway()) wasted += 1;
      return isAway() ? silent(500) : {};
    });
    for (let i = 0; i < 400; i += 1) {
      expect((await kit.ask()).status).toBe(200);
      kit.clock.advance(SECOND / 2);
    }
    expect(wasted).toBeLessThanOrEqual(4);
    expect(kit.asked().length).toBe(400 + wasted);
  });
});
