import { expect } from "vitest";
import type { Charge, ReserveResult, Rule, Standing } from "../../src/core/store.ts";
import type { Harness } from "./harness.ts";

/** What a store must do, by number. Each is a trap that an ordinary implementation falls into: `trap` says how. */
export interface Vector {
  readonly id: number;
  readonly trap: string;
  run(h: Harness): void;
}

export const TTL = 300_000;
let ops = 0;

/** Reserves under an opId of its own. */
export function ask(h: Harness, ms: number, charges: readonly Charge[], opId = `op${(ops += 1)}`): ReserveResult {
  return h.at(ms).store.reserve(opId, charges, TTL);
}

export function allowed(result: ReserveResult): readonly Standing[] {
  expect(result).toMatchObject({ kind: "allowed", replayed: false });
  return result.kind === "allowed" ? result.standings : [];
}

export function refused(
  result: ReserveResult,
  waitMs: number | null,
  more: { readonly available?: number; readonly index?: number; readonly tooSmall?: boolean } = {},
): void {
  expect(result).toMatchObject({ kind: "limited", worst: { waitMs, tooSmall: false, ...more } });
}

export function left(h: Harness, key: string, rule: Rule): number | undefined {
  return h.store.peek([{ key, rule }])[0]?.available;
}
