// A route that holds a budget and calls a provider through the same guard is charged once.
import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import { contextOf, GuardError, memoryStore, type GuardOptions, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { pacer } from "quotaguard/testing";
import { testServer } from "../setup/test-server.ts";
import { asked, DAY, endHosts, endWith, host, MODEL, PLACES, post, RPM, type Host } from "./in-process-kit.ts";

const redis = await testServer("redis");

afterEach(endHosts);

const LIMITS: GuardOptions["limits"] = [DAY, RPM, PLACES];
/** "one two three" in, "a b" out: five tokens of a thousandth. */
const CALL = asked("one two three");
const TWO = { text: ["a", " b"] };

const stores: Readonly<Record<string, () => Store>> = {
  memory: () => memoryStore(),
  redis() {
    const store = redisStore(redis as string, { partition: randomUUID() });
    endWith(async () => store.close());
    return store;
  },
};

describe.each(Object.keys(stores).filter((name) => name !== "redis" || redis !== undefined))("with counters in %s", (name) => {
  const start = (prepare: Parameters<typeof host>[1], more: GuardOptions = {}): Promise<Host> =>
    host({ limits: LIMITS, ...more }, prepare, stores[name]?.());

  test("the call goes on the route's hold: one request, one place, and what it used", async () => {
    const held = Promise.withResolvers<void>();
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => void res.json(await openai.chat.completions.create(CALL)));
    });
    at.upstream.script({ ...TWO, hold: held.promise });
    const response = post(`${at.url}/x`);
    await at.upstream.received(1);
    // 20 tokens of output and the input, instead of the route's 0.5.
    const [used, ceiling] = await at.standing("user-day");
    expect(used).toBe(0);
    expect(ceiling).toBeGreaterThan(0.02);
    expect(ceiling).toBeLessThan(0.06);
    // Its request is settled already; its place is not.
    expect([await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [1, 0],
      [0, 1],
    ]);
    held.resolve();
    expect((await response).status).toBe(200);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [0.005, 0],
      [1, 0],
      [0, 0],
    ]);
  });

  test("the ledger has the money in the call's row only", async () => {
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => void res.json(await openai.chat.completions.create(CALL)));
    });
    at.upstream.script(TWO);
    await (await post(`${at.url}/x`)).text();
    await at.quiet();
    await at.guard.ledger.flush();
    const rows = await at.guard.ledger.list({});
    expect(rows.map(({ route, model, state, billedNanoUsd }) => ({ route, model, state, billedNanoUsd }))).toEqual(
      expect.arrayContaining([
        { route: "/x", model: MODEL, state: "settled", billedNanoUsd: 5_000_000 },
        { route: "/x", model: null, state: "settled", billedNanoUsd: 0 },
      ]),
    );
    expect(rows).toHaveLength(2);
  });

  test("a hold that is all there is left makes room for its own call", async () => {
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.99 }), async (_req, res) => void res.json(await openai.chat.completions.create(CALL)));
    });
    at.upstream.script(TWO);
    expect((await post(`${at.url}/x`)).status).toBe(200);
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0.005, 0]);
  });

  test("calls side by side and one after the other add up", async () => {
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.99 }), async (_req, res) => {
        const call = () => openai.chat.completions.create(CALL);
        const both = await Promise.all([call(), call()]);
        res.json([...both, await call()].length);
      });
    });
    at.upstream.script(TWO);
    expect(await (await post(`${at.url}/x`)).json()).toBe(3);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.015, 0],
      [1, 0],
    ]);
  });

  test("without a call the route's estimate stands", async () => {
    const at = await start(({ app, guard }) => void app.post("/x", guard.budgets({ cost: 0.5 }), (_req, res) => void res.end()));
    await post(`${at.url}/x`);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.5, 0],
      [1, 0],
    ]);
  });

  test("what the host meters itself is added", async () => {
    const at = await start(({ app, guard, openai }) => {
      app.post("/before", guard.budgets({ cost: 0.3 }), async (req, res) => {
        contextOf(req).meter({ usd: 0.1 });
        await openai.chat.completions.create(CALL);
        res.end();
      });
      app.post("/after", guard.budgets({ cost: 0.3 }), async (req, res) => {
        await openai.chat.completions.create(CALL);
        contextOf(req).meter({ usd: 0.1 });
        res.end();
      });
      app.post("/late", guard.budgets({ cost: 0.3 }), async (req, res) => {
        await openai.chat.completions.create(CALL);
        const quota = contextOf(req);
        res.on("close", () => setImmediate(() => quota.meter({ usd: 0.1 })));
        res.end();
      });
    });
    at.upstream.script(TWO);
    await post(`${at.url}/before`);
    await post(`${at.url}/after`);
    await at.quiet();
    expect(await at.standing("user-day")).toEqual([0.21, 0]);
    await post(`${at.url}/late`);
    await expect.poll(() => at.standing("user-day")).toEqual([0.315, 0]);
    expect(await at.standing("user-rpm")).toEqual([3, 0]);
  });

  test("a call that is refused leaves the hold for the response, and then it is given back", async () => {
    const seen: unknown[] = [];
    const at = await start(({ app, guard, openai, standing }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        // 5000 tokens are five dollars.
        const thrown: unknown = await openai.chat.completions.create(asked("one", { max_tokens: 5_000 })).catch((error: unknown) => error);
        seen.push(GuardError.from(thrown)?.code, await standing("user-day"));
        res.end();
      });
      app.post("/metered", guard.budgets({ cost: 0.5 }), async (req, res) => {
        await openai.chat.completions.create(asked("one", { max_tokens: 5_000 })).catch(() => contextOf(req).meter({ usd: 0.2 }));
        res.end();
      });
    });
    await post(`${at.url}/x`);
    await at.conserved();
    expect(seen).toEqual(["budget_too_small", [0, 0.5]]);
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0, 0],
      [1, 0],
    ]);
    await post(`${at.url}/metered`);
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0.2, 0]);
    expect(at.upstream.log).toHaveLength(0);
  });

  test("a call that fails at the provider costs nothing", async () => {
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        await openai.chat.completions.create(CALL).catch(() => undefined);
        res.end();
      });
    });
    at.upstream.script({ status: 400 });
    await post(`${at.url}/x`);
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0, 0]);
  });

  test("a stream that goes on after the response is settled when it ends; its place is free before", async () => {
    const events = pacer();
    const streamed = Promise.withResolvers<void>();
    const at = await start(({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        const stream = await openai.chat.completions.create({ ...CALL, stream: true });
        res.end();
        for await (const chunk of stream) void chunk;
        streamed.resolve();
      });
    });
    at.upstream.script({ ...TWO, pacer: events });
    events.step(2);
    await (await post(`${at.url}/x`)).text();
    await expect.poll(() => at.standing("user-places")).toEqual([0, 0]);
    expect((await at.standing("user-day"))[1]).toBeGreaterThan(0);
    events.open();
    await streamed.promise;
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0.005, 0]);
  });

  test("a call after the response replaces the route's estimate", async () => {
    const called = Promise.withResolvers<void>();
    const at = await start(({ app, guard, openai, quiet }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        res.status(202).end();
        await new Promise((resolve) => res.once("close", resolve));
        await quiet();
        await openai.chat.completions.create(CALL);
        called.resolve();
      });
    });
    at.upstream.script(TWO);
    await post(`${at.url}/x`);
    await called.promise;
    await at.quiet();
    expect([await at.standing("user-day"), await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [0.005, 0],
      [1, 0],
      [0, 0],
    ]);
  });
});

describe("a client that leaves", () => {
  test("ends the calls made for it, which are charged what they delivered", async () => {
    const events = pacer();
    const ended = Promise.withResolvers<void>();
    const at = await host({ limits: LIMITS }, ({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        const stream = await openai.chat.completions.create({ ...CALL, stream: true });
        res.write("begun");
        for await (const chunk of stream) void chunk;
        ended.resolve();
      });
    });
    at.upstream.script({ ...TWO, pacer: events });
    events.step(2);
    const controller = new AbortController();
    const response = await post(`${at.url}/x`, { signal: controller.signal });
    await (response.body as ReadableStream<Uint8Array>).getReader().read();
    controller.abort();
    const entry = await at.upstream.received(1);
    await entry.ended;
    expect(entry.end).toBe("client");
    await ended.promise;
    await at.conserved();
    // The provider did not say: counted by us, 14 tokens in and the one that was delivered.
    expect(await at.standing("user-day")).toEqual([0.015, 0]);
    expect(await at.standing("user-places")).toEqual([0, 0]);
  });

  test("and calls that would have come after that are not made", async () => {
    const gone = Promise.withResolvers<unknown>();
    const at = await host({ limits: LIMITS }, ({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (req, res) => {
        res.write("begun");
        await new Promise((resolve) => contextOf(req).signal.addEventListener("abort", resolve));
        gone.resolve(await openai.chat.completions.create(CALL).catch((error: unknown) => error));
      });
    });
    const controller = new AbortController();
    const response = await post(`${at.url}/x`, { signal: controller.signal });
    await (response.body as ReadableStream<Uint8Array>).getReader().read();
    controller.abort();
    expect(await gone.promise).toBeInstanceOf(Error);
    expect(at.upstream.log).toHaveLength(0);
  });
});

describe("what both touch", () => {
  test("a call for somebody else is charged to them, and the route's estimate stands", async () => {
    const at = await host({ limits: LIMITS }, ({ app, guard, upstream }) => {
      const bob = guard.fetch({ scopes: { user: "bob" } });
      app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
        const answer = await bob(`${upstream.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(CALL) });
        res.json(await answer.json());
      });
    });
    at.upstream.script(TWO);
    expect((await post(`${at.url}/x`)).status).toBe(200);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-day", { user: "bob" }), await at.standing("user-rpm", { user: "bob" })]).toEqual([
      [0.5, 0],
      [0.005, 0],
      [1, 0],
    ]);
  });

  test("limits of the route alone, and per route, are charged with the call", async () => {
    const own = { name: "summaries", scope: "user", unit: "usd", window: { limit: 1, per: "day" } } as const;
    const perRoute = { name: "route-day", scope: "route", unit: "usd", window: { limit: 1, per: "day" } } as const;
    const at = await host({ limits: [DAY, perRoute] }, ({ app, guard, openai }) => {
      app.post(
        "/x",
        guard.budgets({ limits: [own, "route-day"], cost: 0.5 }),
        async (_req, res) => void res.json(await openai.chat.completions.create(CALL)),
      );
    });
    at.upstream.script(TWO);
    await post(`${at.url}/x`);
    await at.conserved();
    expect([await at.standing("summaries"), await at.standing("user-day")]).toEqual([
      [0.005, 0],
      [0.005, 0],
    ]);
    // In millionths: 0.005 of the first request, and 0.5 that the second one holds.
    expect((await post(`${at.url}/x`)).headers.get("ratelimit")).toContain('"route-day";r=495000');
  });

  test("two budgets on one route both go over", async () => {
    const org = { name: "org-day", scope: "org", unit: "usd", window: { limit: 1, per: "day" } } as const;
    const at = await host({ limits: [DAY, org, RPM], scopes: () => ({ user: "alice", org: "acme" }) }, ({ app, guard, openai }) => {
      app.use(guard.budgets({ limits: ["org-day", "user-rpm"], cost: 0.4 }));
      app.post("/x", guard.budgets({ limits: ["user-day", "user-rpm"], cost: 0.5 }), async (_req, res) => {
        res.json(await openai.chat.completions.create(CALL));
      });
    });
    at.upstream.script(TWO);
    await post(`${at.url}/x`);
    await at.conserved();
    const whose = { user: "alice", org: "acme" };
    expect([await at.standing("user-day", whose), await at.standing("org-day", whose), await at.standing("user-rpm", whose)]).toEqual([
      [0.005, 0],
      [0.005, 0],
      [1, 0],
    ]);
  });

  test("a place that is taken refuses, and leaves nothing held of the rest", async () => {
    const at = await host({ limits: [DAY, RPM, { ...PLACES, concurrency: { limit: 1 } }] }, ({ app, guard }) => {
      app.post("/x", guard.budgets({ cost: 0.3 }), (_req, res) => {
        const held = Promise.withResolvers<void>();
        app.locals.end = held.resolve;
        res.write("begun");
        void held.promise.then(() => res.end());
      });
    });
    const first = await post(`${at.url}/x`);
    const refused = await post(`${at.url}/x`);
    expect([refused.status, await refused.json()]).toMatchObject([429, { limit: "user-places" }]);
    expect([await at.standing("user-day"), await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [0, 0.3],
      [0, 1],
      [0, 1],
    ]);
    (at.app.locals.end as () => void)();
    await first.text();
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.3, 0],
      [1, 0],
    ]);
  });

  test("a counter in debt: the hold stays until the response, and what the host meters is charged", async () => {
    const gate = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const refused = Promise.withResolvers<unknown>();
    const at = await host({ limits: [DAY] }, ({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.5 }), async (req, res) => {
        begun.resolve();
        await gate.promise;
        refused.resolve(await openai.chat.completions.create(CALL).catch((error: unknown) => GuardError.from(error)?.code));
        contextOf(req).meter({ usd: 0.05 });
        res.end();
      });
    });
    const response = post(`${at.url}/x`);
    await begun.promise;
    await at.guard.run({ cost: 0.1, scopes: { user: "alice" } }, (quota) => quota.meter({ usd: 0.9 }));
    gate.resolve();
    expect(await refused.promise).toBe("budget_exhausted");
    await response;
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0.95, 0]);
  });
});
