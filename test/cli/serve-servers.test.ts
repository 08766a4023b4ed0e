// `serve` and `check` on real servers, by the environment alone: what several nodes of one deployment are started with.
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, quotaguard, serving, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";
import { testServer } from "../setup/test-server.ts";

const KEY = "qg-key-of-alice-0001";
const ADMIN = "admin-key-for-tests-0001";
const UPSTREAM_KEY = "sk-upstream-secret-canary-1";
const SECRET = "a-secret-key-for-tests-0001";

const [redisUrl, postgresUrl] = await Promise.all([testServer("redis"), testServer("postgres")]);

describe.skipIf(redisUrl === undefined || postgresUrl === undefined)("on a Redis and a Postgres", () => {
  // A database of its own on each: `serve` takes the default names in them.
  const database = `quotaguard_${randomUUID().replaceAll("-", "")}`;
  const storeUrl = new URL(redisUrl ?? "redis://x");
  storeUrl.pathname = "/9";
  const ledgerUrl = new URL(postgresUrl ?? "postgres://x");
  const admin = new pg.Pool({ connectionString: postgresUrl, max: 1 });
  ledgerUrl.pathname = `/${database}`;
  let redis: Redis;
  let upstream: FakeUpstream;
  let place: Folder;

  beforeAll(async () => {
    redis = new Redis(storeUrl.href);
    await redis.flushdb();
    await admin.query(`create database ${database}`);
    upstream = await fakeUpstream({ keys: [UPSTREAM_KEY] });
  });
  afterAll(async () => {
    await upstream.close();
    await admin.query(`drop database ${database} with (force)`);
    await admin.end();
    await redis.flushdb();
    await redis.quit();
  });
  beforeEach(() => {
    place = folder();
    upstream.reset();
    place.write(
      "quotaguard.yaml",
      `server: { port: 0 }
management: { key: ${ADMIN} }
keys:
  - { name: alice, key: ${KEY}, scopes: { user: alice } }
credentials:
  - { name: main, api_key: ${UPSTREAM_KEY}, base_url: "${upstream.url}" }
limits:
  - { name: user-tokens, scope: user, unit: tokens, bucket: { capacity: 5000, refill_per_sec: 0 } }
`,
    );
  });
  afterEach(async () => {
    await endChildren();
    place.remove();
  });

  const env = (more: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> => ({
    REDIS_URL: storeUrl.href,
    DATABASE_URL: ledgerUrl.href.replace("postgres://", "postgresql+asyncpg://"),
    QUOTAGUARD_SECRET_KEY: SECRET,
    ...more,
  });

  const chat = (url: string) =>
    fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello there" }] }),
    });
  const managed = async (url: string, path: string) => (await fetch(url + path, { headers: { authorization: `Bearer ${ADMIN}` } })).json();

  test("two servers are one: the same counters, the same rows", async () => {
    const options = { cwd: place.path, env: env() };
    const [one, two] = await Promise.all([serving([], options), serving([], options)]);
    expect(await (await fetch(one.url)).json()).toMatchObject({ backend: "redis" });
    expect(await (await fetch(`${two.url}/health`)).json()).toMatchObject({ status: "healthy", store: "redis" });
    for (const { url } of [one, two, one, two]) expect((await chat(url)).status).toBe(200);
    const { inputTokens, outputTokens } = upstream.totals();
    for (const { url } of [one, two]) {
      expect(await managed(url, "/buckets/user/alice")).toMatchObject({ bucket: { tokens: 5_000 - inputTokens - outputTokens } });
      await expect
        .poll(() => managed(url, "/v0/management/usage/ledger"), { timeout: 5_000, interval: 20 })
        .toMatchObject({ usage: [{ requests: 4, inputTokens, outputTokens }] });
    }
    for (const { child } of [one, two]) child.kill("SIGTERM");
    for (const { child } of [one, two]) expect(await child.ended).toMatchObject({ code: 0 });
  });

  test("text for people names the servers without their passwords", async () => {
    const child = quotaguard(["serve"], {
      cwd: place.path,
      env: env({ DATABASE_URL: ledgerUrl.href.replace("://", "://postgres:canary@").replace("canary@postgres@", "canary@") }),
    });
    await child.line(/try +curl/);
    child.kill("SIGTERM");
    const { stdout, stderr } = await child.ended;
    expect(stdout).toContain(`store        redis://${storeUrl.host}/9`);
    expect(stdout).toContain(`ledger       postgres://${ledgerUrl.host}/${database}`);
    expect(stdout + stderr).not.toContain("canary");
  });

  test("check opens both", async () => {
    const { code, stdout } = await quotaguard(["check", "--json"], { cwd: place.path, env: env() }).ended;
    const report = JSON.parse(stdout) as { readonly checks: readonly unknown[]; readonly options: readonly unknown[] };
    expect(report.checks).toEqual(
      expect.arrayContaining([
        { what: "store", ok: true, detail: `opens (redis://${storeUrl.host}/9)` },
        { what: "ledger", ok: true, detail: `opens (postgres://${ledgerUrl.host}/${database})` },
      ]),
    );
    expect(report.options).toEqual(expect.arrayContaining([{ path: "store.url", value: `redis://${storeUrl.host}/9`, source: "env REDIS_URL" }]));
    expect(code).toBe(0);
  });

  test("check tells what a person must mend of a store that opens all the same", async () => {
    const user = `check-${randomUUID()}`;
    await redis.call("ACL", "SETUSER", user, "on", ">canary-password", "~*", "+@all", "resetchannels");
    const limited = new URL(storeUrl);
    limited.username = user;
    limited.password = "canary-password";
    const { code, stdout } = await quotaguard(["check", "--json"], { cwd: place.path, env: env({ REDIS_URL: limited.href }) }).ended;
    await redis.call("ACL", "DELUSER", user);
    const { ok, warnings } = JSON.parse(stdout) as { ok: boolean; warnings: readonly string[] };
    expect([code, ok]).toEqual([0, true]);
    expect(warnings).toContainEqual(expect.stringContaining("the server's user may not do this: it needs"));
    expect(stdout).not.toContain("canary-password");
  });

  test("check warns of bans in Redis that nobody could lift", async () => {
    place.write(
      "quotaguard.yaml",
      `keys: [{ name: alice, key: ${KEY}, scopes: { user: alice } }]
credentials: [{ name: main, api_key: ${UPSTREAM_KEY}, base_url: "${upstream.url}" }]
fail2ban: { ban_duration: permanent }
`,
    );
    const { stdout } = await quotaguard(["check", "--json"], { cwd: place.path, env: env() }).ended;
    expect((JSON.parse(stdout) as { warnings: readonly string[] }).warnings).toContainEqual(
      expect.stringMatching(/^fail2ban: permanent bans outlive a restart/),
    );
  });

  test("without a ledger of its own the rows go to a file, not to Redis", async () => {
    const child = quotaguard(["serve"], { cwd: place.path, env: { REDIS_URL: storeUrl.href, QUOTAGUARD_SECRET_KEY: SECRET } });
    await child.line(/try +curl/);
    child.kill("SIGTERM");
    const { stdout, stderr } = await child.ended;
    expect(stdout).toContain(`ledger       sqlite:${place.path}/data/quotaguard.db`);
    expect(stderr).toContain("QG_LEDGER_LOCAL");
  });

  test("what is wrong is said once, with the setting, the place and the way out, and no password", async () => {
    const nobody = await freePort();
    const wrong: readonly (readonly [Readonly<Record<string, string>>, readonly string[]])[] = [
      [{ REDIS_URL: `redis://u:canary@127.0.0.1:${nobody}` }, ["store.url", `127.0.0.1:${nobody}`]],
      [{ DATABASE_URL: `postgres://u:canary@127.0.0.1:${nobody}/db` }, ["ledger.url", `127.0.0.1:${nobody}`]],
      [{ DATABASE_URL: ledgerUrl.href.replace(database, "not_there") }, ["ledger.url", "not_there"]],
    ];
    for (const [more, words] of wrong) {
      const options = { cwd: place.path, env: env(more) };
      const [served, checked] = await Promise.all([quotaguard(["serve"], options).ended, quotaguard(["check"], options).ended]);
      for (const { code, stdout, stderr } of [served, checked]) {
        expect([1, 2]).toContain(code);
        for (const word of words) expect(stdout + stderr).toContain(word);
        expect(stdout + stderr).not.toContain("canary");
        expect(stdout + stderr).not.toMatch(/^\s+at /m);
      }
    }
  }, 60_000);
});
