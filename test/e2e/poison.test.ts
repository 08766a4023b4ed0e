// Requests that a client can make at will must not take an account away from everybody else.
import { afterEach, describe, expect, test } from "vitest";
import type { FakeReply } from "quotaguard/testing";
import { KEY } from "../helpers/app.ts";
import { accounts, endAccounts, ordered, quiet, replyOf, silent, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const MIB = 1024 * 1024;
const BANNING = { fail2ban: { maxAttempts: 1, errorCodes: [500, 502, 504] }, monitoring: { prometheusEnabled: true } };

/** Nobody is banned, nobody cools down, no breaker has counted. */
async function expectAllWell(kit: Accounts): Promise<void> {
  await quiet(kit.guard);
  expect(kit.guard.admin.bans()).toEqual([]);
  expect(kit.guard.admin.cooldowns()).toEqual([]);
  expect(await kit.metric("breaker_state")).toEqual(Object.fromEntries(Object.keys(kit.providers).map((name) => [`{credential="${name}"}`, 0])));
}

describe("a refusal of the request", () => {
  const echo = JSON.stringify({ detail: [{ msg: "field required", input: "x".repeat(2 * MIB) }] });
  const broken: FakeReply["fault"] = { at: 10, how: "reset" };

  test.each<readonly [string, FakeReply]>([
    ["that repeats all of it", { status: 422, body: echo }],
    ["whose connection breaks off in its body", { status: 400, fault: broken }],
  ])("%s is one", async (_what, reply) => {
    const kit = await ordered(["a", "b"], BANNING);
    kit.answer("a", reply);
    for (let i = 0; i < 6; i += 1) expect(await kit.ask()).toMatchObject({ status: reply.status, code: "upstream_refused" });
    expect(kit.asked()).toBe("aaaaaa");
    await expectAllWell(kit);
  });

  test("stays what its status says it is when it cannot be read to its end", async () => {
    const kit = await ordered(["a", "b"], BANNING);
    kit.answer("a", { ...silent(429, { "retry-after": "7" }), fault: broken });
    expect((await kit.ask()).status).toBe(200);
    expect(kit.asked()).toBe("ab");
    const [cooldown] = kit.guard.admin.cooldowns();
    expect(cooldown).toMatchObject({ credential: "a", code: 429, until: kit.clock.now() + 7_000 });
    expect(kit.guard.admin.bans()).toEqual([]);
  });
});

describe("an answer that is too large to hold", () => {
  const huge = (): FakeReply => ({ body: JSON.stringify({ object: "list", data: ["x".repeat(33 * MIB)] }) });

  test("is asked for once, charged by its input, and nobody's failure", async () => {
    const kit = await accounts(["a", "b"], BANNING);
    kit.answer("a", huge());
    kit.answer("b", huge());
    const response = await fetch(`${kit.gateway.url}/llm/v1/embeddings`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: "text-embedding-3-large", input: ["some", "words"] }),
    });
    const reply = await replyOf(Promise.resolve(response));
    expect(reply).toMatchObject({ status: 502, code: "upstream_protocol" });
    expect(reply.headers.get("x-should-retry")).toBe("false");
    expect(kit.asked()).toBe("a");
    await expectAllWell(kit);
    const row = await kit.guard.ledger.get(String(reply.headers.get("x-request-id")));
    expect(row).toMatchObject({ state: "estimated", attempts: 1 });
  });
});

describe("what SDKs are told not to try again", () => {
  const answer = async (kit: Accounts): Promise<readonly [number, number | null, string | null]> => {
    const { status, retryAfter, headers } = await kit.ask();
    return [status, retryAfter, headers.get("x-should-retry")];
  };

  test("a provider's own refusal that names a long wait, and not one that names a short one", async () => {
    const kit = await ordered(["a"]);
    kit.answer("a", silent(503, { "retry-after": "10" }));
    expect(await answer(kit)).toEqual([503, 10, null]);
    kit.clock.advance(10_000);
    kit.answer("a", silent(503, { "retry-after": "10.2" }));
    expect(await answer(kit)).toEqual([503, 11, "false"]);
  });

  test("a model whose every account is banned until a person comes", async () => {
    const kit = await ordered(["a"], { fail2ban: { maxAttempts: 1, errorCodes: [401] } });
    kit.answer("a", silent(401));
    expect((await kit.ask()).status).toBe(401);
    expect(await answer(kit)).toEqual([503, null, "false"]);
  });
});
