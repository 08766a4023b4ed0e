// What an audit finds in books that are wrong, in parts that end, and that it finds nothing where there is nothing.
import { DatabaseSync } from "node:sqlite";
import { describe, expect, onTestFinished, test } from "vitest";
import type { AuditReport } from "../src/core/audit.ts";
import type { PricedCost } from "../src/core/context.ts";
import type { LedgerRow } from "../src/core/ledger.ts";
import { Secret } from "../src/core/secret.ts";
import type { LedgerStore } from "../src/core/store.ts";
import { ledgerAudit, type LedgerAudit } from "../src/ledger-audit.ts";
import { LEDGER_COLUMNS } from "../src/stores/sql/ledger-rows.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { sqliteStore } from "../src/stores/sqlite/index.ts";
import { testClock } from "../src/testing/clock.ts";
import { AT, intentOf, rowOf, VOID } from "../src/testing/store-contract/ledger-rows.ts";
import { keptBytes } from "./helpers/kept-bytes.ts";

const ORPHAN_MS = 315_000;
const PRICED: PricedCost = { rawNanoUsd: 1_000_001, billedNanoUsd: 1_100_002, priceVersion: "rules:0123456789" };

interface Kit {
  readonly store: LedgerStore;
  readonly clock: ReturnType<typeof testClock>;
  readonly audit: LedgerAudit;
  readonly db: DatabaseSync;
  write(...rows: readonly LedgerRow[]): Promise<void>;
}

async function kit(options: { readonly memory?: boolean; readonly cost?: PricedCost | null } = {}): Promise<Kit> {
  const clock = testClock({ now: AT });
  const db = new DatabaseSync(":memory:");
  const store = options.memory ? memoryStore({ clock, maxLedgerRows: 200_000 }) : sqliteStore(db, { clock });
  store.seals?.use(new Secret("a-secret-key-of-the-operator-0001"));
  await store.ready();
  onTestFinished(async () => {
    await store.close();
    db.close();
  });
  const { cost = PRICED } = options;
  return {
    store,
    clock,
    db,
    audit: ledgerAudit({ ledger: store.ledger, seals: store.seals, costOf: () => cost, orphanMs: ORPHAN_MS, clock }),
    async write(...rows) {
      for (const row of rows) store.ledger.close(row);
      await store.ledger.flush();
    },
  };
}

const told = ({ violations }: AuditReport): readonly string[] => violations.map(({ invariant, id }) => `${invariant} ${id}`);

/** One of each end, as the guard writes them. */
const SOUND: readonly LedgerRow[] = [
  rowOf("settled"),
  rowOf("counted", { provenance: "counted" }),
  rowOf("free", { rawNanoUsd: null, billedNanoUsd: null, priceVersion: null }),
  rowOf("host", { dialect: null, usage: null, priceVersion: null, attempts: 0, provider: null, credential: null }),
  rowOf("refused", { ...VOID, rawNanoUsd: null, billedNanoUsd: null, priceVersion: null }),
  rowOf("released", { state: "released", usage: null, provenance: "void", rawNanoUsd: 0, billedNanoUsd: 0, priceVersion: null }),
  rowOf("part", { state: "estimated", usage: null, provenance: "estimated", rawNanoUsd: 5, billedNanoUsd: 5, priceVersion: null }),
  rowOf("unknown", { state: "unknown", usage: null, provenance: "estimated", rawNanoUsd: null, billedNanoUsd: 12_000_000, priceVersion: null }),
];

/** What no guard would write. */
const WRONG: readonly (readonly [id: string, invariant: string, row: Partial<LedgerRow>])[] = [
  ["no-usage", "I1", { usage: null }],
  ["negative", "I1", { usage: { inputTokens: -1, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0 } }],
  ["provenance", "I1", { provenance: "void" }],
  ["half-priced", "I1", { rawNanoUsd: null }],
  ["below-zero", "I1", { rawNanoUsd: -5, billedNanoUsd: -5 }],
  ["refused-billed", "I1", { ...VOID, priceVersion: null }],
  ["held-otherwise", "I1", { state: "unknown", usage: null, provenance: "estimated", billedNanoUsd: 3, priceVersion: null }],
  ["prices-of-nothing", "I1", { ...VOID, rawNanoUsd: null, billedNanoUsd: null }],
  ["wrong-cost", "I1", { billedNanoUsd: 1_100_003 }],
  ["nowhere", "I6", { credential: null }],
  ["nobody", "I6", { provider: null, attempts: 2 }],
  ["no-state", "I1", { state: "paid" as "settled" }],
];

/** The pages as an audit asks for them, with what `onPage` looks at before each. */
async function* watched<T>(pages: AsyncIterable<readonly T[]>, onPage: (page: readonly T[]) => void): AsyncGenerator<readonly T[]> {
  for await (const page of pages) {
    onPage(page);
    yield page;
  }
}

describe.each([
  ["SQLite", false],
  ["memory", true],
] as const)("books in %s", (_name, memory) => {
  test("that are right are found right", async () => {
    const { audit, write } = await kit({ memory });
    await write(...SOUND);
    const seals = memory ? { intact: 0, unsealed: SOUND.length } : { intact: SOUND.length, unsealed: 0 };
    expect(await audit()).toEqual({
      rows: SOUND.length,
      from: null,
      to: null,
      violations: [],
      more: 0,
      seals: { altered: 0, foreign: 0, ...seals },
      unchecked: memory ? [{ rows: SOUND.length, why: expect.stringContaining("without a secret key") as string }] : [],
      next: null,
      checkedAt: AT,
    });
  });

  test("that are wrong are named, row by row", async () => {
    const { audit, write } = await kit({ memory });
    await write(...SOUND, ...WRONG.map(([id, , row]) => rowOf(id, row)));
    expect(told(await audit()).toSorted()).toEqual(WRONG.map(([id, invariant]) => `${invariant} ${id}`).toSorted());
  });

  test("are looked at for the time that is asked for, and from there on where an audit ended", async () => {
    const { audit, write, clock } = await kit({ memory });
    await write(
      ...Array.from({ length: 2_500 }, (_, i) => rowOf(`r${i}`, { at: AT + Math.floor(i / 3), billedNanoUsd: i % 100 === 0 ? 1 : 1_100_002 })),
    );
    expect((await audit({ from: AT + 10, to: AT + 20 })).rows).toBe(30);
    // Its time is over at once.
    const first = audit();
    clock.advance(2_000);
    const found = await first;
    expect(found.next).toBeGreaterThan(AT);
    let [rows, violations] = [found.rows, found.violations.length];
    for (let { next } = found; next !== null;) {
      const part = await audit({ from: next });
      rows += part.rows;
      violations += part.violations.length;
      next = part.next;
    }
    expect([rows, violations]).toEqual([2_500, 25]);
  });

  test("with very many faults tell a hundred and count the rest", async () => {
    const { audit, write } = await kit({ memory });
    await write(...Array.from({ length: 150 }, (_, i) => rowOf(`r${i}`, { usage: null })));
    const { violations, more } = await audit();
    expect([violations.length, more]).toEqual([100, 50]);
  });

  test("are left when nobody waits any more", async () => {
    const { audit, write } = await kit({ memory });
    await write(...Array.from({ length: 3_000 }, (_, i) => rowOf(`r${i}`)));
    const leaving = new AbortController();
    const asked = audit({ signal: leaving.signal });
    leaving.abort(new Error("gone"));
    await expect(asked).rejects.toThrow("gone");
  });

  test("of a hundred megabytes never lie in memory, and others are served meanwhile", async () => {
    const ROWS = 20_000;
    const { store, clock, write, db } = await kit({ memory });
    if (memory) await write(...Array.from({ length: ROWS }, (_, i) => rowOf(`r${i}`)));
    else {
      await write(rowOf("r", { tag: "t".repeat(5_000) }));
      db.exec(`create table made as select * from quotaguard_ledger;
        update made set digest = null;
        create table names as with recursive n (i) as (select 1 union all select i + 1 from n where i < ${ROWS - 1}) select i from n`);
      const columns = LEDGER_COLUMNS.map((name) => (name === "id" ? "'r' || i" : name === "at" ? `"at" + i` : `"${name}"`)).join(", ");
      db.exec(`insert into quotaguard_ledger (${LEDGER_COLUMNS.map((name) => `"${name}"`).join(", ")}) select ${columns} from made, names`);
    }
    const before = keptBytes();
    let isOthersTurn = false;
    const unserved: number[] = [];
    const pages: number[] = [];
    const kept: number[] = [];
    function onPage({ length }: readonly unknown[]): void {
      if (pages.length > 0 && !isOthersTurn) unserved.push(pages.length);
      isOthersTurn = false;
      setImmediate(() => (isOthersTurn = true));
      pages.push(length);
      if (pages.length % 10 === 0) kept.push(keptBytes() - before);
    }
    const { ledger, seals } = store;
    const audit = ledgerAudit({
      ledger: { ...ledger, scan: (fromMs) => watched(ledger.scan(fromMs), onPage) },
      seals: seals && { ...seals, examine: (fromMs, toMs) => watched(seals.examine(fromMs, toMs), onPage) },
      costOf: () => PRICED,
      orphanMs: ORPHAN_MS,
      clock,
    });
    const { rows, violations } = await audit();
    expect([rows, violations.length, unserved]).toEqual([ROWS, 0, []]);
    expect(Math.max(...pages)).toBeLessThanOrEqual(1_000);
    // Two pages of the rows in the database are 10 MB, all of them 100 MB.
    expect(Math.max(...kept)).toBeLessThan(30_000_000);
  }, 30_000);
});

test("rows of prices that are not in force any more, and of several calls, are counted and not guessed", async () => {
  const { audit, write } = await kit({ cost: { ...PRICED, billedNanoUsd: 7, priceVersion: "rules:other" } });
  await write(rowOf("a"), rowOf("b"));
  expect(await audit()).toMatchObject({ violations: [], unchecked: [{ rows: 2, why: expect.stringContaining("not in force any more") as string }] });
});

test("a row that is altered is named, also one that cannot be read any more, and one that is copied under another name", async () => {
  const { audit, write, db } = await kit();
  await write(rowOf("a"), rowOf("b"), rowOf("c"), rowOf("d"));
  db.exec(`update quotaguard_ledger set scopes = '{"org":"evil"}', "user" = 'mallory' where id = 'a'`);
  db.exec("update quotaguard_ledger set held = 'no json' where id = 'b'");
  db.exec(
    "create table twin as select * from quotaguard_ledger where id = 'c'; update twin set id = 'twin'; insert into quotaguard_ledger select * from twin",
  );
  const report = await audit();
  expect(told(report).toSorted()).toEqual(["I1 b", "seal a", "seal twin"]);
  expect([report.rows, report.seals]).toEqual([5, { intact: 2, altered: 3, unsealed: 0, foreign: 0 }]);
});

test("a row that is put at another time is found wherever it stands, and no answer ends at a time that is none", async () => {
  const { audit, write, db, clock } = await kit();
  await write(...Array.from({ length: 1_600 }, (_, i) => rowOf(`r${String(i).padStart(4, "0")}`, { at: AT + i })));
  db.exec("update quotaguard_ledger set at = -5 where id = 'r0001'");
  // The last ones of their pages.
  const last = db.prepare("select id from quotaguard_ledger order by at, id limit 2 offset 998").all() as { id: string }[];
  db.exec(`update quotaguard_ledger set at = at + 0.5 where id = '${last[1]?.id}'`);
  db.exec("update quotaguard_ledger set at = 9e18 where id > 'r1499'");
  const found: string[] = [];
  let rows = 0;
  for (let from: number | null | undefined; from !== null;) {
    const asked = audit(from === undefined ? {} : { from });
    clock.advance(2_000);
    const part = await asked;
    expect(part.next === null || new Date(part.next).getTime() === part.next).toBe(true);
    rows += part.rows;
    found.push(...part.violations.map(({ id }) => String(id)));
    expect(part.more).toBe(0);
    from = part.next;
  }
  expect([rows, found.slice(0, 2)]).toEqual([1_600, ["r0001", last[1]?.id]]);
});

test.each<[string, Parameters<LedgerAudit>[0], RegExp]>([
  ["a time that ends before it begins", { from: AT + 10, to: AT }, /^to: must be later than from/],
  ["a time without length", { from: "2026-01-01", to: "2026-01-01" }, /^to: must be later than from/],
  ["a day that no month has", { from: "2026-11-31" }, /^from: expected a date/],
  ["a time that is none", { to: Number.NaN }, /^to: expected a date/],
])("%s is refused: of nothing, nothing would be wrong", async (_what, options, message) => {
  const { audit } = await kit();
  await expect(audit(options)).rejects.toMatchObject({ code: "body_invalid", message: expect.stringMatching(message) as string });
});

test("times are dates, too", async () => {
  const { audit, write } = await kit();
  await write(rowOf("one", { at: Date.UTC(2026, 0, 2) }), rowOf("two", { at: Date.UTC(2026, 0, 3) }));
  expect(await audit({ from: "2026-01-01", to: new Date("2026-01-03T00:00:00Z") })).toMatchObject({ rows: 1, from: Date.UTC(2026, 0, 1) });
});

test("a database that fails is told as one that is away", async () => {
  const { audit, db } = await kit();
  db.exec("drop table quotaguard_ledger");
  await expect(audit()).rejects.toMatchObject({ code: "store_unavailable" });
});

test("a ledger of a host's own that tells a row twice is found out", async () => {
  const { store, clock } = await kit({ memory: true });
  const twice = {
    ...store.ledger,
    async *scan() {
      yield [rowOf("a"), rowOf("b")];
      yield [rowOf("b"), rowOf("c")];
    },
  };
  const audit = ledgerAudit({ ledger: twice, seals: undefined, costOf: () => PRICED, orphanMs: ORPHAN_MS, clock });
  expect(told(await audit())).toEqual(["I4 b"]);
});

test("what is open is nobody's fault, until its process is gone and nobody has closed it in time", async () => {
  const { audit, store, clock, db } = await kit();
  await store.ledger.intent(intentOf("open"));
  clock.advance(ORPHAN_MS + 1);
  expect((await audit()).violations).toEqual([]);
  await store.ledger.intent(intentOf("young", { at: clock.now() }));
  db.exec("update quotaguard_intent set owner = 'ghost'");
  expect(told(await audit())).toEqual(["I4 open"]);
  expect(told(await audit({ from: AT + 1 }))).toEqual([]);
});

test("a ledger that does not answer ends the audit", async () => {
  const { store, clock } = await kit({ memory: true });
  const hanging = { ...store.ledger, scan: () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }) }) };
  const audit = ledgerAudit({ ledger: hanging, seals: undefined, costOf: () => PRICED, orphanMs: ORPHAN_MS, clock });
  const asked = audit();
  asked.catch(() => {});
  await new Promise(setImmediate);
  clock.advance(10_000);
  await expect(asked).rejects.toMatchObject({ code: "store_unavailable" });
});
