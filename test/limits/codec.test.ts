import { describe, expect, it } from "vitest";
import { decodeReservation, decodeState, encodeReservation, encodeState } from "../../src/limits/codec.ts";
import type { Reservation } from "../../src/limits/backend.ts";
import type { LimitState } from "../../src/limits/kind.ts";
import { B, C, charge, K, T, W } from "./harness.ts";

const states: readonly LimitState[] = [
  {
    kind: "bucket",
    key: "k",
    level: -4_000_000_000_000_000,
    carry: 193_181_760_067,
    t: T + 1,
    capacity: 3_999_999_999_999_999,
    n: 22_359,
    d: 193_181_760_068,
  },
  { kind: "sliding", key: "k", t: T, sum: 30, perMs: 60_000, cellMs: 1000, shift: 3, indexes: [1, 5], counts: [10, 20] },
  { kind: "sliding", key: "k", t: T, sum: 0, perMs: 60_000, cellMs: 1000, shift: 0, indexes: [], counts: [] },
  { kind: "calendar", key: "k", t: T + 5, start: T, end: T + 86_400_000, used: 8_000_000_000_000_000, prevStart: -1, prevUsed: 0 },
  {
    kind: "concurrency",
    key: "k",
    t: T,
    holds: new Map([
      ["10", T + 9],
      ["__proto__", T + 5],
      ['b "quoted"', T + 7],
    ]),
    earliest: T + 5,
  },
  { kind: "concurrency", key: "k", t: T, holds: new Map(), earliest: Infinity },
];

describe("states", () => {
  it.each(states.map((state) => [state.kind, state] as const))("%s comes back as it was, from text alone", (_kind, state) => {
    expect(decodeState("k", encodeState(state))).toEqual(state);
  });

  it("of another version are not guessed at", () => {
    expect(() => decodeState("user-day", '["z",1]')).toThrow(/user-day.*another version/);
    expect(() => decodeState("user-day", "")).toThrow(SyntaxError);
  });
});

describe("reservations", () => {
  const charges = [
    charge("a", B(10, 1, 40), 3),
    charge("b", W(10, 1000, 100), 9_000_000_000_000_000, { enforce: false }),
    charge("c", K(5), 1, { unit: "usd" }),
    charge("d", C(2), 1, { unit: "concurrent" }),
  ];

  it.each<[string, Reservation]>([
    ["with every kind of charge", { charges, places: [0, 17_000_000, T, 0], skipped: new Set([1]), expiresAt: T + 5, expired: false }],
    ["that expired", { charges: charges.slice(0, 1), places: [], skipped: null, expiresAt: T, expired: true }],
  ])("%s come back as they were", (_what, reservation) => {
    expect(decodeReservation(encodeReservation(reservation), reservation.expiresAt, reservation.expired)).toEqual(reservation);
  });
});
