import { describe, expect, test } from "vitest";
import { GuardError } from "../src/core/errors.ts";
import type { LimitStore } from "../src/core/store.ts";
import { credentialSlots, type CredentialSlots, type CredentialSlotsOptions } from "../src/credential-slots.ts";
import { holds } from "../src/limits/holds.ts";
import type { Candidate } from "../src/pool/candidate.ts";
import type { ModelEntry } from "../src/pool/offers.ts";
import { isShortage, type Shortage, type Slot } from "../src/pool/slots.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { keptLogger } from "./core/context-kit.ts";
import { candidate } from "./pool/pool-kit.ts";

interface SlotsKit {
  readonly clock: TestClock;
  readonly logger: ReturnType<typeof keptLogger>;
  readonly slots: CredentialSlots;
  readonly store: LimitStore;
  /** Takes room for one request at once; null = there was none. */
  take(from: Candidate, tokens?: number): Slot | null;
  short(from: Candidate, tokens?: number): Shortage;
}

function slotsKit(models: readonly ModelEntry[] = [], more: Partial<CredentialSlotsOptions> = {}): SlotsKit {
  const clock = testClock();
  const logger = keptLogger();
  const store = memoryStore({ clock }).limits;
  const keeper = holds({ clock, logger, ttlMs: 300_000 });
  const slots = credentialSlots({
    store,
    local: memoryStore({ clock }).limits,
    holds: keeper,
    clock,
    logger,
    models,
    defaultModelRpm: -1,
    degraded: () => undefined,
    nodes: () => 1,
    ...more,
  });
  let count = 0;
  const ask = (from: Candidate, tokens: number): Slot | Shortage => {
    count += 1;
    return slots.take(from, `op${count}`, () => tokens) as Slot | Shortage;
  };
  return {
    clock,
    logger,
    slots,
    store,
    take(from, tokens = 10) {
      const taken = ask(from, tokens);
      return isShortage(taken) ? null : taken;
    },
    short(from, tokens = 10) {
      const taken = ask(from, tokens);
      if (!isShortage(taken)) throw new Error("there was room");
      return taken;
    },
  };
}

describe("requests per minute", () => {
  test("lets exactly as many out as the limit says, and the next when the first has left the minute", () => {
    const { take, short, clock } = slotsKit();
    const c = candidate("c", "m", { rpm: 3 });
    expect([take(c), take(c), take(c)]).not.toContain(null);
    clock.advance(20_000);
    const { waitMs } = short(c);
    expect(waitMs).toBeGreaterThan(39_000);
    expect(waitMs).toBeLessThanOrEqual(41_000);
    clock.advance(waitMs as number);
    expect(take(c)).not.toBeNull();
  });

  test("0 lets nothing out, and waiting does not help", () => {
    const { short } = slotsKit();
    expect(short(candidate("c", "m", { rpm: 0 })).waitMs).toBeNull();
  });

  test("of a credential hold for all its models together", () => {
    const { take } = slotsKit();
    const [a, b] = [candidate("c", "a", { rpm: 2 }), candidate("c", "b", { rpm: 2 })];
    expect([take(a), take(b), take(a), take(b)].map((slot) => slot !== null)).toEqual([true, true, false, false]);
  });

  test("of a model hold on each credential by itself, and a refusal there takes nothing from the credential", () => {
    const { take, slots } = slotsKit([{ name: "a", rpm: 1 }]);
    const onOne = candidate("one", "a", { rpm: 3 });
    const onTwo = candidate("two", "a");
    expect([take(onOne), take(onOne), take(onTwo), take(onTwo)].map((slot) => slot !== null)).toEqual([true, false, true, false]);
    // Two of three are left, though two were refused.
    const other = candidate("one", "b", { rpm: 3 });
    expect([take(other), take(other), take(other)].map((slot) => slot !== null)).toEqual([true, true, false]);
    expect(slots.rateOf(onOne).credential.requests).toBe(3);
  });

  test("an entry for one credential goes before the one for all, and the default is for models that say nothing", () => {
    const { take } = slotsKit([{ name: "a", rpm: 5 }, { name: "a", credential: "one", rpm: 1 }, { name: "free" }], { defaultModelRpm: 2 });
    const allowed = (from: Candidate): number => Array.from({ length: 9 }, () => take(from)).filter((slot) => slot !== null).length;
    expect([
      allowed(candidate("one", "a")),
      allowed(candidate("two", "a")),
      allowed(candidate("one", "free")),
      allowed(candidate("one", "new")),
    ]).toEqual([1, 5, 2, 2]);
  });

  test("a slot that is given back is free at once", () => {
    const { take, slots } = slotsKit();
    const c = candidate("c", "m", { rpm: 1 });
    for (let i = 0; i < 5; i += 1) take(c)?.finish(null);
    expect(slots.rateOf(c).credential.requests).toBe(0);
    expect(take(c)).not.toBeNull();
    expect(take(c)).toBeNull();
  });
});

describe("tokens per minute", () => {
  test("are held before and corrected after", () => {
    const { take, short } = slotsKit();
    const c = candidate("c", "m", { tpm: 100 });
    const slot = take(c, 60);
    expect(short(c, 60).waitMs).toBeGreaterThan(0);
    slot?.finish(30);
    expect(take(c, 60)).not.toBeNull();
    expect(take(c, 60)).toBeNull();
  });

  test("100 used of 100 deny the next one", () => {
    const { take } = slotsKit();
    const c = candidate("c", "m", { tpm: 100 });
    take(c, 1)?.finish(100);
    expect(take(c, 1)).toBeNull();
  });

  test("a request that is larger than the whole minute goes out alone, and what it used beyond is owed", () => {
    const { take, clock } = slotsKit();
    const c = candidate("c", "m", { tpm: 100 });
    expect(take(c, 5_000)).not.toBeNull();
    expect(take(c, 1)).toBeNull();
    clock.advance(61_000);
    const slot = take(c, 5_000);
    slot?.finish(250);
    clock.advance(30_000);
    expect(take(c, 1)).toBeNull();
  });

  test("of a request that nobody can estimate are one at least, so that it waits for room like the others", () => {
    const { take } = slotsKit([{ name: "closed", tpm: 0 }]);
    const c = candidate("c", "m", { tpm: 100 });
    take(c, 0)?.finish(100);
    expect(take(c, 0)).toBeNull();
    expect(take(candidate("free", "closed"), 0)).toBeNull();
  });

  test("are estimated only where they are limited", () => {
    const { slots } = slotsKit();
    let asked = 0;
    const tokens = (): number => (asked += 1);
    void slots.take(candidate("free", "m"), "a", tokens);
    void slots.take(candidate("rpm", "m", { rpm: 5 }), "b", tokens);
    expect(asked).toBe(0);
    void slots.take(candidate("tpm", "m", { tpm: 5 }), "c", tokens);
    expect(asked).toBe(1);
  });
});

test("parallel requests are held until they end", () => {
  const { take, short } = slotsKit();
  const c = candidate("c", "m", { maxConcurrent: 2 });
  const slots = [take(c), take(c)];
  expect(short(c).waitMs).toBeGreaterThan(0);
  slots[0]?.finish(5);
  expect(take(c)).not.toBeNull();
  slots[1]?.finish(null);
  expect(take(c)).not.toBeNull();
  expect(take(c)).toBeNull();
});

describe("what operators see", () => {
  test("unlimited is counted, too", () => {
    const { take, slots } = slotsKit();
    const [a, b] = [candidate("c", "a"), candidate("c", "b")];
    take(a)?.finish(30);
    take(b)?.finish(12);
    take(b)?.finish(null);
    expect(slots.rateOf(a).credential).toMatchObject({ requests: 2, tokens: 42, limits: { rpm: -1, tpm: -1 }, limitedUntil: null });
    expect(slots.rateOf(a).model).toMatchObject({ requests: 1, tokens: 30 });
  });

  test("limited until there is room again, on the level that is short", () => {
    const { take, slots, clock } = slotsKit([{ name: "m", rpm: 1 }]);
    const c = candidate("c", "m", { rpm: 10 });
    take(c);
    expect(slots.rateOf(c).model.limitedUntil).toBeNull();
    take(c);
    const until = slots.rateOf(c).model.limitedUntil as number;
    expect(until).toBeGreaterThan(clock.now());
    expect(slots.rateOf(c).credential.limitedUntil).toBeNull();
    clock.advance(until - clock.now());
    expect(slots.rateOf(c).model.limitedUntil).toBeNull();
  });
});

describe("what was counted", () => {
  test("of models that the configuration names is kept, however many there are and whatever clients make up", () => {
    const models = Array.from({ length: 6_000 }, (_, i) => ({ name: `m${i}` }));
    const { take, slots } = slotsKit(models);
    const named = [...models.map(({ name }) => candidate("c", name)), candidate("c", "listed", { models: ["listed", "x-*"] })];
    for (const each of named) take(each)?.finish(5);
    for (let i = 0; i < 6_000; i += 1) take(candidate("c", `made-up-${i}`));
    expect(named.filter((each) => slots.rateOf(each).model.requests !== 1)).toEqual([]);
    expect(slots.rateOf(named[0] as Candidate).credential).toMatchObject({ requests: 12_001, tokens: 6_001 * 5 });
  });

  test("is nothing for a model that nobody asked for, with the limits that it would have", () => {
    const { slots } = slotsKit([{ name: "m", rpm: 7 }], { defaultModelRpm: 3 });
    const [m, other] = [candidate("c", "m", { tpm: 9 }), candidate("c", "other")];
    expect(slots.rateOf(m).model).toEqual({ requests: 0, tokens: 0, limits: { rpm: 7, tpm: -1, maxConcurrent: -1 }, limitedUntil: null });
    expect(slots.rateOf(m).credential).toMatchObject({ requests: 0, limits: { rpm: -1, tpm: 9 } });
    expect(slots.rateOf(other).model.limits.rpm).toBe(3);
    expect(slots.isShort(m)).toBe(false);
  });
});

describe("who was found without room", () => {
  const c = candidate("c", "m", { tpm: 100 });

  test("is short until there is room again, whatever happens to the wall clock", () => {
    const { take, short, slots, clock } = slotsKit();
    take(c, 100);
    const { waitMs } = short(c, 50);
    clock.set(clock.now() - 3_600_000);
    expect([slots.isShort(c), slots.rateOf(c).credential.limitedUntil]).toEqual([true, clock.now() + (waitMs as number)]);
    clock.advance(waitMs as number);
    expect([slots.isShort(c), slots.rateOf(c).credential.limitedUntil]).toEqual([false, null]);
  });

  test("is not short any more once somebody found room there: one large request says little about the others", () => {
    const { take, short, slots } = slotsKit();
    take(c, 60);
    short(c, 90);
    expect(slots.isShort(c)).toBe(true);
    take(c, 10);
    expect([slots.isShort(c), slots.rateOf(c).credential.limitedUntil]).toEqual([false, null]);
  });

  test("is short on the level that has no room, though the other has", () => {
    const { take, short, slots } = slotsKit([{ name: "m", rpm: 1 }]);
    const [m, n] = [candidate("one", "m", { rpm: 9 }), candidate("one", "n", { rpm: 9 })];
    take(m);
    short(m);
    take(n);
    expect([slots.isShort(m), slots.isShort(n)]).toEqual([true, false]);
  });
});

describe("while the store is away", () => {
  const away = new GuardError("store_unavailable", "away");

  /** Fails until it is told otherwise. */
  function flaky(store: LimitStore, later: boolean): { isAway: boolean; readonly store: LimitStore } {
    const wire = {
      isAway: true,
      store: {
        ...store,
        reserve(...args: Parameters<LimitStore["reserve"]>) {
          if (!wire.isAway) return store.reserve(...args);
          if (later) return Promise.reject(away);
          throw away;
        },
      } satisfies LimitStore,
    };
    return wire;
  }

  test.each([false, true])("the limits are kept in this process, attempt by attempt, and nothing is said (later: %s)", async (later) => {
    const wire = flaky(slotsKit().store, later);
    let degraded = 0;
    const { slots, logger } = slotsKit([], { store: wire.store, degraded: () => (degraded += 1) });
    const c = candidate("c", "m", { rpm: 2 });
    const take = async (id: string): Promise<boolean> => !isShortage(await slots.take(c, id, () => 1));
    expect([await take("1"), await take("2"), await take("3")]).toEqual([true, true, false]);
    expect(degraded).toBe(3);
    wire.isAway = false;
    expect(await take("4")).toBe(true);
    expect([degraded, logger.lines.filter(({ level }) => level !== "debug")]).toEqual([3, []]);
  });

  test.each([false, true])("each of so many processes takes its part of the limits (later: %s)", async (later) => {
    const wire = flaky(slotsKit().store, later);
    let nodes = 3;
    const { slots } = slotsKit([{ name: "m", tpm: 100 }], { store: wire.store, nodes: () => nodes });
    const c = candidate("c", "m", { rpm: 7, maxConcurrent: 30 });
    let ids = 0;
    const take = async (tokens: number): Promise<Slot | null> => {
      const taken = await slots.take(c, `op${(ids += 1)}`, () => tokens);
      return isShortage(taken) ? null : taken;
    };
    // 7 / 3 requests and 100 / 3 tokens.
    expect([await take(16), await take(17), await take(1)].map((slot) => slot !== null)).toEqual([true, true, false]);
    nodes = 1;
    expect(await take(1)).not.toBeNull();
    // The store has counted nothing of all that.
    wire.isAway = false;
    nodes = 3;
    for (let i = 0; i < 7; i += 1) expect(await take(10)).not.toBeNull();
    expect(await take(10)).toBeNull();
  });

  test("a request that is larger than the part goes out alone, as one does that is larger than the whole", async () => {
    const { slots, clock } = slotsKit([{ name: "m", tpm: 100 }], { store: flaky(slotsKit().store, false).store, nodes: () => 4 });
    const c = candidate("c", "m", { rpm: -1 });
    const take = async (id: string) => slots.take(c, id, () => 80);
    expect(isShortage(await take("1"))).toBe(false);
    expect(isShortage(await take("2"))).toBe(true);
    clock.advance(61_000);
    expect(isShortage(await take("3"))).toBe(false);
  });

  test("a store that has other numbers of limits is asked again; one that has always others is left", async () => {
    const kit = slotsKit();
    let stale = 2;
    const asked: string[] = [];
    const store: LimitStore = {
      ...kit.store,
      reserve(opId, ...rest) {
        asked.push(opId);
        stale -= 1;
        return stale >= 0 ? { kind: "stale" } : kit.store.reserve(opId, ...rest);
      },
    };
    let degraded = 0;
    const { slots } = slotsKit([], { store, degraded: () => (degraded += 1) });
    const c = candidate("c", "m", { rpm: 1 });
    expect(isShortage(await slots.take(c, "1", () => 1))).toBe(false);
    expect([asked, degraded]).toEqual([["1", "1", "1"], 0]);
    stale = Infinity;
    expect(isShortage(await slots.take(c, "2", () => 1))).toBe(false);
    expect([asked.length, degraded]).toEqual([7, 1]);
    expect(isShortage(await slots.take(c, "3", () => 1))).toBe(true);
  });

  test("another fault is not hidden", () => {
    const broken: LimitStore = {
      ...memoryStore().limits,
      reserve() {
        throw new RangeError("a bug");
      },
    };
    const { slots } = slotsKit([], { store: broken });
    expect(() => slots.take(candidate("c", "m", { rpm: 1 }), "op", () => 0)).toThrow(RangeError);
  });
});
