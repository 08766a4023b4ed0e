// Where clients in this process may take over what a route holds, its places are held apart from its tokens and money.
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, memoryStore, type GuardOptions, type LimitStore, type QuotaGuard, type Store, type Unit } from "quotaguard";

type Reserve = LimitStore["reserve"];
type Result = Awaited<ReturnType<Reserve>>;

const LIMITS: GuardOptions["limits"] = [
  { name: "day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } },
  { name: "rpm", scope: "user", unit: "requests", window: { limit: 10, per: "hour" } },
  { name: "places", scope: "user", unit: "concurrent", concurrency: { limit: 1 }, onStoreError: "deny" },
];

let guard: QuotaGuard | undefined;
afterEach(() => guard?.close());

interface Asked {
  readonly opId: string;
  readonly units: readonly Unit[];
}

/** A guard on a store that notes what it is asked, and answers as the script says: undefined = by itself, what it throws is thrown. */
function start(later: boolean, script: (() => Result | undefined)[] = [], limits = LIMITS) {
  const real = memoryStore();
  const asked: Asked[] = [];
  const finished: string[] = [];
  const when = <T>(run: () => T): T | Promise<T> => (later ? Promise.resolve().then(run) : run());
  const store: Store = {
    ...real,
    limits: {
      ...real.limits,
      reserve: (opId, charges, ttlMs) =>
        when(() => {
          asked.push({ opId, units: charges.map(({ unit }) => unit) });
          return script.shift()?.() ?? (real.limits.reserve(opId, charges, ttlMs) as Result);
        }),
      settle: (opId, actual) => (finished.push(opId), real.limits.settle(opId, actual)),
      release: (opId) => (finished.push(opId), real.limits.release(opId)),
      lapse: (opId) => (finished.push(opId), real.limits.lapse(opId)),
    },
  };
  guard = createGuard({ store, limits });
  return { asked, finished, guard };
}

const job = ({ run }: QuotaGuard): Promise<unknown> => run({ scopes: { user: "alice" }, cost: 0.5 }, (quota) => quota.meter({ usd: 0.25 }));
const standing = async ({ remaining }: QuotaGuard) => (await remaining({ user: "alice" })).map(({ name, used, held }) => [name, used, held]);
const stale = (): Result => ({ kind: "stale" });
const DONE = [
  ["day", 0.25, 0],
  ["rpm", 1, 0],
  ["places", 0, 0],
];

describe.each([false, true])("a store that answers later: %s", (later) => {
  test("two reservations, both finished", async () => {
    const { asked, finished, guard: made } = start(later);
    await job(made);
    expect(asked.map(({ units }) => units)).toEqual([["usd", "requests"], ["concurrent"]]);
    expect(finished.toSorted()).toEqual(asked.map(({ opId }) => opId).toSorted());
    expect(await standing(made)).toEqual(DONE);
  });

  test("one where there are no places, or nothing else", async () => {
    const [day, rpm, places] = LIMITS as readonly object[];
    const without = start(later, [], [day, rpm] as never);
    await job(without.guard);
    expect(without.asked.map(({ units }) => units)).toEqual([["usd", "requests"]]);
    await without.guard.close();
    const only = start(later, [], [places, rpm] as never);
    await job(only.guard);
    expect(only.asked.map(({ units }) => units)).toEqual([["concurrent", "requests"]]);
  });

  test.each([
    ["the first", [stale]],
    ["the second", [() => undefined, stale]],
    ["both", [stale, () => undefined, stale]],
  ])("is worked out anew when the limits were changed under %s, and each is held once", async (_name, script) => {
    const { asked, finished, guard: made } = start(later, [...script]);
    await job(made);
    expect(new Set(asked.map(({ opId }) => opId)).size).toBe(2);
    expect(finished.toSorted()).toEqual([...new Set(asked.map(({ opId }) => opId))].toSorted());
    expect(await standing(made)).toEqual(DONE);
  });

  test("a second one that is refused gives the first one back at once", async () => {
    const { guard: made, finished } = start(later);
    const gate = Promise.withResolvers<void>();
    const first = made.run({ scopes: { user: "alice" }, cost: 0.5 }, () => gate.promise);
    await expect.poll(() => made.admin.health().openRequests).toBe(1);
    await expect
      .poll(() => standing(made))
      .toEqual([
        ["day", 0, 0.5],
        ["rpm", 0, 1],
        ["places", 0, 1],
      ]);
    const refused: unknown = await job(made).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "budget_exhausted", limit: "places" });
    expect(finished).toHaveLength(1);
    expect(await standing(made)).toEqual([
      ["day", 0, 0.5],
      ["rpm", 0, 1],
      ["places", 0, 1],
    ]);
    gate.resolve();
    await first;
  });

  test("a store that goes away in between: the policy of the second decides, and the first is given back", async () => {
    const away = (): Result => {
      throw new GuardError("store_unavailable", "away");
    };
    const { guard: made } = start(later, [() => undefined, away]);
    await expect(job(made)).rejects.toMatchObject({ code: "store_unavailable", limit: "places" });
    await expect
      .poll(() => standing(made))
      .toEqual([
        ["day", 0, 0],
        ["rpm", 0, 0],
        ["places", 0, 0],
      ]);
  });
});
