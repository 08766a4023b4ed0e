import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { inspect } from "node:util";

import pg from "pg";
import { describe, expect, it, onTestFinished } from "vitest";

import { ConfigError } from "../../src/core/errors.ts";
import { postgresStore, type PostgresSource, type PostgresStoreOptions } from "../../src/stores/postgres/index.ts";
import { checkServer } from "../../src/stores/postgres/schema.ts";
import { startProblem } from "../../src/stores/postgres/trouble.ts";
import { intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { freePort } from "../setup/server-process.ts";
import { testServer } from "../setup/test-server.ts";
import { openedStore, ownRole, ownSchema, sqlOn, wired } from "./postgres-kit.ts";
import { SINCE_0003 } from "./migration-columns.ts";

const server = (await testServer("postgres")) as string;

const SECRET = "s3cret-in-the-url";

async function problemOf(url: string, options: PostgresStoreOptions = {}): Promise<string> {
  const store = postgresStore(url, { deadlineMs: 1000, ...options });
  onTestFinished(() => store.close());
  const error: unknown = await Promise.resolve(store.ready()).then(
    () => new Error("it started"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  const { hostname, port, pathname } = new URL(url);
  const { message } = error as ConfigError;
  expect(message).toContain(`${hostname}:${port}${pathname}`);
  expect(message).toContain("ledger.url or postgresStore's first argument");
  expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(SECRET);
  return message;
}

/** Answers every attempt to log in as a Postgres that refuses it. */
async function refusing(code: string, message: string): Promise<string> {
  const fields = Buffer.from(["SFATAL", "VFATAL", `C${code}`, `M${message}`, ""].map((field) => `${field}\0`).join(""));
  const reply = Buffer.alloc(5 + fields.length);
  reply.write("E", 0);
  reply.writeInt32BE(4 + fields.length, 1);
  fields.copy(reply, 5);
  const fake = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(reply));
  }).listen(0, "127.0.0.1");
  await once(fake, "listening");
  onTestFinished(() => void fake.close());
  return `postgres://me:${SECRET}@127.0.0.1:${(fake.address() as AddressInfo).port}/app`;
}

const schemaTables = (schema: string): Promise<unknown> =>
  sqlOn(server, "select table_name from information_schema.tables where table_schema = $1 and table_name like 'quotaguard%'", [schema]);

describe("postgresStore's options", () => {
  const url = `postgres://me:${SECRET}@127.0.0.1:1/app`;
  const problem = (source: unknown, options?: unknown): string => {
    try {
      postgresStore(source as PostgresSource, options as PostgresStoreOptions);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(SECRET);
      return (error as Error).message;
    }
    return "it was taken";
  };

  it("are named when they are unknown or cannot be used", () => {
    expect(problem(url, { pool: 5 })).toBe("postgresStore has no option pool: it knows url, client, deadlineMs, poolSize, schema, clock, logger");
    for (const deadlineMs of [49, 60_001, Number.NaN, "2s"])
      expect(problem(url, { deadlineMs })).toContain(`deadlineMs is from 50 to 60000, not ${deadlineMs}`);
    for (const poolSize of [0, 1.5, 1001]) expect(problem({ url, poolSize })).toContain("poolSize is a whole number from 1 to 1000");
    for (const schema of ["", 'a"b', "a;b", "1a", "x".repeat(51), 5]) expect(problem(url, { schema })).toContain("schema has letters, digits and _");
    expect(problem(`${url}?schema=a-b`)).toContain('at most 50, not "a-b"');
  });

  it("need a Postgres URL or a pool, and never repeat what may hold a password", () => {
    for (const source of ["", "redis://x", `mysql://me:${SECRET}@x/y`, undefined, null, 5, {}, { url: 5 }, SECRET]) {
      expect(problem(source)).toContain("postgresStore needs a URL, for example postgres://user:password@host:5432/database, or a pg.Pool");
    }
    expect(problem(`postgres://me:${SECRET}/#@127.0.0.1:bad/app`)).toContain("are written percent-encoded");
    expect(problem(`${url}?sslrootcert=/no/such/file.pem`)).toContain("/no/such/file.pem");
    expect(problem(new pg.Client(url))).toContain("one pg.Client cannot serve several requests");
    expect(problem({ client: new pg.Client(url) })).toContain("client is a pg.Pool");
    const pool = new pg.Pool({ connectionString: url });
    expect(problem({ client: pool, poolSize: 5 })).toContain("poolSize is not for a client of yours");
    for (const source of [pool, { client: pool }, url, { url, deadlineMs: 100 }, "postgresql:///app?host=/run/postgresql"]) {
      expect(problem(source, { schema: "own" })).toBe("it was taken");
    }
  });

  it("a store that is not ready says what to do", () => {
    const store = postgresStore(url);
    expect([store.name, store.shared]).toEqual(["postgres", true]);
    expect(() => store.ledger.intent(intentOf("i"))).toThrow("the Postgres store is not ready: await store.ready() first");
    expect(() => store.records.get("k")).toThrow(expect.objectContaining({ code: "store_unavailable" }));
  });
});

describe("what keeps it from starting names the place and the way out", () => {
  it("nobody listens, and nobody answers", async () => {
    expect(await problemOf(`postgres://me:${SECRET}@127.0.0.1:${await freePort()}/app`)).toContain(
      "nobody listens there: start Postgres, or correct host and port",
    );
    const silent = createServer(() => {}).listen(0, "127.0.0.1");
    await once(silent, "listening");
    onTestFinished(() => void silent.close());
    const { port } = silent.address() as AddressInfo;
    expect(await problemOf(`postgres://me:${SECRET}@127.0.0.1:${port}/app`, { deadlineMs: 100 })).toContain(
      "the host does not answer: check host, port and firewall",
    );
  });

  it("something else listens", async () => {
    const other = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => socket.destroy());
    }).listen(0, "127.0.0.1");
    await once(other, "listening");
    onTestFinished(() => void other.close());
    expect(await problemOf(`postgres://me@127.0.0.1:${(other.address() as AddressInfo).port}/app`)).toContain(
      "is it a Postgres that takes connections from here?",
    );
  });

  it("what a server answers to a login", async () => {
    const cases = [
      ["28P01", 'password authentication failed for user "me"', "the server wants another user or password"],
      ["28000", 'no pg_hba.conf entry for host "127.0.0.1"', "allow user, host and TLS in its pg_hba.conf"],
      ["53300", "sorry, too many clients already", "raise its max_connections"],
      ["57P03", "the database system is starting up", "wait until it takes connections"],
      ["08P01", "unsupported startup parameter: statement_timeout", "ignore_startup_parameters"],
    ] as const;
    for (const [code, message, advice] of cases) {
      const said = await problemOf(await refusing(code, message));
      expect(said).toContain(advice);
      expect(said).toContain(`(${message})`);
    }
  });

  it("a password that the server wants and the URL does not have, without leaving the connection open", async () => {
    const fake = createServer();
    const step = (kind: number, data: string): Buffer => {
      const head = Buffer.from("R\0\0\0\0\0\0\0\0", "latin1");
      head.writeInt32BE(8 + data.length, 1);
      head.writeInt32BE(kind, 5);
      return Buffer.concat([head, Buffer.from(data, "latin1")]);
    };
    fake.on("connection", (socket) => {
      const replies = [step(10, "SCRAM-SHA-256\0\0"), step(11, "r=nonce,s=c2FsdA==,i=4096")];
      socket.on("error", () => {});
      socket.on("data", () => socket.write(replies.shift() ?? ""));
    });
    fake.listen(0, "127.0.0.1");
    await once(fake, "listening");
    const url = `postgres://me@127.0.0.1:${(fake.address() as AddressInfo).port}/app`;
    expect(await problemOf(url)).toContain("wants another user or password");
    // Only when its last connection has ended.
    await new Promise((resolve) => fake.close(resolve));
  });

  it("a name that cannot be looked up, and a certificate that is not trusted", () => {
    const said = (code: string): string => startProblem(Object.assign(new Error("as the system says it"), { code }), "db:5432/app").message;
    expect(said("ENOTFOUND")).toContain("db:5432/app (ledger.url or postgresStore's first argument) cannot be used: there is no host of this name");
    expect(said("DEPTH_ZERO_SELF_SIGNED_CERT")).toContain("sslrootcert");
    expect(said("XX000")).toContain("cannot be used: as the system says it");
    expect(startProblem(new Error("The server does not support SSL connections"), "p").message).toContain("leave out sslmode");
    expect(startProblem(Object.assign(new AggregateError([]), { code: "ECONNREFUSED" }), "p").message).toContain("(ECONNREFUSED)");
  });

  it("a server that is too old, or does not hold every text", () => {
    expect(() => checkServer(120_022, "UTF8")).toThrow("Postgres 12 is too old for ledger.url");
    expect(() => checkServer(130_000, "UTF8")).not.toThrow();
    expect(() => checkServer(160_001, "SQL_ASCII")).toThrow("has the encoding SQL_ASCII: create one with encoding 'UTF8'");
  });
});

describe.skipIf(server === undefined)("starting on a real Postgres", () => {
  it("without the database", async () => {
    const url = new URL(server);
    url.pathname = "/no_such_database";
    url.password = SECRET;
    expect(await problemOf(url.href)).toContain("there is no such database: create it");
  });

  it("without the right to create tables; with it, it starts", async () => {
    const { role, url } = await ownRole(server);
    const schema = ownSchema(server);
    expect(await problemOf(url, { schema })).toContain("the user may not create or change our tables: grant it create");
    await sqlOn(server, `create schema ${schema}; grant usage on schema ${schema} to ${role}`);
    expect(await problemOf(url, { schema })).toContain("the user may not create or change our tables");
    expect(await schemaTables(schema)).toEqual([]);
    await sqlOn(server, `grant create on schema ${schema} to ${role}`);
    await (await openedStore(url, { schema })).ledger.intent(intentOf("i"));
  });

  it("on a read-only one, as a standby is", async () => {
    const { role, url } = await ownRole(server);
    const schema = ownSchema(server);
    await sqlOn(server, `create schema ${schema} authorization ${role}; alter role ${role} set default_transaction_read_only = on`);
    expect(await problemOf(url, { schema })).toContain("it is read-only, as a standby is: name the primary server");
    await sqlOn(server, `alter role ${role} reset default_transaction_read_only`);
    const store = await openedStore(url, { schema });
    await store.close();
    await sqlOn(server, `alter role ${role} set default_transaction_read_only = on`);
    expect(await problemOf(url, { schema })).toContain("name the primary server");
  });

  it("on tables of a newer version, which stay as they were", async () => {
    const schema = ownSchema(server);
    await (await openedStore(server, { schema })).close();
    await sqlOn(server, `insert into ${schema}.quotaguard_migration values ('9999_from_the_future', '2030-01-01T00:00:00.000Z')`);
    expect(await problemOf(server, { schema })).toContain(
      "written by a newer version of quotaguard (migration 9999_from_the_future): install that version",
    );
    expect(await sqlOn(server, `select * from ${schema}.quotaguard_owner`)).toEqual([]);
  });

  it("on tables of an older version, which are brought up to date: their rows stay, and say nothing of what it did not know", async () => {
    const schema = ownSchema(server);
    const first = await openedStore(server, { schema });
    first.ledger.close(rowOf("old"));
    await first.close();
    await sqlOn(
      server,
      `alter table ${schema}.quotaguard_ledger ${SINCE_0003.map((column) => `drop column ${column}`).join(", ")};
       drop table ${schema}.quotaguard_rollup;
       delete from ${schema}.quotaguard_migration where name >= '0003'`,
    );
    const { ledger } = await openedStore(server, { schema });
    ledger.close(rowOf("new"));
    await ledger.flush();
    expect(await Promise.all(["old", "new"].map((id) => ledger.get(id)))).toEqual([rowOf("old", { priceVersion: null, tag: null }), rowOf("new")]);
  });

  it("a migration that fails half-way leaves nothing behind, and the next start makes it good", async () => {
    const schema = ownSchema(server);
    await sqlOn(server, `create schema ${schema}; create table ${schema}.quotaguard_record (theirs int)`);
    expect(await problemOf(server, { schema })).toContain("already exists");
    expect(await schemaTables(schema)).toEqual([{ table_name: "quotaguard_record" }]);
    await sqlOn(server, `drop table ${schema}.quotaguard_record`);
    await (await openedStore(server, { schema })).ledger.intent(intentOf("i"));
  });

  it("many at once: one migrates, the others wait and find nothing to do", async () => {
    const schema = ownSchema(server);
    const stores = await Promise.all(Array.from({ length: 6 }, () => openedStore(server, { schema })));
    await Promise.all(stores.map(({ ledger }, n) => ledger.intent(intentOf(`i${n}`))));
    expect(await stores[0]?.ledger.list({})).toHaveLength(6);
    const migrations = await sqlOn(server, `select count(*)::int as n, count(distinct name)::int as names from ${schema}.quotaguard_migration`);
    expect(migrations[0]?.["n"]).toBe(migrations[0]?.["names"]);
  });

  it("waits for a migration that another process has begun", async () => {
    const schema = ownSchema(server);
    const other = new pg.Client({ connectionString: server });
    await other.connect();
    onTestFinished(() => other.end());
    await other.query("select pg_advisory_lock(hashtextextended($1, 0))", [`quotaguard ${schema}`]);
    let isReady = false;
    const opening = openedStore(server, { schema, deadlineMs: 100 }).then((store) => {
      isReady = true;
      return store;
    });
    const waiting = "select count(*)::int as n from pg_stat_activity where wait_event = 'advisory' and query like 'select pg_advisory_xact_lock%'";
    await expect.poll(async () => (await sqlOn(server, waiting))[0]?.["n"]).toBeGreaterThan(0);
    expect(isReady).toBe(false);
    await other.query("select pg_advisory_unlock_all()");
    await (await opening).ledger.intent(intentOf("i"));
  });

  it("again and again, keeping what is there; after a failure, the next ready() tries again", async () => {
    const schema = ownSchema(server);
    for (let round = 1; round <= 3; round += 1) {
      const store = postgresStore({ url: server, schema });
      await Promise.all([store.ready(), store.ready()]);
      await store.records.put(`round/${round}`, round);
      expect(await store.records.list("round/")).toHaveLength(round);
      await Promise.all([store.close(), store.close()]);
      expect(() => store.ready()).toThrow("is closed");
    }
    const { wire, url } = await wired(server, { refuse: true });
    const store = postgresStore(url, { schema, deadlineMs: 1000 });
    await expect(store.ready()).rejects.toThrow(ConfigError);
    wire.set({ refuse: false });
    await store.ready();
    expect(await store.records.list("round/")).toHaveLength(3);
    await store.close();
  });

  it("the schema may be named in the URL, and lies beside the tables of a host", async () => {
    const schema = ownSchema(server);
    await sqlOn(server, `create schema ${schema}; create table ${schema}.ledger (mine int)`);
    const url = new URL(server);
    url.searchParams.set("schema", schema);
    const store = postgresStore(url.href);
    await store.ready();
    await store.ledger.intent(intentOf("i"));
    expect(await sqlOn(server, `select count(*)::int as n from ${schema}.quotaguard_intent`)).toEqual([{ n: 1 }]);
    await store.close();
    expect(await sqlOn(server, `select * from ${schema}.ledger`)).toEqual([]);
  });
});
