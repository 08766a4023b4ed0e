// Where one charge could become none, or two: jobs in routes, two guards, a call behind a smaller hold, and exits before anything has begun.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type OpenAI from "openai";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, memoryStore, type PluginHost } from "quotaguard";
import { faultyStore } from "quotaguard/testing";
import { UPSTREAM_KEY } from "../helpers/app.ts";
import { asked, DAY, endHosts, endWith, host, MODEL, PLACES, post, RPM, type Host } from "./in-process-kit.ts";

afterEach(endHosts);

/** "one two three" in, "a b" out: five tokens of a thousandth. */
const CALL = asked("one two three");
const TWO = { text: ["a", " b"] };
const TOKENS = { name: "user-tokens", scope: "user", unit: "tokens", window: { limit: 1_000, per: "day" } } as const;
/** Five dollars of output. */
const DEAR = {
  method: "POST",
  headers: { "x-user": "alice", "content-type": "application/json" },
  body: JSON.stringify(asked("one", { max_tokens: 5_000 })),
};
const OWN = { authorization: "Bearer sk-of-the-host" };

/** A provider that answers one thing. */
async function answering(status: number, body?: string, heard: (body: string) => void = () => undefined): Promise<string> {
  const server = createServer((req, res) => {
    void text(req).then(heard);
    res.writeHead(status, { "content-type": "application/json" }).end(body);
  });
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
  endWith(async () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const ask = (openai: OpenAI): Promise<unknown> => openai.chat.completions.create(CALL);

describe("a job in a route", () => {
  test("that says no cost leaves the route's hold alone", async () => {
    const at = await host({ limits: [DAY, RPM] }, ({ app, guard }) => {
      app.post("/x", guard.budgets({ limits: ["user-day"], cost: 0.5 }), async (_req, res) => {
        res.json(await guard.run({ limits: ["user-rpm"] }, () => "done"));
      });
    });
    expect(await (await post(`${at.url}/x`)).json()).toBe("done");
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.5, 0],
      [1, 0],
    ]);
  });

  test("that says a cost in another unit is charged beside it", async () => {
    const at = await host({ limits: [DAY, TOKENS] }, ({ app, guard }) => {
      app.post("/x", guard.budgets({ limits: ["user-tokens"], cost: { tokens: 100 } }), async (_req, res) => {
        res.json(await guard.run({ limits: ["user-day"], cost: 0.1 }, () => "done"));
      });
    });
    expect(await (await post(`${at.url}/x`)).json()).toBe("done");
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-tokens")]).toEqual([
      [0.1, 0],
      [100, 0],
    ]);
  });

  test("goes on the route's hold with what it calls", async () => {
    const at = await host({ limits: [DAY, RPM] }, ({ app, guard, openai }) => {
      app.post("/x", guard.budgets({ cost: 0.9 }), async (_req, res) => {
        await guard.run({ cost: 0.8 }, async () => {
          await guard.run({ limits: ["user-rpm"] }, () => ask(openai));
          await ask(openai);
        });
        res.end();
      });
    });
    at.upstream.script(TWO);
    expect((await post(`${at.url}/x`)).status).toBe(200);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.01, 0],
      [1, 0],
    ]);
  });
});

test("what is free by nature does not take the route's hold over", async () => {
  const url = await answering(200, "{}");
  const at = await host({ limits: [DAY], credentials: [] }, ({ app, guard }) => {
    const own = guard.fetch();
    app.post("/x", guard.budgets({ cost: 0.5 }), async (_req, res) => {
      await own(`${url}/v1/files`, { headers: OWN });
      res.end();
    });
  });
  await post(`${at.url}/x`);
  await at.quiet();
  expect(await at.standing("user-day")).toEqual([0.5, 0]);
});

test("a call of one guard does not undo the estimate of another's budget", async () => {
  const other = createGuard({ store: memoryStore(), scopes: () => ({ user: "alice" }), limits: [{ ...DAY, name: "other-day" }] });
  endWith(() => other.close());
  await other.ready();
  const at = await host({ limits: [DAY] }, ({ app, guard, openai }) => {
    app.post("/x", other.budgets({ cost: 0.25 }), guard.budgets({ cost: 0.5 }), async (_req, res) => void res.json(await ask(openai)));
  });
  at.upstream.script(TWO);
  await post(`${at.url}/x`);
  await at.quiet();
  await expect.poll(() => other.admin.health().openRequests).toBe(0);
  expect([await at.standing("user-day"), (await other.remaining({ user: "alice" }))[0]?.used]).toEqual([[0.005, 0], 0.25]);
  // The row is of the guard that saw the request first.
  await other.ledger.flush();
  expect(await other.ledger.list({})).toMatchObject([{ state: "estimated", billedNanoUsd: 250_000_000 }]);
});

describe("a model call behind a budget that holds less than it may cost", () => {
  const mounts: Readonly<Record<string, (at: Omit<Host, "url">) => void>> = {
    "the whole gateway": ({ app, guard }) => void app.use("/", guard.handler()),
    parts: ({ app, guard }) => void app.post("/v1/chat/completions", guard.budgets(), guard.credentials(), guard.proxy()),
  };
  test.each(Object.keys(mounts))("is refused when the rest does not fit: %s", async (name) => {
    const at = await host({ limits: [DAY, RPM], auth: false }, (base) => {
      base.app.use(base.guard.budgets({ cost: 0.01 }));
      mounts[name]?.(base);
    });
    const refused = await fetch(`${at.url}/v1/chat/completions`, DEAR);
    expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: "budget_too_small", limit: "user-day" } }]);
    await at.conserved();
    expect(at.upstream.log).toHaveLength(0);
    expect(await at.standing("user-day")).toEqual([0, 0]);
  });

  test.each(Object.keys(mounts))("holds the rest, and is charged what it used, once: %s", async (name) => {
    const gate = Promise.withResolvers<void>();
    const at = await host({ limits: [DAY, RPM], auth: false }, (base) => {
      base.app.use(base.guard.budgets({ cost: 0.01 }));
      mounts[name]?.(base);
    });
    at.upstream.script({ ...TWO, hold: gate.promise });
    const response = fetch(`${at.url}/v1/chat/completions`, { ...DEAR, body: JSON.stringify(CALL) });
    await at.upstream.received(1);
    expect((await at.standing("user-day"))[1]).toBeGreaterThan(0.02);
    gate.resolve();
    expect((await response).status).toBe(200);
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.005, 0],
      [1, 0],
    ]);
  });

  test("is sent the cap that its cost counts on, also where the budget before it holds enough", async () => {
    const answer = {
      id: "c",
      model: MODEL,
      object: "chat.completion",
      choices: [],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    };
    const seen: string[] = [];
    const url = await answering(200, JSON.stringify(answer), (body) => seen.push(body));
    const at = await host(
      {
        limits: [{ ...DAY, window: { limit: 10, per: "day" } }],
        auth: false,
        estimate: { defaultMaxOutputTokens: 50 },
        credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: url }],
      },
      ({ app, guard }) => void app.use(guard.budgets({ cost: 5 }), guard.handler()),
    );
    const { max_tokens: _, ...uncapped } = CALL;
    expect((await fetch(`${at.url}/v1/chat/completions`, { ...DEAR, body: JSON.stringify(uncapped) })).status).toBe(200);
    expect(seen.map((body) => JSON.parse(body) as unknown)).toMatchObject([{ max_completion_tokens: 50 }]);
    await at.quiet();
    expect(await at.standing("user-day")).toEqual([0.005, 0]);
  });
});

test("a dearer credential that comes while the call's budget is held does not serve it", async () => {
  const store = faultyStore();
  let plugin: PluginHost | undefined;
  const at = await host(
    {
      limits: [DAY],
      models: [
        { name: MODEL, price: { inputPerMtok: 1_000, outputPerMtok: 1_000 } },
        { name: MODEL, credential: "dear", price: { inputPerMtok: 100_000, outputPerMtok: 100_000 } },
      ],
      plugins: [{ name: "mine", setup: (given) => void (plugin = given) }],
    },
    () => undefined,
    store,
  );
  at.upstream.script(TWO);
  store.fail("late", "limits.reserve");
  const call = at.guard.run({ limits: [], scopes: { user: "alice" } }, () => ask(at.openai));
  await expect.poll(() => store.asked.filter((verb) => verb === "limits.reserve").length).toBe(1);
  plugin?.credentials.upsert({ name: "dear", provider: "openai", apiKey: "sk-dear", baseUrl: at.upstream.url, priority: 9 });
  store.recover();
  await store.deliver();
  await call;
  await at.quiet();
  expect((await at.guard.ledger.list({})).map(({ credential, billedNanoUsd }) => [credential, billedNanoUsd])).toContainEqual(["main", 5_000_000]);
  // The next one is costed, and served, by all that are there.
  await expect(at.guard.run({ limits: [], scopes: { user: "alice" } }, () => ask(at.openai))).rejects.toThrow("smaller than this request");
});

describe("whoever leaves before anything has begun is charged nothing", () => {
  test("a job that is aborted while it reserves does not begin", async () => {
    const store = faultyStore();
    const at = await host({ limits: [DAY] }, () => undefined, store);
    store.fail("late", "limits.reserve");
    const controller = new AbortController();
    let hasRun = false;
    const job = at.guard.run({ cost: 0.5, scopes: { user: "alice" }, signal: controller.signal }, () => void (hasRun = true));
    const ended = job.catch((error: unknown) => error);
    controller.abort(new Error("not now"));
    store.recover();
    await store.deliver();
    expect(await ended).toMatchObject({ message: "not now" });
    await at.conserved();
    expect([hasRun, await at.standing("user-day")]).toEqual([false, [0, 0]]);
  });

  test("a client between the hold of its money and that of its place", async () => {
    const store = faultyStore();
    const at = await host(
      { limits: [DAY, PLACES], monitoring: { prometheusEnabled: true } },
      ({ app, guard }) => {
        app.post("/x", guard.budgets({ cost: 0.5 }), (_req, res) => void res.end());
      },
      store,
    );
    store.fail({ fault: "late", call: 2 }, "limits.reserve");
    const controller = new AbortController();
    const response = post(`${at.url}/x`, { signal: controller.signal }).catch(() => undefined);
    await expect.poll(() => store.asked.filter((verb) => verb === "limits.reserve").length).toBe(2);
    controller.abort();
    await response;
    await at.quiet();
    store.recover();
    await store.deliver();
    await at.conserved();
    expect([await at.standing("user-day"), await at.standing("user-places")]).toEqual([
      [0, 0],
      [0, 0],
    ]);
    expect(await at.guard.ledger.list({})).toMatchObject([{ state: "released", billedNanoUsd: 0, code: "client_closed" }]);
    const reserved = (await at.guard.metrics())?.text.match(/^quotaguard_reserved_units\{.*$/gm);
    expect(reserved?.map((line) => line.split(" ").at(-1))).toEqual(reserved?.map(() => "0"));
  });
});

describe("what a provider says that no Response can", () => {
  test("an answer without a body is one", async () => {
    const url = await answering(204);
    const at = await host({ limits: [RPM], credentials: [] }, () => undefined);
    const answer = await at.guard.fetch({ scopes: { user: "alice" } })(`${url}/v1/files/file-1`, { method: "DELETE", headers: OWN });
    expect([answer.status, answer.body]).toEqual([204, null]);
    await at.conserved();
  });

  test.each(["its own key", "the guard's"])("a status beyond all is the provider's fault, with %s", async (whose) => {
    const url = await answering(999, '{"error":{"message":"no"}}');
    const credentials = whose === "its own key" ? [] : [{ name: "main", provider: "openai" as const, apiKey: UPSTREAM_KEY, baseUrl: url }];
    const at = await host({ limits: [DAY], credentials }, () => undefined);
    const answer = await at.guard.fetch({ scopes: { user: "alice" } })(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: OWN,
      body: JSON.stringify(CALL),
    });
    expect([answer.status, await answer.json()]).toEqual([502, { error: { message: "no" } }]);
    await at.quiet();
    expect(await at.standing("user-day")).toEqual([0, 0]);
  });

  test("a refusal whose body nobody reads is not billed", async () => {
    const url = await answering(500, "{}");
    const at = await host({ limits: [DAY], credentials: [], passthrough: { cost: { "/v1/images/*": 0.2 } } }, () => undefined);
    const answer = await at.guard.fetch({ scopes: { user: "alice" } })(`${url}/v1/images/generations`, { method: "POST", headers: OWN, body: "{}" });
    await answer.body?.cancel();
    await at.conserved();
    expect(await at.standing("user-day")).toEqual([0, 0]);
  });
});
