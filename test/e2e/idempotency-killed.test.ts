// kill -9 of a gateway in the middle of a request: what became of it is unknown, so whoever sends it again is told so, and nobody is charged twice.
import { randomUUID } from "node:crypto";
import express from "express";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { testClock, type TestClock } from "quotaguard/testing";
import { gatewayOptions, KEY, listen, UPSTREAM_KEY } from "../helpers/app.ts";
import { endChildren, ROOT, script, type Child } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { closeLater, databasePath, endAccounts, MODEL, PATIENTLY, provider, replyOf, type Reply } from "./accounts-kit.ts";

const redis = await testServer("redis");

afterEach(async () => {
  await endChildren();
  await endAccounts();
});

interface Place {
  /** Of the process that is killed. */
  readonly theirs: string;
  readonly ours: () => Store;
  /** Whether the rows outlive the process, too. */
  readonly hasRows: boolean;
}

const PLACES: readonly (readonly [name: string, isThere: boolean, place: (clock: TestClock) => Place])[] = [
  [
    "SQLite",
    true,
    (clock) => {
      const path = databasePath();
      return {
        theirs: `(await import("quotaguard/stores/sqlite")).sqliteStore(${JSON.stringify(path)})`,
        ours: () => sqliteStore(path, { clock: { ...clock, now: () => Date.now() + clock.monotonic() } }),
        hasRows: true,
      };
    },
  ],
  [
    "Redis",
    redis !== undefined,
    (clock) => {
      const partition = randomUUID();
      return {
        theirs: `(await import("quotaguard/stores/redis")).redisStore(${JSON.stringify(redis)}, { partition: "${partition}" })`,
        ours: () => redisStore({ url: redis as string, partition, serverTime: () => Date.now() + clock.monotonic() }),
        hasRows: false,
      };
    },
  ],
];

const gateway = (store: string, upstream: string): string => `
  import { createServer } from "node:http";
  import { createGuard } from "quotaguard";
  const guard = createGuard({
    auth: { keys: [{ name: "alice", key: "${KEY}", scopes: { team: "data", role: "dev", user: "alice" } }] },
    credentials: [{ name: "main", provider: "openai", apiKey: "${UPSTREAM_KEY}", baseUrl: "${upstream}" }],
    store: ${store},
    secrets: { key: "a-secret-key-for-this-test-only" },
  });
  const handle = guard.handler();
  await guard.ready();
  const server = createServer((req, res) => handle(req, res, () => res.writeHead(404).end()));
  server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
`;

function ask(url: string, stream: boolean): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json", "idempotency-key": "k" },
    body: JSON.stringify({ model: MODEL, messages: [], stream }),
  });
}

const about = ({ status, code, headers }: Reply) => ({ status, code, retry: headers.get("x-should-retry") });

describe.each(PLACES.filter(([, isThere]) => isThere))("with its keys in %s", (_name, _isThere, placeOf) => {
  test.each([
    ["before it is answered", false],
    ["in the middle of a stream", true],
  ])("a twin of a request that was killed %s is told, and not sent", async (_when, stream) => {
    const clock = testClock();
    const place = placeOf(clock);
    const upstream = await provider();
    upstream.script(() => (stream ? { fault: { at: 2, how: "hang" } } : { hold: new Promise(() => undefined) }));
    const child: Child = script(gateway(place.theirs, upstream.url), { cwd: ROOT });
    const port = (await child.line(/^port \d+/)).slice(5);
    const first = ask(`http://127.0.0.1:${port}`, stream).then((response) => response.text());
    first.catch(() => {});
    await upstream.received(1);
    if (stream) await expect.poll(() => upstream.log[0]?.chunks, PATIENTLY).toBe(2);
    child.kill("SIGKILL");
    await child.ended;
    await expect(first).rejects.toThrow();

    upstream.script({});
    const store = closeLater(place.ours() as Store & { close(): Promise<unknown> });
    const guard = closeLater(createGuard({ ...gatewayOptions(upstream), store, clock, secrets: { key: "a-secret-key-for-this-test-only" } }));
    await guard.ready();
    const app = express();
    app.use(guard.handler());
    const { url } = closeLater(await listen(app));
    // It may still live, for all that anybody knows.
    const early = replyOf(ask(url, stream));
    let isOver = false;
    void early.finally(() => (isOver = true));
    const aSecondLater = (): boolean => {
      clock.advance(1_000);
      return isOver;
    };
    await expect.poll(aSecondLater, { ...PATIENTLY, interval: 20 }).toBe(true);
    expect((await early).status).toBe(409);
    clock.advance(30_000);
    const told = await replyOf(ask(url, stream));
    expect(about(told)).toEqual({ status: 409, code: "idempotency_mismatch", retry: "false" });
    expect(told.text).toContain("charged as estimated");
    expect(about(await replyOf(ask(url, stream)))).toEqual(about(told));
    expect(upstream.log).toHaveLength(1);
    if (place.hasRows) {
      const sent = (await guard.ledger.list({})).filter(({ credential }) => credential !== null);
      expect(sent.map(({ state, provenance }) => [state, provenance])).toEqual([["unknown", "estimated"]]);
    }
  });
});
