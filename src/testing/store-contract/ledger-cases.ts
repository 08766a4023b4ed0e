import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { openRow, type LedgerRow } from "../../core/ledger.ts";
import type { Ledger, LedgerFilter, LedgerStore } from "../../core/store.ts";
import type { Usage } from "../../core/usage.ts";
import type { ContractCase } from "./contract-case.ts";
import { AT, intentOf, rowOf, VOID } from "./ledger-rows.ts";

async function close(ledger: Ledger, ...rows: readonly LedgerRow[]): Promise<void> {
  for (const row of rows) ledger.close(row);
  await ledger.flush();
}

async function idsOf(ledger: Ledger, filter: LedgerFilter = {}): Promise<readonly string[]> {
  return (await ledger.list(filter)).map(({ id }) => id);
}

async function endings(ledger: Ledger): Promise<readonly (readonly [id: string, state: string])[]> {
  return (await ledger.list({})).map(({ id, state }) => [id, state]);
}

const rowCases: readonly ContractCase<LedgerStore>[] = [
  {
    name: "an intent is an open row, by id and by request id",
    async run({ ledger }) {
      const intent = intentOf("i1", { requestId: "client-chosen", stream: true, scopes: { user: "u", feature: "search" } });
      await ledger.intent(intent);
      for (const id of ["i1", "client-chosen"]) deepStrictEqual(await ledger.get(id), openRow(intent));
      deepStrictEqual(await ledger.list({ state: "intent" }), [openRow(intent)]);
      strictEqual(await ledger.get("unheard-of"), undefined);
    },
  },
  {
    name: "the terminal row closes its intent, every field as given",
    async run({ ledger }) {
      const row = rowOf("i1", {
        requestId: "r1",
        stream: true,
        scopes: { org: "acme", feature: "a b'\"%", "odd.name": "x" },
        usage: { inputTokens: 1, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 2, reasoningTokens: 0, reportedUsd: 0.000123 },
      });
      await ledger.intent(intentOf("i1", row));
      await close(ledger, row);
      deepStrictEqual(await ledger.get("i1"), row);
      deepStrictEqual(await ledger.get("r1"), row);
      deepStrictEqual(await ledger.list({}), [row]);
    },
  },
  {
    name: "nothing, zero and unknown are told apart",
    async run({ ledger }) {
      const nothing = rowOf("a", { ...VOID, key: null, dialect: null, model: null, servedModel: null, provider: null, credential: null });
      const unpriced = { ...nothing, scopes: {}, held: {}, rawNanoUsd: null, billedNanoUsd: null, limit: "user-day" };
      const none: Usage = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0, reportedUsd: 0 };
      const zero = rowOf("b", { usage: none, rawNanoUsd: 0, billedNanoUsd: 0, held: { usd: 0 } });
      await close(ledger, unpriced, zero);
      deepStrictEqual(await ledger.get("a"), unpriced);
      deepStrictEqual(await ledger.get("b"), zero);
    },
  },
  {
    name: "an id that is repeated changes nothing",
    async run({ ledger }) {
      await ledger.intent(intentOf("i1"));
      await close(ledger, rowOf("i1"), rowOf("i1", { state: "released", billedNanoUsd: 0 }));
      await close(ledger, rowOf("i1", { state: "estimated", billedNanoUsd: 9 }));
      await ledger.intent(intentOf("i1"));
      deepStrictEqual(await ledger.list({}), [rowOf("i1")]);
    },
  },
  {
    name: "a terminal row needs no intent, and may come before its intent is committed",
    async run({ ledger }) {
      ledger.close(rowOf("none", VOID));
      const committed = ledger.intent(intentOf("quick"));
      ledger.close(rowOf("quick"));
      await committed;
      await ledger.flush();
      deepStrictEqual(await endings(ledger), [
        ["quick", "settled"],
        ["none", "refused"],
      ]);
    },
  },
  {
    name: "of several intents of one tick each ends by itself",
    async run({ ledger }) {
      await Promise.all(["i1", "i2", "i3"].map((id) => ledger.intent(intentOf(id))));
      await close(ledger, rowOf("i2"));
      deepStrictEqual(await idsOf(ledger, { state: "intent" }), ["i3", "i1"]);
      deepStrictEqual(
        (await endings(ledger)).map(([, state]) => state),
        ["intent", "settled", "intent"],
      );
      await close(ledger, rowOf("i1"), rowOf("i3"));
      deepStrictEqual(await idsOf(ledger, { state: "intent" }), []);
      strictEqual((await idsOf(ledger, { state: "settled" })).length, 3);
    },
  },
  {
    name: "a request with several attempts has one open row, with what the last one says",
    async run({ ledger }) {
      await Promise.all([ledger.intent(intentOf("i1", { credential: "first" })), ledger.intent(intentOf("other"))]);
      await ledger.intent(intentOf("i1", { credential: "second" }));
      await Promise.all([ledger.intent(intentOf("i1", { credential: "third" })), ledger.intent(intentOf("i1", { credential: "fourth" }))]);
      deepStrictEqual(
        (await ledger.list({ state: "intent" })).map(({ id, credential }) => [id, credential]),
        [
          ["other", "openai_main"],
          ["i1", "fourth"],
        ],
      );
      strictEqual((await ledger.get("i1"))?.credential, "fourth");
      await close(ledger, rowOf("i1"));
      deepStrictEqual(await endings(ledger), [
        ["other", "intent"],
        ["i1", "settled"],
      ]);
    },
  },
  {
    name: "of several requests with one client-chosen id the newest is found",
    async run({ ledger }) {
      const times = { a: AT, b: AT + 2, c: AT + 1 };
      await close(ledger, ...Object.entries(times).map(([id, at]) => rowOf(id, { requestId: "same", at })));
      strictEqual((await ledger.get("same"))?.id, "b");
    },
  },
];

/** More than any page may hold. */
const MANY_ROWS = 3000;

async function pagesOf(ledger: Ledger, fromMs: number): Promise<readonly (readonly LedgerRow[])[]> {
  const pages: (readonly LedgerRow[])[] = [];
  for await (const page of ledger.scan(fromMs)) pages.push(page);
  return pages;
}

const scanCases: readonly ContractCase<LedgerStore>[] = [
  {
    name: "a scan gives every row from a time on, open ones too, finished ones oldest first",
    async run({ ledger }) {
      await close(ledger, ...[3, 1, 2, 0, 4].map((n) => rowOf(`r${n}`, { at: AT + n })), rowOf("refused", { ...VOID, at: AT + 5 }));
      await Promise.all([0, 2, 9].map((n) => ledger.intent(intentOf(`i${n}`, { at: AT + n }))));
      const rows = (await pagesOf(ledger, AT + 1)).flat();
      deepStrictEqual(
        rows.filter(({ state }) => state !== "intent").map(({ id }) => id),
        ["r1", "r2", "r3", "r4", "refused"],
      );
      deepStrictEqual(
        rows
          .filter(({ state }) => state === "intent")
          .map(({ id }) => id)
          .sort(),
        ["i2", "i9"],
      );
      deepStrictEqual(
        rows.find(({ id }) => id === "r3"),
        rowOf("r3", { at: AT + 3 }),
      );
      deepStrictEqual(
        rows.find(({ id }) => id === "i9"),
        openRow(intentOf("i9", { at: AT + 9 })),
      );
      deepStrictEqual((await pagesOf(ledger, AT + 10)).flat(), []);
    },
  },
  {
    name: "a scan sees what was closed just before",
    async run({ ledger }) {
      await ledger.intent(intentOf("i1"));
      ledger.close(rowOf("i1"));
      ledger.close(rowOf("i2"));
      deepStrictEqual((await pagesOf(ledger, 0)).flat(), [rowOf("i1"), rowOf("i2")]);
    },
  },
  {
    name: "a scan gives its rows in pages, each once, many of one instant too",
    async run({ ledger }) {
      const expected: string[] = [];
      for (let n = 0; n < MANY_ROWS; n += 1) {
        const id = `r${String(n).padStart(5, "0")}`;
        expected.push(id);
        ledger.close(rowOf(id, { at: AT + Math.floor(n / 1500) }));
      }
      const pages = await pagesOf(ledger, AT);
      deepStrictEqual(
        pages.flat().map(({ id }) => id),
        expected,
      );
      ok(pages.length > 1, "all rows came in one page");
    },
  },
  {
    name: "a request that ends while it is scanned is in the scan once",
    async run({ ledger }) {
      await Promise.all(["i1", "i2"].map((id) => ledger.intent(intentOf(id))));
      for (let n = 0; n < MANY_ROWS; n += 1) ledger.close(rowOf(`r${n}`, { at: AT + n }));
      const seen: string[] = [];
      for await (const page of ledger.scan(AT)) {
        seen.push(...page.filter(({ id }) => id.startsWith("i")).map(({ id }) => id));
        await close(ledger, rowOf("i1"));
      }
      deepStrictEqual(seen.sort(), ["i1", "i2"]);
    },
  },
  {
    name: "completeSince is a time that has come, and from it on every row is in a scan",
    async run({ ledger }, clock) {
      const since = await ledger.completeSince();
      ok(Number.isSafeInteger(since) && since >= 0 && since <= clock.now(), `complete since ${since}, now is ${clock.now()}`);
      clock.advance(60_000);
      await close(ledger, rowOf("r1", { at: clock.now() }));
      strictEqual(await ledger.completeSince(), since);
      deepStrictEqual(
        (await pagesOf(ledger, since)).flat().map(({ id }) => id),
        ["r1"],
      );
    },
  },
];

export const ledgerCases: readonly ContractCase<LedgerStore>[] = [...rowCases, ...scanCases];
