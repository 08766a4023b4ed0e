// Limits that are changed as a whole while they run: their mode, their date and their numbers, on each store that may keep them.
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createGuard, memoryStore, type GuardOptions, type QuotaGuard, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { testClock, type TestClock } from "quotaguard/testing";
import { kit } from "./core/context-kit.ts";
import { folder } from "./helpers/child.ts";
import { testServer } from "./setup/test-server.ts";

const redisUrl = await testServer("redis");

let clock: TestClock;
let ends: (() => unknown)[] = [];
beforeEach(() => {
  clock = testClock();
});
afterEach(async () => {
  for (const end of ends.toReversed()) await end();
  ends = [];
});

/** One place of records and counters; each call is another process's view of it. */
const STORES: Readonly<Record<string, () => () => Store>> = {
  memory() {
    const store = memoryStore({ clock });
    return () => store;
  },
  sqlite() {
    const place = folder();
    ends.push(() => place.remove());
    return () => closed(sqliteStore(`${place.path}/quota.db`, { clock }));
  },
  ...(redisUrl === undefined
    ? {}
    : {
        redis() {
          const partition = randomUUID();
          return () => closed(redisStore(redisUrl, { partition }));
        },
      }),
};

function closed(store: Store): Store {
  ends.push(() => store.close());
  return store;
}

const WATCHED = { name: "watched", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } } as const;

async function started(store: Store, limits: GuardOptions["limits"], more: GuardOptions = {}): Promise<QuotaGuard> {
  const guard = createGuard({ clock, logger: kit().logger, store, limits, ...more });
  ends.push(() => guard.close());
  await guard.ready();
  return guard;
}

const asks = async (guard: QuotaGuard, user: string, org?: string): Promise<string> => {
  try {
    return await guard.run({ scopes: { user, ...(org === undefined ? {} : { org }) } }, () => "ok");
  } catch (error) {
    return (error as { code: string }).code;
  }
};

async function several(guard: QuotaGuard, user: string, count: number): Promise<readonly string[]> {
  const said: string[] = [];
  for (let i = 0; i < count; i += 1) said.push(await asks(guard, user));
  return said;
}

describe.each(Object.keys(STORES))("on %s", (name) => {
  test("a limit begins to enforce at its date, with what was counted before it", async () => {
    const from = clock.now() + 60_000;
    const guard = await started((STORES[name] as () => () => Store)()(), [{ ...WATCHED, enforceFrom: from }]);
    expect(guard.admin.limits.list()[0]).toMatchObject({ mode: "enforce", enforceFrom: from, set: [] });
    expect(await several(guard, "alice", 4)).toEqual(["ok", "ok", "ok", "ok"]);
    clock.advance(59_999);
    expect(await asks(guard, "alice")).toBe("ok");
    clock.advance(1);
    expect(await several(guard, "alice", 2)).toEqual(["budget_exhausted", "budget_exhausted"]);
    expect(await several(guard, "bob", 3)).toEqual(["ok", "ok", "budget_exhausted"]);
  });

  test("a mode that is changed at run time keeps the counters, holds in all processes, outlives a restart, and is reset", async () => {
    const view = (STORES[name] as () => () => Store)();
    const limits: GuardOptions["limits"] = [{ ...WATCHED, mode: "shadow" }];
    const one = await started(view(), limits);
    const two = await started(view(), limits);
    expect(await several(one, "alice", 3)).toEqual(["ok", "ok", "ok"]);
    await one.admin.limits.update("watched", { mode: "enforce" });
    expect(await asks(one, "alice")).toBe("budget_exhausted");
    if (name === "sqlite") {
      // Another process's writes to the file are looked for by the second.
      clock.advance(1_000);
    }
    expect(await asks(two, "alice")).toBe("budget_exhausted");
    expect(await several(two, "bob", 3)).toEqual(["ok", "ok", "budget_exhausted"]);
    const three = await started(view(), limits);
    expect(three.admin.limits.list()[0]).toMatchObject({ mode: "enforce", enforceFrom: null, set: ["mode", "enforceFrom"] });
    expect(await asks(three, "alice")).toBe("budget_exhausted");
    expect([await three.admin.limits.reset("watched"), await three.admin.limits.reset("watched")]).toEqual([true, false]);
    expect(three.admin.limits.list()[0]).toMatchObject({ mode: "shadow", set: [] });
    expect(await asks(three, "alice")).toBe("ok");
  });

  test("who would have been refused is reported by all processes together, and after a restart", async () => {
    const view = (STORES[name] as () => () => Store)();
    const limits: GuardOptions["limits"] = [{ ...WATCHED, mode: "shadow" }];
    const one = await started(view(), limits);
    const two = await started(view(), limits);
    const at = clock.now();
    expect(await several(one, "alice", 4)).toHaveLength(4);
    clock.advance(1_000);
    expect(await several(two, "alice", 3)).toHaveLength(3);
    expect(await several(two, "bob", 3)).toHaveLength(3);
    // Both write what they have now; nobody's is lost.
    await Promise.all([one.admin.limits.shadow("watched"), two.admin.limits.shadow("watched")]);
    const largest = { needed: 1, available: 0 };
    const report = {
      name: "watched",
      unit: "requests",
      mode: "shadow",
      enforceFrom: null,
      from: Math.floor(at / 86_400_000 - 29) * 86_400_000,
      count: 6,
      values: [
        { value: "alice", count: 5, firstAt: at, lastAt: at + 1_000, largest },
        { value: "bob", count: 1, firstAt: at + 1_000, lastAt: at + 1_000, largest },
      ],
      other: null,
    };
    expect(await one.admin.limits.shadow("watched")).toEqual(report);
    await one.close();
    expect(await (await started(view(), limits)).admin.limits.shadow("watched")).toEqual(report);
  });
});

const BUCKET = { name: "bucket", scope: "team", unit: "tokens", bucket: { capacity: 100, refillPerSec: 1 }, overrides: { big: 500 } } as const;

describe("a change of a whole limit", () => {
  const limitOf = async (guard: QuotaGuard, team: string): Promise<number | null | undefined> =>
    (await guard.remaining({ team })).find((row) => row.name === "bucket")?.limit;

  test("goes before the configuration, overrides included, and a single value's number before it", async () => {
    const guard = await started(memoryStore({ clock }), [BUCKET]);
    expect(await guard.admin.limits.update("bucket", { capacity: 40, refillPerSec: 3 })).toMatchObject({
      limit: 40,
      refillPerSec: 3,
      mode: "enforce",
      set: ["limit", "refillPerSec"],
    });
    expect([await limitOf(guard, "data"), await limitOf(guard, "big")]).toEqual([40, 40]);
    await guard.admin.limits.set("bucket", "data", { capacity: 7 });
    expect([await limitOf(guard, "data"), await limitOf(guard, "big")]).toEqual([7, 40]);
    await guard.admin.limits.update("bucket", { limit: -1 });
    expect([await limitOf(guard, "data"), await limitOf(guard, "big")]).toEqual([7, null]);
    await guard.admin.limits.reset("bucket");
    expect([await limitOf(guard, "data"), await limitOf(guard, "big")]).toEqual([7, 500]);
    expect(guard.admin.limits.list()[0]).toMatchObject({ limit: 100, refillPerSec: 1, set: [] });
  });

  test("a bucket's new rate pays nothing for the time before it was set", async () => {
    const guard = await started(memoryStore({ clock }), [BUCKET]);
    const available = async () => (await guard.remaining({ team: "data" }))[0]?.available;
    await guard.run({ scopes: { team: "data" }, cost: { tokens: 100 } }, () => 1);
    clock.advance(10_000);
    await guard.admin.limits.update("bucket", { refillPerSec: 50 });
    expect(await available()).toBe(10);
  });

  test("replaces a function's number, and leaves what it does not name", async () => {
    const guard = await started(memoryStore({ clock }), [{ ...WATCHED, window: { limit: () => 5, per: "hour" }, mode: "shadow" }]);
    await guard.admin.limits.update("watched", { limit: 1 });
    await guard.admin.limits.update("watched", { mode: "enforce" });
    expect(guard.admin.limits.list()[0]).toMatchObject({ limit: 1, mode: "enforce", set: ["mode", "enforceFrom", "limit"] });
    expect(await several(guard, "alice", 2)).toEqual(["ok", "budget_exhausted"]);
    await guard.admin.limits.reset("watched");
    expect(guard.admin.limits.list()[0]).toMatchObject({ limit: null, mode: "shadow" });
  });

  test("enforce means now, whatever date was configured, unless a date is given with it", async () => {
    const guard = await started(memoryStore({ clock }), [{ ...WATCHED, window: { limit: 0, per: "hour" }, enforceFrom: clock.now() + 60_000 }]);
    expect(await asks(guard, "alice")).toBe("ok");
    await guard.admin.limits.update("watched", { mode: "enforce", enforceFrom: new Date(clock.now() + 1_000) });
    expect(await asks(guard, "alice")).toBe("ok");
    clock.advance(1_000);
    expect(await asks(guard, "alice")).toBe("budget_too_small");
    await guard.admin.limits.update("watched", { enforceFrom: clock.now() + 1_000 });
    expect(await asks(guard, "alice")).toBe("ok");
    await guard.admin.limits.update("watched", { mode: "enforce" });
    expect(await asks(guard, "alice")).toBe("budget_too_small");
    await guard.admin.limits.update("watched", { mode: "shadow" });
    expect(await asks(guard, "alice")).toBe("ok");
  });

  test("reaches a limit of a single route, before a request has reached it and after", async () => {
    const guard = await started(memoryStore({ clock }), []);
    guard.budgets({ limits: [WATCHED] });
    await guard.admin.limits.update("watched", { limit: 1 });
    expect(await guard.remaining({ user: "alice" })).toMatchObject([{ name: "watched", limit: 1 }]);
  });

  test("two at one time are both kept", async () => {
    const guard = await started(memoryStore({ clock }), [WATCHED]);
    await Promise.all([guard.admin.limits.update("watched", { limit: 7 }), guard.admin.limits.update("watched", { mode: "shadow" })]);
    expect(guard.admin.limits.list()[0]).toMatchObject({ limit: 7, mode: "shadow" });
  });

  test.each<[string, string, unknown, string, RegExp]>([
    ["a limit that nobody has", "watchd", { mode: "shadow" }, "not_found", /^there is no limit watchd; did you mean watched\?/],
    ["nothing", "watched", {}, "body_invalid", /^mode: give at least one of mode, enforceFrom, limit, refillPerSec$/],
    ["no object", "watched", null, "body_invalid", /expected/],
    [
      "another scope",
      "watched",
      { scope: "org" },
      "body_invalid",
      /^scope: cannot be changed at run time; mode, enforceFrom, limit, refillPerSec can$/,
    ],
    ["another period", "watched", { per: "day" }, "body_invalid", /^per: cannot be changed at run time/],
    ["a member of every object", "watched", JSON.parse('{"__proto__":{}}'), "body_invalid", /^__proto__: cannot be changed/],
    ["an unknown mode", "watched", { mode: "off" }, "body_invalid", /^mode: /],
    [
      "a date of a limit that watches",
      "watched",
      { mode: "shadow", enforceFrom: "2099-01-01" },
      "body_invalid",
      /^enforceFrom: is for limits that enforce/,
    ],
    ["no date", "watched", { enforceFrom: "tomorrow" }, "body_invalid", /^enforceFrom: expected a date/],
    ["a bucket's number", "watched", { refillPerSec: 1 }, "body_invalid", /^refillPerSec: is for buckets, and watched is none/],
    ["half a request", "watched", { limit: 1.5 }, "body_invalid", /^limit: must be a whole number/],
  ])("%s is refused by name", async (_what, name, change, code, message) => {
    const guard = await started(memoryStore({ clock }), [WATCHED]);
    await expect(guard.admin.limits.update(name, change as never)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    expect(guard.admin.limits.list()).toMatchObject([{ set: [] }]);
  });

  test("a bucket that exists for single values only has no number for all", async () => {
    const guard = await started(memoryStore({ clock }), []);
    await guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 5 });
    await expect(guard.admin.limits.update("budget-user", { limit: 5 })).rejects.toMatchObject({
      code: "body_invalid",
      message: expect.stringMatching(/exists for single values only/),
    });
    expect(await guard.admin.limits.update("budget-user", { mode: "shadow" })).toMatchObject({ mode: "shadow" });
  });
});
