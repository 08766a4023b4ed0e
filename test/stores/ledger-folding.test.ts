// Old rows become sums of their day, in SQLite and in Postgres alike: no report changes, whatever happens meanwhile.
import { DatabaseSync } from "node:sqlite";

import { beforeEach, describe, expect, it, onTestFinished } from "vitest";

import type { LedgerRow } from "../../src/core/ledger.ts";
import { Secret } from "../../src/core/secret.ts";
import type { Ledger, LedgerFilter, LedgerGroup, LedgerStore } from "../../src/core/store.ts";
import { TOKEN_CLASSES } from "../../src/core/usage.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { seededRandom } from "../../src/testing/seeded-random.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { testServer } from "../setup/test-server.ts";
import { openedStore, ownSchema, sqlOn } from "./postgres-kit.ts";
import { recordingLogger, tempFolder } from "./sqlite-kit.ts";

const server = (await testServer("postgres")) as string;
const DAY_MS = 86_400_000;
const TODAY = AT - (AT % DAY_MS);

const STATES = ["settled", "released", "refused", "estimated", "unknown"] as const;
const pick = <T>(random: () => number, values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;

/** Rows of the last ten days, in all that reports tell apart. */
function manyRows(count: number, seed: number): LedgerRow[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, (_, n) => {
    const state = pick(random, STATES);
    const usage = state === "settled" ? Object.fromEntries(TOKEN_CLASSES.map((name) => [name, Math.floor(random() * 1000)])) : null;
    return rowOf(`r${n}`, {
      at: TODAY - Math.floor(random() * 10 * DAY_MS),
      state,
      key: pick(random, ["alice", "bob", null]),
      model: pick(random, ["gpt-4o", "o3", null, "=cmd|'/c calc'"]),
      provider: pick(random, ["openai", null]),
      credential: pick(random, ["a", "b", null]),
      route: pick(random, ["/v1/chat/completions", "/v1/embeddings"]),
      tag: pick(random, ["nightly", null, ""]),
      scopes: pick<Record<string, string>>(random, [
        {},
        { org: "acme" },
        { org: "acme", team: "data", feature: "chat", plan: "pro" },
        { plan: "pro", feature: "chat", user: "u" },
      ]),
      usage: usage as LedgerRow["usage"],
      rawNanoUsd: pick(random, [null, 0, 1, 8_999_999_999_999_999, 123_456_789]),
      billedNanoUsd: pick(random, [null, 0, 3, 8_999_999_999_999_997, 123_456_789]),
    });
  });
}

const QUESTIONS: readonly (readonly [LedgerFilter, readonly LedgerGroup[]])[] = [
  [{}, []],
  [{}, ["day"]],
  [{}, ["org", "team", "user", "key"]],
  [{}, ["model", "provider", "credential", "route", "tag"]],
  [{}, ["scope.feature", "scope.plan", "day"]],
  [{ from: TODAY - 6 * DAY_MS, to: TODAY - 2 * DAY_MS }, ["day", "model"]],
  [{ scopes: { feature: "chat", org: "acme" } }, ["day"]],
  [{ fields: { tag: "", model: "o3" } }, ["key"]],
  [{ state: "refused" }, ["model"]],
  [{ state: "unknown" }, []],
];

const reports = (ledger: Ledger): Promise<unknown> =>
  Promise.all(QUESTIONS.map(async ([filter, groupBy]) => [filter, await ledger.totals(filter, groupBy)]));

async function write(ledger: Ledger, rows: readonly LedgerRow[]): Promise<void> {
  for (const row of rows) ledger.close(row);
  await ledger.flush();
}

const fold = async (ledger: Ledger, beforeMs: number, most: number): Promise<number> => (ledger.fold as NonNullable<Ledger["fold"]>)(beforeMs, most);

async function foldAll(ledger: Ledger, beforeMs: number, most: number): Promise<number> {
  let folded = 0;
  for (let some = -1; some !== 0; folded += some) some = await fold(ledger, beforeMs, most);
  return folded;
}

/** A database in this process answers at once, and would leave nobody else a turn. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Place {
  /** Another process's view of the same database. */
  open(): Promise<LedgerStore>;
  count(table: "ledger" | "rollup"): Promise<number>;
  /** Changes it behind our back. */
  alter(text: string): Promise<void>;
  /** Makes adding to the sums fail, and takes that back. */
  breakSums(): Promise<() => Promise<void>>;
}

const places: readonly (readonly [string, boolean, (clock: TestClock) => Place])[] = [
  [
    "SQLite",
    true,
    (clock) => {
      const path = `${tempFolder()}/quota.db`;
      function run<T>(work: (db: DatabaseSync) => T): T {
        const db = new DatabaseSync(path);
        try {
          return work(db);
        } finally {
          db.close();
        }
      }
      return {
        async open() {
          const store = sqliteStore(path, { clock, logger: recordingLogger().logger });
          onTestFinished(async () => {
            await store.close();
          });
          await store.ready();
          return store;
        },
        count: async (table) => run((db) => Number(db.prepare(`select count(*) as n from quotaguard_${table}`).get()?.["n"])),
        alter: async (text) => run((db) => db.exec(text)),
        async breakSums() {
          run((db) => db.exec("create trigger broken before insert on quotaguard_rollup begin select raise(abort, 'broken'); end"));
          return async () => run((db) => db.exec("drop trigger broken"));
        },
      };
    },
  ],
  [
    "Postgres",
    server !== undefined,
    (clock) => {
      const schema = ownSchema(server);
      return {
        open: () => openedStore(server, { schema, clock, logger: recordingLogger().logger }),
        count: async (table) => Number((await sqlOn(server, `select count(*) as n from ${schema}.quotaguard_${table}`))[0]?.["n"]),
        alter: async (text) => void (await sqlOn(server, text.replaceAll("quotaguard_", `${schema}.quotaguard_`))),
        async breakSums() {
          await sqlOn(server, `alter table ${schema}.quotaguard_rollup add constraint broken check (row_count < 0) not valid`);
          return async () => void (await sqlOn(server, `alter table ${schema}.quotaguard_rollup drop constraint broken`));
        },
      };
    },
  ],
];

describe.each(places.filter(([, isThere]) => isThere))("folding in %s", (_name, _isThere, placeOf) => {
  let place: Place;
  let store: LedgerStore;
  let ledger: Ledger;

  beforeEach(async () => {
    place = placeOf(testClock({ now: AT }));
    store = await place.open();
    ({ ledger } = store);
  });

  it("changes no report, to the nano-USD, and is done when nothing old is left", async () => {
    await write(ledger, manyRows(600, 1));
    const before = await reports(ledger);
    const kept = (await ledger.list({ from: TODAY - 3 * DAY_MS })).length;
    const folded = await foldAll(ledger, TODAY - 3 * DAY_MS, 64);
    expect([folded, await place.count("ledger")]).toEqual([600 - kept, kept]);
    expect(folded).toBeGreaterThan(300);
    expect(await reports(ledger)).toEqual(before);
    // The next day, into sums that are there.
    await foldAll(ledger, TODAY - 2 * DAY_MS, 1_000);
    expect(await reports(ledger)).toEqual(before);
    expect(await reports((await place.open()).ledger)).toEqual(before);
  });

  it("adds rows that come late to the sums of their day", async () => {
    const [early, late] = [manyRows(200, 2), manyRows(200, 3).map((row) => ({ ...row, id: `late-${row.id}` }))];
    await write(ledger, early);
    await foldAll(ledger, TODAY, 64);
    await write(ledger, late);
    const before = await reports(ledger);
    const sums = await place.count("rollup");
    await foldAll(ledger, TODAY, 64);
    expect(await reports(ledger)).toEqual(before);
    expect([await place.count("ledger"), (await place.count("rollup")) < sums + 200]).toEqual([0, true]);
  });

  it("has one sum for what no report tells apart", async () => {
    const at = TODAY - DAY_MS;
    const scopes = [
      { org: "acme", role: "dev", feature: "chat" },
      { feature: "chat", role: "dev", org: "acme" },
    ];
    await write(
      ledger,
      scopes.map((one, n) => rowOf(`s${n}`, { at: at + n, scopes: one, latencyMs: n })),
    );
    expect([await foldAll(ledger, TODAY, 1), await place.count("rollup")]).toEqual([2, 1]);
  });

  it("takes the oldest first, no more than it is told, and whole days only", async () => {
    await write(ledger, [
      rowOf("c", { at: TODAY - 1 }),
      rowOf("b", { at: TODAY - DAY_MS }),
      rowOf("a", { at: TODAY - 2 * DAY_MS }),
      rowOf("d", { at: TODAY }),
    ]);
    expect(await fold(ledger, TODAY, 1)).toBe(1);
    expect((await ledger.list({})).map(({ id }) => id)).toEqual(["d", "c", "b"]);
    expect(await fold(ledger, TODAY - 1, 10)).toBe(0);
    expect(await fold(ledger, TODAY + DAY_MS - 1, 10)).toBe(2);
    expect((await ledger.list({})).map(({ id }) => id)).toEqual(["d"]);
  });

  it("says from when on the rows are all there; what was refused was charged to nobody", async () => {
    await write(ledger, [rowOf("a", { at: TODAY - 3 * DAY_MS }), rowOf("b", { at: TODAY - DAY_MS - 1, state: "refused", usage: null })]);
    await fold(ledger, TODAY - DAY_MS, 10);
    expect(await ledger.completeSince()).toBe(TODAY - 3 * DAY_MS + 1);
    await write(ledger, [rowOf("c", { at: TODAY - 4 * DAY_MS })]);
    await fold(ledger, TODAY - DAY_MS, 10);
    expect(await ledger.completeSince()).toBe(TODAY - 3 * DAY_MS + 1);
    expect(await (await place.open()).ledger.completeSince()).toBe(TODAY - 3 * DAY_MS + 1);
  });

  it("leaves open requests alone, and those that began with them or later", async () => {
    const at = TODAY - 5 * DAY_MS + 7;
    await Promise.all([ledger.intent(intentOf("ended", { at })), ledger.intent(intentOf("open", { at: at + 1 }))]);
    await write(ledger, [rowOf("ended", { at }), rowOf("before", { at: at - DAY_MS }), rowOf("after", { at: at + DAY_MS })]);
    const before = await reports(ledger);
    expect(await foldAll(ledger, TODAY, 10)).toBe(1);
    expect((await ledger.list({})).map(({ id, state }) => [id, state])).toEqual([
      ["after", "settled"],
      ["open", "intent"],
      ["ended", "settled"],
    ]);
    expect(await reports(ledger)).toEqual(before);
    await write(ledger, [rowOf("open", { at: at + 1 })]);
    // Intents go with the write that follows their end.
    await write(ledger, [rowOf("today")]);
    expect(await foldAll(ledger, TODAY, 10)).toBe(3);
    expect(await ledger.totals({}, [])).toMatchObject([{ requests: 5 }]);
  });

  it("leaves rows that were altered where the audit finds them, however many, and goes on behind them", async () => {
    const { seals } = store;
    seals?.use(new Secret("a-secret-key-of-the-operator-0001"));
    await write(
      ledger,
      ["a", "b", "c", "d", "e", "f"].map((id) => rowOf(id, { at: TODAY - 9 * DAY_MS })),
    );
    await place.alter("update quotaguard_ledger set billed_nano_usd = 1 where id in ('a', 'b', 'd')");
    expect([await foldAll(ledger, TODAY, 1), await place.count("ledger")]).toEqual([3, 3]);
    const altered: string[] = [];
    for await (const page of seals?.examine(0, Infinity) ?? []) altered.push(...page.filter(({ seal }) => seal === "altered").map(({ id }) => id));
    expect(altered).toEqual(["a", "b", "d"]);
    // Reports go on with what the rows say now.
    expect(await ledger.totals({}, [])).toMatchObject([{ requests: 6, billedNanoUsd: 3n + 3n * 1_100_002n }]);
  });

  it("happens as a whole or not at all", async () => {
    await write(ledger, manyRows(50, 4));
    const before = await reports(ledger);
    const mend = await place.breakSums();
    await expect(fold(ledger, TODAY, 20)).rejects.toMatchObject({ code: "store_unavailable" });
    expect([await place.count("ledger"), await place.count("rollup"), await ledger.completeSince()]).toEqual([50, 0, 0]);
    expect(await reports(ledger)).toEqual(before);
    await mend();
    // Requests are served as before.
    await ledger.intent(intentOf("next"));
    await write(ledger, [rowOf("next")]);
    expect(await foldAll(ledger, TODAY, 20)).toBe(50);
  });

  it("by two processes at once, while requests end and reports are made, counts nothing twice and loses nothing", async () => {
    const other = (await place.open()).ledger;
    const rows = manyRows(400, 5);
    await write(ledger, rows);
    const [whole] = await ledger.totals({}, []);
    const seen: unknown[] = [];
    const folding = { isOver: false };
    async function watch(): Promise<void> {
      while (!folding.isOver) {
        seen.push(...(await other.totals({ to: TODAY }, [])));
        await turn();
      }
    }
    async function serve(): Promise<void> {
      for (let n = 0; n < 40; n += 1) {
        await ledger.intent(intentOf(`now-${n}`));
        ledger.close(rowOf(`now-${n}`));
      }
    }
    // One of them may have to stand back for the other.
    const tolerant = async (one: Ledger): Promise<void> => {
      for (let some = -1, tries = 0; some !== 0 && tries < 200; tries += 1) {
        some = await fold(one, TODAY, 16).catch(() => -1);
        await turn();
      }
    };
    const watching = watch();
    await Promise.all([tolerant(ledger), tolerant(other), serve()]);
    folding.isOver = true;
    await watching;
    expect(seen.length).toBeGreaterThan(0);
    for (const one of seen) expect(one).toEqual(whole);
    await foldAll(ledger, TODAY, 16);
    expect(await ledger.totals({ to: TODAY }, [])).toEqual([whole]);
    expect(await place.count("ledger")).toBe(40);
  });
});

async function readySqlite(path: string): Promise<LedgerStore> {
  const store = sqliteStore(path, { clock: testClock({ now: AT }), logger: recordingLogger().logger });
  onTestFinished(async () => {
    await store.close();
  });
  await store.ready();
  return store;
}

// Postgres keeps its columns' types.
describe("folding rows of SQLite that nobody can add up", () => {
  it("leaves them there, and reports go on", async () => {
    const path = `${tempFolder()}/quota.db`;
    const store = await readySqlite(path);
    await write(
      store.ledger,
      ["a", "b", "c", "d"].map((id) => rowOf(id, { at: TODAY - 9 * DAY_MS, billedNanoUsd: 100 })),
    );
    const db = new DatabaseSync(path);
    db.exec("update quotaguard_ledger set billed_nano_usd = 1.5 where id = 'a'");
    db.exec("update quotaguard_ledger set output_tokens = 1e300 where id = 'b'");
    db.exec("update quotaguard_ledger set held = 'x' where id = 'c'");
    expect(await foldAll(store.ledger, TODAY, 2)).toBe(1);
    expect(db.prepare("select id from quotaguard_ledger order by id").all()).toEqual([{ id: "a" }, { id: "b" }, { id: "c" }]);
    db.close();
    expect(await store.ledger.totals({}, [])).toMatchObject([{ requests: 4, billedNanoUsd: 302n }]);
  });

  it("goes on while more requests are open than a call can have arguments", async () => {
    const path = `${tempFolder()}/quota.db`;
    const store = await readySqlite(path);
    await write(store.ledger, [rowOf("old", { at: TODAY - 9 * DAY_MS })]);
    const db = new DatabaseSync(path);
    const many = `[${Array.from({ length: 150_000 }, (_, n) => `["open${n}","",${AT}]`).join(",")}]`;
    db.prepare("insert into quotaguard_intent (owner, body) values ('another', ?)").run(many);
    db.close();
    expect(await fold(store.ledger, TODAY, 10)).toBe(1);
  });
});
