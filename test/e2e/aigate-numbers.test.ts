/*
 * The numbers that AIGate's own tests pin down, and those of its faults that concern money, repeated requests and limits: where each is proven here, or why it
 * is otherwise here. `file > title` names a test below test/ (`here` = this file); the first test of this file sees to it that all of them exist.
 *
 * Rate
 *   of 60 a minute the first and the 60th pass, the 61st is refused with Retry-After
 *                                                               | here > of 60 a minute the 60th passes, and the 61st is told when to come back
 *   a repeated request is not counted                           | here > of 60 a minute the 60th passes, and the 61st is told when to come back
 *
 * Repeated requests
 *   the second call: the same id and billed cost, 0.00001550    | here > a second call with the same key has the same id and the same cost, 0.00001550
 *   another body: there 409, here 422, which no client repeats  | e2e/idempotency > another body is 422
 *   an unknown key is a new request                             | middleware/idempotency/claims > has one holder
 *   a stream with a key: there 400, here told again             | e2e/idempotency > a stream is told again byte for byte, in the same chunks
 *   only successes are kept                                     | e2e/idempotency > nothing of a refusal: what cost nothing may be tried again
 *   a key of another organisation is another key                | e2e/idempotency > another client's same key is another one
 *
 * Billing
 *   0.01 raw and 10 % is 0.011                                  | here > a reported cost of 0.01 and ten per cent is 0.011
 *                                                               | metering/price-rules > aigate: 0.01 raw and ten per cent
 *   1,000 in at 0.001 and 500 out at 0.002 a thousand is 0.002  | here > 1,000 in at 0.001 and 500 out at 0.002 a thousand is 0.002
 *                                                               | metering/price-rules > aigate: 1,000 in at 0.001 and 500 out at 0.002 a thousand
 *   no rule: neither a raw nor a billed cost                    | here > without a price there is no cost, not one of nothing
 *                                                               | metering/price-rules > aigate: without a rule there is no cost
 *   an exact model before a provider's default                  | metering/price-rules > a name before a pattern
 *   the newest rule                                             | metering/price-rules > begin with `from`, end before `until`, and the newest counts
 *
 * Streams
 *   three chunks and [DONE] are four data lines, untouched      | here > three chunks and [DONE] are four events
 *
 * Its faults
 *   an event ended with one newline, so clients read nothing    | here > three chunks and [DONE] are four events
 *   errors of a stream came after its 200                       | here > an error before a stream begins has its own status and Retry-After
 *   all errors were 502, and Retry-After was lost               | here > an error before a stream begins has its own status and Retry-After
 *                                                               | e2e/settlement > an error status: nothing, and it keeps its status and bytes
 *   streams did not ask for usage and were not billed           | middleware/proxy > a stream asks for usage, and keeps what else it asked for
 *   who hung up was not billed                                  | e2e/aborted-streams > are charged what the provider bills, each, each team and all
 *   two at once with one key were two calls                     | e2e/idempotency > 50 twins at once are one call, one row and one charge
 *   a ledger that failed was passed over                        | e2e/store-faults > intent: closed, nothing sent, the budget given back
 *   a long id made the row fail, and the call free              | here > long names and ids cost what short ones do, and have their rows
 *   a call held a database connection for as long as it took    | here > calls under way hold no connection to the database
 *   revoked, expired and narrowed keys: none                    | e2e/keys > ends a key by the clock
 *                                                               | e2e/keys > lets a key in from the moment it is made until it is revoked
 *   twice the limit around the turn of a minute                 | here > no minute has more than 60, wherever it begins
 *   one number for all organisations                            | e2e/keys > sells an organisation more for a while
 *   no budget of tokens or money                                | e2e/money > 200 parallel requests never bill more than the limit
 *   Redis away: 500                                             | e2e/store-faults > hard limit: closed, 503 with Retry-After
 *   max_tokens and tools were lost, and not part of the body    | here > another max_tokens or tool is another body, and reaches the provider
 *   X-Timeout: nan                                              | here > a client's X-Timeout says nothing here
 *   refused calls were in no metric                             | here > refused calls are counted by their status
 *   the model's label was the client's                          | e2e/metrics > 3,000 models and users that nobody configured
 *   two rules for the same could stand side by side             | options/prices > say what others do not say of the same
 *   no prices of cached or thought tokens                       | metering/prices > takes the base class where a class has no price of its own
 */
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions, LedgerRow, LedgerStore } from "quotaguard";
import { postgresStore } from "quotaguard/stores/postgres";
import { chat } from "../helpers/app.ts";
import { testServer } from "../setup/test-server.ts";
import { ownSchema } from "../stores/postgres-kit.ts";
import { accounts, asking, atOnce, closeLater, endAccounts, MODEL, PATIENTLY, quiet, type Accounts, type Reply } from "./accounts-kit.ts";

const postgres = await testServer("postgres");

afterEach(endAccounts);

test("the table above names tests that exist", () => {
  const own = readFileSync(import.meta.filename, "utf8");
  const [table = "", code = ""] = own.split("*/\n");
  const missing: string[] = [];
  let count = 0;
  for (const [, file = "", title = ""] of table.matchAll(/\| (\S+) > (.+)$/gm)) {
    const text = file === "here" ? code : readFileSync(new URL(`../${file}.test.ts`, import.meta.url), "utf8");
    count += 1;
    if (!text.includes(title)) missing.push(`${file} > ${title}`);
  }
  expect(missing).toEqual([]);
  expect(count).toBeGreaterThan(35);
});

const keyed = (key: string) => ({ headers: { "idempotency-key": key } });
const MINUTE: GuardOptions["limits"] = [{ name: "org-minute", scope: "user", unit: "requests", window: { limit: 60, per: "minute" } }];

async function rowOf({ guard }: Accounts, { headers }: Pick<Reply, "headers">): Promise<LedgerRow | undefined> {
  await quiet(guard);
  return guard.ledger.get(headers.get("x-request-id") as string);
}

describe("rate", () => {
  test("of 60 a minute the 60th passes, and the 61st is told when to come back", async () => {
    const kit = await accounts(["qwen"], { limits: MINUTE });
    expect((await kit.ask(asking(1), keyed("first"))).status).toBe(200);
    expect((await kit.ask(asking(1), keyed("first"))).headers.get("idempotency-replayed")).toBe("true");
    kit.clock.advance(10_000);
    const others = await atOnce(59, () => kit.ask(asking(1)));
    expect(new Set(others.map(({ status }) => status))).toEqual(new Set([200]));
    const refused = await kit.ask(asking(1));
    expect([refused.status, refused.code]).toEqual([429, "budget_exhausted"]);
    expect(kit.counts()).toEqual({ qwen: 60 });
    // The first one leaves the window a minute after it came, and nobody is sent back too early.
    expect(refused.retryAfter).toBeGreaterThanOrEqual(50);
    expect(refused.retryAfter).toBeLessThanOrEqual(52);
    kit.clock.advance((refused.retryAfter ?? 0) * 1_000);
    expect((await kit.ask(asking(1))).status).toBe(200);
  });

  test("no minute has more than 60, wherever it begins", async () => {
    const kit = await accounts(["qwen"], { limits: MINUTE });
    kit.clock.advance(60_000 - (kit.clock.now() % 60_000) - 1_000);
    const before = await atOnce(60, () => kit.ask(asking(1)));
    kit.clock.advance(2_000);
    const after = await atOnce(60, () => kit.ask(asking(1)));
    expect(before.filter(({ status }) => status === 200)).toHaveLength(60);
    expect(after.filter(({ status }) => status === 200)).toHaveLength(0);
  });
});

describe("billing", () => {
  const priced = (inputPerMtok: number, outputPerMtok: number): GuardOptions => ({
    models: [{ name: MODEL, price: { inputPerMtok, outputPerMtok } }],
  });
  const used = (input: number, output: number, more: object = {}) => ({
    usage: { prompt_tokens: input, completion_tokens: output, total_tokens: input + output, ...more },
  });

  test("a second call with the same key has the same id and the same cost, 0.00001550", async () => {
    // 0.0005 and 0.001 a thousand.
    const kit = await accounts(["qwen"], priced(0.5, 1));
    kit.answer("qwen", used(11, 10));
    const [one, two] = [await kit.ask({}, keyed("k")), await kit.ask({}, keyed("k"))];
    expect([one, two].map(({ headers }) => headers.get("x-quotaguard-cost-usd"))).toEqual(["0.000015500", "0.000015500"]);
    const ids = [one, two].map(({ text }) => (JSON.parse(text) as { id: string }).id);
    expect(ids[1]).toBe(ids[0]);
    expect(await rowOf(kit, one)).toMatchObject({ billedNanoUsd: 15_500 });
    expect(await kit.guard.ledger.totals({}, [])).toMatchObject([{ requests: 1, billedNanoUsd: 15_500n }]);
    expect(kit.counts()).toEqual({ qwen: 1 });
  });

  test("a reported cost of 0.01 and ten per cent is 0.011", async () => {
    const kit = await accounts(["qwen"], { prices: { markupPct: 10 } });
    kit.answer("qwen", used(5, 5, { cost: 0.01 }));
    const reply = await kit.ask();
    expect(reply.headers.get("x-quotaguard-cost-usd")).toBe("0.011000000");
    expect(await rowOf(kit, reply)).toMatchObject({ rawNanoUsd: 10_000_000, billedNanoUsd: 11_000_000 });
  });

  test("1,000 in at 0.001 and 500 out at 0.002 a thousand is 0.002", async () => {
    const kit = await accounts(["qwen"], priced(1, 2));
    kit.answer("qwen", used(1_000, 500));
    const reply = await kit.ask();
    expect(reply.headers.get("x-quotaguard-cost-usd")).toBe("0.002000000");
    expect(await rowOf(kit, reply)).toMatchObject({ rawNanoUsd: 2_000_000, billedNanoUsd: 2_000_000 });
  });

  test("without a price there is no cost, not one of nothing", async () => {
    const kit = await accounts(["qwen"], { models: [{ name: MODEL }] });
    const reply = await kit.ask({ model: "a-model-that-nobody-prices" });
    expect([reply.status, reply.headers.get("x-quotaguard-cost-usd")]).toEqual([200, null]);
    expect(await rowOf(kit, reply)).toMatchObject({
      state: "settled",
      provenance: "exact",
      rawNanoUsd: null,
      billedNanoUsd: null,
      priceVersion: null,
    });
  });
});

describe("streams", () => {
  test("three chunks and [DONE] are four events, as they came", async () => {
    const kit = await accounts(["qwen"]);
    const events = ["one", "two", "three"].map((content) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`);
    kit.answer("qwen", () => ({ events: [...events, "data: [DONE]\n\n"] }));
    const { text } = await kit.ask({ stream: true });
    expect(text).toBe(`${events.join("")}data: [DONE]\n\n`);
    expect(text.match(/^data: .+\n\n/gm)).toHaveLength(4);
  });

  test("an error before a stream begins has its own status and Retry-After", async () => {
    const kit = await accounts(["qwen"]);
    kit.answer("qwen", () => ({ status: 429, headers: { "retry-after": "7" } }));
    const busy = await kit.ask({ stream: true });
    expect([busy.status, busy.retryAfter]).toEqual([429, 7]);
    expect(busy.headers.get("content-type")).toContain("json");
    kit.clock.advance(8_000);
    kit.answer("qwen", () => ({ status: 404 }));
    expect((await kit.ask({ stream: true })).status).toBe(404);
  });
});

describe("faults", () => {
  test("long names and ids cost what short ones do, and have their rows", async () => {
    const kit = await accounts(["qwen"], {
      limits: [{ name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 0 } }],
    });
    const headers = { "x-request-id": "r".repeat(1_000), "idempotency-key": "k".repeat(200) };
    const reply = await kit.ask({ model: "m".repeat(250), messages: [] }, { headers });
    expect(reply.status).toBe(200);
    expect(reply.headers.get("x-request-id")?.length).toBeLessThanOrEqual(128);
    const row = await rowOf(kit, reply);
    expect(row).toMatchObject({ state: "settled", model: "m".repeat(250) });
    const { inputTokens = 0, outputTokens = 0 } = kit.providers["qwen"]?.totals() ?? {};
    expect(inputTokens + outputTokens).toBeGreaterThan(0);
    expect((await kit.guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(10_000 - inputTokens - outputTokens);
  });

  test.skipIf(postgres === undefined)("calls under way hold no connection to the database", async () => {
    const ledger = closeLater(
      postgresStore(postgres as string, { schema: ownSchema(postgres as string) }) as LedgerStore & { close(): Promise<unknown> },
    );
    const kit = await accounts(["qwen"], { ledger, secrets: { key: "a-secret-key-for-tests-0001" } });
    const gate = Promise.withResolvers<void>();
    kit.answer("qwen", () => ({ hold: gate.promise }));
    const under = Array.from({ length: 100 }, () => kit.ask());
    // All of them are at the provider at the same time, and the books can be read meanwhile.
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual({ qwen: 100 });
    expect(await kit.guard.ledger.list({ state: "intent", limit: 200 })).toHaveLength(100);
    gate.resolve();
    expect(new Set((await Promise.all(under)).map(({ status }) => status))).toEqual(new Set([200]));
    await quiet(kit.guard);
    await kit.guard.ledger.flush();
    expect(await kit.guard.ledger.totals({}, [])).toMatchObject([{ requests: 100 }]);
  });

  test.each([
    ["max_tokens", { max_tokens: 4 }],
    ["tools", { tools: [{ type: "function", function: { name: "other" } }] }],
    ["top_p", { top_p: 0.2 }],
    ["response_format", { response_format: { type: "json_object" } }],
    ["a field that nobody knows", { enable_thinking: true }],
  ])("another max_tokens or tool is another body, and reaches the provider: %s", async (_what, change) => {
    const kit = await accounts(["qwen"]);
    const body = { messages: [], max_tokens: 3, tools: [{ type: "function", function: { name: "one" } }], top_p: 0.1 };
    expect((await kit.ask(body, keyed("k"))).status).toBe(200);
    const other = await kit.ask({ ...body, ...change }, keyed("k"));
    expect([other.status, other.code]).toEqual([422, "idempotency_mismatch"]);
    expect((await kit.ask({ ...body, ...change }, keyed("l"))).status).toBe(200);
    expect(JSON.parse(String(kit.providers["qwen"]?.log.at(-1)?.body))).toEqual({ model: MODEL, ...body, ...change });
  });

  test("a client's X-Timeout says nothing here, whatever it is", async () => {
    const kit = await accounts(["qwen"]);
    for (const timeout of ["nan", "-1", "0", "1e400"]) expect((await kit.ask({}, { headers: { "x-timeout": timeout } })).status).toBe(200);
    for (const { headers } of kit.providers["qwen"]?.log ?? []) expect(headers).not.toHaveProperty("x-timeout");
  });

  test("refused calls are counted by their status", async () => {
    const kit = await accounts(["qwen"], {
      limits: [{ name: "one", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }],
      monitoring: { prometheusEnabled: true },
    });
    const statuses = [
      (await kit.ask()).status,
      (await kit.ask()).status,
      (await kit.ask({}, { key: "agk_nobody-has-this-key" })).status,
      (await kit.ask({ messages: "no" })).status,
      (await chat(kit.gateway.url, { model: 7 })).status,
    ];
    expect(statuses).toEqual([200, 429, 401, 400, 400]);
    await quiet(kit.guard);
    const counted: Record<string, number> = {};
    for (const [labels, value] of Object.entries(await kit.metric("requests_total"))) {
      const status = /status="(\d+)"/.exec(labels)?.[1] ?? "";
      counted[status] = (counted[status] ?? 0) + value;
    }
    expect(counted).toEqual({ 200: 1, 429: 1, 401: 1, 400: 2 });
  });
});
