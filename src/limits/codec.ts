import type { Charge, Rule, Unit } from "../core/store.ts";
import type { Reservation } from "./backend.ts";
import type { LimitState } from "./kind.ts";

/*
 * States and reservations as JSON text: every figure is an integer that JSON carries exactly, and an operator can read a row. The positions are
 * the file format: a new figure goes to the end, and a reader must do without it.
 */

type PackedState =
  | readonly ["b", t: number, level: number, carry: number, capacity: number, n: number, d: number]
  | readonly ["w", t: number, perMs: number, cellMs: number, shift: number, indexes: number[], counts: number[]]
  | readonly ["k", t: number, start: number, end: number, used: number, prevStart: number, prevUsed: number]
  | readonly ["c", t: number, holds: Record<string, number>];

type PackedRule =
  | readonly ["b", capacity: number, n: number, d: number]
  | readonly ["w", limit: number, perMs: number, cellMs: number]
  | readonly ["k", limit: number, b0: number, b1: number, b2: number, b3: number]
  | readonly ["c", limit: number];

type PackedReservation = readonly [
  charges: [key: string, unit: Unit, amount: number, enforce: 0 | 1, rule: PackedRule][],
  places: number[],
  skipped: number[],
];

/** The state of one limit as text, without its key. */
export function encodeState(state: LimitState): string {
  return JSON.stringify(packState(state));
}

/** Reads what {@link encodeState} wrote. Throws SyntaxError for anything else. */
export function decodeState(key: string, text: string): LimitState {
  const packed = JSON.parse(text) as PackedState;
  switch (packed[0]) {
    case "b": {
      const [, t, level, carry, capacity, n, d] = packed;
      return { kind: "bucket", key, level, carry, t, capacity, n, d };
    }
    case "w": {
      const [, t, perMs, cellMs, shift, indexes, counts] = packed;
      return { kind: "sliding", key, t, sum: counts.reduce((sum, count) => sum + count, 0), perMs, cellMs, shift, indexes, counts };
    }
    case "k": {
      const [, t, start, end, used, prevStart, prevUsed] = packed;
      return { kind: "calendar", key, t, start, end, used, prevStart, prevUsed };
    }
    case "c": {
      const holds = new Map(Object.entries(packed[2]));
      return { kind: "concurrency", key, t: packed[1], holds, earliest: Math.min(...holds.values()) };
    }
    default:
      throw new SyntaxError(`the stored state of limit ${key} is of no known kind: it was written by another version`);
  }
}

/** A reservation as text, without its expiry and whether that was reported: those are columns. */
export function encodeReservation({ charges, places, skipped }: Reservation): string {
  const packed: PackedReservation = [
    charges.map(({ key, unit, amount, enforce, rule }) => [key, unit, amount, enforce ? 1 : 0, packRule(rule)]),
    [...places],
    skipped === null ? [] : [...skipped],
  ];
  return JSON.stringify(packed);
}

/** Reads what {@link encodeReservation} wrote. */
export function decodeReservation(text: string, expiresAt: number, expired: boolean): Reservation {
  const [charges, places, skipped] = JSON.parse(text) as PackedReservation;
  return {
    charges: charges.map(([key, unit, amount, enforce, rule]): Charge => ({ key, rule: unpackRule(rule), unit, amount, enforce: enforce === 1 })),
    places,
    skipped: skipped.length === 0 ? null : new Set(skipped),
    expiresAt,
    expired,
  };
}

function packState(state: LimitState): PackedState {
  switch (state.kind) {
    case "bucket":
      return ["b", state.t, state.level, state.carry, state.capacity, state.n, state.d];
    case "sliding":
      return ["w", state.t, state.perMs, state.cellMs, state.shift, state.indexes, state.counts];
    case "calendar":
      return ["k", state.t, state.start, state.end, state.used, state.prevStart, state.prevUsed];
    case "concurrency":
      return ["c", state.t, Object.fromEntries(state.holds)];
  }
}

function packRule(rule: Rule): PackedRule {
  switch (rule.kind) {
    case "bucket":
      return ["b", rule.capacity, rule.n, rule.d];
    case "sliding":
      return ["w", rule.limit, rule.perMs, rule.cellMs];
    case "calendar":
      return ["k", rule.limit, ...rule.bounds];
    case "concurrency":
      return ["c", rule.limit];
  }
}

function unpackRule(packed: PackedRule): Rule {
  switch (packed[0]) {
    case "b":
      return { kind: "bucket", capacity: packed[1], n: packed[2], d: packed[3] };
    case "w":
      return { kind: "sliding", limit: packed[1], perMs: packed[2], cellMs: packed[3] };
    case "k":
      return { kind: "calendar", limit: packed[1], bounds: [packed[2], packed[3], packed[4], packed[5]] };
    case "c":
      return { kind: "concurrency", limit: packed[1] };
  }
}
