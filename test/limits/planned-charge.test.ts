import { describe, expect, it } from "vitest";
import type { Charge, Rule } from "../../src/core/store.ts";
import { limitEngine, type LimitEngine } from "../../src/limits/engine.ts";
import { PlannedCharge } from "../../src/limits/planned-charge.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { testClock } from "../../src/testing/clock.ts";

const B = (capacity: number, n = 0): Rule => ({ kind: "bucket", capacity, n, d: 1 });
const plain = (key: string, amount: number, rule = B(100)): Charge => ({ key, rule, unit: "tokens", amount, enforce: true });
const planned = (key: string, amount: number, rule = B(100)): PlannedCharge => new PlannedCharge(plain(key, amount, rule));

function make(maxStates = 1_000) {
  const clock = testClock();
  const backend = new MemoryLimits(clock, maxStates);
  return { clock, backend, limits: limitEngine(backend) };
}

let ops = 0;

/** What is left after the charge. */
function take(limits: LimitEngine, charge: Charge): number | undefined {
  const result = limits.reserve(`op${(ops += 1)}`, [charge], 1_000);
  return result.kind === "allowed" ? result.standings[0]?.available : undefined;
}

describe("a planned charge in memory", () => {
  it("is charged to the counter of its key, as any other charge", () => {
    const { limits } = make();
    const charge = planned("a", 10);
    expect([take(limits, charge), take(limits, plain("a", 10)), take(limits, charge), take(limits, charge)]).toEqual([90, 80, 70, 60]);
  });

  it("hands its counter on to a charge of the same key only", () => {
    const { limits } = make();
    const first = planned("a", 10);
    take(limits, first);
    take(limits, first);
    expect(take(limits, new PlannedCharge(plain("a", 5), first))).toBe(75);
    expect(take(limits, new PlannedCharge(plain("b", 10), first))).toBe(90);
    expect(take(limits, Object.assign({}, first, { key: "c" }))).toBe(90);
  });

  it("is charged in each store on its own, in turns", () => {
    const one = make();
    const other = make();
    const charge = planned("a", 10);
    const left = [one, one, other, other, one, other].map(({ limits }) => take(limits, charge));
    expect(left).toEqual([90, 80, 90, 80, 70, 70]);
  });

  it("finds the counter that came after a dropped one", () => {
    const { clock, backend, limits } = make(10);
    const charge = planned("mine", 60, B(100, 1));
    expect([take(limits, charge), limits.settle(`op${ops}`, { tokens: 50 })]).toEqual([40, "applied"]);
    clock.advance(100);
    // Whole again, it makes room for others.
    for (let i = 0; i < 100; i += 1) take(limits, plain(`other${i}`, 0, B(100, 1)));
    expect(backend.state({ key: "mine" })).toBeUndefined();
    expect([take(limits, charge), take(limits, plain("mine", 20, B(100, 1))), take(limits, charge)]).toEqual([40, 20, undefined]);
    expect(limits.peek([{ key: "mine", rule: B(100, 1) }])).toMatchObject([{ available: 20 }]);
  });

  it("finds the state that came after one that had lapsed", () => {
    const { clock, limits } = make();
    const charge = planned("a", 60, B(100, 1));
    take(limits, charge);
    take(limits, planned("a", 10, B(100, 1)));
    clock.advance(200_000);
    expect([take(limits, charge), take(limits, plain("a", 30, B(100, 1))), take(limits, charge)]).toEqual([40, 10, undefined]);
  });

  it("says that a key of another kind cannot be charged", () => {
    const { limits } = make();
    take(limits, plain("a", 1));
    const charge = planned("a", 1, { kind: "sliding", limit: 10, perMs: 1_000, cellMs: 100 });
    for (let i = 0; i < 2; i += 1) expect(() => take(limits, charge)).toThrow(/limit a is a bucket and cannot be charged as a sliding/);
  });

  it("is refused twice in one reservation", () => {
    const { limits } = make();
    const charge = planned("a", 1);
    take(limits, charge);
    expect(() => limits.reserve("twice", [charge, plain("a", 1)], 1_000)).toThrow(/limit a occurs twice/);
  });
});
