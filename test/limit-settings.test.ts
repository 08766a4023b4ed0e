import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createGuard, type GuardOptions, type QuotaGuard } from "quotaguard";
import { testClock, type TestClock } from "quotaguard/testing";
import { kit } from "./core/context-kit.ts";
import { folder } from "./helpers/child.ts";

const LIMITS: GuardOptions["limits"] = [
  { name: "org-month", scope: "org", unit: "usd", window: { limit: 1000, per: "month" } },
  { name: "user-day", scope: "user", unit: "requests", window: { limit: 10, per: "day" }, overrides: { alice: 20, "acme/bob": 30 } },
  { name: "user-model", scope: ["user", "model"], unit: "requests", window: { limit: 5, per: "hour" } },
  { name: "tokens", scope: "team", unit: "tokens", bucket: { capacity: 100, refillPerSec: 1 }, overrides: { big: 500 } },
  { name: "all", scope: "global", unit: "concurrent", concurrency: { limit: 3 } },
  { name: "asked", scope: "org", unit: "requests", window: { limit: () => 7, per: "hour" } },
];

let clock: TestClock;
let guards: QuotaGuard[] = [];
beforeEach(() => {
  clock = testClock();
});
afterEach(async () => {
  for (const guard of guards) await guard.close();
  guards = [];
});

async function started(more: GuardOptions = {}): Promise<QuotaGuard> {
  const guard = createGuard({ clock, logger: kit().logger, limits: LIMITS, ...more });
  guards.push(guard);
  await guard.ready();
  return guard;
}

const limitOf = async (guard: QuotaGuard, scopes: Parameters<QuotaGuard["remaining"]>[0], name: string) =>
  (await guard.remaining(scopes)).find((row) => row.name === name)?.limit;

describe("numbers of single values", () => {
  test.each<[string, string | object, object, object, number]>([
    ["org-month", "acme", { limit: 2000 }, { org: "acme" }, 2000],
    ["org-month", { org: "acme" }, { limit: 0.5 }, { org: "acme" }, 0.5],
    ["user-day", "carol", { limit: 3 }, { user: "carol" }, 3],
    ["user-day", "acme/carol", { limit: 3 }, { org: "acme", user: "carol" }, 3],
    ["user-day", { org: "acme", user: "alice" }, { limit: 3 }, { org: "acme", user: "alice" }, 3],
    ["user-model", "carol:gpt-4o", { limit: 3 }, { user: "carol", model: "gpt-4o" }, 3],
    ["user-model", "acme/carol:openai/gpt-4o", { limit: 3 }, { org: "acme", user: "carol", model: "openai/gpt-4o" }, 3],
    ["user-model", { user: "a:b", model: "c:d" }, { limit: 3 }, { user: "a:b", model: "c:d" }, 3],
    ["tokens", "data", { capacity: 40 }, { team: "data" }, 40],
    ["tokens", "data", { refillPerSec: 5 }, { team: "data" }, 100],
    ["tokens", "big", { refillPerSec: 5 }, { team: "big" }, 500],
    ["all", "all", { limit: 9 }, {}, 9],
    ["asked", "acme", { limit: 8 }, { org: "acme" }, 8],
  ])("%s of %o: %o", async (name, value, numbers, scopes, limit) => {
    const guard = await started();
    const before = await limitOf(guard, scopes, name);
    const set = await guard.admin.limits.set(name, value, numbers);
    expect(await limitOf(guard, scopes, name)).toBe(limit);
    expect(guard.admin.limits.list().find((each) => each.name === name)?.values).toEqual([set]);
    expect([await guard.admin.limits.reset(name, value), await guard.admin.limits.reset(name, value)]).toEqual([true, false]);
    expect(await limitOf(guard, scopes, name)).toBe(before);
  });

  test("are those of one organisation's member, and of nobody else's", async () => {
    const guard = await started();
    await guard.admin.limits.set("user-day", "acme/carol", { limit: 3 });
    expect(await limitOf(guard, { user: "carol" }, "user-day")).toBe(10);
    expect(await limitOf(guard, { org: "globex", user: "carol" }, "user-day")).toBe(10);
    expect(await limitOf(guard, { org: "acme", user: "bob" }, "user-day")).toBe(30);
  });

  test("may be unlimited, end by the clock, and outlive a restart", async () => {
    const place = folder();
    const options = { store: { url: `sqlite:${place.path}/quota.db` } };
    const first = await started(options);
    await first.admin.limits.set("org-month", "acme", { limit: -1, until: new Date(clock.now() + 60_000) });
    expect(await limitOf(first, { org: "acme" }, "org-month")).toBeNull();
    await first.close();
    const second = await started(options);
    expect(second.admin.limits.list()[0]?.values).toEqual([{ value: "acme", limit: -1, until: clock.now() + 60_000 }]);
    clock.advance(60_000);
    expect(await limitOf(second, { org: "acme" }, "org-month")).toBe(1000);
    expect(second.admin.limits.list()[0]?.values).toEqual([]);
    await second.close();
    place.remove();
  });

  test("a bucket's new rate counts from now on, not for the time before it was set", async () => {
    const guard = await started();
    const available = async () => (await guard.remaining({ team: "data" })).find(({ name }) => name === "tokens")?.available;
    await guard.run({ scopes: { team: "data" }, limits: ["tokens"], cost: { tokens: 100 } }, () => 1);
    expect(await available()).toBe(0);
    clock.advance(10_000);
    await guard.admin.limits.set("tokens", "data", { refillPerSec: 5 });
    expect(await available()).toBe(10);
    clock.advance(2_000);
    expect(await available()).toBe(20);
    await guard.admin.limits.reset("tokens", "data");
    clock.advance(2_000);
    expect(await available()).toBe(22);
  });

  test("limits of single routes are listed and set before a request has reached them", async () => {
    const guard = await started();
    guard.budgets({ limits: [{ name: "own", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
    expect(guard.admin.limits.list().map(({ name }) => name)).toContain("own");
    await guard.admin.limits.set("own", "carol", { limit: 4 });
    expect(await limitOf(guard, { user: "carol" }, "own")).toBe(4);
  });
});

test("the list says how each limit is", async () => {
  const guard = await started();
  expect(guard.admin.limits.list()).toEqual([
    { name: "org-month", scope: ["org"], unit: "usd", kind: "window", mode: "enforce", enforceFrom: null, limit: 1000, set: [], values: [] },
    { name: "user-day", scope: ["user"], unit: "requests", kind: "window", mode: "enforce", enforceFrom: null, limit: 10, set: [], values: [] },
    {
      name: "user-model",
      scope: ["user", "model"],
      unit: "requests",
      kind: "window",
      mode: "enforce",
      enforceFrom: null,
      limit: 5,
      set: [],
      values: [],
    },
    {
      name: "tokens",
      scope: ["team"],
      unit: "tokens",
      kind: "bucket",
      mode: "enforce",
      enforceFrom: null,
      limit: 100,
      refillPerSec: 1,
      set: [],
      values: [],
    },
    { name: "all", scope: ["global"], unit: "concurrent", kind: "concurrency", mode: "enforce", enforceFrom: null, limit: 3, set: [], values: [] },
    { name: "asked", scope: ["org"], unit: "requests", kind: "window", mode: "enforce", enforceFrom: null, limit: null, set: [], values: [] },
  ]);
});

test.each<[string, string, unknown, unknown, string, RegExp]>([
  ["a limit that nobody has", "org-moth", "acme", { limit: 1 }, "not_found", /^there is no limit org-moth; did you mean org-month\?/],
  ["no number", "org-month", "acme", {}, "body_invalid", /^limit: is required/],
  ["no number of a bucket", "tokens", "data", { until: "2099-01-01" }, "body_invalid", /^limit: give capacity, refillPerSec or both/],
  ["a number that is text", "org-month", "acme", { limit: "5" }, "body_invalid", /^limit: expected a number/],
  ["a negative number", "org-month", "acme", { limit: -2 }, "body_invalid", /^limit: must be 0 or more, or -1/],
  ["half a request", "user-day", "a", { limit: 1.5 }, "body_invalid", /^limit: must be a whole number/],
  ["a bucket's number for a window", "org-month", "acme", { capacity: 5 }, "body_invalid", /^capacity: is for buckets, and org-month is none/],
  ["one number twice", "tokens", "data", { capacity: 5, limit: 5 }, "body_invalid", /^capacity: is the same as limit/],
  ["a negative rate", "tokens", "data", { refillPerSec: -1 }, "body_invalid", /^refillPerSec: must be between 0 and/],
  ["a time that is over", "org-month", "acme", { limit: 1, until: "2020-01-01" }, "body_invalid", /^until: must be a time that is still to come/],
  ["an unknown member", "org-month", "acme", { limt: 1 }, "body_invalid", /^limt: unknown option; did you mean limit\?/],
  ["a value that is none", "org-month", "ac me", { limit: 1 }, "body_invalid", /^value: the value of scope org must be/],
  ["an empty value", "org-month", "", { limit: 1 }, "body_invalid", /^value: expected org/],
  ["half a composite", "user-model", "carol", { limit: 1 }, "body_invalid", /^value: expected user:model/],
  ["a composite that could be read in two ways", "user-model", "a:b:c", { limit: 1 }, "body_invalid", /given by scope: \{ user, model \}/],
  [
    "half of the scopes",
    "user-model",
    { user: "a" },
    { limit: 1 },
    "body_invalid",
    /^value: limit user-model counts by user and model; model has no value/,
  ],
  ["a scope that does not count", "org-month", { user: "a" }, { limit: 1 }, "body_invalid", /^value: limit org-month does not count by user/],
  ["another value of a global limit", "all", "some", { limit: 1 }, "body_invalid", /^value: a global limit has one value: all/],
])("%s is refused by name", async (_what, name, value, numbers, code, message) => {
  const guard = await started();
  await expect(guard.admin.limits.set(name, value as never, numbers as never)).rejects.toMatchObject({
    code,
    message: expect.stringMatching(message),
  });
  expect(guard.admin.limits.list().flatMap(({ values }) => values)).toEqual([]);
});

test("what those use who have no limit is in the books: unlimited is not free", async () => {
  const guard = createGuard({ limits: [{ name: "org-month", scope: "org", unit: "usd", window: { limit: 10, per: "month" }, required: false }] });
  guards.push(guard);
  await guard.ready();
  await guard.admin.limits.set("org-month", "acme", { limit: -1 });
  for (const scopes of [{ org: "acme" }, { user: "bob" }]) {
    await guard.run({ scopes, cost: 1 }, (quota) => quota.meter({ usd: 0.25 }));
    await guard.run({ scopes, cost: 1 }, () => "nothing metered");
  }
  const rows = await guard.admin.usage({ groupBy: ["org", "user"] });
  expect(rows.map(({ group, requests, billedUsd }) => ({ ...group, requests, billedUsd }))).toEqual([
    { org: "", user: "bob", requests: 1, billedUsd: 0.25 },
    { org: "acme", user: "", requests: 1, billedUsd: 0.25 },
  ]);
  expect((await guard.admin.audit()).violations).toEqual([]);
});
