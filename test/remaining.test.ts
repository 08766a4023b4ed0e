// guard.remaining(): how each limit stands for some scope values, on every kind of store.
import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, test, vi } from "vitest";
import express, { type Express, type Request } from "express";
import { contextOf, createGuard, GuardError, memoryStore, type GuardOptions, type Remaining, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { testClock, type TestClock } from "quotaguard/testing";
import { listen } from "./helpers/app.ts";
import { testServer } from "./setup/test-server.ts";

const redisUrl = await testServer("redis");

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

const NOON = Date.UTC(2026, 5, 15, 12);
const MIDNIGHT = Date.UTC(2026, 5, 16);
const MINUTE = 60_000;

/** A host whose requests stay open until they are let go. */
async function host(options: GuardOptions, more?: (app: Express) => void) {
  const guard = createGuard({ scopes: (req: Request) => ({ user: req.query.user as string, org: req.query.org as string | undefined }), ...options });
  const app = express();
  more?.(app);
  const open: (() => void)[] = [];
  app.post("/", guard.budgets({ cost: (req) => Number((req as Request).query.cost) }), (req, res) => {
    open.push(() => {
      const usd = Number(req.query.used ?? req.query.cost);
      contextOf(req).meter({ usd });
      res.send();
    });
    if (req.query.hold === undefined) open.pop()?.();
  });
  const { url, close } = await listen(app);
  cleanups.push(
    () => guard.close(),
    () => close(),
  );
  await guard.ready();
  return {
    guard,
    post: (query: string) => fetch(`${url}/?${query}`, { method: "POST" }),
    /** Begins a request and resolves once its handler runs. */
    async begin(query: string): Promise<{ readonly response: Promise<Response> }> {
      const before = open.length;
      const response = fetch(`${url}/?${query}&hold`, { method: "POST" });
      await expect.poll(() => open.length).toBe(before + 1);
      return { response };
    },
    end(): void {
      for (const end of open.splice(0)) end();
    },
    /** The rows once nothing is held any more. */
    async settled(scopes: Parameters<typeof guard.remaining>[0]): Promise<readonly Remaining[]> {
      await expect.poll(async () => (await guard.remaining(scopes)).every(({ held }) => held === 0)).toBe(true);
      return guard.remaining(scopes);
    },
  };
}

const USER_DAY = { name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } } as const;

describe.each<readonly [string, boolean, (clock: TestClock) => Store]>([
  ["memory", true, (clock) => memoryStore({ clock })],
  ["sqlite", true, (clock) => sqliteStore(":memory:", { clock })],
  ["redis", redisUrl !== undefined, () => redisStore(redisUrl as string, { partition: randomUUID() })],
])("on %s", (kind, isThere, storeOf) => {
  test.skipIf(!isThere)("what is held, used and left adds up, from the first request to the last", async () => {
    // A server has a clock of its own.
    const isOurClock = kind === "memory" || kind === "sqlite";
    const clock = testClock({ now: isOurClock ? NOON : Date.now() });
    const it = await host({ store: storeOf(clock), clock, limits: [USER_DAY], secrets: { key: "a-secret-key-of-this-test" } });
    const row = async () => (await it.guard.remaining({ user: "alice" }))[0];
    const fresh = await row();
    expect(fresh).toEqual({ name: "user-day", unit: "usd", limit: 2, used: 0, held: 0, available: 2, resetsAt: expect.any(Number) as number });
    if (isOurClock) expect(fresh?.resetsAt).toBe(MIDNIGHT);
    const first = await it.begin("user=alice&cost=0.5&used=0.1");
    const second = await it.begin("user=alice&cost=0.25");
    await it.begin("user=bob&cost=1");
    expect(await row()).toMatchObject({ limit: 2, used: 0, held: 0.75, available: 1.25 });
    it.end();
    await Promise.all([first.response, second.response]);
    expect(await it.settled({ user: "alice" })).toEqual([{ ...fresh, used: 0.35, available: 1.65 }]);
    expect(await it.settled({ user: "bob" })).toEqual([{ ...fresh, used: 1, available: 1 }]);
    // More than was held is debt, and the next one is refused.
    await it.post("user=alice&cost=1&used=3");
    expect(await it.settled({ user: "alice" })).toEqual([{ ...fresh, used: 3.35, available: -1.35 }]);
    expect((await it.post("user=alice&cost=0.01")).status).toBe(429);
    expect(await row()).toEqual({ ...fresh, used: 3.35, available: -1.35 });
  });
});

describe("the limits that are told", () => {
  const clock = testClock({ now: NOON });
  const minute = (limit: number | ((about: { scopes: Readonly<Record<string, string>> }) => number)) => ({ limit, per: "minute" });
  const requests = { unit: "requests" } as const;

  test("are those that the values make up a counter of, in their order, org by org", async () => {
    const it = await host({
      store: { url: "memory" },
      clock,
      scopes: { names: ["feature"] },
      limits: [
        { ...requests, name: "all", scope: "global", window: minute(1) },
        { ...requests, name: "org", scope: "org", window: minute(2) },
        { ...requests, name: "user", scope: "user", window: minute(3) },
        { ...requests, name: "user-feature", scope: ["user", "feature"], window: minute(4) },
        { ...requests, name: "user-model", scope: ["user", "model"], window: minute(5) },
        { ...requests, name: "route", scope: "route", window: minute(6) },
        { ...requests, name: "key", scope: "key", window: minute(7), required: true },
      ],
    });
    const names = async (scopes: object) => (await it.guard.remaining(scopes)).map(({ name }) => name);
    expect(await names({})).toEqual(["all"]);
    expect(await names({ user: "alice", org: null })).toEqual(["all", "user"]);
    expect(await names({ org: "acme", user: "alice" })).toEqual(["all", "org", "user"]);
    expect(await names({ user: 7, feature: "search", model: "gpt-4o" })).toEqual(["all", "user", "user-feature", "user-model"]);
    expect(await names({ route: "/users/:id", key: "k1", model: "meta/llama-3" })).toEqual(["all", "route", "key"]);
  });

  test("never mix two organisations, or one with nobody's", async () => {
    const it = await host({ store: { url: "memory" }, clock, limits: [USER_DAY] });
    await it.post("user=alice&org=acme&cost=0.5");
    const used = async (scopes: object) => (await it.settled(scopes)).map((row) => row.used);
    expect([await used({ user: "alice", org: "acme" }), await used({ user: "alice", org: "globex" }), await used({ user: "alice" })]).toEqual([
      [0.5],
      [0],
      [0],
    ]);
  });

  test("of every kind say when they are whole again", async () => {
    const store = { url: "memory" };
    const it = await host({
      store,
      clock,
      limits: [
        { name: "bucket", scope: "user", unit: "usd", bucket: { capacity: 1, refillPerSec: 0.01 } },
        { name: "prepaid", scope: "user", unit: "usd", bucket: { capacity: 5, refillPerSec: 0 } },
        { name: "minute", scope: "user", unit: "requests", window: { limit: 9, per: "minute" } },
        { name: "month", scope: "user", unit: "requests", window: { limit: 9, per: "month", timeZone: "Asia/Tokyo" } },
        { name: "places", scope: "user", unit: "concurrent", concurrency: { limit: 4 } },
        { name: "watched", scope: "user", unit: "usd", window: { limit: 0.1, per: "day" }, mode: "shadow" },
      ],
    });
    const TOKYO_JULY = Date.UTC(2026, 5, 30, 15);
    await it.begin("user=alice&cost=0.5");
    const rows = await it.guard.remaining({ user: "alice" });
    expect(rows).toEqual([
      { name: "bucket", unit: "usd", limit: 1, used: 0, held: 0.5, available: 0.5, resetsAt: NOON + 50_000 },
      { name: "prepaid", unit: "usd", limit: 5, used: 0, held: 0.5, available: 4.5, resetsAt: null },
      { name: "minute", unit: "requests", limit: 9, used: 0, held: 1, available: 8, resetsAt: expect.any(Number) as number },
      { name: "month", unit: "requests", limit: 9, used: 0, held: 1, available: 8, resetsAt: TOKYO_JULY },
      { name: "places", unit: "concurrent", limit: 4, used: 0, held: 1, available: 3, resetsAt: null },
      // It did not fit, so nothing is held there.
      { name: "watched", unit: "usd", limit: 0.1, used: 0, held: 0, available: 0.1, resetsAt: MIDNIGHT },
    ]);
    const resetsAt = rows[2]?.resetsAt ?? 0;
    expect(resetsAt > NOON && resetsAt <= NOON + MINUTE + 1_000).toBe(true);
    it.end();
    const settled = await it.settled({ user: "alice" });
    expect(settled.find(({ name }) => name === "places")).toMatchObject({ used: 0, available: 4, resetsAt: NOON });
  });

  test("a bucket that refills while it is held never shows less than nothing as used", async () => {
    const own = testClock({ now: NOON });
    const it = await host({
      store: memoryStore({ clock: own }),
      clock: own,
      limits: [{ name: "b", scope: "user", unit: "usd", bucket: { capacity: 1, refillPerSec: 1 } }],
    });
    await it.begin("user=alice&cost=0.75");
    own.advance(10_000);
    expect(await it.guard.remaining({ user: "alice" })).toEqual([
      { name: "b", unit: "usd", limit: 1, used: 0, held: 0.75, available: 1, resetsAt: NOON + 10_000 },
    ]);
    it.end();
  });

  test("a function gets the scopes; one that needs a request is left out, with a warning; -1 is unlimited", async () => {
    const warn = vi.fn<(about: object, message?: string) => void>();
    const logger = { debug() {}, info() {}, warn, error() {} };
    const it = await host({
      store: { url: "memory" },
      clock,
      logger,
      limits: [
        { ...requests, name: "by-plan", scope: "user", window: minute(({ scopes }) => (scopes.user === "alice" ? 5 : -1)) },
        { ...requests, name: "later", scope: "user", window: { limit: async () => Promise.resolve(7), per: "minute" } },
        { ...requests, name: "by-request", scope: "user", window: { limit: ({ req }) => Number(req.headers["x-limit"]), per: "minute" } },
        { ...requests, name: "fixed", scope: "user", window: minute(-1), overrides: { bob: 2 } },
      ],
    });
    const limits = async (user: string) => (await it.guard.remaining({ user })).map(({ name, limit, available }) => [name, limit, available]);
    expect(await limits("alice")).toEqual([
      ["by-plan", 5, 5],
      ["later", 7, 7],
      ["fixed", null, null],
    ]);
    expect(warn).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ limit: "by-request" }), expect.stringContaining("cannot tell its number"));
    expect(await limits("bob")).toEqual([
      ["by-plan", null, null],
      ["later", 7, 7],
      ["fixed", 2, 2],
    ]);
    expect((await it.guard.remaining({ user: "bob" }))[0]).toEqual({
      name: "by-plan",
      unit: "requests",
      limit: null,
      used: 0,
      held: 0,
      available: null,
      resetsAt: null,
    });
  });

  test("include those of single routes, before and after their first request", async () => {
    const it = await host({ store: { url: "memory" }, clock });
    it.guard.budgets({ limits: [{ ...requests, name: "of-a-route", scope: "user", window: minute(3) }] });
    expect(await it.guard.remaining({ user: "alice" })).toMatchObject([{ name: "of-a-route", limit: 3 }]);
  });

  test("and buckets that were made at run time, for whom they were made", async () => {
    const it = await host({ store: { url: "memory" }, clock });
    await it.guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 50, refillPerSec: 1 });
    expect(await it.guard.remaining({ user: "alice" })).toMatchObject([{ name: "budget-user", unit: "tokens", limit: 50, available: 50 }]);
    expect(await it.guard.remaining({ user: "bob" })).toEqual([]);
  });
});

describe("remaining() refuses", () => {
  test.each<readonly [string, object, string]>([
    ["a scope that nobody declares", { usr: "alice" }, "unknown scope usr; did you mean user?"],
    ["a value that no scope can have", { user: "al ice" }, "the value of scope user must be"],
    ["a route of no name", { route: "" }, "the value of scope route must be"],
    ["a model that is no text", { model: 4 }, "the value of scope model must be"],
    ["nothing, as of a login that is not there", undefined as never, "takes scope values"],
    ["a value of no kind", { user: {} }, "must be a string, a number or a bigint"],
  ])("%s", async (_what, scopes, message) => {
    const it = await host({ store: { url: "memory" }, limits: [USER_DAY] });
    await expect(it.guard.remaining(scopes)).rejects.toMatchObject({ code: "scope_invalid", message: expect.stringContaining(message) as string });
  });

  test("to guess while the store is away", async () => {
    const store = memoryStore();
    const away = { ...store, limits: { ...store.limits, peek: () => Promise.reject(new GuardError("store_unavailable", "away")) } };
    const it = await host({ store: away, limits: [USER_DAY] });
    await expect(it.guard.remaining({ user: "alice" })).rejects.toMatchObject({ code: "store_unavailable" });
  });

  test("nothing while the guard starts: it waits", async () => {
    const guard = createGuard({ store: { url: "memory" }, limits: [USER_DAY] });
    expect(await guard.remaining({ user: "alice" })).toHaveLength(1);
    await guard.close();
  });
});
