// An account whose provider fails again and again is left alone, and tried with single requests until it answers.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import type { FakeReply } from "quotaguard/testing";
import { accounts, atOnce, endAccounts, ordered, PATIENTLY, quiet, silent, type Accounts, type Reply } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;

/** Sends several at once; `answered` resolves when so many of them have their answer, in whatever order they come. */
function together(count: number, ask: () => Promise<Reply>) {
  const statuses: number[] = [];
  const all = atOnce(count, () => ask().then((reply) => (statuses.push(reply.status), reply)));
  return {
    statuses: statuses as readonly number[],
    answered: async (most: number): Promise<void> => {
      if (most === count) await all;
      await expect.poll(() => statuses.length, PATIENTLY).toBe(most);
    },
  };
}

describe("the circuit breaker", () => {
  const failing = async (more: GuardOptions = {}): Promise<Accounts> => {
    const kit = await ordered(["a"], { monitoring: { prometheusEnabled: true }, ...more });
    kit.answer("a", silent(500));
    for (let i = 0; i < 5; i += 1) expect((await kit.ask()).status).toBe(500);
    kit.forget();
    return kit;
  };
  const state = async (kit: Accounts): Promise<unknown> => (await kit.metric("breaker_state"))['{credential="a"}'];
  const [CLOSED, HALF_OPEN, OPEN] = [0, 1, 2];

  test("opens after five failures in a row, for thirty seconds, and then lets exactly one of many through", async () => {
    const kit = await failing();
    expect(await state(kit)).toBe(OPEN);
    for (const reply of await atOnce(20, () => kit.ask())) expect(reply).toMatchObject({ status: 503, code: "no_credential", retryAfter: 30 });
    expect(await kit.manage("GET", "cooldowns")).toMatchObject({ body: { cooldowns: [{ credential: "a", model: null }] } });
    kit.clock.advance(29 * SECOND);
    expect((await kit.ask()).status).toBe(503);
    expect(kit.asked()).toBe("");

    kit.clock.advance(SECOND);
    const letGo = Promise.withResolvers<void>();
    kit.answer("a", { hold: letGo.promise });
    const burst = together(20, () => kit.ask());
    // All others have their answer before the only one that was sent has.
    await burst.answered(19);
    expect(burst.statuses).toEqual(Array(19).fill(503));
    expect(await state(kit)).toBe(HALF_OPEN);
    expect(kit.asked()).toBe("a");
    letGo.resolve();
    await burst.answered(20);
    expect(burst.statuses.at(-1)).toBe(200);
    expect(await state(kit)).toBe(CLOSED);
    kit.answer("a", {});
    expect(await kit.several(3)).toBe("aaa");
  });

  test("opens again when that one fails, and keeps its place free when that client leaves", async () => {
    const kit = await failing();
    kit.clock.advance(30 * SECOND);
    expect((await kit.ask()).status).toBe(500);
    expect((await kit.ask()).status).toBe(503);
    expect(kit.asked()).toBe("a");
    kit.clock.advance(30 * SECOND);
    kit.answer("a", { fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const probe = kit.ask({}, { signal: leaving.signal });
    await kit.providers["a"]?.received(7);
    leaving.abort();
    await expect(probe).rejects.toThrow();
    await quiet(kit.guard);
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(200);
    expect(await state(kit)).toBe(CLOSED);
  });

  test.each<readonly [string, readonly FakeReply[]]>([
    ["answers in between", [silent(500), silent(500), silent(500), silent(500), {}, silent(500), silent(500), silent(500), silent(500)]],
    ["refusals of the request in between", [silent(500), silent(500), silent(500), silent(500), silent(400), silent(500)]],
    ["being busy", Array<FakeReply>(9).fill(silent(429))],
    ["keys that are refused", Array<FakeReply>(9).fill(silent(403))],
  ])("does not open for %s", async (_what, replies) => {
    const kit = await ordered(["a"], { monitoring: { prometheusEnabled: true } });
    kit.answer("a", replies);
    for (const _ of replies) await kit.ask();
    expect(await state(kit)).toBe(CLOSED);
    expect(kit.asked()).toHaveLength(replies.length);
  });

  test.each<readonly [string, FakeReply]>([
    ["connections that break", { fault: { at: "start", how: "reset" } }],
    ["answers that are no HTTP", { raw: ["SSH-2.0-not-http\r\n"] }],
    ["streams that break halfway", { fault: { at: 3, how: "reset" } }],
  ])("opens for %s", async (_what, fault) => {
    const kit = await ordered(["a"], { monitoring: { prometheusEnabled: true } });
    kit.answer("a", fault);
    for (let i = 0; i < 5; i += 1) await kit.ask({ stream: true });
    await quiet(kit.guard);
    expect(await state(kit)).toBe(OPEN);
  });

  test("is of an account: all its models, and no other account", async () => {
    const kit = await accounts(["a", "b"], { router: { strategy: "fill-first" }, resilience: { circuitBreaker: { failureThreshold: 2 } } });
    kit.answer("a", silent(500));
    await kit.ask({ model: "one" });
    await kit.ask({ model: "two" });
    kit.answer("a", {});
    expect(await kit.several(2, { model: "three" })).toBe("bb");
  });

  test("is closed by an operator who knows better", async () => {
    const kit = await failing();
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(503);
    expect(await kit.manage("DELETE", "cooldowns/a")).toEqual({ status: 200, body: { cleared: 1 } });
    expect((await kit.ask()).status).toBe(200);
    expect(await state(kit)).toBe(CLOSED);
  });

  test("takes other numbers, and none", async () => {
    const strict = await accounts(["a"], { resilience: { circuitBreaker: { failureThreshold: 1, openFor: "5s", halfOpen: 2 } } });
    strict.answer("a", silent(500));
    expect([(await strict.ask()).status, (await strict.ask()).status]).toEqual([500, 503]);
    strict.clock.advance(5 * SECOND);
    const letGo = Promise.withResolvers<void>();
    strict.answer("a", { hold: letGo.promise });
    const burst = together(9, () => strict.ask());
    await burst.answered(7);
    letGo.resolve();
    await burst.answered(9);
    expect(burst.statuses).toEqual([503, 503, 503, 503, 503, 503, 503, 200, 200]);

    const none = await accounts(["a"], { resilience: { circuitBreaker: false } });
    none.answer("a", silent(500));
    for (let i = 0; i < 12; i += 1) expect((await none.ask()).status).toBe(500);
  });
});
