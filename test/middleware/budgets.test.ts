// What budgets() does when the store cannot decide, and when a host uses it more than once on one route.
import express, { type Express } from "express";
import { afterEach, describe, expect, test } from "vitest";
import { contextOf, createGuard, GuardError, memoryStore, type GuardOptions, type LimitStore, type QuotaGuard, type Store } from "quotaguard";
import { testClock, type TestClock } from "quotaguard/testing";
import { chat, KEY, listen, testGateway, type TestGateway } from "../helpers/app.ts";

type MaybePromise<T> = T | Promise<T>;

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

type Verb = keyof LimitStore;

interface FlakyStore extends Store {
  /** These verbs fail from now on, before or after they were carried out. */
  fail(verbs: readonly Verb[], when?: "before" | "after"): void;
  recover(): void;
}

/** A store whose limits can be away: as a file is when its disk is full (at once), or a server when its network is down (later). */
function flakyStore(clock: TestClock, answers: "at once" | "later"): FlakyStore {
  const real = memoryStore({ clock });
  let failing: readonly Verb[] = [];
  let lost = false;
  const away = (): GuardError => new GuardError("store_unavailable", "the store is away");
  const direct = <T>(verb: Verb, run: () => T): T => {
    if (!failing.includes(verb)) return run();
    if (lost) run();
    throw away();
  };
  const through = <T>(verb: Verb, run: () => MaybePromise<T>): MaybePromise<T> =>
    answers === "later" ? Promise.resolve().then(() => direct(verb, run)) : direct(verb, run);
  const { limits } = real;
  return {
    ...real,
    limits: {
      reserve: (...args) => through("reserve", () => limits.reserve(...args)),
      settle: (...args) => through("settle", () => limits.settle(...args)),
      release: (...args) => through("release", () => limits.release(...args)),
      extend: (...args) => through("extend", () => limits.extend(...args)),
      lapse: (...args) => through("lapse", () => limits.lapse(...args)),
      expire: (...args) => through("expire", () => limits.expire(...args)),
      peek: (...args) => limits.peek(...args),
    },
    fail(verbs, when = "before") {
      failing = verbs;
      lost = when === "after";
    },
    recover() {
      failing = [];
    },
  };
}

type LimitInput = NonNullable<GuardOptions["limits"]>[number];
const CAPACITY = 10_000;
const tokens = (more: object = {}): LimitInput => ({
  name: "user-tokens",
  scope: "user",
  unit: "tokens",
  bucket: { capacity: CAPACITY, refillPerSec: 0 },
  ...more,
});
const requests = (limit: number, more: object = {}): LimitInput => ({
  name: "user-requests",
  scope: "user",
  unit: "requests",
  window: { limit, per: "hour" },
  ...more,
});

describe.each(["at once", "later"] as const)("a store that is away and says so %s", (answers) => {
  let gateway: TestGateway;
  let clock: TestClock;
  let store: FlakyStore;

  async function start(limits: readonly LimitInput[], more: GuardOptions = {}): Promise<void> {
    clock = testClock();
    store = flakyStore(clock, answers);
    gateway = await testGateway({
      limits,
      clock,
      store,
      monitoring: { prometheusEnabled: true },
      models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }],
      ...more,
    });
    cleanups.push(() => gateway.close());
  }

  const ask = () => chat(gateway.url, { max_tokens: 50 });
  const left = async () => (await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens;
  const used = () => gateway.upstream.totals().inputTokens + gateway.upstream.totals().outputTokens;
  const settled = async (): Promise<void> => {
    await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  };
  const delivered = async (): Promise<void> => {
    await expect.poll(() => gateway.guard.admin.health().waitingSettlements).toBe(0);
  };
  const errors = async (mode: string): Promise<number> =>
    Number(
      new RegExp(`quotaguard_store_errors_total\\{op="reserve",mode="${mode}"\\} (\\d+)`).exec((await gateway.guard.metrics())?.text ?? "")?.[1] ?? 0,
    );

  test("deny: 503 and nothing is sent; open again as soon as it is back", async () => {
    await start([tokens({ onStoreError: "deny" })]);
    store.fail(["reserve"]);
    const refused = await ask();
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: "store_unavailable" } });
    expect(gateway.upstream.log).toHaveLength(0);
    expect(await errors("deny")).toBe(1);
    store.recover();
    expect((await ask()).status).toBe(200);
  });

  test("money denies unless told otherwise, everything else goes on by a local count", async () => {
    await start([{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }, tokens()]);
    store.fail(["reserve"]);
    expect((await ask()).status).toBe(503);
    await gateway.close();
    await start([tokens()]);
    store.fail(["reserve"]);
    expect((await ask()).status).toBe(200);
    expect(await errors("local")).toBe(1);
  });

  test("a shadow limit never denies", async () => {
    await start([tokens({ onStoreError: "deny", mode: "shadow" })]);
    store.fail(["reserve"]);
    expect((await ask()).status).toBe(200);
  });

  test("allow: passes uncounted", async () => {
    await start([requests(1, { onStoreError: "allow" })]);
    store.fail(["reserve"]);
    for (let i = 0; i < 3; i += 1) expect((await ask()).status).toBe(200);
    expect(await errors("allow")).toBe(3);
    store.recover();
    expect((await ask()).status).toBe(200);
    expect((await ask()).status).toBe(429);
  });

  test("local: this node alone holds the limit, and the store's own count goes on afterwards", async () => {
    await start([requests(2)]);
    expect((await ask()).status).toBe(200);
    store.fail(["reserve"]);
    for (const status of [200, 200, 429]) expect((await ask()).status).toBe(status);
    store.recover();
    expect((await ask()).status).toBe(200);
    expect((await ask()).status).toBe(429);
  });

  test("a reserve whose reply was lost is undone when the store is back", async () => {
    await start([tokens({ onStoreError: "deny" })]);
    store.fail(["reserve"], "after");
    expect((await ask()).status).toBe(503);
    expect(await left()).toBeLessThan(CAPACITY);
    store.recover();
    clock.advance(1_000);
    await delivered();
    expect(await left()).toBe(CAPACITY);
  });

  test("a settlement that was lost is delivered later, once", async () => {
    await start([tokens()]);
    store.fail(["settle"]);
    expect((await ask()).status).toBe(200);
    await settled();
    expect(gateway.guard.admin.health().waitingSettlements).toBe(1);
    expect(await left()).toBeLessThan(CAPACITY - 50);
    // Still away at the first try.
    clock.advance(1_000);
    await expect.poll(() => gateway.guard.admin.health().waitingSettlements).toBe(1);
    store.recover();
    clock.advance(1_000);
    await delivered();
    expect(await left()).toBe(CAPACITY - used());
    clock.advance(60_000);
    expect(await left()).toBe(CAPACITY - used());
  });

  test("a settlement whose reply was lost is not taken twice", async () => {
    await start([tokens()]);
    store.fail(["settle"], "after");
    expect((await ask()).status).toBe(200);
    await settled();
    store.recover();
    clock.advance(1_000);
    await delivered();
    expect(await left()).toBe(CAPACITY - used());
  });

  test("what still waits at the end is delivered by close()", async () => {
    await start([tokens()]);
    store.fail(["settle"]);
    await (await ask()).text();
    await settled();
    store.recover();
    const total = used();
    await gateway.close();
    cleanups.length = 0;
    const guard = createGuard({ store, clock, limits: [tokens()] });
    expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(CAPACITY - total);
    await guard.close();
  });
});

describe("a host's own route", () => {
  const scopes = (req: { headers: Readonly<Record<string, unknown>> }) => ({ user: req.headers["x-login"] as string | undefined });

  async function host(guard: QuotaGuard, mount: (app: Express) => void): Promise<(path: string, user?: string) => Promise<Response>> {
    const app = express();
    mount(app);
    const { url, close } = await listen(app);
    cleanups.push(
      () => guard.close(),
      () => close(),
    );
    return (path, user = "alice") => fetch(url + path, { headers: { "x-login": user } });
  }

  test("two budgets() never charge one limit twice", async () => {
    const guard = createGuard({ scopes, limits: [requests(10), { ...requests(10), name: "user-other" }] });
    const get = await host(guard, (app) =>
      app.get("/", guard.budgets({ limits: ["user-requests"] }), guard.budgets(), (_req, res) => void res.send("ok")),
    );
    for (let i = 0; i < 3; i += 1) expect((await get("/")).status).toBe(200);
    const app = express().get("/peek", guard.budgets(), (_req, res) => void res.send("ok"));
    const { url, close } = await listen(app);
    cleanups.push(close);
    const { headers } = await fetch(`${url}/peek`, { headers: { "x-login": "alice" } });
    expect(headers.get("ratelimit")).toMatch(/"user-requests";r=6;t=\d+, "user-other";r=6;t=\d+/);
  });

  test("both tell what is left", async () => {
    const guard = createGuard({ scopes, limits: [requests(10), { ...requests(5), name: "user-other" }] });
    const get = await host(guard, (app) =>
      app.get("/", guard.budgets({ limits: ["user-requests"] }), guard.budgets({ limits: ["user-other"] }), (_req, res) => void res.send("ok")),
    );
    const { headers } = await get("/");
    expect(headers.get("ratelimit-policy")).toContain('"user-requests";q=10');
    expect(headers.get("ratelimit-policy")).toContain('"user-other";q=5');
  });

  test("when the second one refuses, the first one's hold comes back", async () => {
    const guard = createGuard({ scopes, limits: [tokens(), { ...requests(1), name: "user-other" }] });
    const get = await host(guard, (app) =>
      app.get(
        "/",
        guard.budgets({ limits: ["user-tokens"], cost: { tokens: 100 } }),
        guard.budgets({ limits: ["user-other"] }),
        (_req, res) => void res.send("ok"),
      ),
    );
    expect((await get("/")).status).toBe(200);
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(CAPACITY - 100);
    expect((await get("/")).status).toBe(429);
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(CAPACITY - 100);
  });

  test("one limit on two routes is one counter; the same name with another shape is a start-up error", async () => {
    const guard = createGuard({ scopes, limits: [requests(2)] });
    const get = await host(guard, (app) => {
      app.get("/a", guard.budgets({ limits: ["user-requests"] }), (_req, res) => void res.send("a"));
      app.get("/b", guard.budgets({ limits: ["user-requests"] }), (_req, res) => void res.send("b"));
    });
    expect((await get("/a")).status).toBe(200);
    expect((await get("/b")).status).toBe(200);
    expect((await get("/a")).status).toBe(429);
    expect((await get("/a", "bob")).status).toBe(200);
    expect(() => guard.budgets({ limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 2, per: "day" } }] })).toThrow(
      /user-requests is defined twice/,
    );
  });

  test("a missing scope is refused there: a budget that fails open is worse than none", async () => {
    const guard = createGuard({ scopes, limits: [requests(1), { ...requests(1), name: "org-requests", scope: "org", required: false }] });
    const get = await host(guard, (app) => app.get("/", guard.budgets(), (_req, res) => void res.send("ok")));
    const refused = await get("/", "");
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({
      code: "scope_invalid",
      limit: "user-requests",
      scope: "user",
      detail: "limit user-requests needs scope user; is your auth before it?",
    });
    expect((await get("/")).status).toBe(200);
  });

  test("the cost may be a number, an object or a function of the request, and is checked", async () => {
    const limits = [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }] as const;
    const guard = createGuard({ scopes, limits });
    const get = await host(guard, (app) => {
      app.get("/number", guard.budgets({ cost: 0.25 }), (_req, res) => void res.send("ok"));
      app.get("/object", guard.budgets({ cost: { usd: 0.25 } }), (_req, res) => void res.send("ok"));
      app.get(
        "/later",
        guard.budgets({ cost: async (req) => ({ usd: req.headers["x-login"] === "alice" ? 0.25 : 0.75 }) }),
        (_req, res) => void res.send("ok"),
      );
      app.get("/wrong", guard.budgets({ cost: () => ({ usd: -1 }) }), (_req, res) => void res.send("ok"));
    });
    const left = (response: Response): number => Number(/r=(\d+)/.exec(response.headers.get("ratelimit") ?? "")?.[1]) / 1e6;
    expect(left(await get("/number"))).toBe(0.75);
    expect(left(await get("/object"))).toBe(0.5);
    expect(left(await get("/later"))).toBe(0.25);
    expect(left(await get("/later", "bob"))).toBe(0.25);
    expect((await get("/wrong")).status).toBe(500);
    expect(() => guard.budgets({ limits: ["user-day"] })).toThrow(/cost: is required: limit user-day counts usd/);
    // @ts-expect-error -- no limit of this guard
    expect(() => guard.budgets({ limits: ["user-dya"], cost: 1 })).toThrow(/did you mean user-day\?/);
  });

  test("onRefused replaces the refusal, with everything it needs", async () => {
    const guard = createGuard({ scopes, limits: [requests(1)] });
    const get = await host(guard, (app) =>
      app.get(
        "/",
        guard.budgets({
          onRefused: (error, _req, res) => void res.writeHead(error.status, error.headers).end(`${error.code} ${error.limit} ${error.retryAfterMs}`),
        }),
        (_req, res) => void res.send("ok"),
      ),
    );
    await get("/");
    const refused = await get("/");
    expect(refused.status).toBe(429);
    expect(refused.headers.get("ratelimit")).toContain('"user-requests";r=0');
    expect(await refused.text()).toMatch(/^budget_exhausted user-requests \d+$/);
  });

  test("a handler that fails or never answers gives nothing back by itself, and a client that leaves settles as held", async () => {
    const guard = createGuard({ scopes, limits: [tokens()] });
    const waiting = Promise.withResolvers<void>();
    const get = await host(guard, (app) => {
      app.get("/fails", guard.budgets({ cost: { tokens: 100 } }), () => {
        throw new Error("a bug of the host's");
      });
      app.get("/waits", guard.budgets({ cost: { tokens: 100 } }), () => waiting.resolve());
      app.use(
        (_error: unknown, _req: express.Request, res: express.Response, _next: express.NextFunction) => void res.status(500).send("host error"),
      );
    });
    expect((await get("/fails")).status).toBe(500);
    const leaving = new AbortController();
    const app = express().get("/waits", guard.budgets({ cost: { tokens: 100 } }), (req) => {
      contextOf(req).signal.addEventListener("abort", () => waiting.resolve());
      leaving.abort();
    });
    const { url, close } = await listen(app);
    cleanups.push(close);
    await expect(fetch(`${url}/waits`, { headers: { "x-login": "alice" }, signal: leaving.signal })).rejects.toThrow();
    await waiting.promise;
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(CAPACITY - 200);
  });

  test("a late report corrects the charge", async () => {
    const guard = createGuard({ scopes, limits: [tokens()] });
    let quota: ReturnType<typeof contextOf> | undefined;
    const get = await host(guard, (app) =>
      app.get("/", guard.budgets({ cost: { tokens: 100 } }), (req, res) => {
        quota = contextOf(req);
        res.send("ok");
      }),
    );
    await get("/");
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    const left = async () => (await guard.admin.bucket({ scope: "user", id: "alice" })).tokens;
    expect(await left()).toBe(CAPACITY - 100);
    quota?.meter({ inputTokens: 20, outputTokens: 5 });
    await expect.poll(left).toBe(CAPACITY - 25);
  });

  test("in front of a gateway's own path, the call is priced by what it asks for", async () => {
    const gateway = await testGateway({ limits: [tokens()] });
    cleanups.push(() => gateway.close());
    const { guard } = gateway;
    const app = express();
    app.post("/v1/chat/completions", guard.auth(), guard.scopes(), guard.budgets(), guard.credentials(), guard.proxy());
    const { url, close } = await listen(app);
    cleanups.push(close);
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: "gpt-4o-mini", messages: [], max_tokens: 50 }),
    });
    expect(response.headers.get("x-ratelimit-remaining-tokens")).toBe(String(CAPACITY - 57));
  });
});
