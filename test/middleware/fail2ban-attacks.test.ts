import express from "express";
import { EventEmitter, once } from "node:events";
import { describe, expect, test } from "vitest";
import type { Step } from "../../src/core/step.ts";
import { andThen } from "../../src/core/time.ts";
import { partHandler } from "../../src/http/handler.ts";
import type { Fail2banOptions } from "../../src/middleware/fail2ban.ts";
import { penalties } from "../../src/pool/penalties.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { strikeStore } from "../../src/stores/strikes.ts";
import { kit, type Kit } from "../core/context-kit.ts";
import { opening, rawClient, serve } from "../http/server-kit.ts";
import { tempFolder } from "../stores/sqlite-kit.ts";
import { ALICE, BAN_MS, banned, fail2banKit, HERE, KEYS, MINUTE, mistake, PREFIX, WRONG } from "./fail2ban-kit.ts";

describe("on real connections", () => {
  async function app(trustProxy: unknown, more: Partial<Fail2banOptions> = {}) {
    const { entry, logger, fail2ban } = fail2banKit(more);
    const server = express();
    server.set("trust proxy", trustProxy);
    const step: Step = (ctx) => andThen(entry(ctx), () => ({ status: 200, headers: [], body: Buffer.from("served") }));
    server.use(partHandler("gateway", step, opening({}, kit()).options));
    const { url, port } = await serve(server);
    const status = async (forwarded: string | null, key: string = WRONG): Promise<number> => {
      const headers = { authorization: `Bearer ${key}`, ...(forwarded === null ? {} : { "x-forwarded-for": forwarded }) };
      const response = await fetch(url, { method: "POST", headers, body: "{}" });
      await response.arrayBuffer();
      return response.status;
    };
    const statuses = async (...all: (string | null)[]): Promise<number[]> => {
      const found: number[] = [];
      for (const forwarded of all) found.push(await status(forwarded));
      return found;
    };
    return { port, status, statuses, logger, clients: () => fail2ban.bans().map(({ client }) => client) };
  }

  test.each([false, true])("with `trust proxy` %s, X-Forwarded-For neither escapes a ban nor brings one on others", async (trust) => {
    const { statuses, clients } = await app(trust);
    expect(await statuses("203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", null)).toEqual([401, 401, 401, 403, 403]);
    expect(clients()).toEqual(["ip:127.0.0.1"]);
  });

  test.each<[string, unknown]>([
    ["one hop", 1],
    ["a list", "loopback, 10.0.0.0/8"],
  ])("behind %s, what the client wrote before the proxy neither escapes nor hits others", async (_name, trust) => {
    const { statuses, status, clients } = await app(trust);
    const proxied = (spoofed: string): string => `${spoofed}, ${HERE}`;
    expect(await statuses(proxied("203.0.113.1"), proxied("203.0.113.2"), HERE, proxied("203.0.113.3"))).toEqual([401, 401, 401, 403]);
    expect(await statuses("203.0.113.1", "203.0.113.2", null)).toEqual([401, 401, 401]);
    expect([clients(), await status(HERE, ALICE)]).toEqual([[`ip:${HERE}`], 200]);
  });

  test("the refusal names the wait, and the body is not waited for", async () => {
    const { port, statuses } = await app(false, { validKeys: "refuse" });
    await statuses(null, null, null);
    const client = await rawClient(port, `POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ALICE}\r\ncontent-length: 5000000\r\n\r\n`);
    await client.closed;
    const [head = "", body = ""] = client.received().split("\r\n\r\n");
    expect(head.toLowerCase().split("\r\n")).toEqual(expect.arrayContaining(["http/1.1 403 forbidden", "retry-after: 900", "connection: close"]));
    expect(JSON.parse(body)).toMatchObject({ code: "banned", retry_after_ms: BAN_MS });
  });
});

test("a key whose client hangs up in mid-body made no mistake, and one that sends nonsense did", async () => {
  const { entry, fail2ban } = fail2banKit({ maxAttempts: 1 });
  const over = new EventEmitter();
  const step: Step = async (ctx) => {
    ctx.after(() => void over.emit("next", ctx.failure?.code));
    await entry(ctx);
    await ctx.call();
  };
  const app = express();
  app.use(partHandler("gateway", step, opening({}, kit()).options));
  const { port } = await serve(app);
  const send = async (body: string, hangUp: boolean): Promise<unknown[]> => {
    // The last hook to be registered runs first: whoever waits here goes on when the others have run.
    const ended = once(over, "next").then((code: unknown[]) => new Promise<unknown[]>((resolve) => setImmediate(resolve, code)));
    const head = `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ALICE}\r\ncontent-length: 10\r\n`;
    const client = await rawClient(port, `${head}expect: 100-continue\r\n\r\n`);
    await client.until("100 Continue");
    client.socket.write(body);
    if (hangUp) client.socket.destroy();
    return ended;
  };
  await send('{"mod', true);
  expect(fail2ban.bans()).toEqual([]);
  expect(await send("{{{{{{{{{{", false)).toEqual(["body_invalid"]);
  expect(fail2ban.bans()).toMatchObject([{ client: "key:alice", code: 400 }]);
});

describe("a crowd", () => {
  const MANY = 100_000;

  test("of 100,000 wrong keys from one /64 gets exactly as many tries as anybody", async () => {
    const { send, told } = fail2banKit({ maxAttempts: 20 });
    const codes = new Map<string, number>();
    for (let i = 0; i < MANY; i += 1) {
      const code = await send({ address: `2001:db8:1:200:${(i >> 8).toString(16)}:0:0:${(i & 0xff).toString(16)}` });
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    expect([Object.fromEntries(codes), told.length]).toEqual([{ unauthenticated: 20, banned: MANY - 20 }, 1]);
  });

  test("of 100,000 addresses fills neither the strikes nor the bans beyond their bounds, and the latest stay out", async () => {
    const from = kit();
    const { clock, logger } = from;
    const strikes = strikeStore({ clock, maxKeys: 1_000 });
    const bans = penalties({ records: memoryStore({ clock }).records, prefix: PREFIX, clock, logger, maxEntries: 1_000 });
    const { send } = fail2banKit({ maxAttempts: 2, strikes, bans }, KEYS, from);
    const address = (i: number): string => `10.${i >> 16}.${(i >> 8) & 0xff}.${i & 0xff}`;
    let mostBans = 0;
    for (let i = 0; i < MANY; i += 1) {
      await send({ address: address(i) });
      if (i % 2 === 0) await send({ address: address(i) });
      mostBans = Math.max(mostBans, bans.size);
      clock.advance(1);
    }
    expect(mostBans).toBe(1_000);
    // The last even one is banned, the last odd one has one try left.
    const last = await Promise.all([MANY - 2, MANY - 1].map((i) => send({ address: address(i) })));
    expect([last, await send({ address: address(MANY - 1) }), await send({ key: ALICE })]).toEqual([
      ["banned", "unauthenticated"],
      "banned",
      "served",
    ]);
  });
});

describe("a restart on the same file", () => {
  async function start(path: string, from: Kit) {
    const { clock, logger } = from;
    const store = sqliteStore(path, { clock });
    await store.ready();
    const bans = penalties({ records: store.records, prefix: PREFIX, clock, logger });
    await bans.load();
    const stop = async (): Promise<void> => {
      bans.close();
      await store.close();
    };
    return { ...fail2banKit({ bans, strikes: store.strikes }, KEYS, from), stop };
  }

  test("ends no ban, neither of an address nor of a key, and prolongs none", async () => {
    const [path, from] = [`${tempFolder()}/quota.db`, kit()];
    const first = await start(path, from);
    await first.sendAll(3, { address: "2001:db8::1" });
    await first.sendAll(3, mistake());
    const before = first.fail2ban.bans();
    await first.stop();
    from.clock.advance(MINUTE);
    const second = await start(path, from);
    expect(second.fail2ban.bans().toSorted((a, b) => a.client.localeCompare(b.client))).toEqual(before);
    expect(before.map(({ client }) => client)).toEqual(["ip:2001:db8::/56", "key:alice"]);
    expect([await second.send({ address: "2001:db8::2" }), await second.send({ key: ALICE })]).toEqual(banned(2));
    from.clock.advance(BAN_MS - MINUTE);
    expect([await second.send({ address: "2001:db8::2" }), await second.send({ key: ALICE })]).toEqual(["unauthenticated", "served"]);
    await second.stop();
  });

  test("brings back none that was lifted", async () => {
    const [path, from] = [`${tempFolder()}/quota.db`, kit()];
    const first = await start(path, from);
    await first.sendAll(3);
    expect(first.fail2ban.lift(`ip:${HERE}`)).toBe(true);
    await first.stop();
    const second = await start(path, from);
    expect([second.fail2ban.bans(), await second.send()]).toEqual([[], "unauthenticated"]);
    await second.stop();
  });
});
