import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { LedgerStore, RecordStore } from "../../core/store.ts";
import { gathered, type ContractCase } from "./contract-case.ts";

async function put(records: RecordStore, ...args: Parameters<RecordStore["put"]>): Promise<number> {
  const version = await records.put(...args);
  if (version === undefined) throw new Error(`${args[0]} was not written`);
  return version;
}

async function valueOf(records: RecordStore, key: string): Promise<unknown> {
  return (await records.get(key))?.value;
}

async function keysBelow(records: RecordStore, prefix: string): Promise<readonly string[]> {
  return (await records.list(prefix)).map(({ key }) => key);
}

export const recordCases: readonly ContractCase<LedgerStore>[] = [
  {
    name: "keep JSON values, and each write of a key has a higher version",
    async run({ records }) {
      strictEqual(await records.get("a/b"), undefined);
      const values = [{ nested: [1, null, "ж"] }, 0, "", null, false, []];
      let last = 0;
      for (const value of values) {
        const version = await put(records, "a/b", value);
        ok(version > last, `version ${version} after ${last}`);
        last = version;
        deepStrictEqual(await records.get("a/b"), { key: "a/b", value, version });
      }
    },
  },
  {
    name: "are not shared with the caller",
    async run({ records }) {
      const value = { list: [1] };
      await records.put("own", value);
      value.list.push(2);
      const first = await valueOf(records, "own");
      deepStrictEqual(first, { list: [1] });
      first.list.push(3);
      deepStrictEqual(await valueOf(records, "own"), { list: [1] });
    },
  },
  {
    name: "ifAbsent writes once",
    async run({ records }) {
      await put(records, "k", 1, { ifAbsent: true });
      strictEqual(await records.put("k", 2, { ifAbsent: true }), undefined);
      strictEqual(await valueOf(records, "k"), 1);
    },
  },
  {
    name: "ifAbsent lets exactly one of many at once through",
    async run({ records }) {
      const versions = await Promise.all(Array.from({ length: 20 }, async (_, i) => await records.put("k", i, { ifAbsent: true })));
      const written = versions.filter((version) => version !== undefined);
      strictEqual(written.length, 1);
      deepStrictEqual(await records.get("k"), { key: "k", value: versions.indexOf(written[0]), version: written[0] });
    },
  },
  {
    name: "ifVersion writes over that version only, also after the key was deleted and made again",
    async run({ records }) {
      const first = await put(records, "k", 1);
      strictEqual(await records.put("absent", 1, { ifVersion: first }), undefined);
      const second = await put(records, "k", 2, { ifVersion: first });
      strictEqual(await records.put("k", 3, { ifVersion: first }), undefined);
      await records.delete("k");
      const again = await put(records, "k", 4);
      ok(again > second, `version ${again} after ${second}`);
      strictEqual(await records.put("k", 5, { ifVersion: first }), undefined);
      strictEqual(await valueOf(records, "k"), 4);
    },
  },
  {
    name: "are forgotten when their ttl is over; a later write without ttl keeps them",
    async run({ records }, clock) {
      await records.put("t/1", "short", { ttlMs: 1000 });
      await records.put("t/2", "short", { ttlMs: 1000 });
      await records.put("t/2", "kept");
      clock.advance(999);
      deepStrictEqual(await keysBelow(records, "t/"), ["t/1", "t/2"]);
      clock.advance(1);
      strictEqual(await records.get("t/1"), undefined);
      deepStrictEqual(await keysBelow(records, "t/"), ["t/2"]);
      strictEqual(await records.delete("t/1"), false);
      await put(records, "t/1", "new", { ifAbsent: true });
      strictEqual(await valueOf(records, "t/2"), "kept");
    },
  },
  {
    name: "delete says whether there was something",
    async run({ records }) {
      await records.put("k", 1);
      strictEqual(await records.delete("k"), true);
      strictEqual(await records.delete("k"), false);
      strictEqual(await records.get("k"), undefined);
    },
  },
  {
    name: "are listed by prefix in key order, and a prefix is not a pattern",
    async run({ records }) {
      const keys = ["limits/a", "limits/b%", "limits/b_", "limits/bx", "limits", "limitsz/1", "limits/B", "limits/a/b", "other/é", "o*/[a]?\\"];
      for (const key of keys) await records.put(key, key);
      deepStrictEqual(await keysBelow(records, "limits/"), ["limits/B", "limits/a", "limits/a/b", "limits/b%", "limits/b_", "limits/bx"]);
      for (const prefix of ["limits/b_", "limits/b%", "other/é", "o*/[a]?\\"]) deepStrictEqual(await keysBelow(records, prefix), [prefix]);
      deepStrictEqual(await keysBelow(records, "o*/"), ["o*/[a]?\\"]);
      deepStrictEqual(await keysBelow(records, ""), [...keys].sort());
      deepStrictEqual(await keysBelow(records, "none/"), []);
    },
  },
  {
    name: "watchers are told of each change below their prefix, once and in order",
    async run({ records }) {
      await records.put("w/old", 0);
      const seen = gathered<unknown>();
      const stop = records.watch("w/", (key, record) => seen.add([key, record?.value, record?.version]));
      const first = await put(records, "w/1", "one");
      await records.put("w/1", "refused", { ifAbsent: true });
      await records.put("x/1", "elsewhere");
      const second = await put(records, "w/2", { two: 2 });
      await records.delete("w/1");
      await records.delete("w/1");
      const last = await put(records, "w/3", "last");
      await seen.count(4);
      deepStrictEqual(seen.all, [
        ["w/1", "one", first],
        ["w/2", { two: 2 }, second],
        ["w/1", undefined, undefined],
        ["w/3", "last", last],
      ]);
      stop();
    },
  },
  {
    name: "a watcher that throws disturbs neither the write nor other watchers",
    async run({ records }) {
      const seen = gathered<string>();
      const stopBroken = records.watch("w/", () => {
        throw new Error("a broken watcher");
      });
      const stop = records.watch("w/", (key) => seen.add(key));
      await put(records, "w/1", 1);
      await put(records, "w/2", 2);
      await seen.count(2);
      deepStrictEqual(seen.all, ["w/1", "w/2"]);
      stopBroken();
      stop();
    },
  },
  {
    name: "a watcher that has stopped is told nothing",
    async run({ records }) {
      const [stopped, going] = [gathered<string>(), gathered<string>()];
      const stop = records.watch("w/", (key) => stopped.add(key));
      const stopGoing = records.watch("w/", (key) => going.add(key));
      stop();
      await put(records, "w/1", 1);
      // Who is told later, if at all, is told after this one.
      await going.count(1);
      await put(records, "w/2", 2);
      await going.count(2);
      deepStrictEqual(stopped.all, []);
      stopGoing();
    },
  },
];
