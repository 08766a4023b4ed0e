import { beforeEach, expect, test } from "vitest";
import { secretBox } from "../../../src/core/secret-box.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { RecordStore } from "../../../src/core/store.ts";
import { CLAIMS, type Kept } from "../../../src/middleware/idempotency/claims.ts";
import { sealing } from "../../../src/middleware/idempotency/sealing.ts";
import { memoryRecords } from "../../../src/stores/memory-records.ts";
import { testClock } from "../../../src/testing/clock.ts";
import { keptLogger } from "../../core/context-kit.ts";

const ANSWERED: Kept = {
  state: "answered",
  digest: "d",
  requestId: "r",
  answer: { status: 200, headers: ["content-type", "text/plain"], body: [Buffer.from("a canary of a customer").toString("base64")] },
};
const LOST = { state: "lost", why: "dropped", digest: "d", requestId: "r" };

let below: RecordStore;
let logger: ReturnType<typeof keptLogger>;
beforeEach(() => {
  logger = keptLogger();
  below = memoryRecords(testClock().now, logger);
});

const sealed = (key = "a secret key for tests"): RecordStore => sealing(below, secretBox(new Secret(key), "idempotency"), logger);
const valueAt = async (records: RecordStore, key: string): Promise<unknown> => (await records.get(key))?.value;

test("an answer is given back as it was, and nobody else reads it", async () => {
  const records = sealed();
  const version = await records.put(`${CLAIMS}a`, ANSWERED, { ttlMs: 1_000 });
  expect(await records.get(`${CLAIMS}a`)).toEqual({ key: `${CLAIMS}a`, value: ANSWERED, version });
  const stored = JSON.stringify(await below.list(""));
  expect(stored).not.toContain((ANSWERED as { answer: { body: readonly string[] } }).answer.body[0]);
  expect(stored).not.toContain("text/plain");
  expect(stored).toContain('"digest":"d"');
});

test("what is no answer, and what others keep, stays as it is; an answer from before is read, too", async () => {
  const records = sealed();
  const open: Kept = { state: "open", digest: "d", requestId: "r", id: "1", owner: "o" };
  await records.put(`${CLAIMS}a`, open);
  await records.put("else", { state: "answered", answer: 1 });
  await below.put(`${CLAIMS}b`, ANSWERED);
  expect([await valueAt(below, `${CLAIMS}a`), await valueAt(below, "else")]).toEqual([open, { state: "answered", answer: 1 }]);
  expect([await valueAt(records, `${CLAIMS}a`), await valueAt(records, `${CLAIMS}b`)]).toEqual([open, ANSWERED]);
});

test("with another secret key, changed, or moved under another key it is lost and stays charged, which is said once", async () => {
  await sealed().put(`${CLAIMS}a`, ANSWERED);
  const moved = (await below.get(`${CLAIMS}a`))?.value as { sealed: string };
  await below.put(`${CLAIMS}b`, moved);
  await below.put(`${CLAIMS}c`, { ...moved, sealed: `${moved.sealed.slice(0, -4)}AAAA` });
  await below.put(`${CLAIMS}d`, { ...moved, sealed: "" });
  const [same, other] = [sealed(), sealed("another secret key")];
  for (const key of ["b", "c", "d"]) expect(await valueAt(same, CLAIMS + key)).toEqual(LOST);
  expect(await valueAt(other, `${CLAIMS}a`)).toEqual(LOST);
  expect(logger.lines.filter(({ level }) => level === "warn")).toHaveLength(2);
});
