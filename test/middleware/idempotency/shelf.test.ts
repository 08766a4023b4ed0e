import { expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { CLAIMS, type Kept } from "../../../src/middleware/idempotency/claims.ts";
import { shelf } from "../../../src/middleware/idempotency/shelf.ts";
import { memoryRecords } from "../../../src/stores/memory-records.ts";
import { testClock } from "../../../src/testing/clock.ts";
import { keptLogger } from "../../core/context-kit.ts";

const answered = (bytes: number): Kept => ({
  state: "answered",
  digest: "d",
  requestId: "r",
  answer: { status: 200, headers: [], body: ["x".repeat(bytes - 1), "y"] },
});
const OPEN: Kept = { state: "open", digest: "d", requestId: "r", id: "1", owner: "a" };

function bounded(maxKeys: number, maxBytes: number) {
  const clock = testClock();
  const records = memoryRecords(clock.now, keptLogger());
  const kept = shelf({ records, clock, maxKeys, maxBytes });
  const stateOf = async (key: string): Promise<unknown> => ((await records.get(CLAIMS + key))?.value as Kept | undefined)?.state;
  return { clock, kept, stateOf };
}

test("the oldest answers go first, their keys stay, and a key is counted once", async () => {
  const { kept, stateOf } = bounded(10, 100);
  for (const key of ["a", "b", "c"]) {
    const version = await kept.put(CLAIMS + key, OPEN, { ifAbsent: true, ttlMs: 1_000 });
    await kept.put(CLAIMS + key, answered(40), { ifVersion: version as number, ttlMs: 1_000 });
  }
  expect([await stateOf("a"), await stateOf("b"), await stateOf("c")]).toEqual(["lost", "answered", "answered"]);
  await kept.put(`${CLAIMS}d`, answered(20), { ttlMs: 1_000 });
  expect(await stateOf("b")).toBe("answered");
  await kept.put(`${CLAIMS}e`, answered(1), { ttlMs: 1_000 });
  expect([await stateOf("b"), await stateOf("c")]).toEqual(["lost", "answered"]);
});

test("more keys than there is room for are refused, until the first one has run out or is free", async () => {
  const { kept, clock } = bounded(2, 100);
  await kept.put(`${CLAIMS}a`, OPEN, { ttlMs: 1_000 });
  clock.advance(400);
  await kept.put(`${CLAIMS}b`, OPEN, { ttlMs: 1_000 });
  const refused: unknown = await Promise.resolve(kept.put(`${CLAIMS}c`, OPEN, { ttlMs: 1_000 })).catch((error: unknown) => error);
  expect(GuardError.is(refused) && [refused.code, refused.retryAfterMs]).toEqual(["overloaded", 600]);
  // What is there may change, and what is no key is not counted.
  await kept.put(`${CLAIMS}b`, answered(10), { ttlMs: 1_000 });
  await kept.put("idempotency/owner/a", {}, { ttlMs: 1_000 });
  clock.advance(600);
  expect(await kept.put(`${CLAIMS}c`, OPEN, { ttlMs: 1_000 })).toBeDefined();
  await kept.put(`${CLAIMS}c`, { state: "free" }, { ttlMs: 1 });
  expect(await kept.put(`${CLAIMS}d`, OPEN, { ttlMs: 1_000 })).toBeDefined();
});
