import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { QUOTA_SOURCES, type QuotaFact } from "../../src/core/quota-fact.ts";
import { confidenceOf, countsIn, quotaFacts, showsRoom, type QuotaFacts } from "../../src/pool/quota-facts.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { DAY, MINUTE, recordsOn, settled, slowRecords } from "./health-kit.ts";

function kit() {
  const clock = testClock();
  const logger = keptLogger();
  const records = recordsOn(clock);
  const news: string[] = [];
  async function start(on = records) {
    const facts = quotaFacts({ records: on, clock, logger, changed: (credential) => void news.push(credential) });
    await facts.load();
    return facts;
  }
  const fact = (remainingRatio: number, more: Partial<QuotaFact> = {}): QuotaFact => ({
    credential: "a",
    group: "5h",
    remainingRatio,
    resetsAt: clock.now() + 60 * MINUTE,
    observedAt: clock.now(),
    source: "poll",
    ...more,
  });
  return { clock, records, start, fact, news };
}

test("a fact is known to all processes at once, and after a restart", async () => {
  const { start, fact } = kit();
  const [one, two] = [await start(), await start()];
  one.report(fact(0.4));
  one.report(fact(0.9, { group: "weekly/opus" }));
  expect(two.of("a")).toEqual([fact(0.4), fact(0.9, { group: "weekly/opus" })]);
  expect((await start()).of("a")).toEqual(two.of("a"));
  expect([one.remainingRatio("a"), two.remainingRatio("a"), two.remainingRatio("b"), two.of("b")]).toEqual([0.4, 0.4, null, []]);
});

test("an older fact never replaces a newer one, wherever it was seen", async () => {
  const { clock, start, fact } = kit();
  const [one, two] = [await start(), await start()];
  one.report(fact(0.4));
  two.report(fact(0.8, { observedAt: clock.now() - 1 }));
  expect([one.remainingRatio("a"), two.remainingRatio("a"), (await start()).remainingRatio("a")]).toEqual([0.4, 0.4, 0.4]);
  clock.advance(1);
  two.report(fact(0.7));
  expect([one.remainingRatio("a"), two.remainingRatio("a")]).toEqual([0.7, 0.7]);
});

test("of two writes that cross, all end with the newer fact", async () => {
  const { clock, records, start, fact } = kit();
  const late = slowRecords(records);
  const [one, two] = [await start(late), await start()];
  const older = fact(0.8);
  clock.advance(5);
  one.report(older);
  two.report(fact(0.4));
  await late.arrive();
  await settled();
  expect([one.remainingRatio("a"), two.remainingRatio("a"), (await start()).remainingRatio("a")]).toEqual([0.4, 0.4, 0.4]);
});

test("a fact is gone when its quota is whole again; without such a time, after a day", async () => {
  const { clock, start, fact } = kit();
  const facts = await start();
  facts.report(fact(0.1, { resetsAt: clock.now() + MINUTE }));
  facts.report(fact(0.5, { group: "undated", resetsAt: null }));
  facts.report(fact(0, { group: "over", resetsAt: clock.now() }));
  expect(facts.remainingRatio("a")).toBe(0.1);
  clock.advance(MINUTE);
  expect([facts.remainingRatio("a"), facts.of("a").map(({ group }) => group)]).toEqual([0.5, ["undated"]]);
  clock.advance(DAY - MINUTE);
  expect([facts.of("a"), (await start()).of("a")]).toEqual([[], []]);
});

test("a clock that is ahead does not outlast those that are right", async () => {
  const { clock, start, fact } = kit();
  const facts = await start();
  facts.report(fact(0.9, { observedAt: clock.now() + DAY }));
  clock.advance(1);
  facts.report(fact(0.2));
  expect(facts.remainingRatio("a")).toBe(0.2);
});

test("sixty-four groups are kept of a credential: who was seen longest ago makes room, in the store too", async () => {
  const { clock, records, start, fact } = kit();
  const facts = await start();
  for (let i = 0; i < 80; i += 1) {
    facts.report(fact(0.5, { group: `g${i}` }));
    clock.advance(1);
  }
  expect([facts.of("a").length, facts.of("a")[0]?.group, (await records.list("quota/")).length]).toEqual([64, "g16", 64]);
});

test("what is no fact is passed over", async () => {
  const { clock, records, start } = kit();
  await records.put("quota/a/x", { remainingRatio: 2, resetsAt: null, observedAt: clock.now(), source: "poll" });
  await records.put("quota/a/y", null);
  expect((await start()).of("a")).toEqual([]);
});

test("records of an older shape, and those that say all, are read as they are", async () => {
  const { clock, records, start, fact } = kit();
  const old = { remainingRatio: 0.3, resetsAt: clock.now() + MINUTE, observedAt: clock.now(), source: "poll" };
  const whole = { ...old, models: ["claude-*"], windowMs: 5 * MINUTE, limit: 100, unit: "requests", confidence: 0.7 };
  await records.put("quota/a/old", old);
  await records.put("quota/a/whole", whole);
  await records.put("quota/a/wrong", { ...whole, unit: "bananas" });
  const facts = await start();
  expect(facts.of("a")).toEqual([
    { credential: "a", group: "old", ...old },
    { credential: "a", group: "whole", ...whole },
  ]);
  expect(facts.isEmpty).toBe(false);
  expect((await kit().start()).isEmpty).toBe(true);
  facts.report(fact(0.9, { group: "whole", observedAt: clock.now() + 1 }));
});

describe("when a quota's time has come", () => {
  const HOUR = 60 * MINUTE;

  test("it is whole again for one more window, as far as anybody can say, in all processes", async () => {
    const { clock, records, start, fact } = kit();
    const [one, two] = [await start(), await start()];
    const seen = fact(0, { source: "headers", windowMs: 5 * HOUR, resetsAt: clock.now() + HOUR, models: ["m*"], limit: 9, unit: "requests" });
    one.report(seen);
    clock.advance(HOUR - 1);
    expect([one.remainingRatio("a"), two.remainingRatio("a")]).toEqual([0, 0]);
    clock.advance(1);
    const rolled = {
      ...seen,
      remainingRatio: 1,
      observedAt: clock.now(),
      resetsAt: clock.now() + 5 * HOUR,
      source: "estimate",
      confidence: confidenceOf(seen, clock.now()) / 2,
    };
    expect([one.of("a"), two.of("a"), (await start()).of("a")]).toEqual([[rolled], [rolled], [rolled]]);
    // It is not made again of what was made.
    expect((await records.get("quota/a%2F5h"))?.value ?? (await records.list("quota/"))[0]?.value).toMatchObject({ remainingRatio: 0 });
    clock.advance(5 * HOUR - 1);
    expect(one.remainingRatio("a")).toBe(1);
    clock.advance(1);
    expect([one.of("a"), two.of("a"), one.isEmpty, await records.list("quota/")]).toEqual([[], [], true, []]);
  });

  test("what was seen before it counts as seen before, whenever it arrives", async () => {
    const { clock, start, fact } = kit();
    const facts = await start();
    facts.report(fact(0.2, { windowMs: HOUR, resetsAt: clock.now() + MINUTE }));
    clock.advance(2 * MINUTE);
    const observedAt = clock.now() - 90_000;
    facts.report(fact(0.1, { windowMs: HOUR, resetsAt: observedAt + 30_000, observedAt }));
    expect(facts.of("a")).toMatchObject([{ remainingRatio: 1, source: "estimate" }]);
    facts.report(fact(0.1, { windowMs: HOUR, observedAt: clock.now() }));
    expect(facts.of("a")).toMatchObject([{ remainingRatio: 0.1, source: "poll" }]);
  });

  test("it is unknown where nobody knows how long a window is; and what has no time holds no longer than its window", async () => {
    const { clock, start, fact } = kit();
    const facts = await start();
    facts.report(fact(0, { resetsAt: clock.now() + MINUTE }));
    facts.report(fact(0, { group: "undated", resetsAt: null, windowMs: MINUTE }));
    clock.advance(MINUTE - 1);
    expect(facts.of("a")).toHaveLength(2);
    clock.advance(1);
    expect([facts.of("a"), facts.remainingRatio("a")]).toEqual([[], null]);
  });

  test("a newer word that is over already takes the older one with it", async () => {
    const { clock, records, start, fact } = kit();
    const facts = await start();
    facts.report(fact(0));
    clock.advance(1);
    facts.report(fact(1, { resetsAt: clock.now() }));
    expect([facts.of("a"), await records.list("quota/")]).toEqual([[], []]);
  });
});

describe("a refusal that names none of the provider's windows", () => {
  const spent = { source: "error", group: "plan/m", models: ["m"] } as const;

  test.each<readonly [string, Partial<QuotaFact>, boolean]>([
    ["room in what all models share", {}, true],
    ["room for its model", { models: ["m*"] }, true],
    ["in headers", { source: "headers" }, true],
    ["room for another model", { models: ["n"] }, false],
    ["nothing left", { remainingRatio: 0 }, false],
    ["a guess", { source: "estimate" }, false],
    ["another refusal", { source: "error" }, false],
  ])("holds until somebody sees %s: %j", async (_what, newer, isOver) => {
    const { clock, start, fact } = kit();
    const [one, two] = [await start(), await start()];
    one.report(fact(0, spent));
    two.report(fact(0.9));
    expect(one.of("a")).toHaveLength(2);
    clock.advance(1);
    two.report(fact(0.9, newer));
    expect([one, two].map((facts) => facts.of("a").some(({ group }) => group === "plan/m"))).toEqual([!isOver, !isOver]);
  });

  test("one that names its window holds until that quota's own number comes", async () => {
    const { clock, start, fact } = kit();
    const facts = await start();
    facts.report(fact(0, { ...spent, windowMs: DAY }));
    clock.advance(1);
    facts.report(fact(0.9));
    expect(facts.remainingRatio("a")).toBe(0);
    facts.report(fact(0.5, { group: "plan/m" }));
    expect(facts.remainingRatio("a")).toBe(0.5);
  });
});

test("models count in a quota of theirs, or of all", () => {
  const { fact } = kit();
  const of = fact(1, { models: ["claude-*", "gpt-4o"] });
  expect(["claude-x", "gpt-4o", "gpt-4o-mini", ""].map((model) => countsIn(of, model))).toEqual([true, true, false, false]);
  expect([countsIn(fact(1), "m"), countsIn(fact(1, { models: [] }), "m")]).toEqual([true, false]);
});

test("room is what somebody saw since, where nobody knows of a quota that has none", () => {
  const { clock, fact } = kit();
  const since = clock.now() - 1;
  const room = (facts: readonly QuotaFact[], model: string | null = "m") => showsRoom(facts, model, since);
  expect([room([]), room([fact(0.1)]), room([fact(0.1, { source: "headers" })])]).toEqual([false, true, true]);
  expect([room([fact(0.1, { observedAt: since })]), room([fact(1, { source: "estimate" })]), room([fact(1, { source: "error" })])]).toEqual([
    false,
    false,
    false,
  ]);
  const gone = fact(0, { group: "weekly", observedAt: 1 });
  expect([room([fact(1), gone]), room([fact(1), { ...gone, models: ["n"] }])]).toEqual([false, true]);
  // What one model has, says nothing of the account.
  expect([room([fact(1, { models: ["m"] })], null), room([fact(1)], null)]).toEqual([false, true]);
});

test("who keeps an eye on it hears of each credential that something new is known of, also from elsewhere", async () => {
  const { start, fact, news } = kit();
  const one = await start();
  await start();
  one.report(fact(0.5));
  one.report(fact(0.5, { observedAt: 5 }));
  expect(news).toEqual(["a", "a"]);
});

test("how sure a fact is depends on who saw it, and halves with each quarter of its window", () => {
  const { clock, fact } = kit();
  const now = clock.now();
  expect(QUOTA_SOURCES.map((source) => confidenceOf(fact(1, { source }), now))).toEqual([1, 0.9, 1, 0.2]);
  expect(confidenceOf(fact(1, { confidence: 0.6 }), now)).toBe(0.6);
  const seen = fact(1, { source: "headers", windowMs: 60 * MINUTE });
  expect([15, 30, 60].map((minutes) => confidenceOf(seen, now + minutes * MINUTE))).toEqual([0.5, 0.25, 0.0625]);
  expect([60, 120].map((minutes) => confidenceOf(fact(1, { source: "headers" }), now + minutes * MINUTE))).toEqual([0.5, 0.25]);
  // A clock that was put back makes nothing surer.
  expect(confidenceOf(seen, now - MINUTE)).toBe(1);
});

describe("whatever is seen", () => {
  const START = 1_795_000_000_000;
  const facts = fc.record({
    credential: fc.constant("a"),
    group: fc.constantFrom("x", "y"),
    remainingRatio: fc.double({ min: 0, max: 1, noNaN: true }),
    resetsAt: fc.option(fc.integer({ min: START - DAY, max: START + 10 * DAY })),
    observedAt: fc.integer({ min: START - DAY, max: START + DAY }),
    source: fc.constantFrom(...QUOTA_SOURCES),
    windowMs: fc.integer({ min: 1, max: 8 * DAY }),
  });
  const optional = fc.tuple(facts, fc.boolean()).map(([{ windowMs, ...fact }, isKnown]): QuotaFact => (isKnown ? { ...fact, windowMs } : fact));

  test("the newest word holds in all processes, in whatever order they come; what is left is never more than all of it", async () => {
    const now = START + DAY;
    const ahead = fc.tuple(optional, fc.integer({ min: now + 1, max: now + 10 * DAY })).map(([fact, resetsAt]) => ({ ...fact, resetsAt }));
    const reports = fc.array(fc.tuple(ahead, fc.boolean()), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(reports, fc.integer({ min: 0, max: 20 * DAY }), async (seen, later) => {
        const clock = testClock();
        clock.set(now);
        const records = recordsOn(clock);
        const [one, two] = [0, 1].map(() => quotaFacts({ records, clock, logger: keptLogger() })) as [QuotaFacts, QuotaFacts];
        await Promise.all([one.load(), two.load()]);
        for (const [fact, isHere] of seen) (isHere ? one : two).report(fact);
        for (const group of ["x", "y"]) {
          // Those that name no window may be disproved.
          const of = seen.map(([fact]) => fact).filter((fact) => fact.group === group && fact.windowMs !== undefined);
          if (of.length < seen.filter(([fact]) => fact.group === group).length || of.length === 0) continue;
          const newest = Math.max(...of.map(({ observedAt }) => observedAt));
          const least = Math.min(...of.filter(({ observedAt }) => observedAt === newest).map(({ remainingRatio }) => remainingRatio));
          for (const known of [one, two]) {
            const held = known.of("a").find((fact) => fact.group === group);
            expect([held?.observedAt, held?.remainingRatio]).toEqual([newest, least]);
          }
        }
        clock.advance(later);
        expect(one.of("a").every(({ remainingRatio }) => remainingRatio <= 1)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  test("nobody grows surer by waiting, not when a quota is whole again either", async () => {
    await fc.assert(
      fc.asyncProperty(optional, fc.array(fc.integer({ min: 0, max: DAY }), { maxLength: 12 }), async (fact, waits) => {
        const clock = testClock();
        clock.set(START + DAY);
        const known = quotaFacts({ records: recordsOn(clock), clock, logger: keptLogger() });
        known.report(fact);
        let before = 1;
        for (const wait of waits) {
          clock.advance(wait);
          const [held] = known.of("a");
          if (!held) return;
          const now = confidenceOf(held, clock.now());
          expect(now).toBeLessThanOrEqual(before);
          expect(held.remainingRatio).toBeLessThanOrEqual(1);
          before = now;
        }
      }),
      { numRuns: 200 },
    );
  });
});
