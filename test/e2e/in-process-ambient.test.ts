// Clients in this process know the request that they are called for: its scopes and its end.
import express from "express";
import OpenAI from "openai";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError } from "quotaguard";
import { UPSTREAM_KEY, listen } from "../helpers/app.ts";
import { asked, DAY, endHosts, endWith, host, PLACES, post, RPM } from "./in-process-kit.ts";

afterEach(endHosts);

const CALL = asked("one two three");

describe("the scopes of a call", () => {
  test("are those of a request that passed scopes() or budgets(), and nobody's elsewhere", async () => {
    const at = await host({ limits: [RPM] }, ({ app, guard, openai }) => {
      const answer: express.RequestHandler = async (_req, res) => {
        await openai.chat.completions.create(CALL);
        res.end();
      };
      app.post("/scoped", guard.scopes(), answer);
      app.post("/held", guard.budgets(), answer);
      app.post("/neither", answer);
    });
    expect((await post(`${at.url}/scoped`)).status).toBe(200);
    expect((await post(`${at.url}/held`)).status).toBe(200);
    const refused = await post(`${at.url}/neither`);
    expect([refused.status, await refused.json()]).toMatchObject([
      400,
      { code: "scope_invalid", detail: "limit user-rpm needs scope user; is your auth before it?" },
    ]);
    await at.quiet();
    // One for the call behind scopes(), one for the route with its call.
    expect(await at.standing("user-rpm")).toEqual([2, 0]);
  });

  test("are never those of a request next to it", async () => {
    const at = await host({ limits: [RPM] }, ({ app, guard, openai }) => {
      app.post("/x", guard.scopes(), async (_req, res) => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        await openai.chat.completions.create(CALL);
        res.end();
      });
    });
    const users = ["alice", "bob", "carol"];
    await Promise.all(users.flatMap((user) => Array.from({ length: 3 }, () => post(`${at.url}/x`, { headers: { "x-user": user } }))));
    await at.quiet();
    for (const user of users) expect(await at.standing("user-rpm", { user })).toEqual([3, 0]);
  });

  test("may be said over those of the request, one by one", async () => {
    const perFeature = { name: "feature-rpm", scope: ["user", "feature"], unit: "requests", window: { limit: 10, per: "hour" } } as const;
    const rows: unknown[] = [];
    const at = await host(
      { limits: [perFeature], scopes: { names: ["feature"], of: (req: express.Request) => ({ user: req.headers["x-user"] }) } as never },
      ({ app, guard, upstream }) => {
        guard.events.on("request", ({ scopes }) => rows.push(scopes));
        const fetch = guard.fetch({ scopes: () => ({ feature: "search" }) });
        app.post("/x", guard.scopes(), async (_req, res) => {
          res.json((await fetch(`${upstream.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(CALL) })).status);
        });
      },
    );
    expect(await (await post(`${at.url}/x`)).json()).toBe(200);
    await at.quiet();
    expect(rows).toEqual([{ user: "alice", feature: "search" }]);
  });

  test("are not another guard's: only what passed this guard's parts counts", async () => {
    const other = createGuard({ limits: [RPM], scopes: () => ({ user: "mallory" }) });
    endWith(() => other.close());
    const at = await host({ limits: [RPM] }, ({ app, openai }) => {
      app.post("/x", other.scopes(), async (_req, res) => void res.json(await openai.chat.completions.create(CALL)));
    });
    expect((await post(`${at.url}/x`)).status).toBe(400);
    expect(at.upstream.log).toHaveLength(0);
  });

  test("are there for a handler that goes on from the request's own events, or behind a body parser", async () => {
    const at = await host({ limits: [RPM] }, ({ app, guard, openai }) => {
      app.post("/raw", guard.budgets(), (req, res) => {
        req.resume().on(
          "end",
          () =>
            void openai.chat.completions.create(CALL).then(
              () => res.end(),
              () => res.status(500).end(),
            ),
        );
      });
      app.post("/json", guard.budgets(), express.json(), async (_req, res) => {
        await openai.chat.completions.create(CALL);
        res.end();
      });
    });
    const init = { headers: { "x-user": "alice", "content-type": "application/json" }, body: '{"a":1}' };
    expect([(await post(`${at.url}/raw`, init)).status, (await post(`${at.url}/json`, init)).status]).toEqual([200, 200]);
    await at.quiet();
    expect(await at.standing("user-rpm")).toEqual([2, 0]);
  });

  test("a client that a handler makes belongs to its request, the very first one too", async () => {
    const at = await (async () => {
      const guard = createGuard({
        limits: [RPM],
        credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: "http://127.0.0.1:9" }],
        scopes: () => ({ user: "alice" }),
      });
      endWith(() => guard.close());
      const app = express();
      app.post("/x", guard.budgets(), async (_req, res) => {
        const client = new OpenAI(guard.sdk());
        const thrown: unknown = await client.chat.completions.create(CALL).catch((error: unknown) => error);
        res.json(GuardError.from(thrown)?.code);
      });
      const listening = await listen(app);
      endWith(() => listening.close());
      return listening;
    })();
    // It got as far as the provider that is not there: its limit had its scope.
    expect([await (await post(`${at.url}/x`)).json(), await (await post(`${at.url}/x`)).json()]).toEqual([
      "upstream_unreachable",
      "upstream_unreachable",
    ]);
  });
});

describe("one budget for both", () => {
  test("what a route used up is refused to its clients, and the other way round; no socket to us is opened", async () => {
    const at = await host({ limits: [{ ...RPM, window: { limit: 1, per: "hour" } }] }, ({ app, guard, openai }) => {
      app.post("/route", guard.budgets(), (_req, res) => void res.end());
      app.post("/client", guard.scopes(), async (_req, res) => {
        const thrown: unknown = await openai.chat.completions.create(CALL).catch((error: unknown) => error);
        res.json([thrown instanceof OpenAI.RateLimitError, GuardError.from(thrown)?.limit]);
      });
      app.get("/connections", (_req, res) => void res.end());
    });
    await post(`${at.url}/route`);
    await at.quiet();
    expect(await (await post(`${at.url}/client`)).json()).toEqual([true, "user-rpm"]);
    // The client's call came to nobody; the route's did not either.
    expect([at.upstream.log.length, at.upstream.openSockets()]).toEqual([0, 0]);

    const back = await host({ limits: [{ ...RPM, window: { limit: 1, per: "hour" } }] }, ({ app, guard }) => {
      app.post("/route", guard.budgets(), (_req, res) => void res.end());
    });
    const alice = new OpenAI(back.guard.sdk({ scopes: { user: "alice" } }));
    await alice.chat.completions.create(CALL);
    const refused = await post(`${back.url}/route`);
    expect([refused.status, await refused.json()]).toMatchObject([429, { limit: "user-rpm" }]);
  });
});

describe("run()", () => {
  const LIMITS = [DAY, RPM, PLACES];

  test("holds, hands over the quota, settles by what was metered, and returns the value", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    const value = await at.guard.run({ scopes: { user: "alice" }, cost: 0.5 }, async (quota) => {
      expect([quota.scopes, await at.standing("user-day"), await at.standing("user-places")]).toEqual([{ user: "alice" }, [0, 0.5], [0, 1]]);
      quota.meter({ usd: 0.2 });
      return "done";
    });
    expect(value).toBe("done");
    // Settled by the time it resolves.
    expect([await at.standing("user-day"), await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [0.2, 0],
      [1, 0],
      [0, 0],
    ]);
    await at.conserved();
    expect(await at.guard.ledger.list({})).toMatchObject([
      { route: "run", state: "settled", status: 200, billedNanoUsd: 200_000_000, scopes: { user: "alice" } },
    ]);
  });

  test("clients inside have the job's scopes and go on its hold", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    at.upstream.script({ text: ["a", " b"] });
    await at.guard.run({ scopes: { user: "alice" }, cost: 0.99 }, () => at.openai.chat.completions.create(CALL));
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.005, 0],
      [1, 0],
    ]);
  });

  test("a refusal is thrown, and leaves a row", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    const ran: unknown[] = [];
    const refused: unknown = await at.guard.run({ scopes: { user: "alice" }, cost: 2 }, () => ran.push(1)).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(GuardError);
    expect(refused).toMatchObject({ code: "budget_too_small", limit: "user-day" });
    expect(ran).toEqual([]);
    await expect(at.guard.run({ cost: 0.1 }, () => 1)).rejects.toMatchObject({ code: "scope_invalid", scope: "user" });
    await at.conserved();
    expect((await at.guard.ledger.list({})).map(({ state, code }) => [state, code])).toEqual(
      expect.arrayContaining([
        ["refused", "budget_too_small"],
        ["refused", "scope_invalid"],
      ]),
    );
  });

  test.each<[string, (quota: { meter(usage: object): void; release(): void }) => void, number]>([
    ["its estimate", () => undefined, 0.5],
    ["what it metered", (quota) => quota.meter({ usd: 0.1 }), 0.1],
    ["nothing when it released its hold", (quota) => quota.release(), 0],
  ])("a job that throws is charged %s, and its error is thrown on", async (_name, before, usd) => {
    const at = await host({ limits: [DAY, PLACES] }, () => undefined);
    const failing = at.guard.run({ scopes: { user: "alice" }, cost: 0.5 }, (quota) => {
      before(quota);
      throw new TypeError("a bug of the job's");
    });
    await expect(failing).rejects.toThrow("a bug of the job's");
    expect([await at.standing("user-day"), await at.standing("user-places")]).toEqual([
      [usd, 0],
      [0, 0],
    ]);
    await at.conserved();
  });

  test("only the limits that are named", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    await at.guard.run({ scopes: { user: "alice" }, limits: ["user-rpm"] }, () => 1);
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0, 0],
      [1, 0],
    ]);
  });

  test("its signal aborts the calls inside", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    at.upstream.script({ fault: { at: "start", how: "hang" } });
    const controller = new AbortController();
    const job = at.guard.run({ scopes: { user: "alice" }, cost: 0.5, signal: controller.signal }, async (quota) => {
      await at.openai.chat.completions.create(CALL).catch(() => undefined);
      return quota.signal.aborted;
    });
    const entry = await at.upstream.received(1);
    controller.abort();
    expect(await job).toBe(true);
    await entry.ended;
    expect(entry.end).toBe("client");
    await expect(at.guard.run({ scopes: { user: "alice" }, cost: 0.5, signal: controller.signal }, () => 1)).rejects.toThrow("aborted");
  });

  test("inside a request it goes on the request's hold, with its scopes", async () => {
    const at = await host({ limits: LIMITS }, ({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.9 }), async (_req, res) => {
        await guard.run({ cost: 0.8 }, async () => {
          await openai.chat.completions.create(CALL);
          await openai.chat.completions.create(CALL);
        });
        res.end();
      });
    });
    at.upstream.script({ text: ["a", " b"] });
    expect((await post(`${at.url}/x`)).status).toBe(200);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm"), await at.standing("user-places")]).toEqual([
      [0.01, 0],
      [1, 0],
      [0, 0],
    ]);
  });

  test("close() waits for jobs", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    const gate = Promise.withResolvers<void>();
    const job = at.guard.run({ scopes: { user: "alice" }, cost: 0.5 }, () => gate.promise.then(() => "done"));
    await expect.poll(() => at.guard.admin.health().openRequests).toBe(1);
    let isClosed = false;
    const closing = at.guard.close().then(() => (isClosed = true));
    await new Promise(setImmediate);
    expect(isClosed).toBe(false);
    gate.resolve();
    expect(await job).toBe("done");
    await closing;
    await expect(at.guard.run({ scopes: { user: "alice" }, cost: 0.5 }, () => 1)).rejects.toMatchObject({ code: "overloaded" });
  });

  test.each<[string, object, RegExp]>([
    ["no cost", {}, /run\(\) cost: is required: limit user-day counts usd/],
    ["a limit that is not there", { cost: 1, limits: ["user-dya"] }, /run\(\) limits\[0\]: there is no limit user-dya.*user-day/],
    ["a limit of its own", { cost: 1, limits: [DAY] }, /run\(\) limits: expected names/],
    ["an unknown option", { cost: 1, scope: {} }, /run\(\) scope: there is no such option/],
    ["a scope that nobody declares", { cost: 1, scopes: { usr: "a" } }, /run\(\) scopes\.usr: nobody declares this scope/],
    ["a function for scopes", { cost: 1, scopes: () => ({ user: "alice" }) }, /run\(\) scopes: expected values/],
    ["a function for the cost", { cost: () => 1, scopes: { user: "alice" } }, /run\(\) cost: there is no request to ask/],
    ["one name in place of a list", { cost: 1, limits: "user-day" }, /run\(\) limits: expected a list/],
    ["no options", undefined as never, /run\(\) expects an object with any of scopes, cost/],
  ])("%s is told", async (_name, options, message) => {
    const at = await host({ limits: LIMITS }, () => undefined);
    await expect(at.guard.run(options as never, () => 1)).rejects.toThrow(message);
  });

  test("a job that cannot be called is told, and charges nothing", async () => {
    const at = await host({ limits: LIMITS }, () => undefined);
    await expect(at.guard.run({ scopes: { user: "alice" }, cost: 0.5 }, "job" as never)).rejects.toThrow(/needs the job: a function/);
    expect(await at.standing("user-day")).toEqual([0, 0]);
  });

  test("what it cost says nothing of its tokens: those stay as held", async () => {
    const tokens = { name: "user-tokens", scope: "user", unit: "tokens", window: { limit: 1_000, per: "day" } } as const;
    const at = await host({ limits: [DAY, tokens] }, () => undefined);
    await at.guard.run({ scopes: { user: "alice" }, cost: { usd: 0.5, tokens: 400 } }, (quota) => quota.meter({ usd: 0.2 }));
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-tokens")]).toEqual([
      [0.2, 0],
      [400, 0],
    ]);
  });
});
