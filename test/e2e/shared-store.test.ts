// Two gateways on one Redis: what one of them learns or is told, the other one uses, at once or within a second.
import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions, Store } from "quotaguard";
import { collectors } from "quotaguard/plugins/collectors";
import { redisStore } from "quotaguard/stores/redis";
import type { TestGateway } from "../helpers/app.ts";
import { json, quotaServer } from "../plugins/collectors/collectors-kit.ts";
import { testServer } from "../setup/test-server.ts";
import { accounts, ADMIN, atOnce, billing, closeLater, endAccounts, MODEL, quiet, silent, type Accounts } from "./accounts-kit.ts";

const url = await testServer("redis");

afterEach(endAccounts);

/** Another node's view of the same counters and records. */
function nodes(): () => Store {
  const partition = randomUUID();
  return () => closeLater(redisStore(url as string, { partition }) as Store & { close(): Promise<unknown> });
}

interface Pair {
  readonly kit: Accounts;
  readonly a: TestGateway;
  readonly b: TestGateway;
  readonly node: () => Store;
}

async function pair(names: readonly string[], more: GuardOptions = {}): Promise<Pair> {
  const node = nodes();
  const kit = await accounts(names, { ...more, store: node() });
  return { kit, a: kit.gateway, b: await kit.another({ store: node() }), node };
}

/** Within a second, on a machine that is not overloaded. */
const SOON = { timeout: 5_000, interval: 20 } as const;

async function manage(of: TestGateway, method: string, path: string, body?: object): Promise<Record<string, unknown>> {
  const headers = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
  const response = await fetch(`${of.url}/llm/v0/management/${path}`, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
  return (await response.json()) as Record<string, unknown>;
}

describe.skipIf(url === undefined)("two gateways on one Redis", () => {
  test("share every budget: together they admit what one of them would", async () => {
    const { kit, a, b } = await pair(["x"], { limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 25, per: "hour" } }] });
    const replies = await atOnce(60, (i) => kit.ask({}, { of: i % 2 === 0 ? a : b }));
    expect(replies.filter(({ status }) => status === 200)).toHaveLength(25);
    expect(new Set(replies.filter(({ status }) => status !== 200).map(({ code }) => code))).toEqual(new Set(["budget_exhausted"]));
  });

  test("settle what was used where it was held, and parallel places are free again", async () => {
    const limits: GuardOptions["limits"] = [
      { name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } },
      { name: "parallel", scope: "user", unit: "concurrent", concurrency: { limit: 1 } },
    ];
    const { kit, a, b } = await pair(["x"], { limits });
    kit.answer("x", () => billing(93));
    for (const of of [a, b, a]) {
      expect((await kit.ask({ messages: [], max_tokens: 200 }, { of })).status).toBe(200);
      await Promise.all([quiet(a.guard), quiet(b.guard)]);
    }
    const { tokens } = await a.guard.admin.bucket({ scope: "user", id: "alice" });
    expect(tokens).toBe(700);
    expect(await b.guard.admin.bucket({ scope: "user", id: "alice" })).toMatchObject({ tokens: 700 });
  });

  test("a budget that is set on one counts in the very next request on the other", async () => {
    const limits: GuardOptions["limits"] = [{ name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } }];
    const { kit, a, b } = await pair(["x"], { limits });
    // A larger capacity adds nothing by itself: what fits into it then is "not now" instead of "never".
    for (const [of, capacity, status, code] of [
      [a, 5, 400, "budget_too_small"],
      [b, 2_000, 429, "budget_exhausted"],
      [a, 6, 400, "budget_too_small"],
      [b, 3_000, 429, "budget_exhausted"],
    ] as const) {
      await of.guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity });
      const other = of === a ? b : a;
      const reply = await kit.ask({ messages: [], max_tokens: 1 }, { of: other });
      expect([capacity, reply.status, reply.code]).toEqual([capacity, status, code]);
    }
  });

  test("an account that is banned on one is left alone by the other, until somebody lifts it anywhere", async () => {
    const { kit, a, b } = await pair(["x", "y"], { router: { strategy: "fill-first" }, fail2ban: { maxAttempts: 2, window: "1h" } });
    kit.answer("x", silent(401));
    // One strike on each: the counters are shared, too.
    await kit.ask({}, { of: a });
    kit.clock.advance(31 * 60_000);
    await expect.poll(async () => (await manage(b, "GET", "cooldowns"))["cooldowns"], SOON).toEqual([]);
    await kit.ask({}, { of: b });
    await expect.poll(async () => (await manage(a, "GET", "bans"))["bans"], SOON).toMatchObject([{ credential: "x", model: MODEL, code: 401 }]);
    kit.answer("x", {});
    kit.clock.advance(31 * 60_000);
    kit.forget();
    await kit.ask({}, { of: a });
    await kit.ask({}, { of: b });
    expect(kit.asked()).toBe("yy");

    expect(await manage(a, "DELETE", "bans/x")).toEqual({ lifted: 1 });
    await expect.poll(async () => (await manage(b, "GET", "bans"))["bans"], SOON).toEqual([]);
    kit.forget();
    await kit.ask({}, { of: b });
    expect(kit.asked()).toBe("x");
  });

  test("an account that cools down for one cools down for the other, and after a restart", async () => {
    const { kit, a, b, node } = await pair(["x", "y"], { router: { strategy: "fill-first" } });
    kit.answer("x", silent(429, { "retry-after": "600" }));
    expect((await kit.ask({}, { of: a })).status).toBe(200);
    kit.answer("x", {});
    await expect.poll(async () => (await manage(b, "GET", "cooldowns"))["cooldowns"], SOON).toMatchObject([{ credential: "x" }]);
    kit.forget();
    await kit.ask({}, { of: b });
    expect(kit.asked()).toBe("y");
    const c = await kit.another({ store: node() });
    kit.forget();
    await kit.ask({}, { of: c });
    expect(kit.asked()).toBe("y");
    kit.clock.advance(600_000);
    kit.forget();
    await kit.ask({}, { of: c });
    expect(kit.asked()).toBe("x");
  });

  test("choose consistently: a quota that one has asked about and found used up is passed over by the other", async () => {
    const window = (used: number) => ({ rate_limit: { primary_window: { used_percent: used, limit_window_seconds: 18_000 } } });
    let used = 100;
    const usage = closeLater(
      await quotaServer((asked, res) => json(window(asked.headers.authorization?.endsWith("-x") === true ? used : 0))(asked, res)),
    );
    const node = nodes();
    const names = ["x", "y"].map((name) => ({ name, provider: "codex" }));
    const kit = await accounts(names, { router: { strategy: "fill-first" }, store: node() });
    const b = kit.gateway;
    const asked = collectors({ endpoints: { codex: usage.url }, jitter: 0 });
    // Only this one asks.
    await kit.another({ store: node(), plugins: [asked] });
    const served = async (): Promise<string> => {
      kit.forget();
      expect(await kit.ask({}, { of: b })).toMatchObject({ status: 200 });
      return kit.asked();
    };
    await asked.refresh();
    await expect.poll(served, SOON).toBe("y");
    expect(usage.asked).toHaveLength(2);
    // And what is given back is used again.
    used = 50;
    kit.clock.advance(1_000);
    await asked.refresh("x");
    await expect.poll(served, SOON).toBe("x");
  });

  test("a client that is shut out by one is shut out by the other", async () => {
    const clients = { maxAttempts: 3, window: "1m", banDuration: "10m" } as const;
    const { kit, a, b } = await pair(["x"], { fail2ban: { maxAttempts: 100, clients } });
    const guess = async (of: TestGateway): Promise<number> => (await kit.ask({}, { of, key: "qg-a-wrong-key-000001" })).status;
    for (const of of [a, b, a]) expect(await guess(of)).toBe(401);
    await expect.poll(async () => (await manage(b, "GET", "client-bans"))["bans"], SOON).toHaveLength(1);
    expect(await guess(b)).toBe(403);
    const [ban] = (await manage(b, "GET", "client-bans"))["bans"] as readonly { readonly client: string }[];
    expect((await manage(b, "DELETE", `client-bans/${encodeURIComponent(ban?.client ?? "")}`))["lifted"]).toBe(1);
    await expect.poll(async () => (await manage(a, "GET", "client-bans"))["bans"], SOON).toEqual([]);
    expect(await guess(a)).toBe(401);
  });

  test("an account's own limits are shared", async () => {
    const { kit, a, b } = await pair(["x"]);
    const node = nodes();
    const limited = { credentials: [{ name: "x", apiKey: "sk-upstream-secret-of-x", baseUrl: kit.providers["x"]?.url ?? "", rpm: 7 }] };
    const [c, d] = [await kit.another({ ...limited, store: node() }), await kit.another({ ...limited, store: node() })];
    const replies = await atOnce(20, (i) => kit.ask({}, { of: i % 2 === 0 ? c : d }));
    expect(replies.filter(({ status }) => status === 200)).toHaveLength(7);
    expect(new Set(replies.filter(({ status }) => status !== 200).map(({ code }) => code))).toEqual(new Set(["all_credentials_limited"]));
    expect([a, b].every(({ guard }) => guard.admin.health().openRequests === 0)).toBe(true);
  });
});
