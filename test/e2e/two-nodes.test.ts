// Two servers of one deployment, as processes of their own: whatever is told to one of them holds at the other, and their books are the same, to the last
// nano-dollar those of the provider.
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import pg from "pg";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { digestOf, fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, serving, type Serving } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { ADMIN, MODEL, PATIENTLY } from "./accounts-kit.ts";
import { ownTime } from "../helpers/own-time.ts";

const [redisUrl, postgresUrl] = await Promise.all([testServer("redis"), testServer("postgres")]);

afterEach(endChildren);

/** Nano-USD per token, with the markup of ten percent. */
const INPUT_NANO_USD = 2_750;
const OUTPUT_NANO_USD = 11_000;
const CAPACITY = 1_000_000;
/** What a revocation may take to be known everywhere. */
const SOON_MS = 2_000;

/** Where both keep what they count and what they write down, as environment. */
type Place = () => Promise<Readonly<Record<string, string>>>;

const onServers: Place = async () => {
  // `serve` takes the default names: a database of its own on each server.
  const database = `quotaguard_${randomUUID().replaceAll("-", "")}`;
  const store = new URL(redisUrl as string);
  store.pathname = "/8";
  const ledger = new URL(postgresUrl as string);
  ledger.pathname = `/${database}`;
  const redis = new Redis(store.href);
  const admin = new pg.Pool({ connectionString: postgresUrl as string, max: 1 });
  onTestFinished(async () => {
    await endChildren();
    await redis.flushdb();
    await redis.quit();
    await admin.query(`drop database if exists ${database} with (force)`);
    await admin.end();
  });
  await redis.flushdb();
  await admin.query(`create database ${database}`);
  return { REDIS_URL: store.href, DATABASE_URL: ledger.href };
};

/** A new number holds for the very next request where the server that counts has it, and within two seconds where the other process must look for it. */
const PLACES: readonly (readonly [name: string, isThere: boolean, isAtOnce: boolean, place: Place])[] = [
  ["Postgres and Redis", redisUrl !== undefined && postgresUrl !== undefined, true, onServers],
  ["one SQLite file", true, false, async () => ({ QUOTAGUARD_STORE_URL: "sqlite:quota.db", QUOTAGUARD_LEDGER_URL: "sqlite:quota.db" })],
];

interface Nodes {
  readonly upstream: FakeUpstream;
  /** Starts one more. */
  start(): Promise<Serving>;
}

async function nodes(place: Place): Promise<Nodes> {
  const upstream = await fakeUpstream();
  const files = folder();
  onTestFinished(async () => {
    await endChildren();
    await upstream.close();
    files.remove();
  });
  const env = { ...(await place()), QUOTAGUARD_SECRET_KEY: "a-secret-key-for-tests-0001" };
  files.write(
    "quotaguard.yaml",
    `server: { port: 0 }
management: { key: ${ADMIN} }
credentials:
  - { name: main, provider: openai, api_key: sk-upstream-secret-canary-1, base_url: "${upstream.url}" }
models:
  - { name: ${MODEL}, max_output_tokens: 100, price: { input_per_mtok: 2.5, output_per_mtok: 10 } }
prices: { markup_pct: 10 }
limits:
  - { name: org-usd, scope: org, unit: usd, window: { limit: 1000, per: month } }
  - { name: user-tokens, scope: user, unit: tokens, bucket: { capacity: ${CAPACITY}, refill_per_sec: 0 } }
`,
  );
  return { upstream, start: () => serving([], { cwd: files.path, env }) };
}

interface Told {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function manage({ url }: Serving, method: string, path: string, body?: object): Promise<Told> {
  const headers = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
  const response = await fetch(`${url}/v0/management/${path}`, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

interface Client {
  readonly org: string;
  readonly user: string;
  readonly key: string;
}

async function client(at: Serving, org: string, user: string): Promise<Client> {
  const { status, body } = await manage(at, "POST", "keys", { name: `${org}-${user}`, org, scopes: { user } });
  expect(status).toBe(201);
  return { org, user, key: String(body["key"]) };
}

/** One call; its message says whose it is, so that the provider's books can tell. Null = nobody answers there. */
async function ask({ url }: Serving, { org, user, key }: Client, stream = false): Promise<{ readonly status: number; readonly text: string } | null> {
  const init = {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model: MODEL, stream, max_tokens: 50, messages: [{ role: "user", content: `${org} ${user} ${"word ".repeat(5)}` }] }),
  };
  try {
    const response = await fetch(`${url}/v1/chat/completions`, init);
    return { status: response.status, text: await response.text() };
  } catch {
    return null;
  }
}
const statusOf = async (at: Serving, who: Client): Promise<number | undefined> => (await ask(at, who))?.status;

interface Sums {
  readonly requests: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly billedNanoUsd: number;
}

/** What the provider bills, by who asked. */
function truth({ log }: FakeUpstream): Readonly<Record<string, Sums>> {
  const found: Record<string, Sums> = {};
  for (const { body, billed } of log) {
    const [message] = (JSON.parse(String(body)) as { messages: { content: string }[] }).messages;
    const [org, user] = (message?.content ?? "").split(" ");
    const name = `${org} ${user}`;
    const before = found[name] ?? { requests: 0, inputTokens: 0, outputTokens: 0, billedNanoUsd: 0 };
    found[name] = {
      requests: before.requests + 1,
      inputTokens: before.inputTokens + billed.inputTokens,
      outputTokens: before.outputTokens + billed.outputTokens,
      billedNanoUsd: before.billedNanoUsd + billed.inputTokens * INPUT_NANO_USD + billed.outputTokens * OUTPUT_NANO_USD,
    };
  }
  return found;
}

/** What a server's books say, by who asked. */
async function books(at: Serving): Promise<Readonly<Record<string, Sums>>> {
  const { body } = await manage(at, "GET", "usage/ledger?group_by=org,user");
  const found: Record<string, Sums> = {};
  for (const { group, requests, inputTokens, outputTokens, billedUsd } of body["usage"] as readonly {
    readonly group: Readonly<Record<string, string>>;
    readonly requests: number;
    readonly inputTokens: number;
    readonly outputTokens: number;
    readonly billedUsd: number;
  }[]) {
    const { org = "", user = "" } = group;
    found[`${org} ${user.slice(user.indexOf("/") + 1)}`] = { requests, inputTokens, outputTokens, billedNanoUsd: Math.round(billedUsd * 1e9) };
  }
  return found;
}

describe.each(PLACES.filter(([, isThere]) => isThere))("two servers on %s", (_name, _isThere, isAtOnce, place) => {
  test("agree on every key, organisation and number that one of them is told", async () => {
    const { start } = await nodes(place);
    const [a, b] = await Promise.all([start(), start()]);
    const alice = await client(a, "acme", "alice");
    const gina = await client(b, "globex", "gina");
    // At once, where it was not made; and both know it from now on.
    for (const at of [b, a]) expect([await statusOf(at, alice), await statusOf(at, gina)]).toEqual([200, 200]);

    for (const [told, other, usd, status] of [
      [a, b, 0.0000001, 400],
      [b, a, 500, 200],
    ] as const) {
      expect((await manage(told, "PUT", "limits/org-usd/values/acme", { limit: usd })).status).toBe(200);
      if (!isAtOnce) await expect.poll(() => statusOf(other, alice), { timeout: SOON_MS, interval: 20 }).toBe(status);
      expect([await statusOf(other, alice), await statusOf(told, alice), await statusOf(other, gina)]).toEqual([status, status, 200]);
    }
    const listed = await Promise.all([a, b].map((at) => manage(at, "GET", "limits")));
    expect(listed[0]).toEqual(listed[1]);

    let sinceSaid = ownTime();
    expect((await manage(a, "PATCH", "orgs/globex", { disabled: true })).status).toBe(200);
    await expect.poll(() => statusOf(b, gina), { ...PATIENTLY, interval: 10 }).toBe(403);
    expect(sinceSaid()).toBeLessThan(SOON_MS);
    sinceSaid = ownTime();
    expect((await manage(b, "DELETE", "keys/acme-alice")).status).toBe(200);
    expect(await statusOf(b, alice)).toBe(401);
    await expect.poll(() => statusOf(a, alice), { ...PATIENTLY, interval: 10 }).toBe(401);
    expect(sinceSaid()).toBeLessThan(SOON_MS);
    const [ours, theirs] = await Promise.all(
      [a, b].map(async (at) => [(await manage(at, "GET", "keys")).body, (await manage(at, "GET", "orgs")).body]),
    );
    expect(ours).toEqual(theirs);
  }, 60_000);

  test("keep one set of books, the provider's, also when one of them is restarted in the middle", async () => {
    const { start, upstream } = await nodes(place);
    const [a, b] = await Promise.all([start(), start()]);
    const clients = [await client(a, "acme", "alice"), await client(b, "acme", "bob"), await client(a, "globex", "alice")];
    let second: Serving | null = b;
    const seen: number[] = [];
    /** A client that goes to the other server when one does not answer, as a balancer would. */
    async function asking(count: number, from: number): Promise<void> {
      for (let i = from; i < from + count; i += 1) {
        const who = clients[i % clients.length] as Client;
        const first = i % 2 === 0 ? a : (second ?? a);
        const reply = (await ask(first, who, i % 3 === 0)) ?? (await ask(a, who, i % 3 === 0));
        seen.push(reply?.status ?? 0);
      }
    }
    const traffic = (from: number) => Promise.all(Array.from({ length: 6 }, (_, i) => asking(10, from + 100 * i)));

    await traffic(0);
    const under = traffic(1_000);
    await upstream.received(80);
    second = null;
    b.child.kill("SIGTERM");
    expect(await b.child.ended).toMatchObject({ code: 0 });
    await under;
    const again = await start();
    second = again;
    await traffic(2_000);

    expect(seen.filter((status) => status !== 200)).toEqual([]);
    expect(seen).toHaveLength(180);
    const expected = truth(upstream);
    expect(Object.keys(expected).toSorted()).toEqual(["acme alice", "acme bob", "globex alice"]);
    expect(new Set(upstream.log.map(({ headers, end }) => `${String(headers.authorization)} ${end}`))).toEqual(
      new Set([`${digestOf("Bearer sk-upstream-secret-canary-1")} done`]),
    );
    for (const at of [a, again]) await expect.poll(() => books(at), { ...PATIENTLY, interval: 20 }).toEqual(expected);
    for (const { org, user } of clients) {
      const { inputTokens = 0, outputTokens = 0 } = expected[`${org} ${user}`] ?? {};
      for (const at of [a, again]) {
        const { body } = await manage(at, "GET", `../../buckets/user/${user}?org=${org}`);
        expect(body).toMatchObject({ bucket: { tokens: CAPACITY - inputTokens - outputTokens } });
      }
    }
  }, 60_000);
});
