import { expect } from "vitest";
import { charge, DAY, K, T, W } from "./harness.ts";
import { allowed, ask, refused, type Vector } from "./vector.ts";

export const windowVectors: readonly Vector[] = [
  {
    id: 12,
    trap: "a fixed or a weighted window admits 150 in 31 s",
    run(h) {
      const w = W(100, 60_000, 1000);
      allowed(ask(h, 59_900, [charge("w", w, 100)]));
      refused(ask(h, 60_100, [charge("w", w, 1)]), 59_900);
      refused(ask(h, 90_000, [charge("w", w, 50)]), 30_000);
      refused(ask(h, 119_999, [charge("w", w, 1)]), 1);
      allowed(ask(h, 120_000, [charge("w", w, 100)]));
    },
  },
  {
    id: 13,
    trap: "a refund is put into the current cell: 80 free at 61 s",
    run(h) {
      const w = W(100, 60_000, 1000);
      allowed(ask(h, 0, [charge("w", w, 80)], "x"));
      expect(h.at(30_000).store.settle("x", { tokens: 20 })).toBe("applied");
      allowed(ask(h, 30_000, [charge("w", w, 80)]));
      refused(ask(h, 61_000, [charge("w", w, 21)]), 30_000, { available: 20 });
      allowed(ask(h, 61_000, [charge("w", w, 20)]));
    },
  },
  {
    id: 14,
    trap: "an overage is booked into a cell that has left",
    run(h) {
      const w = W(100, 1000, 100);
      allowed(ask(h, 0, [charge("w", w, 10)], "x"));
      expect(h.at(5000).store.settle("x", { tokens: 60 })).toBe("applied");
      refused(ask(h, 5000, [charge("w", w, 51)]), 1100, { available: 50 });
    },
  },
  {
    id: 15,
    trap: "a refund of yesterday makes room today: 140 pass",
    run(h) {
      allowed(ask(h, -1, [charge("k", K(100, -1), 60)], "x"));
      expect(h.at(5).store.settle("x", { tokens: 20 })).toBe("applied");
      expect(ask(h, 5, [charge("k", K(100), 101)])).toMatchObject({ kind: "limited", worst: { tooSmall: true, available: 100 } });
      allowed(ask(h, 5, [charge("k", K(100), 100)]));
      refused(ask(h, 5, [charge("k", K(100), 1)]), 86_399_995);
      // The report figure of the previous day: 60 less the 40 given back.
      expect(h.dump(["k"])[0]).toBe(JSON.stringify(["k", T + 5, T, T + DAY, 100, T - DAY, 20]));
    },
  },
  {
    id: 16,
    trap: "an overage is lost at midnight",
    run(h) {
      allowed(ask(h, -1, [charge("k", K(100, -1), 60)], "x"));
      expect(h.at(5).store.settle("x", { tokens: 90 })).toBe("applied");
      refused(ask(h, 5, [charge("k", K(100), 71)]), 86_399_995, { available: 70 });
      allowed(ask(h, 5, [charge("k", K(100), 70)]));
    },
  },
  {
    id: 32,
    trap: "the caller's clock picks the day: five minutes before midnight today's limit is bypassed",
    run(h) {
      const ms = DAY - 120_000;
      allowed(ask(h, ms, [charge("k", K(100, ms), 90)]));
      const ahead = ms + 300_000;
      refused(ask(h, ms, [charge("k", K(100, ahead), 20)]), 120_000, { available: 10 });
      expect(ask(h, ms, [charge("k", K(100, ms + 3 * DAY), 20)], "far")).toEqual({ kind: "skew", now: T + ms });
      expect(ask(h, ms, [charge("k", K(100, ms - 2 * DAY), 20)], "far")).toEqual({ kind: "skew", now: T + ms });
      allowed(ask(h, ms, [charge("k", K(100, ms), 10)], "far"));
    },
  },
];
