import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { StrikeStore } from "../../core/store.ts";
import type { ContractCase } from "./contract-case.ts";

const MINUTE = 60_000;

/** One more strike than before tells how many stood. */
const standing = async (strikes: StrikeStore, key: string): Promise<number> => (await strikes.strike(key, MINUTE)) - 1;

export const strikeCases: readonly ContractCase[] = [
  {
    name: "are counted by key",
    async run({ strikes }) {
      const counts: number[] = [];
      for (const key of ["a", "a", "b", "a", "b", "__proto__", "a:b", "a%"]) counts.push(await strikes.strike(key, MINUTE));
      deepStrictEqual(counts, [1, 2, 1, 3, 2, 1, 1, 1]);
    },
  },
  {
    name: "given at the same time each have their own number",
    async run({ strikes }) {
      const counts = await Promise.all(Array.from({ length: 20 }, async () => await strikes.strike("a", MINUTE)));
      deepStrictEqual(
        counts.sort((a, b) => a - b),
        Array.from({ length: 20 }, (_, i) => i + 1),
      );
    },
  },
  {
    name: "are gone when they are cleared, and only those",
    async run({ strikes }) {
      await strikes.clear("a");
      for (const key of ["a", "a", "b"]) await strikes.strike(key, MINUTE);
      await strikes.clear("a");
      deepStrictEqual([await standing(strikes, "a"), await standing(strikes, "b")], [0, 1]);
    },
  },
];

/** What can only be seen where the strikes run on the clock of the case. */
export const strikeWindowCases: readonly ContractCase[] = [
  {
    name: "stand for exactly the window, counted from the first one",
    async run({ strikes }, clock) {
      for (const windowMs of [1, 999, MINUTE, 10_000_000_000]) {
        await strikes.strike(`a${windowMs}`, windowMs);
        clock.jump(windowMs - 1);
        strictEqual(await strikes.strike(`a${windowMs}`, windowMs), 2);
        clock.jump(1);
        strictEqual(await strikes.strike(`a${windowMs}`, windowMs), 1);
      }
    },
  },
  {
    name: "begin a window of their own after the last one",
    async run({ strikes }, clock) {
      await strikes.strike("a", MINUTE);
      clock.jump(MINUTE);
      strictEqual(await strikes.strike("a", 10), 1);
      clock.jump(9);
      strictEqual(await strikes.strike("a", MINUTE), 2);
      clock.jump(1);
      strictEqual(await strikes.strike("a", MINUTE), 1);
    },
  },
];
