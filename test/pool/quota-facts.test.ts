import { expect, test } from "vitest";
import type { QuotaFact } from "../../src/core/quota-fact.ts";
import { quotaFacts } from "../../src/pool/quota-facts.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { DAY, MINUTE, recordsOn, settled, slowRecords } from "./health-kit.ts";

function kit() {
  const clock = testClock();
  const logger = keptLogger();
  const records = recordsOn(clock);
  async function start(on = records) {
    const facts = quotaFacts({ records: on, clock, logger });
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
  return { clock, records, start, fact };
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

test("thirty-two groups are kept of a credential: who was seen longest ago makes room, in the store too", async () => {
  const { clock, records, start, fact } = kit();
  const facts = await start();
  for (let i = 0; i < 40; i += 1) {
    facts.report(fact(0.5, { group: `g${i}` }));
    clock.advance(1);
  }
  expect([facts.of("a").length, facts.of("a")[0]?.group, (await records.list("quota/")).length]).toEqual([32, "g8", 32]);
});

test("what is no fact is passed over", async () => {
  const { clock, records, start } = kit();
  await records.put("quota/a/x", { remainingRatio: 2, resetsAt: null, observedAt: clock.now(), source: "poll" });
  await records.put("quota/a/y", null);
  expect((await start()).of("a")).toEqual([]);
});
