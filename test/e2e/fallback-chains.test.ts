// Another model takes over when all that a model has is closed: in the order of its chain, for the price of who serves, and never for the request's own fault.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { expectConserved, recordingStore } from "quotaguard/testing";
import { KEY, OTHER_KEY } from "../helpers/app.ts";
import { accounts, atOnce, endAccounts, quiet, silent, type AccountInput, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const MINUTE = 60_000;
const ASKED = "gpt-4o";
const CLAUDE = "claude-haiku-4-5";
const busy = { status: 429, headers: { "retry-after": "60" } };
const openai = (name: string, ...models: readonly string[]): AccountInput => ({ name, models });
const anthropic = (name: string, ...models: readonly string[]): AccountInput => ({ name, provider: "anthropic", models });
const chains = (fallbackChains: Record<string, readonly string[]>, more: GuardOptions["router"] = {}): GuardOptions => ({
  router: { strategy: "fill-first", fallbackChains, ...more },
});

/** An account of the model that is asked for, and one of Claude that takes over. */
const pair = (more: GuardOptions = {}): Promise<Accounts> =>
  accounts([openai("o", ASKED), anthropic("c", CLAUDE)], { ...chains({ [ASKED]: [CLAUDE] }), ...more });

const ask = (kit: Accounts, body: Record<string, unknown> = {}, init?: Parameters<Accounts["ask"]>[1]) => kit.ask({ model: ASKED, ...body }, init);
const sentTo = (kit: Accounts, account: string): Record<string, unknown> =>
  JSON.parse(String(kit.providers[account]?.log.findLast(({ method }) => method === "POST")?.body)) as Record<string, unknown>;
const rowOf = async (kit: Accounts, { headers }: { readonly headers: Headers }) => {
  await quiet(kit.guard);
  return kit.guard.ledger.get(headers.get("x-request-id") as string);
};

describe("when the model's own accounts are closed", () => {
  test("the chain is walked in its order, and left when the model is back", async () => {
    const kit = await accounts([openai("a", ASKED), openai("b", ASKED), openai("m", "gpt-4o-mini"), anthropic("c", CLAUDE)], {
      ...chains({ [ASKED]: ["gpt-4o-mini", "claude-*"] }),
      resilience: { maxRetries: 3 },
    });
    expect((await ask(kit)).headers.get("x-quotaguard-model")).toBeNull();
    kit.forget();
    for (const account of ["a", "b", "m"]) kit.answer(account, busy);
    const answer = await ask(kit);
    expect([answer.status, answer.headers.get("x-quotaguard-model"), kit.asked()]).toEqual([200, CLAUDE, "abmc"]);
    kit.forget();
    kit.answer("m", {});
    expect((await ask(kit)).headers.get("x-quotaguard-model")).toBe(CLAUDE);
    kit.clock.advance(MINUTE);
    for (const account of ["a", "b"]) kit.answer(account, {});
    expect((await ask(kit)).headers.get("x-quotaguard-model")).toBeNull();
    expect(kit.asked()).toBe("ca");
  });

  test("to a provider of another dialect: translated, in the caller's own words, under the name of who served", async () => {
    const kit = await pair();
    kit.answer("o", busy);
    const messages = [{ role: "user", content: "one two three" }];
    const whole = await ask(kit, { messages });
    expect(JSON.parse(whole.text)).toMatchObject({ object: "chat.completion", choices: [{ message: { content: "You said: one two three" } }] });
    expect(sentTo(kit, "c")).toMatchObject({ model: CLAUDE, messages: [{ role: "user" }] });
    const streamed = await ask(kit, { messages, stream: true });
    expect(streamed.text).toMatch(/chat\.completion\.chunk.*\[DONE\]/s);
    expect(await rowOf(kit, whole)).toMatchObject({
      model: ASKED,
      servedModel: CLAUDE,
      provider: "anthropic",
      credential: "c",
      attempts: 2,
      tried: [{ credential: "o", model: ASKED, status: 429 }],
      state: "settled",
    });
  });

  test("an account at its own limit", async () => {
    const kit = await accounts([{ ...openai("o", ASKED), rpm: 1 }, anthropic("c", CLAUDE)], chains({ [ASKED]: [CLAUDE] }));
    expect([(await ask(kit)).status, (await ask(kit)).status, kit.asked()]).toEqual([200, 200, "oc"]);
  });

  test("a fault of the account, and of the provider; another model on the refused account is not asked", async () => {
    const kit = await accounts([openai("o", ASKED, "gpt-4o-mini"), anthropic("c", CLAUDE)], chains({ [ASKED]: ["gpt-4o-mini", CLAUDE] }));
    kit.answer("o", silent(401));
    expect([(await ask(kit)).status, kit.asked()]).toEqual([200, "oc"]);
    const other = await accounts([openai("o", ASKED, "gpt-4o-mini")], chains({ [ASKED]: ["gpt-4o-mini"] }));
    other.answer("o", silent(401));
    expect([(await ask(other)).status, (await ask(other)).status, other.asked()]).toEqual([401, 401, "oo"]);
    const third = await accounts([openai("o", ASKED, "gpt-4o-mini")], chains({ [ASKED]: ["gpt-4o-mini"] }));
    third.answer("o", ({ body }) => (body.model === ASKED ? silent(500) : undefined));
    expect([(await ask(third)).status, third.asked()]).toEqual([200, "oo"]);
  });

  test("all of them closed: 429 with the earliest time", async () => {
    const kit = await pair();
    kit.answer("o", { status: 429, headers: { "retry-after": "50" } });
    kit.answer("c", { status: 429, headers: { "retry-after": "20" } });
    expect((await ask(kit)).status).toBe(429);
    kit.forget();
    expect(await ask(kit)).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 20 });
    expect(kit.asked()).toBe("");
  });

  test("a model that nobody offers by itself is served by its chain", async () => {
    const kit = await accounts([openai("o", ASKED)], chains({ best: [ASKED] }));
    const answer = await kit.ask({ model: "best" });
    expect([answer.status, answer.headers.get("x-quotaguard-model")]).toEqual([200, ASKED]);
    expect(await rowOf(kit, answer)).toMatchObject({ model: "best", servedModel: ASKED });
  });

  test("in this process, too", async () => {
    const kit = await pair();
    kit.answer("o", busy);
    const answer = await kit.guard.fetch()("https://api.openai.com/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify({ model: ASKED, messages: [] }),
    });
    expect([answer.status, answer.headers.get("x-quotaguard-model")]).toEqual([200, CLAUDE]);
  });
});

test("a start tells of members that nobody offers, and starts", async () => {
  const lines: object[] = [];
  const quietly = (): void => undefined;
  const logger = {
    debug: quietly,
    info: quietly,
    warn: (fields: object, message: string) => void lines.push({ ...fields, message }),
    error: quietly,
  };
  const kit = await accounts([openai("o", ASKED)], { ...chains({ [ASKED]: ["gpt-4"] }), logger });
  expect((await ask(kit)).status).toBe(200);
  expect(lines).toMatchObject([{ code: "QG_FALLBACK_CHAIN", message: expect.stringContaining("nobody offers gpt-4 now") as string }]);
});

describe("never", () => {
  test.each([400, 404, 422])("for a request that the provider calls wrong: %i", async (status) => {
    const kit = await pair();
    kit.answer("o", { status });
    expect([(await ask(kit)).status, kit.asked()]).toEqual([status, "o"]);
  });

  test("for what the model's own provider cannot be asked: that is refused; but a member that cannot is passed over", async () => {
    const kit = await accounts([anthropic("c", CLAUDE), openai("o", ASKED), anthropic("d", "claude-d"), openai("p", "gpt-p")], {
      router: { strategy: "fill-first", fallbackChains: { [CLAUDE]: [ASKED], [ASKED]: ["claude-d", "gpt-p"] } },
    });
    const two = { n: 2 };
    expect(await kit.ask({ model: CLAUDE, ...two })).toMatchObject({ status: 422, code: "untranslatable" });
    expect(kit.asked()).toBe("");
    kit.answer("o", busy);
    expect([(await kit.ask({ model: ASKED, ...two })).status, kit.asked()]).toEqual([200, "op"]);
    kit.answer("c", busy);
    kit.answer("o", {});
    kit.forget();
    await kit.ask({ model: CLAUDE });
    expect(kit.asked()).toBe("c");
  });

  test("a member that cannot be asked this stands in nobody's way, whatever keeps the model's own account out", async () => {
    const kit = await accounts(
      [openai("o", ASKED), anthropic("d", "claude-d"), openai("p", "gpt-p")],
      chains({ [ASKED]: ["claude-d", "gpt-p"], best: ["claude-d", "gpt-p"] }),
    );
    const two = { n: 2 };
    expect([(await kit.ask({ model: "best", ...two })).status, kit.asked()]).toEqual([200, "p"]);
    await kit.guard.admin.pause("o", { reason: "for a test" });
    expect([(await ask(kit, two)).status, kit.asked()]).toEqual([200, "pp"]);
  });

  test("only where all of the model's own accounts cannot be asked this: one that could may be paused", async () => {
    const kit = await accounts([anthropic("c", ASKED), openai("o", ASKED), openai("p", "gpt-p")], chains({ [ASKED]: ["gpt-p"] }));
    await kit.guard.admin.pause("o", { reason: "for a test" });
    expect([(await ask(kit, { n: 2 })).status, kit.asked()]).toEqual([200, "p"]);
  });

  test("for such a request is it of any matter how the members are", async () => {
    const kit = await accounts([anthropic("c", CLAUDE), openai("o", ASKED), openai("p", "gpt-p")], chains({ [CLAUDE]: [ASKED, "gpt-p"] }));
    for (const cooling of ["o", "p"]) {
      kit.answer(cooling, busy);
      await kit.ask({ model: cooling === "o" ? ASKED : "gpt-p" });
      kit.forget();
      expect([await kit.ask({ model: CLAUDE, n: 2 }), kit.asked()]).toMatchObject([{ status: 422, code: "untranslatable" }, ""]);
    }
  });

  test("after the first byte; but before it", async () => {
    const kit = await pair();
    const text = Array.from({ length: 8 }, (_, i) => `w${i} `);
    kit.answer("o", { text, fault: { at: 5, how: "close" } });
    const broken = await ask(kit, { stream: true });
    expect([broken.text.includes("w0"), broken.text.includes("[DONE]"), kit.asked()]).toEqual([true, false, "o"]);
    kit.answer("o", { text, fault: { at: 0, how: "close" } });
    kit.clock.advance(MINUTE);
    kit.forget();
    const saved = await ask(kit, { stream: true });
    expect([saved.text.includes("[DONE]"), saved.headers.get("x-quotaguard-model"), kit.asked()]).toEqual([true, CLAUDE, "oc"]);
  });

  test("for tokens that are only counted: another model counts others", async () => {
    const kit = await accounts([anthropic("c", CLAUDE), anthropic("d", "claude-d")], chains({ [CLAUDE]: ["claude-d"] }));
    kit.answer("c", busy);
    const answer = await fetch(`${kit.gateway.url}/llm/v1/messages/count_tokens`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01" },
      body: JSON.stringify({ model: CLAUDE, messages: [{ role: "user", content: "one two three" }] }),
    });
    expect([answer.status, answer.headers.get("x-quotaguard-estimated"), kit.asked()]).toEqual([200, "true", "c"]);
  });

  test("to a model that the key may not use", async () => {
    const keys = [
      { name: "alice", key: KEY, models: [ASKED] },
      { name: "bob", key: OTHER_KEY, models: ["gpt-*", "claude-*"] },
    ];
    const kit = await pair({ auth: { keys } });
    kit.answer("o", busy);
    expect((await ask(kit)).status).toBe(429);
    expect(kit.asked()).toBe("o");
    expect(await ask(kit)).toMatchObject({ status: 429, code: "all_credentials_limited", retryAfter: 60 });
    expect((await ask(kit, {}, { key: OTHER_KEY })).headers.get("x-quotaguard-model")).toBe(CLAUDE);
  });
});

describe("money", () => {
  const CHEAP = { inputPerMtok: 1, outputPerMtok: 2 };
  const DEAR = { inputPerMtok: 10, outputPerMtok: 20 };
  /** As in money.test.ts: seven tokens expected, a quarter and eight more at the most. */
  const CEILING_INPUT = 17;
  const ceilingOf = (outputTokens: number, price: typeof DEAR): number =>
    CEILING_INPUT * price.inputPerMtok * 1_000 + outputTokens * price.outputPerMtok * 1_000;
  const priced = (own: typeof DEAR | undefined, other: typeof DEAR | undefined): GuardOptions => ({
    prices: { book: false },
    models: [
      { name: ASKED, ...(own ? { price: own } : {}) },
      { name: CLAUDE, ...(other ? { price: other } : {}) },
    ],
    limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }],
  });
  const short = { messages: [], max_tokens: 100 };

  test("is held at the dearest of the chain, and settled at the price of who served", async () => {
    const store = recordingStore();
    const options = { ...priced(CHEAP, DEAR), store };
    const kit = await pair(options);
    const own = await rowOf(kit, await ask(kit, short));
    expect([own?.held.usd, own?.rawNanoUsd]).toEqual([ceilingOf(100, DEAR), own && costOf(own, CHEAP)]);
    kit.answer("o", busy);
    const answer = await ask(kit, short);
    const other = await rowOf(kit, answer);
    expect([other?.servedModel, other?.held.usd, other?.rawNanoUsd]).toEqual([CLAUDE, ceilingOf(100, DEAR), other && costOf(other, DEAR)]);
    expect(Number(answer.headers.get("x-quotaguard-cost-usd")) * 1e9).toBeCloseTo(other?.rawNanoUsd ?? 0, 0);
    const [day] = await kit.guard.remaining({ user: "alice" });
    expect([Math.round((day?.used ?? 0) * 1e9), day?.held]).toEqual([(own?.rawNanoUsd ?? 0) + (other?.rawNanoUsd ?? 0), 0]);
    await expectConserved({ guard: kit.guard, store, upstreams: Object.values(kit.providers), options });
  });

  test("of a member that the key may not use is not held", async () => {
    const kit = await pair({ ...priced(CHEAP, DEAR), auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" }, models: [ASKED] }] } });
    expect((await rowOf(kit, await ask(kit, short)))?.held.usd).toBe(ceilingOf(100, CHEAP));
  });

  test("a member without a price serves nobody whose money is counted; the model's own is refused", async () => {
    const kit = await pair(priced(CHEAP, undefined));
    expect((await rowOf(kit, await ask(kit, short)))?.held.usd).toBe(ceilingOf(100, CHEAP));
    kit.answer("o", busy);
    expect((await ask(kit, short)).status).toBe(429);
    expect(kit.asked()).toBe("oo");
    const other = await pair(priced(undefined, CHEAP));
    expect(await ask(other, short)).toMatchObject({ status: 400, code: "model_not_priced" });
  });

  test("a hundred at once over a chain that flips between prices never pass the budget", async () => {
    const store = recordingStore();
    const most = ceilingOf(100, DEAR) * 12;
    const options: GuardOptions = {
      ...priced(CHEAP, DEAR),
      store,
      limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: most / 1e9, per: "day" } }],
      resilience: { retryBudget: 1 },
    };
    const kit = await pair(options);
    let turn = 0;
    const long = { text: Array.from({ length: 100 }, () => "x ") };
    kit.answer("o", () => (turn++ % 2 === 0 ? silent(500) : long));
    kit.answer("c", long);
    const answers = await atOnce(100, () => ask(kit, short));
    await quiet(kit.guard);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 429]));
    const [day] = await kit.guard.remaining({ user: "alice" });
    expect(day?.used).toBeLessThanOrEqual(most / 1e9);
    await expectConserved({ guard: kit.guard, store, upstreams: Object.values(kit.providers), options });
  });

  function costOf({ usage }: { readonly usage: { readonly inputTokens: number; readonly outputTokens: number } | null }, price: typeof DEAR): number {
    return (usage?.inputTokens ?? 0) * price.inputPerMtok * 1_000 + (usage?.outputTokens ?? 0) * price.outputPerMtok * 1_000;
  }

  describe("caps", () => {
    const models = (own: number | undefined, other: number | undefined): GuardOptions => ({
      ...priced(CHEAP, CHEAP),
      models: [
        { name: ASKED, price: CHEAP, ...(own ? { maxOutputTokens: own } : {}) },
        { name: CLAUDE, price: CHEAP, ...(other ? { maxOutputTokens: other } : {}) },
      ],
    });
    const capsSent = async (given: GuardOptions, body: Record<string, unknown>): Promise<readonly unknown[]> => {
      const kit = await pair(given);
      await ask(kit, body);
      kit.answer("o", busy);
      const answer = await ask(kit, body);
      const { max_completion_tokens: own, max_tokens: older } = sentTo(kit, "o");
      const row = await rowOf(kit, answer);
      expect(answer.headers.get("x-quotaguard-model")).toBe(CLAUDE);
      return [own ?? older, sentTo(kit, "c").max_tokens, (row?.held.usd ?? 0) - ceilingOf(0, CHEAP)];
    };
    const usd = (tokens: number): number => tokens * CHEAP.outputPerMtok * 1_000;

    test.each<[string, number | undefined, number | undefined, object, unknown, number, number]>([
      ["the client's own, where it fits", 8_000, 8_000, { max_tokens: 50 }, 50, 50, 50],
      ["no more than the fallback writes", 8_000, 500, { max_tokens: 6_000 }, 6_000, 500, 6_000],
      ["what is held, where nobody named one", undefined, undefined, {}, 4_096, 4_096, 4_096],
      ["the fallback's own, below what is held", undefined, 500, {}, 4_096, 500, 4_096],
      ["what is held, though the fallback writes more", 1_000, 9_000, {}, undefined, 1_000, 1_000],
    ])("%s", async (_what, own, other, body, sentOwn, sentOther, held) => {
      expect(await capsSent(models(own, other), { messages: [], ...body })).toEqual([sentOwn, sentOther, usd(held)]);
    });
  });
});

test("limits of the model count what was asked; those of the pair what was sent", async () => {
  const kit = await accounts([openai("o", ASKED), anthropic("c", CLAUDE)], {
    ...chains({ [ASKED]: [CLAUDE] }),
    models: [{ name: ASKED }, { name: CLAUDE, rpm: 1 }],
    limits: [{ name: "per-model", scope: "model", unit: "requests", window: { limit: 3, per: "hour" } }],
  });
  kit.answer("o", busy);
  expect((await ask(kit)).status).toBe(200);
  expect(await ask(kit)).toMatchObject({ status: 429, code: "all_credentials_limited" });
  const [counted] = await kit.guard.remaining({ model: ASKED });
  expect(counted?.used).toBe(1);
  expect((await kit.guard.remaining({ model: CLAUDE }))[0]?.used).toBe(0);
});
