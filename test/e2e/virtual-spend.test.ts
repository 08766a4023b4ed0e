// What an account's quota has left for the next request: what the provider said, less what is under way and what was used since.
import type { GuardOptions, PluginHost } from "quotaguard";
import { afterEach, describe, expect, test } from "vitest";
import type { ReservationView } from "../../src/core/admin.ts";
import type { QuotaFact } from "../../src/core/quota-fact.ts";
import { accounts, asking, atOnce, billing, endAccounts, INPUT_TOKENS, PATIENTLY, quiet } from "./accounts-kit.ts";

afterEach(endAccounts);

const MINUTE = 60_000;

async function kitWithFacts(names: readonly string[], options: GuardOptions = {}) {
  const hosts: PluginHost[] = [];
  const plugin = { name: "teller", setup: (host: PluginHost) => void hosts.push(host) };
  const kit = await accounts(names, { router: { strategy: "fill-first" }, plugins: [plugin], ...options });
  return {
    kit,
    /** Of a quota of 10,000 tokens that is whole again in two hours. */
    tell: async (credential: string, remainingRatio: number, more: Partial<QuotaFact> = {}) =>
      (hosts.at(-1) as PluginHost).credentials.report({
        credential,
        group: "5h",
        remainingRatio,
        resetsAt: kit.clock.now() + 120 * MINUTE,
        observedAt: kit.clock.now(),
        source: "poll",
        unit: "tokens",
        limit: 10_000,
        ...more,
      }),
  };
}

/** Answers only when it is told to. */
function gatedAnswer(outputTokens: number) {
  const open = Promise.withResolvers<void>();
  return {
    open: () => open.resolve(),
    answer: async () => {
      await open.promise;
      return billing(outputTokens);
    },
  };
}

test("a client's cap of all that the model can write is no reason to refuse: few answers are as long", async () => {
  const { kit, tell } = await kitWithFacts(["a"]);
  await tell("a", 0.99, {
    group: "output-tokens",
    unit: "output_tokens",
    limit: 8_000,
    resetsAt: kit.clock.now() + 600,
    windowMs: MINUTE,
    refills: true,
  });
  const provider = gatedAnswer(200);
  kit.answer("a", provider.answer);
  const all = atOnce(5, () => kit.ask(asking(32_000)));
  await expect.poll(() => kit.counts()["a"] ?? 0, PATIENTLY).toBe(5);
  provider.open();
  expect((await all).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
});

describe("an account at its last percent", () => {
  test.each<[string, number, Partial<QuotaFact>, number]>([
    ["of tokens that the provider counts", 0.01, {}, 20],
    ["of a share of which nobody tells what it is", 0.005, { unit: "share" }, 1_000],
  ])("%s is not overrun by 50 requests at once", async (_what, ratio, more, tokensEach) => {
    const { kit, tell } = await kitWithFacts(["a"]);
    await tell("a", ratio, more);
    const provider = gatedAnswer(tokensEach - INPUT_TOKENS);
    kit.answer("a", provider.answer);
    const all = atOnce(50, () => kit.ask(asking(tokensEach - INPUT_TOKENS)));
    // All are decided before the first is answered.
    await expect.poll(() => kit.counts()["a"] ?? 0, PATIENTLY).toBe(5);
    await expect.poll(() => kit.health().openRequests, PATIENTLY).toBe(5);
    expect(kit.guard.admin.reservations()).toMatchObject([{ credential: "a", attempts: 5, openTokens: 5 * tokensEach, quotas: [{ remaining: 0 }] }]);
    provider.open();
    const replies = await all;
    expect(replies.filter(({ status }) => status === 200)).toHaveLength(5);
    const refused = replies.filter(({ status }) => status === 429);
    expect(refused).toHaveLength(45);
    expect(new Set(refused.map(({ code }) => code))).toEqual(new Set(["all_credentials_limited"]));
    expect(kit.counts()["a"]).toBe(5);
    // Nothing is left now until it is whole again.
    await quiet(kit.guard);
    const late = await kit.ask(asking(13));
    expect([late.status, late.retryAfter, kit.counts()["a"]]).toEqual([429, 7_200, 5]);
    kit.clock.advance(120 * MINUTE);
    kit.answer("a", {});
    expect((await kit.ask(asking(13))).status).toBe(200);
  });

  test("gives back what was not used: the next ones fit", async () => {
    const { kit, tell } = await kitWithFacts(["a"]);
    await tell("a", 0.01);
    kit.answer("a", billing(1));
    // 100 tokens are left: each is expected to take 57, and takes 8.
    const statuses: number[] = [];
    for (let i = 0; i < 8; i += 1) {
      statuses.push((await kit.ask(asking(50))).status);
      await quiet(kit.guard);
    }
    expect(statuses).toEqual([200, 200, 200, 200, 200, 200, 429, 429]);
  });

  test("leaves the rest to the next account", async () => {
    const { kit, tell } = await kitWithFacts(["a", "b"], { monitoring: { prometheusEnabled: true } });
    await tell("a", 0.01);
    const provider = gatedAnswer(13);
    for (const name of ["a", "b"]) kit.answer(name, provider.answer);
    const all = atOnce(50, () => kit.ask(asking(13)));
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual({ a: 5, b: 45 });
    provider.open();
    expect(new Set((await all).map(({ status }) => status))).toEqual(new Set([200]));
    expect(await kit.metric("selection_rejected_total")).toMatchObject({ '{reason="exhausted"}': 45 });
  });

  test("is lent again as soon as somebody sees room, and what is under way then still counts", async () => {
    const { kit, tell } = await kitWithFacts(["a"]);
    await tell("a", 0);
    expect((await kit.ask(asking(13))).status).toBe(429);
    kit.clock.advance(1);
    await tell("a", 0.003);
    const provider = gatedAnswer(13);
    kit.answer("a", provider.answer);
    const first = kit.ask(asking(13));
    await expect.poll(() => kit.counts()["a"], PATIENTLY).toBe(1);
    kit.clock.advance(1);
    await tell("a", 0.003);
    expect((await kit.ask(asking(13))).status).toBe(429);
    provider.open();
    expect((await first).status).toBe(200);
  });
});

describe("an account with nothing left", () => {
  test("for some models serves the others", async () => {
    const { kit, tell } = await kitWithFacts(["a", "b"]);
    await tell("a", 0, { group: "mini", models: ["gpt-4o-mini"] });
    expect([await kit.several(2), await kit.several(2, { model: "gpt-4o" })]).toEqual(["bb", "aa"]);
  });

  test("by an old word is tried by one request, and serves again when it is answered", async () => {
    const { kit, tell } = await kitWithFacts(["a"]);
    await tell("a", 0, { resetsAt: null });
    kit.clock.advance(15 * MINUTE - 1);
    expect(await kit.ask()).toMatchObject({ status: 429, retryAfter: 1 });
    kit.clock.advance(1);
    const provider = gatedAnswer(1);
    kit.answer("a", provider.answer);
    const probe = kit.ask(asking(1));
    await expect.poll(() => kit.counts()["a"], PATIENTLY).toBe(1);
    expect((await kit.ask(asking(1))).status).toBe(429);
    provider.open();
    expect((await probe).status).toBe(200);
    await quiet(kit.guard);
    kit.answer("a", {});
    expect((await kit.ask(asking(1))).status).toBe(200);
  });

  test("is shown as such, with what is left beside what was seen", async () => {
    const { kit, tell } = await kitWithFacts(["a"]);
    await tell("a", 0.5);
    kit.answer("a", billing(993));
    expect((await kit.ask(asking(993))).status).toBe(200);
    await quiet(kit.guard);
    // The provider's own headers tell of other quotas.
    const of5h = <T extends { readonly group: string }>(quotas: readonly T[]) => quotas.find(({ group }) => group === "5h");
    expect(kit.credential("a").state).toBe("ready");
    expect(of5h(kit.credential("a").quotas)).toMatchObject({ remainingRatio: 0.5, remaining: 0.4 });
    const { reservations } = (await kit.manage("GET", "reservations")).body as unknown as { reservations: readonly ReservationView[] };
    expect(reservations).toMatchObject([{ credential: "a", attempts: 0, since: null, openTokens: 0, spentTokens: 1_000 }]);
    expect(of5h(reservations[0]?.quotas ?? [])).toEqual({
      group: "5h",
      remainingRatio: 0.5,
      observedAt: new Date(kit.clock.now()).toISOString(),
      openRatio: 0,
      spentRatio: 0.1,
      remaining: 0.4,
    });
    kit.clock.advance(1);
    await tell("a", 0);
    const until = kit.clock.now() + 120 * MINUTE;
    expect(kit.credential("a")).toMatchObject({ state: "limited", until, reason: "nothing is left of its quota 5h" });
  });
});
