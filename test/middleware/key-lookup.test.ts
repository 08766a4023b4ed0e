import { expect, test } from "vitest";
import type { RecordStore, StoredRecord } from "../../src/core/store.ts";
import { keyLookup } from "../../src/middleware/auth/key-lookup.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { kit, rejectionOf } from "../core/context-kit.ts";

const RECORD = { name: "alice", scopes: {}, models: null, mayAssertScopes: false, expiresAt: null };

/** Records that answer when they are told to, with what stood there when they were asked. */
function slow() {
  const from = kit();
  const kept = memoryRecords(from.clock.now, from.logger);
  const waiting: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];
  const records: RecordStore = {
    ...kept,
    async get(key) {
      const found = await kept.get(key);
      return new Promise<StoredRecord | undefined>((resolve, reject) => void waiting.push({ resolve: () => resolve(found), reject }));
    },
  };
  const uses: string[] = [];
  const lookup = keyLookup({ records, clock: from.clock, logger: from.logger, onUse: (name) => void uses.push(name) });
  const asked = async (count: number): Promise<void> => {
    await expect.poll(() => waiting.length).toBe(count);
  };
  return { ...from, kept, waiting, lookup, uses, asked };
}

test("many requests with one key ask once", async () => {
  const { kept, waiting, lookup, uses, asked } = slow();
  await kept.put("api-key/d", RECORD);
  const found = Promise.all(Array.from({ length: 50 }, () => lookup.find("d")));
  await asked(1);
  waiting[0]?.resolve();
  expect((await found).map((each) => each?.principal.name)).toEqual(Array.from({ length: 50 }, () => "alice"));
  expect([waiting.length, uses]).toEqual([1, ["alice"]]);
});

test("whoever only looks has not used it", async () => {
  const { kept, waiting, lookup, uses, asked } = slow();
  await kept.put("api-key/d", RECORD);
  const looked = lookup.find("d", false);
  await asked(1);
  waiting[0]?.resolve();
  expect([(await looked)?.principal.name, uses]).toEqual(["alice", []]);
  await lookup.find("d");
  expect(uses).toEqual(["alice"]);
});

test("a key that is revoked while it is read is asked for again, so that the old answer does not stand", async () => {
  const { kept, waiting, lookup, asked } = slow();
  await kept.put("api-key/d", RECORD);
  const found = lookup.find("d");
  await asked(1);
  await kept.delete("api-key/d");
  waiting[0]?.resolve();
  await asked(2);
  waiting[1]?.resolve();
  expect(await found).toBeUndefined();
  expect(lookup.find("d")).toBeUndefined();
});

test("while the database is away nobody waits for it twice, and it is tried until it is back", async () => {
  const { kept, clock, logger, waiting, lookup, asked } = slow();
  await kept.put("api-key/d", RECORD);
  const first = lookup.find("d");
  await asked(1);
  waiting[0]?.resolve();
  await first;
  clock.advance(1_500);
  const second = lookup.find("d");
  await asked(2);
  waiting[1]?.reject(new Error("away"));
  expect((await second)?.principal.name).toBe("alice");
  // From here on it is known to be away.
  expect(lookup.find("d")).toMatchObject({ principal: { name: "alice" } });
  await asked(3);
  const other = rejectionOf(Promise.resolve(lookup.find("e")));
  await asked(4);
  waiting[3]?.reject(new Error("away"));
  expect(await other).toMatchObject({ code: "store_unavailable", retryAfterMs: 1_000 });
  await kept.delete("api-key/d");
  waiting[2]?.resolve();
  await asked(5);
  waiting[4]?.resolve();
  await expect.poll(() => logger.lines.map(({ level }) => level)).toEqual(["warn", "info"]);
  expect(lookup.find("d")).toBeUndefined();
});

test("more look-ups at one time than a database can be asked are told to come back", async () => {
  const { lookup, asked } = slow();
  const all = Array.from({ length: 1_000 }, async (_, i) => lookup.find(`d${i}`));
  await asked(1_000);
  expect(() => lookup.find("one more")).toThrow(expect.objectContaining({ code: "store_unavailable" }));
  expect(all).toHaveLength(1_000);
});
