// A day of ten accounts whose quotas begin anew every five hours, seen once a minute and never exactly.
import { describe, expect, test } from "vitest";
import { CONTENDERS } from "../../../bench/choosing/contenders.ts";
import { simulate, type Contender, type Day, type Outcome } from "../../../bench/choosing/simulation.ts";

const dayOf = (name: string, day: Day): Outcome => simulate(CONTENDERS[name] as Contender, day);

describe.each([1, 2, 3, 4, 5])("day %d", (seed) => {
  const quota = dayOf("quota", { seed });

  test("quota lets end at most a fiftieth of what could have been used, and goes over a tenth as often as the best score does, or less", () => {
    const best = dayOf("best score wins", { seed });
    expect(quota.waste).toBeLessThanOrEqual(0.02);
    expect(quota.switchesPerHour).toBeLessThanOrEqual(best.switchesPerHour / 10);
    // It has to go over when an account ends: else nothing was measured.
    expect(quota.switchesPerHour).toBeGreaterThan(1);
  });

  test("it serves more than who knows nothing of quotas, and sends less in vain", () => {
    for (const name of ["round-robin", "fill-first"]) {
      const other = dayOf(name, { seed });
      expect(quota.served).toBeGreaterThan(other.served);
      expect(quota.overspent).toBeLessThan(other.overspent);
    }
    expect(quota.overspent / quota.asked).toBeLessThan(0.002);
  });
});

describe("a third more than all accounts together have", () => {
  const day = { seed: 1, load: 1.3 };

  test("quota still serves most of ours, and a policy of refill alone wastes next to nothing", () => {
    const served = (name: string): number => dayOf(name, day).served;
    expect(served("quota")).toBeGreaterThan(Math.max(...["round-robin", "fill-first", "weighted"].map(served)));
    expect(dayOf("quota, refill only", day).waste).toBeLessThanOrEqual(0.02);
  });
});

test("the same day is the same day", () => expect(dayOf("quota", { seed: 9 })).toEqual(dayOf("quota", { seed: 9 })));
