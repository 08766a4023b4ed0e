import { once } from "node:events";
import { createServer, type Socket } from "node:net";

import { Cluster, Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";

import { ConfigError } from "../../../src/core/errors.ts";
import type { Store } from "../../../src/core/store.ts";
import { RedisConnection } from "../../../src/stores/redis/connection.ts";
import { redisSettings } from "../../../src/stores/redis/options.ts";
import { redisStore, type RedisStoreOptions, type RedisStoreSource } from "../../../src/stores/redis/index.ts";
import { gathered } from "../../../src/testing/store-contract/contract-case.ts";
import { freePort } from "../../setup/server-process.ts";
import { ownServer, type OwnServer, redisProgram } from "./own-server.ts";
import { failureOf, log, ownPartition, readyStore } from "./redis-kit.ts";
import { ownTime } from "../../helpers/own-time.ts";

const SECRET = "tr0ub4dor";

/** What `ready()` rejects with; it names the setting and never a password. */
async function problemOf(source: RedisStoreSource, options: RedisStoreOptions = {}): Promise<string> {
  const { logger, lines } = log();
  const store = redisStore(source, { logger, ...options });
  onTestFinished(() => store.close());
  const error: unknown = await Promise.resolve(store.ready()).then(
    () => new Error("it started"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  expect((error as ConfigError).message).toContain("store.url");
  for (const text of [String((error as ConfigError).cause), JSON.stringify(error), JSON.stringify(lines), (error as ConfigError).message]) {
    expect(text).not.toContain(SECRET);
  }
  return (error as ConfigError).message;
}

describe("redisStore's arguments", () => {
  const problem = (source: unknown, options: unknown = {}): string => {
    try {
      redisStore(source as RedisStoreSource, options as RedisStoreOptions);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      return (error as ConfigError).message;
    }
    return "none";
  };

  it("are refused by name when they are unknown or unusable", () => {
    expect(problem("redis://h", { deadline: 1 })).toBe(
      "redisStore has no option deadline: it knows url, client, deadlineMs, partition, clock, logger, serverTime",
    );
    for (const deadlineMs of [0, 1.5, 1001, "250", Number.NaN])
      expect(problem("redis://h", { deadlineMs })).toContain("deadlineMs must be a whole number");
    for (const partition of ["", "a b", "{x}", "a:b", "x".repeat(65), 7]) expect(problem("redis://h", { partition })).toContain("partition must be");
    expect(problem("redis://h", { serverTime: 5 })).toContain("serverTime must be a function");
    expect(problem({})).toContain("needs either a url");
    expect(problem(undefined)).toContain("needs either a url");
    expect(problem({ url: "redis://h", client: new Redis({ lazyConnect: true }) })).toContain("needs either a url");
    expect(problem({ client: {} })).toContain("must be a Redis or Cluster of ioredis");
    expect(problem({ url: "redis://h", deadlineMs: 100, partition: "a" })).toBe("none");
  });

  it("are refused without repeating a url that may hold a password", () => {
    for (const url of [
      `http://:${SECRET}@h`,
      `redis://:${SECRET}@`,
      `:${SECRET}@host:6379`,
      `redis://:${SECRET}@h/zero`,
      `redis://:${SECRET}%@h`,
      `redis://:${SECRET}@h?connectTimeout=1`,
      `redis://h?password=${SECRET}`,
      `redis://:${SECRET}@h?family=ipv6`,
      "",
    ]) {
      const text = problem(url);
      expect(text).toContain("redis://user:password@host:6379/0");
      expect(text).not.toContain(SECRET);
    }
  });
});

describe("a url", () => {
  it("may choose the family of addresses, and nothing else is taken from behind the ?", () => {
    const { dial, server } = redisSettings("redis://me:p%40ss@[::1]:7000/3?family=6", {});
    const client = dial() as Redis;
    onTestFinished(() => client.disconnect());
    client.on("error", () => {});
    expect(client.options).toMatchObject({ host: "::1", port: 7000, db: 3, username: "me", password: "p@ss", family: 6, connectTimeout: 1000 });
    expect(server).toBe("[::1]:7000/3");
  });
});

describe("before ready() and after close()", () => {
  it("says what to do, dials nobody, and close() has nothing to do", async () => {
    const store = redisStore("redis://127.0.0.1:1");
    expect((await failureOf(() => store.records.get("k"))).error).toMatchObject({
      code: "store_unavailable",
      message: expect.stringContaining("await store.ready() first"),
    });
    expect((await failureOf(() => store.limits.release("op"))).error.message).toContain("await store.ready() first");
    // Strikes count in this process until there is a server.
    expect(await store.strikes.strike("a", 1000)).toBe(1);
    await store.close();
    await store.close();
    expect((await failureOf(() => store.records.get("k"))).error.message).toContain("is closed");
    expect(() => store.ready()).toThrow("is closed");
  });

  it("may be closed while it starts, without waiting for the server", async () => {
    const store = redisStore(`redis://127.0.0.1:${await freePort()}`);
    const starting = Promise.resolve(store.ready()).catch((error: unknown) => error);
    const sinceAsked = ownTime();
    await store.close();
    expect(await starting).toBeInstanceOf(ConfigError);
    expect(sinceAsked()).toBeLessThan(500);
  });
});

describe.skipIf(redisProgram === undefined)("what keeps it from starting names the server and the way out", () => {
  let server: OwnServer;
  /** Takes two seconds to believe in itself. */
  let clusterNode: OwnServer;
  beforeAll(async () => {
    server = await ownServer();
    clusterNode = await ownServer("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1");
    await clusterNode.admin.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383);
  });
  afterAll(async () => {
    await server.stop();
    await clusterNode.stop();
  });

  it("nobody listens, or TLS is not answered, which is waited for; and it starts once somebody does", async () => {
    const late = await ownServer();
    onTestFinished(() => late.stop());
    await late.kill();
    const store = redisStore(late.url);
    onTestFinished(() => store.close());
    const startMs = performance.now();
    const sinceAsked = ownTime();
    await Promise.all([
      expect(store.ready()).rejects.toThrow(
        `127.0.0.1:${late.port}/0 (store.url, or redisStore's first argument) cannot be used: it cannot be reached`,
      ),
      expect(problemOf(`rediss://:${SECRET}@127.0.0.1:${server.port}`)).resolves.toContain("TLS"),
    ]);
    expect(performance.now() - startMs).toBeGreaterThan(1900);
    expect(sinceAsked()).toBeLessThan(2500);
    // A server that comes up while it is waited for.
    const again = store.ready();
    await late.restart();
    await again;
    expect(await store.records.put("k", 1)).toBeTypeOf("number");
  });

  it("a wrong password, and none where one is needed: at once", async () => {
    const guarded = await ownServer("--requirepass", "right");
    onTestFinished(() => guarded.stop());
    const sinceAsked = ownTime();
    expect(await problemOf(`redis://:${SECRET}@127.0.0.1:${guarded.port}`)).toContain("set the right user and password");
    expect(await problemOf(`redis://somebody:${SECRET}@127.0.0.1:${guarded.port}`)).toContain("set the right user and password");
    expect(await problemOf(guarded.url)).toContain("set the right user and password");
    expect(sinceAsked()).toBeLessThan(1500);
    await readyStore(`redis://:right@127.0.0.1:${guarded.port}`);
  });

  it("a database that the server does not have, instead of another one", async () => {
    expect(await problemOf(`${server.url}/99`)).toMatch(/\/99 .*name a database that the server has/);
  });

  it("something that is no Redis", async () => {
    const web = createServer((socket: Socket) => void socket.on("error", () => {}).end("HTTP/1.1 400 Bad Request\r\n\r\n")).listen(0, "127.0.0.1");
    await once(web, "listening");
    onTestFinished(() => void web.close());
    const sinceAsked = ownTime();
    expect(await problemOf(`redis://127.0.0.1:${(web.address() as { port: number }).port}`)).toContain(
      "it speaks neither Redis nor TLS as asked for",
    );
    expect(sinceAsked()).toBeLessThan(500);
  });

  it("a read-only replica", async () => {
    const replica = await ownServer("--replicaof", `127.0.0.1 ${server.port}`);
    onTestFinished(() => replica.stop());
    expect(await problemOf(replica.url)).toContain("it takes no writes");
  });

  it("a node of a cluster behind a single connection, and a single server behind a Cluster", async () => {
    await expect.poll(() => clusterNode.admin.call("CLUSTER", "INFO"), { timeout: 5000 }).toContain("cluster_state:ok");
    expect(await problemOf(clusterNode.url)).toContain("pass redisStore an ioredis Cluster as client");
    const cluster = new Cluster([{ host: "127.0.0.1", port: server.port }], { lazyConnect: true });
    const sinceAsked = ownTime();
    expect(await problemOf(cluster)).toMatch(/cluster 127\.0\.0\.1:\d+ .*not in cluster mode/);
    expect(sinceAsked()).toBeLessThan(500);
    const host = new Cluster([{ host: "127.0.0.1", port: clusterNode.port }]);
    onTestFinished(() => host.disconnect());
    const store = await readyStore(host);
    await usable(store);
    const other = await readyStore(host);
    const heard = gathered<string>();
    other.records.watch("w/", (key) => heard.add(key));
    await other.records.list("w/");
    await store.records.put("w/1", 1);
    await heard.count(1);
  });

  it("a server that is too old", async () => {
    const old = await fakeServer({ INFO: "redis_version:6.2.14\r\nredis_mode:standalone" });
    expect(await problemOf(old)).toContain("it runs Redis 6.2.14, and quotaguard needs 7.0 or later");
    const mute = await fakeServer({}, ["server", "redis", "version", "5.0.0"]);
    expect(await problemOf(mute)).toContain("it runs Redis 5.0.0");
  });

  it("a server that still loads its data: waited for, and told apart from one that is not there", async () => {
    let loading = 5;
    let made = 0;
    const slow = await fakeServer({
      INFO: "redis_version:7.2.4",
      DEL: () => ((loading -= 1) > 0 ? "-LOADING Redis is loading the dataset in memory\r\n" : ":0\r\n"),
      onConnection: () => void (made += 1),
    });
    const { logger, codes } = log();
    const connection = new RedisConnection(redisSettings(slow, { logger }));
    await connection.start();
    expect([loading, made]).toEqual([0, 1]);
    expect(codes()).toEqual([]);
    await connection.close();
    const slower = await fakeServer({ DEL: () => "-LOADING Redis is loading the dataset in memory\r\n" });
    expect(await problemOf(slower)).toContain(
      "it is not ready yet (LOADING Redis is loading the dataset in memory): start again when it has loaded its data",
    );
  });

  it("warns of a server that drops keys, and of one that keeps nothing on disk, and of no other", async () => {
    const starting = async (...options: string[]): Promise<readonly string[]> => {
      const own = await ownServer(...options);
      onTestFinished(() => own.stop());
      const { logger, codes } = log();
      await readyStore(own.url, { logger });
      return codes();
    };
    expect(await starting("--maxmemory-policy", "allkeys-lru")).toEqual(["QG_REDIS_EVICTION", "QG_REDIS_NO_PERSISTENCE"]);
    expect(await starting("--save", "900 1")).toEqual([]);
    expect(await starting("--appendonly", "yes")).toEqual([]);
  });

  it("may be forbidden INFO, CONFIG and SCRIPT, and the store works", async () => {
    const own = await ownServer();
    onTestFinished(() => own.stop());
    // What a person is told to permit, and not one command more.
    const permissions = "+@read +@write +@scripting +@pubsub +@connection +time ~qg:* &qg:*".split(" ");
    await own.admin.call("ACL", "SETUSER", "gw", "on", `>${SECRET}`, "-@all", ...permissions, "-script");
    const { logger, lines, codes } = log();
    const store = await readyStore(`redis://gw:${SECRET}@127.0.0.1:${own.port}`, { logger });
    await usable(store);
    expect(await own.admin.call("ACL", "DRYRUN", "gw", "INFO")).toContain("no permissions");
    expect(codes()).toEqual([]);
    expect(JSON.stringify(lines)).not.toContain(SECRET);
  });

  it("takes a client of the host as a pattern: with its database, not with its queue, prefix or end", async () => {
    const host = new Redis(`${server.url}/3`, { keyPrefix: "host:", enableAutoPipelining: true, stringNumbers: true });
    const partition = ownPartition();
    const store = redisStore(host, { partition });
    await store.ready();
    await usable(store);
    await store.close();
    expect(await host.set("mine", "1")).toBe("OK");
    await host.quit();
    await server.admin.select(3);
    const keys = await server.admin.keys("*");
    await server.admin.select(0);
    expect(keys.filter((key) => key.startsWith("host:"))).toEqual(["host:mine"]);
    expect(keys.some((key) => key.startsWith(`qg:{${partition}}:d:`))).toBe(true);
  });
});

async function usable(store: Store): Promise<void> {
  const rule = { kind: "bucket", capacity: 10, n: 0, d: 1 } as const;
  expect(await store.limits.reserve("op", [{ key: "b:k", rule, unit: "requests", amount: 4, enforce: true }], 60_000)).toMatchObject({
    kind: "allowed",
    standings: [{ available: 6 }],
  });
  const version = await store.records.put("a/b", { some: "value" });
  expect(await store.records.list("a/")).toEqual([{ key: "a/b", value: { some: "value" }, version }]);
  expect(await store.strikes.strike("s", 60_000)).toBe(1);
  expect(store.nodes?.()).toBe(1);
}

/** Knows some commands and agrees with everything else. */
async function fakeServer(
  answers: { readonly INFO?: string; readonly DEL?: () => string; onConnection?(): void },
  hello: readonly string[] = [],
): Promise<string> {
  const bulk = (text: string): string => `$${text.length}\r\n${text}\r\n`;
  const server = createServer((socket) => {
    answers.onConnection?.();
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      for (const [, name = ""] of chunk.toString().matchAll(/^\*\d+\r\n\$\d+\r\n(\w+)/gm)) {
        if (name === "INFO") socket.write(answers.INFO === undefined ? "-NOPERM no\r\n" : bulk(answers.INFO));
        else if (name === "HELLO") socket.write(`*${hello.length}\r\n${hello.map(bulk).join("")}`);
        else socket.write((name === "DEL" && answers.DEL?.()) || ":1\r\n");
      }
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return `redis://127.0.0.1:${(server.address() as { port: number }).port}`;
}
