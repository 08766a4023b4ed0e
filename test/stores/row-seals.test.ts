// Rows carry a seal: whatever is changed behind our back is seen, and nothing that only went through a database.
import { createHmac, hkdfSync } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, onTestFinished, test } from "vitest";
import type { LedgerRow } from "../../src/core/ledger.ts";
import type { ExaminedRow } from "../../src/core/row-seal.ts";
import { Secret } from "../../src/core/secret.ts";
import type { LedgerStore } from "../../src/core/store.ts";
import { LEDGER_COLUMNS } from "../../src/stores/sql/ledger-rows.ts";
import { RowSealer } from "../../src/stores/sql/row-sealer.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { testServer } from "../setup/test-server.ts";
import { ownSchema, sqlOn } from "./postgres-kit.ts";
import { tempFolder } from "./sqlite-kit.ts";

const url = await testServer("postgres");
const KEY = new Secret("a-secret-key-of-the-operator-0001");

interface Place {
  /** A further process on the same database. */
  open(key: Secret | null): Promise<LedgerStore>;
  sql(text: string): Promise<void>;
}

function inSqlite(): Place {
  const path = `${tempFolder()}/quota.db`;
  return {
    open: (key) => ready(sqliteStore(path), key),
    async sql(text) {
      const db = new DatabaseSync(path);
      db.exec(text);
      db.close();
    },
  };
}

function inPostgres(): Place {
  const schema = ownSchema(url as string);
  return {
    open: (key) => ready(postgresStore(url as string, { schema }), key),
    sql: async (text) => void (await sqlOn(url as string, text.replaceAll("quotaguard_", `${schema}.quotaguard_`))),
  };
}

async function ready(store: LedgerStore, key: Secret | null): Promise<LedgerStore> {
  if (key) store.seals?.use(key);
  await store.ready();
  onTestFinished(() => Promise.resolve(store.close()).catch(() => {}));
  return store;
}

async function examined(store: LedgerStore, fromMs = 0, toMs = Infinity): Promise<readonly ExaminedRow[]> {
  const rows: ExaminedRow[] = [];
  for await (const page of store.seals?.examine(fromMs, toMs) ?? []) rows.push(...page);
  return rows;
}

const states = async (store: LedgerStore): Promise<Record<string, string>> =>
  Object.fromEntries((await examined(store)).map(({ id, seal }) => [id, seal]));

/** Everything that a row can say, and everything that makes databases write it otherwise than it came. */
const FULL = rowOf("full", {
  requestId: "client-chose-this",
  key: "ünï\0cod\ud800e",
  scopes: { org: "acme", team: "data", user: "alice", feature: "se'arch", 7: "seven", plan: "pro" },
  stream: true,
  code: "upstream_timeout",
  latencyMs: 812.4999,
  firstByteMs: 119.5,
  attempts: 2,
  tried: [{ credential: "other", model: "gpt-4o", status: null, code: "upstream_timeout" }],
  usage: {
    inputTokens: 100,
    cacheReadTokens: 20,
    cacheWriteTokens: 3,
    outputTokens: 50,
    reasoningTokens: 7,
    cacheWriteLongTokens: 1,
    audioInputTokens: 2,
    imageInputTokens: 3,
    audioOutputTokens: 4,
    imageOutputTokens: 5,
    predictionTokens: 6,
    images: 7,
    requests: 2,
    reportedUsd: 0.1 + 0.2,
    raw: [{ b: 1e21, a: -0, 10: "ten", "2": null, deep: { list: [1.5, "\ud800"], text: "\0" } }],
  },
  rawNanoUsd: 8_999_999_999_999_999,
  billedNanoUsd: 9_000_000_000_000_000,
  limit: "user-day",
});
const BARE: LedgerRow = { ...rowOf("bare"), key: null, scopes: {}, dialect: null, model: null, usage: null, tag: null, priceVersion: null, held: {} };

describe.each([
  ["SQLite", inSqlite, false],
  ["Postgres", inPostgres, url === undefined],
])("rows in %s", (name, place, isMissing) => {
  const isSqlite = name === "SQLite";

  test.skipIf(isMissing)("are intact as they were written, whatever they hold", async () => {
    const { open } = place();
    const store = await open(KEY);
    for (const row of [FULL, BARE]) store.ledger.close(row);
    await store.ledger.flush();
    expect(await states(store)).toEqual({ full: "intact", bare: "intact" });
    expect((await examined(store)).map(({ row }) => row)).toEqual((await store.ledger.list({})).toReversed());
    // Another process with the same key says so, too.
    expect(await states(await open(KEY))).toEqual({ full: "intact", bare: "intact" });
  });

  test.skipIf(isMissing)("whose columns are altered one by one are seen, each", async () => {
    const { open, sql } = place();
    const store = await open(KEY);
    for (const row of [FULL, BARE, rowOf("same")]) store.ledger.close(row);
    await store.ledger.flush();
    const sample = (await examined(store))[0]?.row;
    expect(sample).toBeTruthy();
    for (const column of LEDGER_COLUMNS) {
      if (column === "id") continue;
      await sql(`create table quotaguard_kept as select * from quotaguard_ledger where id in ('full', 'bare')`);
      const changed = isSqlite
        ? `case when typeof("${column}") in ('integer', 'real') then "${column}" + 1 when "${column}" like '{%' then '{"a":1}' else coalesce("${column}", '') || '7' end`
        : ["scopes", "held", "raw_usage", "tried"].includes(column)
          ? `'{"altered": 1}'`
          : TEXTS.has(column)
            ? `coalesce("${column}", '') || '7'`
            : `coalesce("${column}", 0) + 1`;
      await sql(`update quotaguard_ledger set "${column}" = ${changed} where id in ('full', 'bare')`);
      expect([column, await states(store)]).toEqual([column, { full: "altered", bare: "altered", same: "intact" }]);
      await sql(`delete from quotaguard_ledger where id in ('full', 'bare')`);
      await sql(`insert into quotaguard_ledger select * from quotaguard_kept`);
      await sql(`drop table quotaguard_kept`);
    }
    expect(await states(store)).toEqual({ full: "intact", bare: "intact", same: "intact" });
    // What is emptied is as altered as what is changed.
    await sql(`update quotaguard_ledger set usage_gone = null where id = 'full'`.replace("usage_gone", "reasoning_tokens"));
    await sql(`update quotaguard_ledger set id = 'copied' where id = 'bare'`);
    expect(await states(store)).toEqual({ full: "altered", copied: "altered", same: "intact" });
  });

  test.skipIf(isMissing)(
    "whose seal is altered, or belongs to another row, are seen; one without a seal, or under another key, is told apart",
    async () => {
      const { open, sql } = place();
      const store = await open(KEY);
      for (const id of ["a", "b", "c", "d"]) store.ledger.close(rowOf(id));
      await store.ledger.flush();
      await sql(`update quotaguard_ledger set digest = substr(digest, 1, 23) || case when digest like '%A' then 'B' else 'A' end where id = 'a'`);
      await sql(`update quotaguard_ledger set digest = (select digest from quotaguard_ledger where id = 'd') where id = 'b'`);
      await sql(`update quotaguard_ledger set digest = null where id = 'c'`);
      expect(await states(store)).toEqual({ a: "altered", b: "altered", c: "unsealed", d: "intact" });
      expect(await states(await open(new Secret("another-key-of-the-operator-0002")))).toMatchObject({ a: "foreign", c: "unsealed", d: "foreign" });
      const keyless = await open(null);
      keyless.ledger.close(rowOf("e"));
      await keyless.ledger.flush();
      expect(await states(store)).toMatchObject({ d: "intact", e: "unsealed" });
    },
  );

  test.skipIf(isMissing)("that close what a dead process left open are sealed, too; open ones of nobody are found", async () => {
    const { open, sql } = place();
    const store = await open(KEY);
    await store.ledger.intent(intentOf("left"));
    await store.ledger.intent(intentOf("ended"));
    store.ledger.close(rowOf("ended"));
    await store.ledger.flush();
    expect(await store.seals?.orphans()).toEqual([]);
    await sql(`update quotaguard_intent set owner = 'ghost'`);
    expect((await store.seals?.orphans())?.map(({ id, state }) => [id, state])).toEqual([["left", "intent"]]);
    const next = await open(KEY);
    expect(await states(next)).toEqual({ left: "intact", ended: "intact" });
    expect((await examined(next)).find(({ id }) => id === "left")?.row?.state).toBe("unknown");
    expect(await next.seals?.orphans()).toEqual([]);
  });

  test.skipIf(isMissing)("are read in pages, by time, as far as is asked for; what is no row any more is still named", async () => {
    const { open, sql } = place();
    const store = await open(KEY);
    for (let i = 0; i < 1_203; i += 1) store.ledger.close(rowOf(`r${i}`, { at: AT + Math.floor(i / 700) }));
    await store.ledger.flush();
    const all = await examined(store);
    expect([all.length, new Set(all.map(({ id }) => id)).size, all.every(({ seal }) => seal === "intact")]).toEqual([1_203, 1_203, true]);
    expect((await examined(store, AT + 1)).length).toBe(503);
    expect((await examined(store, 0, AT + 1)).length).toBe(700);
    if (!isSqlite) return;
    await sql(`update quotaguard_ledger set held = 'no json', at = 'no time' where id = 'r5'`);
    expect((await examined(store)).filter(({ seal }) => seal !== "intact")).toMatchObject([{ id: "r5", row: null, seal: "altered" }]);
  });
});

test("a seal is an HMAC by a key that is derived from the secret one", () => {
  const sealer = new RowSealer();
  sealer.use(KEY);
  const values = sealer.sealed(rowOf("a", { scopes: {}, usage: null, held: {} }));
  const text = LEDGER_COLUMNS.flatMap((name, i) => {
    const value = values[i] ?? null;
    return value === null ? [] : [`${name}=${String(value).length}:${value};`];
  }).join("");
  const derived = (use: string, bytes: number) => Buffer.from(hkdfSync("sha256", KEY.reveal(), "", `quotaguard ledger-rows ${use}`, bytes));
  const mac = createHmac("sha256", derived("key", 32)).update(text).digest("base64url").slice(0, 20);
  expect(values.at(-1)).toBe(derived("key id", 3).toString("base64url") + mac);
});

/** Columns of text that is no JSON. */
const TEXTS: ReadonlySet<string> = new Set([
  ...["request_id", "key", "org", "team", "user", "route", "dialect", "model", "served_model", "provider", "credential"],
  ...["state", "code", "provenance", "limit", "price_version", "tag"],
]);
