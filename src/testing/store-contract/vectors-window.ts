import { allowed, ask, charge, DAY, ends, K, refused, T, W, type Vector } from "./limits-kit.ts";

export const windowVectors: readonly Vector[] = [
  {
    id: 12,
    trap: "a fixed or a weighted window admits 150 in 31 s",
    async run(h) {
      const w = W(100, 60_000, 1000);
      await allowed(ask(h, 59_900, [charge("w", w, 100)]));
      await refused(ask(h, 60_100, [charge("w", w, 1)]), { waitMs: 59_900 });
      await refused(ask(h, 90_000, [charge("w", w, 50)]), { waitMs: 30_000 });
      await refused(ask(h, 119_999, [charge("w", w, 1)]), { waitMs: 1 });
      await allowed(ask(h, 120_000, [charge("w", w, 100)]));
    },
  },
  {
    id: 13,
    trap: "a refund is put into the current cell: 80 free at 61 s",
    async run(h) {
      const w = W(100, 60_000, 1000);
      await allowed(ask(h, 0, [charge("w", w, 80)], "x"));
      await ends(h.at(30_000).store.settle("x", { tokens: 20 }), "applied");
      await allowed(ask(h, 30_000, [charge("w", w, 80)]));
      await refused(ask(h, 61_000, [charge("w", w, 21)]), { waitMs: 30_000, available: 20 });
      await allowed(ask(h, 61_000, [charge("w", w, 20)]));
    },
  },
  {
    id: 14,
    trap: "an overage is booked into a cell that has left",
    async run(h) {
      const w = W(100, 1000, 100);
      await allowed(ask(h, 0, [charge("w", w, 10)], "x"));
      await ends(h.at(5000).store.settle("x", { tokens: 60 }), "applied");
      await refused(ask(h, 5000, [charge("w", w, 51)]), { waitMs: 1100, available: 50 });
    },
  },
  {
    id: 15,
    trap: "a refund of yesterday makes room today: 140 pass",
    async run(h) {
      await allowed(ask(h, -1, [charge("k", K(100, -1), 60)], "x"));
      await ends(h.at(5).store.settle("x", { tokens: 20 }), "applied");
      await refused(ask(h, 5, [charge("k", K(100), 101)]), { waitMs: null, tooSmall: true, available: 100 });
      await allowed(ask(h, 5, [charge("k", K(100), 100)]));
      await refused(ask(h, 5, [charge("k", K(100), 1)]), { waitMs: 86_399_995 });
      // Also where the refund would find something to take back.
      await allowed(ask(h, -1, [charge("busy", K(100, -1), 60)], "y"));
      await allowed(ask(h, 3, [charge("busy", K(100), 30)]));
      await ends(h.at(5).store.settle("y", { tokens: 20 }), "applied");
      await refused(ask(h, 5, [charge("busy", K(100), 71)]), { waitMs: 86_399_995, available: 70 });
    },
  },
  {
    id: 16,
    trap: "an overage is lost at midnight",
    async run(h) {
      await allowed(ask(h, -1, [charge("k", K(100, -1), 60)], "x"));
      await ends(h.at(5).store.settle("x", { tokens: 90 }), "applied");
      await refused(ask(h, 5, [charge("k", K(100), 71)]), { waitMs: 86_399_995, available: 70 });
      await allowed(ask(h, 5, [charge("k", K(100), 70)]));
    },
  },
  {
    id: 32,
    trap: "the caller's clock picks the day: five minutes before midnight today's limit is bypassed",
    async run(h) {
      const ms = DAY - 120_000;
      await allowed(ask(h, ms, [charge("k", K(100, ms), 90)]));
      const ahead = ms + 300_000;
      await refused(ask(h, ms, [charge("k", K(100, ahead), 20)]), { waitMs: 120_000, available: 10 });
      await ends(ask(h, ms, [charge("k", K(100, ms + 3 * DAY), 20)], "far"), { kind: "skew", now: T + ms });
      await ends(ask(h, ms, [charge("k", K(100, ms - 2 * DAY), 20)], "far"), { kind: "skew", now: T + ms });
      await allowed(ask(h, ms, [charge("k", K(100, ms), 10)], "far"));
    },
  },
];
