// A stop and a crash, as a process manager and a power cut do them: by signals to a real process.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { createGuard, type GuardOptions, type LedgerRow } from "quotaguard";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { fakeUpstream, pacer, testClock, type FakeUpstream, type Pacer } from "quotaguard/testing";
import express from "express";
import { listen } from "../helpers/app.ts";
import { endChildren, folder, serving, type Folder } from "../helpers/child.ts";

const KEY = "qg-key-of-alice-0001";
const CAPACITY = 1_000_000;
const TTL_MS = 60_000;

let upstream: FakeUpstream;
let place: Folder;
beforeAll(async () => {
  upstream = await fakeUpstream();
});
afterAll(() => upstream.close());
beforeEach(() => {
  upstream.reset();
  place = folder();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

function start(shutdownTimeout: string) {
  place.write(
    "quotaguard.yaml",
    `
server: { port: 0, shutdown_timeout: ${shutdownTimeout} }
store: { url: "sqlite:./quota.db" }
keys: [{ name: alice, key: ${KEY}, scopes: { user: alice } }]
credentials: [{ name: main, api_key: sk-upstream, base_url: "${upstream.url}" }]
router: { reservation: { ttl: ${TTL_MS}ms } }
limits:
  - { name: user-tokens, scope: user, unit: tokens, bucket: { capacity: ${CAPACITY}, refill_per_sec: 0 } }
  - { name: user-parallel, scope: user, unit: concurrent, concurrency: { limit: 100 } }
`,
  );
  return serving([], { cwd: place.path });
}

/** The same budgets on the same database, in this process and by this clock. */
const limits = [
  { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 } },
  { name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 1 } },
] as const satisfies GuardOptions["limits"];

/** What the closed database says. */
async function afterwards(): Promise<{ readonly rows: readonly LedgerRow[]; readonly charged: number }> {
  const guard = createGuard({ store: { url: `sqlite:${place.path}/quota.db` }, limits });
  await guard.ready();
  const rows = await guard.ledger.list({});
  const { tokens } = await guard.admin.bucket({ scope: "user", id: "alice" });
  await guard.close();
  return { rows, charged: CAPACITY - tokens };
}

const post = (url: string, body: Record<string, unknown> = {}, signal?: AbortSignal) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${KEY}` },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "one two three" }], ...body }),
    ...(signal ? { signal } : {}),
  });

interface Reading {
  /** Resolves with the first bytes. */
  readonly begun: Promise<void>;
  readonly text: Promise<string>;
}

const CUT = "<the connection was cut>";

/** Reads a stream to its end, whatever that is. */
function reading(pending: Promise<Response>): Reading {
  const { promise: begun, resolve } = Promise.withResolvers<void>();
  async function read(): Promise<string> {
    const body = (await pending).body as ReadableStream<Uint8Array>;
    const decoder = new TextDecoder();
    let text = "";
    try {
      for await (const bytes of body) {
        text += decoder.decode(bytes, { stream: true });
        resolve();
      }
    } catch {
      text += CUT;
    }
    return text;
  }
  return { begun, text: read() };
}

async function rawGet(socket: Socket, path: string): Promise<string> {
  socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
  const [bytes] = (await once(socket, "data")) as [Buffer];
  return bytes.toString();
}

test("SIGTERM: nothing new comes in, everything open finishes, and all of it is settled and written down", async () => {
  const paced: Pacer[] = [];
  const answers = Promise.withResolvers<void>();
  upstream.script(({ body }) => {
    if (body.stream !== true) return { hold: answers.promise };
    // Two events go out: a stream counts as begun when its first bytes are here.
    const events = pacer();
    events.step(2);
    paced.push(events);
    return { pacer: events };
  });
  const { child, url } = await start("15s");
  const { hostname, port } = new URL(url);
  const early = connect(Number(port), hostname);
  await once(early, "connect");

  const streams = Array.from({ length: 50 }, () => reading(post(url, { stream: true })));
  const whole = Array.from({ length: 20 }, () => post(url));
  await upstream.received(70);
  await Promise.all(streams.map(({ begun }) => begun));

  const stoppedAt = performance.now();
  child.kill("SIGTERM");
  await child.line(/stopping: open requests may finish/);
  await expect(fetch(`${url}/health`)).rejects.toThrow();
  // A probe on a connection that was open before is told as well.
  const health = await rawGet(early, "/health");
  expect(health).toContain("503");
  expect(health).toContain('"state":"closing"');
  early.destroy();

  for (const events of paced) events.open();
  answers.resolve();
  for (const { text } of streams) {
    const all = await text;
    expect(all.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect(all).toContain(" three");
    expect(all).not.toContain('"error"');
  }
  for (const answer of whole) expect(await (await answer).json()).toMatchObject({ object: "chat.completion" });
  expect(await child.ended).toMatchObject({ code: 0, signal: null });
  expect(performance.now() - stoppedAt).toBeLessThan(15_000);

  const { rows, charged } = await afterwards();
  expect(rows).toHaveLength(70);
  expect(new Set(rows.map(({ state }) => state))).toEqual(new Set(["settled"]));
  expect(new Set(rows.map(({ provenance }) => provenance))).toEqual(new Set(["exact"]));
  const { inputTokens, outputTokens } = upstream.totals();
  expect(charged).toBe(inputTokens + outputTokens);
});

test("what does not end is cut at the shutdown timeout, charged by what it delivered, and the exit is still 0", async () => {
  upstream.script({ fault: { at: 4, how: "hang" } });
  const { child, url } = await start("300ms");
  const stream = reading(post(url, { stream: true }));
  await stream.begun;
  child.kill("SIGTERM");
  const stoppedAt = performance.now();
  await child.line(/they are cut/);
  expect(performance.now() - stoppedAt).toBeGreaterThan(250);
  const entry = upstream.log[0];
  await entry?.ended;
  expect(entry?.end).toBe("client");
  expect(await child.ended).toMatchObject({ code: 0 });
  expect(await stream.text).not.toContain("[DONE]");

  const { rows, charged } = await afterwards();
  expect(rows).toMatchObject([{ state: "settled", provenance: "counted" }]);
  expect(charged).toBeGreaterThanOrEqual(entry?.billed.outputTokens ?? Infinity);
  expect(charged).toBeLessThan(100);
});

test("a whole answer that does not come is cut, too, and its input stays charged", async () => {
  upstream.script({ fault: { at: "start", how: "hang" } });
  const { child, url } = await start("300ms");
  const answer = post(url).then(
    (response) => response.status,
    () => "cut",
  );
  await upstream.received(1);
  child.kill("SIGINT");
  expect(await child.ended).toMatchObject({ code: 0 });
  expect([502, 503, 504, "cut"]).toContain(await answer);
  const { rows, charged } = await afterwards();
  expect(rows).toMatchObject([{ state: "estimated", provenance: "estimated" }]);
  expect(charged).toBeGreaterThan(0);
  expect(charged).toBeLessThan(100);
});

test("who is cut is told so by the gateway, and not called a client that left", async () => {
  upstream.script(({ body }) => ({ fault: { at: body.stream === true ? 3 : "start", how: "hang" } }));
  const { child, url } = await start("300ms");
  const stream = reading(post(url, { stream: true }));
  await stream.begun;
  const whole = post(url).then((response) => response.text());
  await upstream.received(2);
  child.kill("SIGTERM");
  expect(await child.ended).toMatchObject({ code: 0 });
  const text = await stream.text;
  expect(text.match(/"error"/g)).toHaveLength(1);
  expect(text).not.toContain(CUT);
  expect(await whole).not.toContain("the client left");
  const { rows } = await afterwards();
  expect(rows.map(({ code }) => code)).not.toContain("client_closed");
});

test("a second signal stops at once, with exit 1", async () => {
  upstream.script({ fault: { at: 2, how: "hang" } });
  const { child, url } = await start("15s");
  const stream = reading(post(url, { stream: true }));
  await stream.begun;
  child.kill("SIGTERM");
  await child.line(/stopping: open requests may finish/);
  const secondAt = performance.now();
  child.kill("SIGTERM");
  expect(await child.ended).toMatchObject({ code: 1, signal: null });
  expect(performance.now() - secondAt).toBeLessThan(2_000);
  expect(await stream.text).toContain(CUT);
});

test("SIGKILL in mid-stream: the next start closes the row as unknown, charged as held, and slots come back with the hold's TTL", async () => {
  upstream.script({ fault: { at: 3, how: "hang" } });
  const first = await start("15s");
  const stream = reading(post(first.url, { stream: true, max_tokens: 700 }));
  await stream.begun;
  first.child.kill("SIGKILL");
  expect(await first.child.ended).toMatchObject({ code: null, signal: "SIGKILL" });
  expect(await stream.text).toContain(CUT);

  const second = await start("15s");
  await second.child.line(/closed the open requests of a process that died/);
  upstream.script({});
  expect((await post(second.url)).status).toBe(200);
  second.child.kill("SIGTERM");
  await second.child.ended;

  const clock = testClock({ now: Date.now() });
  const store = sqliteStore(`${place.path}/quota.db`, { clock });
  const guard = createGuard({
    store,
    clock,
    limits,
    auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" } }] },
    credentials: [{ name: "main", apiKey: "sk-upstream", baseUrl: upstream.url }],
    router: { reservation: { ttl: TTL_MS } },
  });
  await guard.ready();
  const rows = await guard.ledger.list({});
  expect(rows.map(({ state }) => state).toSorted()).toEqual(["settled", "unknown"]);
  const orphan = rows.find(({ state }) => state === "unknown");
  expect(orphan).toMatchObject({ provenance: "estimated", key: "alice", model: "gpt-4o-mini", credential: "main", stream: true });
  const held = orphan?.held.tokens ?? 0;
  expect(held).toBeGreaterThan(700);
  const settled = rows.find(({ state }) => state === "settled")?.usage;
  expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(
    CAPACITY - held - (settled?.inputTokens ?? 0) - (settled?.outputTokens ?? 0),
  );

  // Here one at a time is allowed, and the dead request still has its slot.
  const app = express().use(guard.handler());
  const { url, close } = await listen(app);
  const refused = await post(url);
  expect(refused.status).toBe(429);
  expect(await refused.json()).toMatchObject({ error: { limit: "user-parallel" } });
  clock.advance(TTL_MS);
  const passed = await post(url);
  expect(passed.status).toBe(200);
  await passed.text();
  await close();
  await guard.close();
  await store.close();
});
