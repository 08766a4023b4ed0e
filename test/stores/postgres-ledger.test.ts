import pg from "pg";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";

import type { LedgerStore } from "../../src/core/store.ts";
import { QUEUE_ROWS } from "../../src/stores/sql/row-queue.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { testServer } from "../setup/test-server.ts";
import { countOf, openedStore, ownRole, ownSchema, sqlOn, wired } from "./postgres-kit.ts";
import { type LogLine, recordingLogger } from "./sqlite-kit.ts";

const server = (await testServer("postgres")) as string;

const DEADLINE_MS = 300;
/** What a loaded machine may add to a deadline. */
const SLACK_MS = 1500;

let schema: string;
let clock: TestClock;
let logged: LogLine[];
let messages: () => string[];

async function open(url = server): Promise<LedgerStore> {
  const { logger, lines } = recordingLogger();
  logged = lines;
  messages = () => lines.map((line) => `${line.level}: ${line.message}`);
  return openedStore(url, { schema, clock, logger, deadlineMs: DEADLINE_MS });
}

const count = (table: string): Promise<number> => countOf(server, schema, table);
const states = async (store: LedgerStore): Promise<unknown> => (await store.ledger.list({})).map((row) => [row.id, row.state]);

const UNAVAILABLE = { code: "store_unavailable", status: 503 };

async function timed<T>(work: () => Promise<T> | T): Promise<number> {
  const startedMs = performance.now();
  await Promise.resolve(work()).catch(() => {});
  return performance.now() - startedMs;
}

describe.skipIf(server === undefined)("the Postgres ledger", () => {
  beforeEach(() => {
    schema = ownSchema(server);
    clock = testClock({ now: AT });
  });

  describe("writes", () => {
    it("all intents of a tick as one row with one promise", async () => {
      const { ledger } = await open();
      const promises = Array.from({ length: 40 }, (_, n) => ledger.intent(intentOf(`i${n}`)));
      expect(new Set(promises).size).toBe(1);
      await promises[0];
      expect(await count("intent")).toBe(1);
      expect(await ledger.list({ state: "intent" })).toHaveLength(40);
    });

    it("a terminal row within 50 ms by itself", async () => {
      const { ledger } = await open();
      ledger.close(rowOf("a"));
      clock.advance(20);
      ledger.close(rowOf("b"));
      clock.advance(30);
      await expect.poll(() => count("ledger")).toBe(2);
      ledger.close(rowOf("c"));
      clock.advance(50);
      await expect.poll(() => count("ledger")).toBe(3);
    });

    it("many waiting rows along with the next intent", async () => {
      const { ledger } = await open();
      for (let n = 0; n < 64; n += 1) ledger.close(rowOf(`r${n}`));
      await ledger.intent(intentOf("i"));
      expect(await count("ledger")).toBe(64);
    });

    it("a row as it was when it was closed", async () => {
      const { ledger } = await open();
      const row = { ...rowOf("a") };
      ledger.close(row);
      row.model = "another";
      await ledger.flush();
      expect(await ledger.get("a")).toEqual(rowOf("a"));
    });

    it("and deletes the packs of requests that have ended, and of attempts that another one followed", async () => {
      const { ledger } = await open();
      for (let n = 0; n < 5; n += 1) {
        await Promise.all([ledger.intent(intentOf(`a${n}`)), ledger.intent(intentOf(`b${n}`))]);
        await ledger.intent(intentOf(`a${n}`));
        ledger.close(rowOf(`a${n}`));
        ledger.close(rowOf(`b${n}`));
        await ledger.flush();
      }
      await ledger.intent(intentOf("last"));
      expect(await count("intent")).toBe(1);
    });

    it("what is still open as unknown when the store is closed", async () => {
      const store = await open();
      await store.ledger.intent(intentOf("left", { credential: "first" }));
      await store.ledger.intent(intentOf("left"));
      store.ledger.close(rowOf("ended"));
      await store.close();
      expect(
        await sqlOn(server, `select id, state, credential, billed_nano_usd::int as billed from ${schema}.quotaguard_ledger order by id`),
      ).toEqual([
        { id: "ended", state: "settled", credential: "openai_main", billed: 1_100_002 },
        { id: "left", state: "unknown", credential: "openai_main", billed: 12_000_000 },
      ]);
      expect([await count("intent"), await count("owner")]).toEqual([0, 0]);
      expect(() => store.ledger.intent(intentOf("late"))).toThrow("is closed");
      store.ledger.close(rowOf("left"));
      expect(messages()).toEqual([
        "warn: the store was closed before these requests ended: state unknown, charged as held",
        "error: a request ended after the store was closed: its row stays as it was closed then",
      ]);
    });

    it("without the one row that cannot be stored, and says so", async () => {
      const { ledger } = await open();
      ledger.close(rowOf("good-1"));
      ledger.close(rowOf("bad", { at: Number.NaN }));
      ledger.close(rowOf("worse", { latencyMs: undefined as unknown as number, scopes: null as unknown as Record<string, string> }));
      ledger.close(rowOf("odd", { attempts: 1.5, at: AT + 7 }));
      const committed = ledger.intent(intentOf("beside-them"));
      ledger.close(rowOf("good-2"));
      await Promise.all([ledger.flush(), committed]);
      expect((await ledger.list({})).map((row) => row.id)).toEqual(["good-2", "good-1", "beside-them"]);
      expect(messages()).toEqual(Array(3).fill("error: a ledger row cannot be stored and was left out"));
      expect(logged.map((line) => String(line.fields["id"])).sort()).toEqual(["bad", "odd", "worse"]);
      // What the rows add up to is known only from then on, for other processes too.
      expect(await ledger.completeSince()).toBe(AT + 8);
      await ledger.intent(intentOf("next"));
      expect(await (await open()).ledger.completeSince()).toBe(AT + 8);
    });

    it("nothing when all that waits cannot be stored", async () => {
      const { ledger } = await open();
      ledger.close(rowOf("bad", { state: "refused", at: Number.NaN }));
      await ledger.flush();
      ledger.close(rowOf("worse", { state: "refused", scopes: null as unknown as Record<string, string> }));
      await ledger.flush();
      expect(messages()).toEqual(Array(2).fill("error: a ledger row cannot be stored and was left out"));
      expect(await ledger.completeSince()).toBe(0);
    });

    it("text that Postgres cannot hold, with a sign in place of it", async () => {
      const { ledger } = await open();
      ledger.close(rowOf("nul", { requestId: "a\0b", model: "half \ud83d", scopes: { feature: "c\0\udc00", user: 'u\\u0000"' } }));
      await ledger.intent(intentOf("open", { model: "\0", scopes: { feature: "\0" } }));
      await ledger.flush();
      expect(await ledger.get("a\0b")).toMatchObject({ id: "nul", requestId: "a\uFFFDb", model: "half \uFFFD", scopes: { user: 'u\\u0000"' } });
      expect((await ledger.list({ scopes: { feature: "c\0\udc00" } })).map((row) => row.id)).toEqual(["nul"]);
      expect(await ledger.totals({ scopes: { feature: "other" } }, ["model"])).toEqual([]);
    });

    it("sums beyond what a double holds", async () => {
      const { ledger } = await open();
      for (const id of ["a", "b", "c"]) ledger.close(rowOf(id, { billedNanoUsd: 9_000_000_000_000_000 }));
      await ledger.flush();
      expect(await ledger.totals({}, [])).toMatchObject([{ billedNanoUsd: 27_000_000_000_000_000n }]);
    });

    it("through a pool of the host, which stays open", async () => {
      const pool = new pg.Pool({ connectionString: server, max: 2 });
      const { logger } = recordingLogger();
      const { postgresStore } = await import("../../src/stores/postgres/index.ts");
      const store = postgresStore(pool, { schema, logger });
      await store.ready();
      await Promise.all(Array.from({ length: 20 }, (_, n) => store.ledger.intent(intentOf(`i${n}`))));
      store.ledger.close(rowOf("i1"));
      expect(await store.ledger.get("i1")).toEqual(rowOf("i1"));
      await store.close();
      expect((await pool.query<{ one: number }>("select 1 as one")).rows).toEqual([{ one: 1 }]);
      expect([pool.totalCount, pool.idleCount, pool.listenerCount("error")]).toEqual([pool.idleCount, pool.totalCount, 0]);
      await pool.end();
    });
  });

  describe("when the server", () => {
    it("freezes: intents are refused within the deadline, rows wait and are written once when it is back", async () => {
      const { wire, url } = await wired(server);
      const { ledger } = await open(url);
      await ledger.intent(intentOf("before"));
      expect(await ledger.list({})).toHaveLength(1);
      wire.set({ blackHole: true });
      ledger.close(rowOf("before"));
      // The row is on its way when the intent comes.
      clock.advance(50);
      const intent = ledger.intent(intentOf("during"));
      ledger.close(rowOf("refused", { state: "refused" }));
      expect(await timed(() => intent)).toBeLessThan(DEADLINE_MS + SLACK_MS);
      await expect(intent).rejects.toMatchObject({ ...UNAVAILABLE, retryAfterMs: 100 });
      // Until the next attempt nobody waits for it.
      await expect(ledger.intent(intentOf("at-once"))).rejects.toMatchObject({ ...UNAVAILABLE, retryAfterMs: 100 });
      const flushed = ledger.flush();
      for (const failure of [ledger.get("before"), ledger.list({}), ledger.totals({}, [])]) await expect(failure).rejects.toMatchObject(UNAVAILABLE);

      wire.set({ blackHole: false });
      clock.advance(100);
      await flushed;
      expect((await sqlOn(server, `select id from ${schema}.quotaguard_ledger order by ctid`)).map((row) => row["id"])).toEqual([
        "before",
        "refused",
      ]);
      expect(await states({ ledger } as LedgerStore)).toEqual([
        ["refused", "refused"],
        ["before", "settled"],
      ]);
      await ledger.intent(intentOf("after"));
      expect(messages()).toEqual(["error: the ledger's database cannot be written", "info: the ledger has caught up"]);
    });

    it("acts and its reply is lost: the write is repeated at once, and nothing is there twice", async () => {
      const { wire, url } = await wired(server);
      const { ledger } = await open(url);
      await ledger.intent(intentOf("kept-open"));
      for (let n = 0; n < 8; n += 1) {
        wire.set({ loseReply: 1 });
        ledger.close(rowOf(`r${n}`));
        const attempt = Promise.resolve(ledger.intent(intentOf(`i${n}`))).then(
          () => "written",
          () => "refused",
        );
        await expect.poll(() => wire.counts.lost).toBeGreaterThan(n);
        wire.set({ loseReply: 0 });
        await attempt;
        clock.advance(100);
        await ledger.flush();
        ledger.close(rowOf(`i${n}`));
        await ledger.flush();
      }
      await ledger.intent(intentOf("last"));
      expect((await ledger.list({ state: "settled" })).map((row) => row.id).sort()).toEqual(
        Array.from({ length: 16 }, (_, n) => (n < 8 ? `i${n}` : `r${n - 8}`)),
      );
      expect((await ledger.list({ state: "intent" })).map((row) => row.id)).toEqual(["last", "kept-open"]);
      // Packs whose number was lost with the reply do not stay for ever.
      await expect.poll(() => count("intent")).toBe(2);
    });

    it("answers too late: what it wrote then for a request that was refused does not stay", async () => {
      const { wire, url } = await wired(server);
      const { ledger } = await open(url);
      await ledger.intent(intentOf("kept-open"));
      wire.set({ delayMs: 2 * DEADLINE_MS });
      await expect(ledger.intent(intentOf("refused"))).rejects.toMatchObject(UNAVAILABLE);
      expect(await count("intent")).toBe(2);
      wire.set({ delayMs: 0 });
      clock.advance(100);
      await expect.poll(() => messages()).toContain("info: the ledger has caught up");
      await ledger.intent(intentOf("next"));
      expect(await count("intent")).toBe(2);
      expect((await ledger.list({ state: "intent" })).map((row) => row.id)).toEqual(["next", "kept-open"]);
    });

    it("ends our connections: no request notices", async () => {
      const { ledger } = await open();
      for (let n = 0; n < 5; n += 1) {
        const ended = await sqlOn(
          server,
          `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'quotaguard' and pid <> pg_backend_pid()
             and query like '%${schema}%'`,
        );
        expect(ended.length).toBeGreaterThan(0);
        await ledger.intent(intentOf(`i${n}`));
        ledger.close(rowOf(`i${n}`));
        expect((await ledger.get(`i${n}`))?.state).toBe("settled");
      }
      expect(messages().filter((line) => line.startsWith("error"))).toEqual([]);
    });

    it("becomes read-only or gives no more connections: refused, said once, and over by itself", async () => {
      const { role, url } = await ownRole(server);
      await sqlOn(server, `create schema ${schema} authorization ${role}`);
      const { ledger } = await open(url);
      const faults = [
        [`alter role ${role} set default_transaction_read_only = on`, `alter role ${role} reset default_transaction_read_only`],
        [`alter role ${role} connection limit 0`, `alter role ${role} connection limit -1`],
      ] as const;
      for (const [n, [breaks, mends]] of faults.entries()) {
        await sqlOn(server, breaks);
        // Settings of a role count for new connections.
        await sqlOn(server, "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
        ledger.close(rowOf(`r${n}`));
        await expect.poll(() => Promise.resolve(ledger.intent(intentOf(`during-${n}`))).catch((error: unknown) => error)).toMatchObject(UNAVAILABLE);
        for (let more = 0; more < 3; more += 1) {
          clock.advance(100 * 2 ** more);
          await expect(ledger.intent(intentOf(`more-${more}`))).rejects.toMatchObject(UNAVAILABLE);
        }
        // As after a failover, nobody ends our connections for us.
        await sqlOn(server, mends);
        const done = Promise.resolve(ledger.flush()).then(() => true);
        await expect
          .poll(async () => {
            clock.advance(5000);
            return Promise.race([done, new Promise((resolve) => setImmediate(resolve, false))]);
          })
          .toBe(true);
        await ledger.intent(intentOf(`after-${n}`));
      }
      expect(messages().filter((line) => line.includes("the ledger"))).toEqual(
        Array.from({ length: 4 }, (_, n) => (n % 2 === 0 ? "error: the ledger's database cannot be written" : "info: the ledger has caught up")),
      );
      expect((await ledger.list({ state: "settled" })).map((row) => row.id)).toEqual(["r1", "r0"]);
    });

    /** Every insert into the table fails while the condition holds. */
    async function failing(table: string, code: string, condition: string): Promise<() => Promise<unknown>> {
      await sqlOn(
        server,
        `create sequence ${schema}.tries;
         create function ${schema}.fail() returns trigger language plpgsql as $$ begin
           if ${condition} then raise exception 'planted' using errcode = '${code}'; end if; return new; end $$;
         create trigger planted before insert on ${schema}.quotaguard_${table} for each row execute function ${schema}.fail()`,
      );
      return () => sqlOn(server, `drop function ${schema}.fail() cascade; drop sequence ${schema}.tries`);
    }

    it("gives a statement up for a deadlock or a conflict: it is repeated at once, and no request notices", async () => {
      const { ledger } = await open();
      for (const code of ["40P01", "40001"]) {
        const mend = await failing("intent", code, `nextval('${schema}.tries') % 2 = 1`);
        for (let n = 0; n < 5; n += 1) {
          ledger.close(rowOf(`r-${code}-${n}`));
          await ledger.intent(intentOf(`i-${code}-${n}`));
        }
        await mend();
      }
      await ledger.flush();
      expect(await ledger.list({})).toHaveLength(20);
      expect(messages()).toEqual([]);
    });

    it("has no space left: requests are refused, and no row is lost", async () => {
      const { ledger } = await open();
      await ledger.intent(intentOf("a"));
      const mends = [await failing("ledger", "53100", "true")];
      ledger.close(rowOf("a"));
      clock.advance(50);
      await expect.poll(() => messages()).toHaveLength(1);
      await expect(ledger.intent(intentOf("b"))).rejects.toMatchObject(UNAVAILABLE);
      expect(await ledger.get("a")).toMatchObject({ state: "intent" });
      await mends[0]?.();
      const flushed = ledger.flush();
      clock.advance(100);
      await flushed;
      expect(await ledger.get("a")).toEqual(rowOf("a"));
      expect(messages()).toEqual(["error: the ledger's database cannot be written", "info: the ledger has caught up"]);
    });

    it("is away for long: the queue is bounded, refused rows go first, charged rows come in their order", { timeout: 40_000 }, async () => {
      const { wire, url } = await wired(server);
      const { ledger } = await open(url);
      wire.set({ refuse: true });
      wire.cut();
      await expect(ledger.intent(intentOf("i"))).rejects.toMatchObject(UNAVAILABLE);
      const refused = rowOf("refused", { state: "refused" });
      for (let n = 0; n < QUEUE_ROWS - 2500; n += 1) ledger.close({ ...refused, id: `refused-${n}` });
      for (let n = 0; n < 2500; n += 1) ledger.close(rowOf(`charged-${n}`, { at: AT + n }));
      ledger.close({ ...refused, id: "one-too-many" });
      ledger.close(rowOf("charged-last", { at: AT + 2500 }));
      ledger.close({ ...refused, id: "fits-again", at: AT + 2501 });
      wire.set({ refuse: false });
      const flushed = ledger.flush();
      clock.advance(100);
      await flushed;
      const rows = await ledger.list({});
      expect(rows).toHaveLength(2502);
      expect(rows.map((row) => row.at)).toEqual(Array.from({ length: 2502 }, (_, n) => AT + 2501 - n));
      expect(await ledger.completeSince()).toBe(0);
      expect(messages()).toEqual([
        "error: the ledger's database cannot be written",
        "warn: the ledger's queue is full: rows of refused requests are dropped and counted",
        "info: the ledger has caught up",
      ]);
      expect(logged[2]?.fields).toEqual({ droppedRefusals: QUEUE_ROWS - 2499 });
    });

    it("is away when the store is closed: it says how many rows are lost, and what waits is rejected, within two deadlines", async () => {
      const { wire, url } = await wired(server);
      const store = await open(url);
      await store.ledger.intent(intentOf("a"));
      wire.set({ blackHole: true });
      store.ledger.close(rowOf("a"));
      store.ledger.close(rowOf("b"));
      const flushed = Promise.resolve(store.ledger.flush());
      const startedMs = performance.now();
      const [flush, close] = await Promise.allSettled([flushed, store.close()]);
      expect(performance.now() - startedMs).toBeLessThan(4 * DEADLINE_MS + 1000 + SLACK_MS);
      expect(flush).toMatchObject({ status: "rejected", reason: { code: "store_unavailable" } });
      expect(close).toMatchObject({ status: "rejected", reason: { message: expect.stringContaining("2 ledger rows are lost") } });
    });
  });

  it("keeps nobody waiting for a connection: beyond a thousand that wait, the next is refused at once", async () => {
    const pool = new pg.Pool({ connectionString: server, max: 1 });
    onTestFinished(() => pool.end());
    const { postgresStore } = await import("../../src/stores/postgres/index.ts");
    const store = postgresStore({ client: pool, schema, deadlineMs: 10_000 });
    await store.ready();
    const taken = await pool.connect();
    const reads = Array.from({ length: 1200 }, () => Promise.resolve(store.records.get("k")));
    const refused = reads.slice(1000).map((read) => expect(read).rejects.toMatchObject(UNAVAILABLE));
    await Promise.all(refused);
    taken.release();
    expect(await Promise.all(reads.slice(0, 1000))).toEqual(Array(1000).fill(undefined));
    await store.close();
  });
});
