// Keys and organisations that are made while gateways run: what one of them is told, the others do, and a database that is away takes nobody's key for wrong.
import express from "express";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { createGuard, type GuardOptions, type LedgerStore } from "quotaguard";
import { faultyStore } from "quotaguard/testing";
import { postgresStore } from "quotaguard/stores/postgres";
import { silentLogger } from "../../src/core/logger.ts";
import { chat, listen, testGateway, type TestGateway } from "../helpers/app.ts";
import { testServer } from "../setup/test-server.ts";
import { ownSchema, sqlOn, unheard, wired } from "../stores/postgres-kit.ts";
import { closeLater, databasePath, endAccounts, movedClock, PATIENTLY, replyOf, type Reply } from "./accounts-kit.ts";
import { ownTime } from "../helpers/own-time.ts";

const url = await testServer("postgres");
const SECRET = "a-secret-key-for-tests-0001";
const HOUR = 3_600_000;

afterEach(endAccounts);

const gateway = async (more: GuardOptions): Promise<TestGateway> =>
  closeLater(await testGateway({ auth: { keys: [] }, secrets: { key: SECRET }, ...more }));

const ask = (of: TestGateway, key: string, headers: Record<string, string> = {}): Promise<Reply> => replyOf(chat(of.url, {}, { key, headers }));
const statusOf = async (of: TestGateway, key: string): Promise<number> => (await ask(of, key)).status;

const ORG_HOUR: GuardOptions["limits"] = [{ name: "org-hour", scope: "org", unit: "requests", window: { limit: 2, per: "hour" } }];

describe("one gateway", () => {
  test("lets a key in from the moment it is made until it is revoked, beside those of the configuration", async () => {
    const of = await gateway({ auth: { keys: [{ name: "conf", key: "qg-configured-key-0001" }] } });
    const { keys } = of.guard.admin;
    expect(await statusOf(of, `qg_${"a".repeat(49)}`)).toBe(401);
    const { key } = await keys.create({ name: "alice", models: ["gpt-4o-mini"] });
    expect([await statusOf(of, key), await statusOf(of, "qg-configured-key-0001")]).toEqual([200, 200]);
    expect(await replyOf(chat(of.url, { model: "gpt-4o" }, { key }))).toMatchObject({ status: 403, code: "model_not_allowed" });
    await keys.revoke("alice");
    expect([await statusOf(of, key), await statusOf(of, "qg-configured-key-0001")]).toEqual([401, 200]);
    await expect(keys.create({ name: "conf" })).rejects.toMatchObject({ code: "body_invalid" });
  });

  test("ends a key by the clock, and the one before a rotation", async () => {
    const clock = movedClock();
    const of = await gateway({ clock });
    const { keys } = of.guard.admin;
    const first = await keys.create({ name: "alice", expires: clock.now() + 2 * HOUR });
    const second = await keys.rotate("alice", { overlap: "1h" });
    clock.advance(HOUR - 1);
    expect([await statusOf(of, first.key), await statusOf(of, second.key)]).toEqual([200, 200]);
    clock.advance(1);
    expect([await statusOf(of, first.key), await statusOf(of, second.key)]).toEqual([401, 200]);
    clock.advance(HOUR);
    expect(await statusOf(of, second.key)).toBe(401);
  });

  test.each(["host", "in-process", "master", "constructor"])("counts a key apart, also one that is called %s", async (name) => {
    const limits: GuardOptions["limits"] = [{ name: "key-hour", scope: "key", unit: "requests", window: { limit: 2, per: "hour" } }];
    const of = await gateway({ limits });
    const { key } = await of.guard.admin.keys.create({ name });
    const other = await of.guard.admin.keys.create({ name: "alice" });
    for (const status of [200, 200, 429]) expect(await statusOf(of, key)).toBe(status);
    expect(await statusOf(of, other.key)).toBe(200);
  });

  test("counts each organisation apart, whatever its members are called, and none of them may name another one", async () => {
    const limits: GuardOptions["limits"] = [
      ...ORG_HOUR,
      { name: "user-hour", scope: "user", unit: "requests", window: { limit: 1, per: "hour" }, mode: "shadow" },
    ];
    const of = await gateway({ limits });
    const { keys } = of.guard.admin;
    const acme = await keys.create({ name: "a", org: "acme", scopes: { user: "alice" }, mayAssertScopes: true });
    const globex = await keys.create({ name: "g", org: "globex", scopes: { user: "alice" } });
    for (const status of [200, 200, 429]) expect(await statusOf(of, acme.key)).toBe(status);
    const used = async (org: string) => (await of.guard.remaining({ org, user: "alice" })).map(({ used: amount }) => amount);
    await expect.poll(() => used("acme")).toEqual([2, 1]);
    expect(await used("globex")).toEqual([0, 0]);
    expect(await ask(of, acme.key, { "x-org-id": "globex" })).toMatchObject({ status: 403, code: "forbidden" });
    expect(await used("globex")).toEqual([0, 0]);
    expect((await ask(of, globex.key, { "x-org-id": "acme" })).status).toBe(200);
    expect(await used("globex")).toEqual([1, 1]);
  });

  test("refuses whatever belongs to a disabled organisation, on every lane, and makes no key for it", async () => {
    const of = await gateway({ limits: ORG_HOUR, auth: { masterKey: "master-key-for-tests-1", keys: [] } });
    const { keys, orgs } = of.guard.admin;
    const { key } = await keys.create({ name: "a", org: "acme" });
    expect(await orgs.disable("acme")).toBe(true);
    expect(await ask(of, key)).toMatchObject({ status: 403, code: "forbidden" });
    expect(await ask(of, "master-key-for-tests-1", { "x-org-id": "acme" })).toMatchObject({ status: 403, code: "forbidden" });
    expect(await statusOf(of, "master-key-for-tests-1")).toBe(200);
    const list = await fetch(`${of.url}/llm/v1/models`, { headers: { "x-api-key": key } });
    expect(list.status).toBe(403);
    await expect(of.guard.run({ scopes: { org: "acme" }, limits: ["org-hour"] }, () => 1)).rejects.toMatchObject({ code: "forbidden" });
    await expect(keys.create({ name: "b", org: "acme" })).rejects.toMatchObject({ code: "forbidden" });
    expect((await of.guard.remaining({ org: "acme" }))[0]?.used).toBe(0);
    expect([await orgs.disable("acme"), await orgs.enable("acme")]).toEqual([false, true]);
    expect(await statusOf(of, key)).toBe(200);
    await expect(orgs.disable("acmee")).rejects.toMatchObject({ code: "not_found" });
    await expect(orgs.create({ name: "acme" })).rejects.toMatchObject({ code: "body_invalid" });
    expect((await orgs.list()).map(({ name }) => name)).toEqual(["acme"]);
  });

  test("refuses a disabled organisation behind the parts, too, and for what the host says of its own requests", async () => {
    const of = await gateway({ limits: [], auth: { keys: [] } });
    const { keys, orgs } = of.guard.admin;
    const { key } = await keys.create({ name: "a", org: "acme" });
    const theirs = createGuard({ auth: false, scopes: (req) => ({ org: String(req.headers["x-tenant"]) }), limits: [] });
    onTestFinished(() => theirs.close());
    await theirs.admin.orgs.create({ name: "acme" });
    await theirs.admin.orgs.disable("acme");
    await orgs.disable("acme");
    const app = express();
    app.get("/own", of.guard.auth(), (_req, res) => void res.send("ok"));
    app.use("/host", theirs.handler());
    const listening = closeLater(await listen(app));
    expect((await fetch(`${listening.url}/own`, { headers: { "x-api-key": key } })).status).toBe(403);
    const body = JSON.stringify({ model: "gpt-4o", messages: [] });
    const refused = await fetch(`${listening.url}/host/v1/chat/completions`, {
      method: "POST",
      headers: { "x-tenant": "acme", "idempotency-key": "k" },
      body,
    });
    expect([refused.status, await refused.json()]).toMatchObject([403, { error: { code: "forbidden" } }]);
  });

  test("sells an organisation more for a while: numbers go before those of the configuration, and end", async () => {
    const clock = movedClock();
    const of = await gateway({ clock, limits: ORG_HOUR });
    const { keys, limits } = of.guard.admin;
    const { key } = await keys.create({ name: "a", org: "acme" });
    const other = await keys.create({ name: "g", org: "globex" });
    for (const status of [200, 200, 429]) expect(await statusOf(of, key)).toBe(status);
    const until = clock.now() + 10_000;
    await limits.set("org-hour", "acme", { limit: 3, until });
    expect(limits.list()).toEqual([
      {
        name: "org-hour",
        scope: ["org"],
        unit: "requests",
        kind: "window",
        mode: "enforce",
        enforceFrom: null,
        limit: 2,
        set: [],
        values: [{ value: "acme", limit: 3, until }],
      },
    ]);
    for (const status of [200, 429]) expect(await statusOf(of, key)).toBe(status);
    for (const status of [200, 200, 429]) expect(await statusOf(of, other.key)).toBe(status);
    expect((await of.guard.remaining({ org: "acme" }))[0]).toMatchObject({ limit: 3, used: 3, available: 0 });
    clock.advance(10_000);
    expect((await of.guard.remaining({ org: "acme" }))[0]).toMatchObject({ limit: 2, available: -1 });
    expect(limits.list()[0]?.values).toEqual([]);
  });

  test("knows the keys that it has seen for five minutes without their database; all others are told to come back, not that they are wrong", async () => {
    const clock = movedClock();
    const ledger = faultyStore({ clock, shared: true });
    const of = await gateway({ clock, ledger });
    const { keys } = of.guard.admin;
    const [known, other] = [await keys.create({ name: "known" }), await keys.create({ name: "other" })];
    expect(await statusOf(of, known.key)).toBe(200);
    ledger.fail("throws", "records");
    expect(await ask(of, other.key)).toMatchObject({ status: 503, code: "store_unavailable", retryAfter: 1 });
    expect(await statusOf(of, `qg_${"a".repeat(49)}`)).toBe(401);
    clock.advance(299_999);
    expect(await statusOf(of, known.key)).toBe(200);
    clock.advance(1);
    expect(await ask(of, known.key)).toMatchObject({ status: 503, code: "store_unavailable" });
    await expect(keys.revoke("known")).rejects.toMatchObject({ code: "store_unavailable" });
    ledger.recover();
    expect([await statusOf(of, known.key), await statusOf(of, other.key)]).toEqual([200, 200]);
  });
});

describe("on one SQLite file", () => {
  test("another process hears of what was made and revoked within 2 s", async () => {
    const store = { url: `sqlite:${databasePath()}` };
    const [a, b] = [await gateway({ store }), await gateway({ store })];
    const { key } = await a.guard.admin.keys.create({ name: "alice", org: "acme" });
    expect(await statusOf(b, key)).toBe(200);
    const sinceSaid = ownTime();
    await a.guard.admin.keys.revoke("alice");
    await expect.poll(() => statusOf(b, key), { ...PATIENTLY, interval: 20 }).toBe(401);
    expect(sinceSaid()).toBeLessThan(2_000);
  });
});

describe.skipIf(url === undefined)("two gateways on one Postgres", () => {
  async function pair(at = url as string): Promise<{ readonly a: TestGateway; readonly b: TestGateway; readonly schema: string }> {
    const schema = ownSchema(url as string);
    const node = (of: string): LedgerStore => closeLater(postgresStore(of, { schema }) as LedgerStore & { close(): Promise<unknown> });
    const [a, b] = [await gateway({ ledger: node(url as string), limits: ORG_HOUR }), await gateway({ ledger: node(at), limits: ORG_HOUR })];
    return { a, b, schema };
  }

  test("a key that one of them makes works at the other at once; revoked, it is refused everywhere within 2 s", async () => {
    const { a, b } = await pair();
    const { key } = await a.guard.admin.keys.create({ name: "alice", org: "acme" });
    expect([await statusOf(a, key), await statusOf(b, key)]).toEqual([200, 200]);
    const sinceSaid = ownTime();
    await b.guard.admin.keys.revoke("alice");
    expect(await statusOf(b, key)).toBe(401);
    await expect.poll(() => statusOf(a, key), { ...PATIENTLY, interval: 10 }).toBe(401);
    expect(sinceSaid()).toBeLessThan(2_000);
  });

  test("a disabled organisation is refused everywhere within 2 s, and a rotation is known", async () => {
    const { a, b } = await pair();
    const old = await a.guard.admin.keys.create({ name: "alice", org: "acme" });
    expect(await statusOf(b, old.key)).toBe(200);
    const { key } = await a.guard.admin.keys.rotate("alice", { overlap: "1h" });
    expect([await statusOf(b, old.key), await statusOf(b, key)]).toEqual([200, 429]);
    const sinceSaid = ownTime();
    await a.guard.admin.orgs.disable("acme");
    await expect.poll(() => statusOf(b, key), { ...PATIENTLY, interval: 10 }).toBe(403);
    expect(sinceSaid()).toBeLessThan(2_000);
    expect(await b.guard.admin.orgs.list()).toMatchObject([{ name: "acme", disabledAt: expect.any(Number) }]);
  });

  test("without any notification, too: what is revoked and disabled is refused within 2 s", async () => {
    const { a, b } = await pair(await unheard(url as string));
    const alice = await a.guard.admin.keys.create({ name: "alice", org: "acme" });
    const bob = await a.guard.admin.keys.create({ name: "bob", org: "globex" });
    expect([await statusOf(b, alice.key), await statusOf(b, bob.key)]).toEqual([200, 200]);
    const sinceSaid = ownTime();
    await Promise.all([a.guard.admin.keys.revoke("alice"), a.guard.admin.orgs.disable("globex")]);
    await expect.poll(() => statusOf(b, alice.key), { ...PATIENTLY, interval: 20 }).toBe(401);
    await expect.poll(() => statusOf(b, bob.key), { ...PATIENTLY, interval: 20 }).toBe(403);
    expect(sinceSaid()).toBeLessThan(2_000);
  });

  test("the database has digests only, and those are of no use without the secret key", async () => {
    const { a, schema } = await pair();
    const { key } = await a.guard.admin.keys.create({ name: "alice", org: "acme" });
    const rows = await sqlOn(url as string, `select key, value::text as value from ${schema}.quotaguard_record`);
    expect(rows.some(({ key: at }) => String(at).startsWith("api-key/"))).toBe(true);
    expect(JSON.stringify(rows)).not.toContain(key.slice(8, 46));
    const ledger = closeLater(postgresStore(url as string, { schema }) as LedgerStore & { close(): Promise<unknown> });
    const other = createGuard({ ledger, secrets: { key: "another-secret-key-0001" }, auth: { keys: [] }, logger: silentLogger });
    await expect(other.ready()).rejects.toThrow("secrets.key: is another one than the keys of clients in the database were made with");
    await other.close();
  });

  test("behind a wire that was cut known keys work, unknown ones are 503, and both are right when it is whole again", async () => {
    const { wire, url: through } = await wired(url as string);
    const { a, b } = await pair(through);
    const [known, other] = [
      await a.guard.admin.keys.create({ name: "known", org: "acme" }),
      await a.guard.admin.keys.create({ name: "other", org: "globex" }),
    ];
    expect(await statusOf(b, known.key)).toBe(200);
    wire.set({ refuse: true });
    wire.cut();
    expect(await ask(b, other.key)).toMatchObject({ status: 503, code: "store_unavailable" });
    expect((await ask(b, known.key)).code).not.toBe("unauthenticated");
    await a.guard.admin.keys.revoke("known");
    wire.set({ refuse: false });
    await expect.poll(() => statusOf(b, known.key), { timeout: 20_000, interval: 50 }).toBe(401);
    // The pool may still hold a connection that was cut.
    await expect.poll(() => statusOf(b, other.key), { timeout: 20_000, interval: 50 }).toBe(200);
  });
});
