import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { LedgerRow } from "../../src/core/ledger.ts";
import type { LedgerFilter, LedgerGroup, LedgerTotal, Store } from "../../src/core/store.ts";
import { totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "./ledger-rows.ts";

const DAY_MS = 86_400_000;

const REFUSED = { state: "refused", status: 429, code: "budget_exhausted", attempts: 0, usage: null, provenance: "void", firstByteMs: null } as const;

/**
 * What every store must promise about records and the ledger. `make` opens an empty store on the given clock; the contract calls `ready()` and
 * `close()`.
 */
export function recordsLedgerContract(name: string, make: (clock: TestClock) => Store | Promise<Store>): void {
  let clock: TestClock;
  let store: Store;

  beforeEach(async () => {
    clock = testClock({ now: AT });
    store = await make(clock);
    await store.ready();
  });
  afterEach(() => store.close());

  describe(`${name}: records`, () => {
    it("keeps JSON values and gives each write of a key a higher version", async () => {
      const { records } = store;
      expect(await records.get("a/b")).toBeUndefined();
      const values = [{ nested: [1, null, "ж"] }, 0, "", null, false, []];
      let last = 0;
      for (const value of values) {
        const version = await records.put("a/b", value);
        expect(version).toBeGreaterThan(last);
        last = version as number;
        expect(await records.get("a/b")).toEqual({ key: "a/b", value, version });
      }
    });

    it("does not share a value with the caller", async () => {
      const value = { list: [1] };
      await store.records.put("own", value);
      value.list.push(2);
      const first = await store.records.get("own");
      expect(first?.value).toEqual({ list: [1] });
      (first as { value: typeof value }).value.list.push(3);
      expect((await store.records.get("own"))?.value).toEqual({ list: [1] });
    });

    it("ifAbsent writes once", async () => {
      expect(await store.records.put("k", 1, { ifAbsent: true })).toBeTypeOf("number");
      expect(await store.records.put("k", 2, { ifAbsent: true })).toBeUndefined();
      expect((await store.records.get("k"))?.value).toBe(1);
    });

    it("ifVersion writes over that version only, also after the key was deleted and made again", async () => {
      const first = (await store.records.put("k", 1)) as number;
      expect(await store.records.put("absent", 1, { ifVersion: first })).toBeUndefined();
      const second = (await store.records.put("k", 2, { ifVersion: first })) as number;
      expect(await store.records.put("k", 3, { ifVersion: first })).toBeUndefined();
      await store.records.delete("k");
      const again = (await store.records.put("k", 4)) as number;
      expect(again).toBeGreaterThan(second);
      expect(await store.records.put("k", 5, { ifVersion: first })).toBeUndefined();
      expect((await store.records.get("k"))?.value).toBe(4);
    });

    it("forgets a record when its ttl is over, and a later write without ttl keeps it", async () => {
      const { records } = store;
      await records.put("t/1", "short", { ttlMs: 1000 });
      await records.put("t/2", "short", { ttlMs: 1000 });
      await records.put("t/2", "kept");
      clock.advance(999);
      expect((await records.list("t/")).map((record) => record.key)).toEqual(["t/1", "t/2"]);
      clock.advance(1);
      expect(await records.get("t/1")).toBeUndefined();
      expect((await records.list("t/")).map((record) => record.value)).toEqual(["kept"]);
      expect(await records.delete("t/1")).toBe(false);
      expect(await records.put("t/1", "new", { ifAbsent: true })).toBeTypeOf("number");
    });

    it("delete says whether there was something", async () => {
      await store.records.put("k", 1);
      expect(await store.records.delete("k")).toBe(true);
      expect(await store.records.delete("k")).toBe(false);
      expect(await store.records.get("k")).toBeUndefined();
    });

    it("lists by prefix in key order, and a prefix is not a pattern", async () => {
      const keys = ["limits/a", "limits/b%", "limits/b_", "limits/bx", "limits", "limitsz/1", "limits/B", "limits/a/b", "other/é"];
      for (const key of keys) await store.records.put(key, key);
      const listed = async (prefix: string): Promise<readonly string[]> => (await store.records.list(prefix)).map((record) => record.key);
      expect(await listed("limits/")).toEqual(["limits/B", "limits/a", "limits/a/b", "limits/b%", "limits/b_", "limits/bx"]);
      expect(await listed("limits/b_")).toEqual(["limits/b_"]);
      expect(await listed("limits/b%")).toEqual(["limits/b%"]);
      expect(await listed("other/é")).toEqual(["other/é"]);
      expect(await listed("")).toEqual([...keys].sort());
      expect(await listed("none/")).toEqual([]);
    });

    it("tells watchers of changes below their prefix until they stop, and survives one that throws", async () => {
      const { records } = store;
      await records.put("w/old", 0);
      const seen: unknown[] = [];
      records.watch("w/", () => {
        throw new Error("a broken watcher");
      });
      const stop = records.watch("w/", (key, record) => void seen.push([key, record?.value]));
      await records.put("w/1", "one");
      await records.put("w/1", "refused", { ifAbsent: true });
      await records.put("x/1", "elsewhere");
      await records.delete("w/1");
      await records.delete("w/1");
      await expect
        .poll(() => seen)
        .toEqual([
          ["w/1", "one"],
          ["w/1", undefined],
        ]);
      stop();
      await records.put("w/2", "two");
      expect(seen).toHaveLength(2);
    });
  });

  describe(`${name}: ledger`, () => {
    it("shows an intent as an open row, by id and by request id", async () => {
      const intent = intentOf("i1", { requestId: "client-chosen", stream: true, scopes: { user: "u", feature: "search" } });
      await store.ledger.intent(intent);
      for (const id of ["i1", "client-chosen"]) {
        expect(await store.ledger.get(id)).toMatchObject({ ...intent, state: "intent", usage: null, rawNanoUsd: null, billedNanoUsd: null });
      }
      expect(await store.ledger.list({ state: "intent" })).toHaveLength(1);
      expect(await store.ledger.get("unheard-of")).toBeUndefined();
    });

    it("closes an intent with its terminal row, every field as given", async () => {
      const row = rowOf("i1", {
        requestId: "r1",
        stream: true,
        scopes: { org: "acme", feature: "a b'\"%", "odd.name": "x" },
        usage: { inputTokens: 1, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 2, reasoningTokens: 0, reportedUsd: 0.000123 },
      });
      await store.ledger.intent(intentOf("i1", row));
      store.ledger.close(row);
      await store.ledger.flush();
      expect(await store.ledger.get("i1")).toEqual(row);
      expect(await store.ledger.get("r1")).toEqual(row);
      expect(await store.ledger.list({})).toEqual([row]);
    });

    it("tells nothing, zero and unknown apart", async () => {
      const nothing = rowOf("a", { ...REFUSED, key: null, dialect: null, model: null, servedModel: null, provider: null, credential: null });
      const unpriced = { ...nothing, scopes: {}, held: {}, rawNanoUsd: null, billedNanoUsd: null, limit: "user-day" };
      const none: Usage = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0, reportedUsd: 0 };
      const zero = rowOf("b", { usage: none, rawNanoUsd: 0, billedNanoUsd: 0, held: { usd: 0 } });
      store.ledger.close(unpriced);
      store.ledger.close(zero);
      await store.ledger.flush();
      expect(await store.ledger.get("a")).toEqual(unpriced);
      expect(await store.ledger.get("b")).toEqual(zero);
    });

    it("changes nothing when an id is repeated", async () => {
      await store.ledger.intent(intentOf("i1"));
      store.ledger.close(rowOf("i1"));
      store.ledger.close(rowOf("i1", { state: "released", billedNanoUsd: 0 }));
      await store.ledger.flush();
      store.ledger.close(rowOf("i1", { state: "estimated", billedNanoUsd: 9 }));
      await store.ledger.flush();
      expect(await store.ledger.list({})).toEqual([rowOf("i1")]);
    });

    it("takes a terminal row without an intent, and one that arrives before its intent is committed", async () => {
      store.ledger.close(rowOf("none", REFUSED));
      const committed = store.ledger.intent(intentOf("quick"));
      store.ledger.close(rowOf("quick"));
      await committed;
      await store.ledger.flush();
      expect((await store.ledger.list({})).map((row) => [row.id, row.state])).toEqual([
        ["quick", "settled"],
        ["none", "refused"],
      ]);
    });

    it("keeps the rest of a tick's intents open when one of them ends", async () => {
      await Promise.all(["i1", "i2", "i3"].map((id) => store.ledger.intent(intentOf(id))));
      store.ledger.close(rowOf("i2"));
      await store.ledger.flush();
      expect((await store.ledger.list({ state: "intent" })).map((row) => row.id)).toEqual(["i3", "i1"]);
      expect((await store.ledger.list({})).map((row) => row.state)).toEqual(["intent", "settled", "intent"]);
      store.ledger.close(rowOf("i1"));
      store.ledger.close(rowOf("i3"));
      await store.ledger.flush();
      expect(await store.ledger.list({ state: "intent" })).toEqual([]);
      expect(await store.ledger.list({ state: "settled" })).toHaveLength(3);
    });

    it("shows one open row for a request with several attempts, with what the last one says", async () => {
      await Promise.all([store.ledger.intent(intentOf("i1", { credential: "first" })), store.ledger.intent(intentOf("other"))]);
      await store.ledger.intent(intentOf("i1", { credential: "second" }));
      await Promise.all([
        store.ledger.intent(intentOf("i1", { credential: "third" })),
        store.ledger.intent(intentOf("i1", { credential: "fourth" })),
      ]);
      expect((await store.ledger.list({ state: "intent" })).map((row) => [row.id, row.credential])).toEqual([
        ["other", "openai_main"],
        ["i1", "fourth"],
      ]);
      expect((await store.ledger.get("i1"))?.credential).toBe("fourth");
      store.ledger.close(rowOf("i1"));
      await store.ledger.flush();
      expect((await store.ledger.list({})).map((row) => [row.id, row.state])).toEqual([
        ["other", "intent"],
        ["i1", "settled"],
      ]);
    });

    it("finds the newest of several requests with one client-chosen id", async () => {
      for (const [id, at] of [
        ["a", AT],
        ["b", AT + 2],
        ["c", AT + 1],
      ] as const)
        store.ledger.close(rowOf(id, { requestId: "same", at }));
      await store.ledger.flush();
      expect((await store.ledger.get("same"))?.id).toBe("b");
    });

    it("lists newest first, by time, scopes, state and limit", async () => {
      for (const row of variedRows()) {
        if (row.state === "intent") await store.ledger.intent(row);
        else store.ledger.close(row);
      }
      await store.ledger.flush();
      const ids = async (filter: LedgerFilter): Promise<readonly string[]> => (await store.ledger.list(filter)).map((row) => row.id);
      expect(await ids({})).toEqual(["v5", "v4", "v3", "v2", "v1", "v0"]);
      expect(await ids({ limit: 2 })).toEqual(["v5", "v4"]);
      expect(await ids({ from: AT + DAY_MS, to: AT + 3 * DAY_MS })).toEqual(["v2", "v1"]);
      expect(await ids({ scopes: { user: "bob" } })).toEqual(["v5", "v3", "v1"]);
      expect(await ids({ scopes: { user: "bob", feature: "chat" } })).toEqual(["v5", "v3"]);
      expect(await ids({ scopes: { feature: "none" } })).toEqual([]);
      expect(await ids({ state: "refused" })).toEqual(["v2"]);
      expect(await ids({ state: "intent", limit: 1 })).toEqual(["v5"]);
    });

    it("totals what it lists, for every group", async () => {
      for (const row of variedRows()) {
        if (row.state === "intent") await store.ledger.intent(row);
        else store.ledger.close(row);
      }
      await store.ledger.flush();
      const groups: LedgerGroup[][] = [[], ["model"], ["provider", "credential"], ["key"], ["org", "team", "user"], ["day"], ["day", "user"]];
      for (const filter of [{}, { scopes: { user: "bob" } }, { from: AT + DAY_MS }, { state: "settled" as const }]) {
        const rows = await store.ledger.list(filter);
        for (const groupBy of groups) {
          expect(sorted(await store.ledger.totals(filter, groupBy)), JSON.stringify([filter, groupBy])).toEqual(sorted(fold(rows, groupBy)));
        }
      }
      expect(await store.ledger.totals({ scopes: { user: "nobody" } }, [])).toEqual([]);
    });

    it("adds money exactly", async () => {
      const half = 4_503_599_627_370_495;
      store.ledger.close(rowOf("a", { rawNanoUsd: half, billedNanoUsd: half }));
      store.ledger.close(rowOf("b", { rawNanoUsd: half, billedNanoUsd: half - 1 }));
      store.ledger.close(rowOf("c", { rawNanoUsd: null, billedNanoUsd: 1 }));
      await store.ledger.flush();
      expect(await store.ledger.totals({}, ["org"])).toMatchObject([{ rawNanoUsd: 9_007_199_254_740_990, billedNanoUsd: 9_007_199_254_740_990 }]);
    });
  });
}

/** Six rows, a day apart, with holes in every column that can be grouped by. */
function variedRows(): LedgerRow[] {
  return Array.from({ length: 6 }, (_, n) =>
    rowOf(`v${n}`, {
      requestId: n % 2 === 0 ? `v${n}` : `client-${n}`,
      at: AT + n * DAY_MS,
      key: n === 4 ? null : `key-${n % 2}`,
      model: n === 2 ? null : `model-${n % 2}`,
      provider: n === 2 ? null : "openai",
      credential: n === 2 ? null : `credential-${n % 3}`,
      scopes: n === 0 ? {} : { org: "acme", user: n % 2 === 0 ? "alice" : "bob", ...(n > 2 ? { feature: "chat" } : {}) },
      rawNanoUsd: n === 3 ? null : n,
      billedNanoUsd: n === 3 ? null : n * 10,
      ...(n === 2 ? REFUSED : {}),
      ...(n === 5 ? { state: "intent", usage: null, rawNanoUsd: null, billedNanoUsd: null } : {}),
    }),
  );
}

/** The totals as the interface defines them: the rows of the same filter, added up. A missing value counts under "". */
function fold(rows: readonly LedgerRow[], groupBy: readonly LedgerGroup[]): LedgerTotal[] {
  const totals = new Map<string, LedgerTotal>();
  for (const row of rows) {
    const day = new Date(row.at).toISOString().slice(0, 10);
    const { model, provider, credential, key } = row;
    const values = { model, provider, credential, key, day, org: row.scopes.org, team: row.scopes.team, user: row.scopes.user };
    const group = Object.fromEntries(groupBy.map((name) => [name, values[name] ?? ""]));
    const sum = totals.get(JSON.stringify(group));
    totals.set(JSON.stringify(group), {
      group,
      requests: 1 + (sum?.requests ?? 0),
      inputTokens: (row.usage ? totalInputTokens(row.usage) : 0) + (sum?.inputTokens ?? 0),
      outputTokens: (row.usage ? totalOutputTokens(row.usage) : 0) + (sum?.outputTokens ?? 0),
      rawNanoUsd: (row.rawNanoUsd ?? 0) + (sum?.rawNanoUsd ?? 0),
      billedNanoUsd: (row.billedNanoUsd ?? 0) + (sum?.billedNanoUsd ?? 0),
    });
  }
  return [...totals.values()];
}

function sorted(totals: readonly LedgerTotal[]): LedgerTotal[] {
  return [...totals].sort((a, b) => (JSON.stringify(a.group) < JSON.stringify(b.group) ? -1 : 1));
}
