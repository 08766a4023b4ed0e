import { describe, expect, it, onTestFinished } from "vitest";

import { RedisConnection } from "../../../src/stores/redis/connection.ts";
import { redisScript } from "../../../src/stores/redis/lua/script.ts";
import { redisSettings, type RedisStoreOptions } from "../../../src/stores/redis/options.ts";
import { ownServer, type OwnServer, proxyTo, redisProgram } from "./own-server.ts";
import { eventually, failureOf, log, readyStore } from "./redis-kit.ts";
import { ownTime } from "../../helpers/own-time.ts";

const DEADLINE_MS = 250;
/** What a call may take beyond its deadline on a busy machine. */
const SPARE_MS = 100;

const echo = redisScript("echo", "return ARGV[1]");
const count = redisScript("count", "return redis.call('INCR', KEYS[1])");

async function server(...options: string[]): Promise<OwnServer> {
  const own = await ownServer(...options);
  onTestFinished(() => own.stop());
  return own;
}

async function connected(url: string, options: RedisStoreOptions = {}): Promise<RedisConnection> {
  const connection = new RedisConnection(redisSettings(url, options));
  onTestFinished(() => connection.close());
  await connection.start();
  return connection;
}

const key = (connection: RedisConnection, name: string): string => connection.prefix + name;

describe.skipIf(redisProgram === undefined)("a server that is frozen", () => {
  it("costs each call its deadline, then nothing, and is found again when it thaws; no reply meets another caller", async () => {
    const own = await server();
    const { logger, codes, has } = log();
    const connection = await connected(own.url, { logger });
    const say = async (text: string): Promise<string> => String(await connection.run(echo, [], [text], true));
    expect(await say("before")).toBe("before");
    own.freeze();
    const failures = await Promise.all(Array.from({ length: 20 }, (_, i) => failureOf(() => say(`lost ${i}`))));
    for (const { error, ms, ownMs } of failures) {
      expect(error).toMatchObject({ code: "store_unavailable", retryAfterMs: expect.any(Number) });
      expect(error.message).not.toContain("127.0.0.1");
      expect(ms).toBeGreaterThan(DEADLINE_MS - 5);
      expect(ownMs).toBeLessThan(DEADLINE_MS + SPARE_MS);
    }
    expect((await failureOf(() => say("at once"))).ownMs).toBeLessThan(20);
    const sinceThaw = ownTime();
    own.thaw();
    // Nobody asks: the late replies tell.
    await has("QG_REDIS_BACK");
    expect(sinceThaw()).toBeLessThan(1000);
    const said = await Promise.all(Array.from({ length: 50 }, (_, i) => say(`new ${i}`)));
    expect(said).toEqual(Array.from({ length: 50 }, (_, i) => `new ${i}`));
    expect(codes()).toEqual(["QG_REDIS_LOST", "QG_REDIS_BACK"]);
  });

  it("is dialled anew when it stays mute, found within five seconds of its thaw without traffic, and close() does not wait for it", async () => {
    const own = await server();
    const proxy = await proxyTo(own.port);
    const { logger, codes, has } = log();
    const connection = await connected(proxy.url, { logger });
    own.freeze();
    // One caller alone is enough to find out.
    await failureOf(() => connection.call("PING"));
    await has("QG_REDIS_LOST");
    await expect.poll(() => proxy.made(), { timeout: 5000, interval: 20 }).toBeGreaterThan(1);
    const sinceThaw = ownTime();
    own.thaw();
    await has("QG_REDIS_BACK");
    expect(sinceThaw()).toBeLessThan(5000);
    expect(String(await connection.run(echo, [], ["again"], true))).toBe("again");
    expect(codes()).toEqual(["QG_REDIS_LOST", "QG_REDIS_BACK"]);
    own.freeze();
    const last = failureOf(() => connection.call("PING"));
    const sinceClosing = ownTime();
    await connection.close();
    expect(sinceClosing()).toBeLessThan(DEADLINE_MS + SPARE_MS);
    expect((await last).error.code).toBe("store_unavailable");
    expect((await failureOf(() => connection.call("PING"))).error.message).toContain("is closed");
    own.thaw();
  });

  it("is not sent more than it may hold", async () => {
    const own = await server();
    const proxy = await proxyTo(own.port);
    const connection = await connected(proxy.url);
    proxy.hole(true);
    const all = Array.from({ length: 10_000 }, () => failureOf(() => connection.run(echo, [], ["x"], true)));
    const { error, ownMs } = await failureOf(() => connection.run(echo, [], ["one more"], true));
    expect(ownMs).toBeLessThan(50);
    expect((error.cause as Error).message).toBe("10000 calls wait for an answer");
    for (const { ownMs: waitedMs } of await Promise.all(all)) expect(waitedMs).toBeLessThan(1000);
  });

  it("is not taken for what is our own standstill", async () => {
    const own = await server();
    const { logger, codes } = log();
    const connection = await connected(own.url, { logger });
    const replies = Array.from({ length: 10 }, (_, i) => connection.run(echo, [], [`${i}`], true));
    const until = performance.now() + 2 * DEADLINE_MS;
    while (performance.now() < until);
    expect((await Promise.all(replies)).map(String)).toEqual(Array.from({ length: 10 }, (_, i) => `${i}`));
    expect(codes()).toEqual([]);
  });
});

describe.skipIf(redisProgram === undefined)("a server that dies", () => {
  it("is refused to all at once, and is back by itself when it has been started again, scripts and watchers too", async () => {
    const own = await server();
    const { logger, codes, has } = log();
    const store = await readyStore(own.url, { logger });
    const seen: unknown[] = [];
    store.records.watch("w/", (name, record) => void seen.push([name, record?.value]));
    await store.records.put("w/1", "lost with the server");
    await own.kill();
    await has("QG_REDIS_LOST");
    const { error, ownMs } = await failureOf(() => store.records.get("w/1"));
    expect(error).toMatchObject({ code: "store_unavailable", retryAfterMs: 1000 });
    expect(ownMs).toBeLessThan(20);
    await own.restart();
    await has("QG_REDIS_BACK");
    await store.records.put("w/2", "new");
    // Whether w/1 is seen to be gone before or after w/2 is written is the network's matter.
    await expect.poll(() => seen).toContainEqual(["w/1", undefined]);
    expect(seen).toContainEqual(["w/2", "new"]);
    expect(codes().filter((code) => code !== "QG_REDIS_NO_PERSISTENCE")).toEqual(["QG_REDIS_LOST", "QG_REDIS_BACK"]);
  });
});

describe.skipIf(redisProgram === undefined)("a connection that is cut before the reply", () => {
  it("repeats what may be repeated, once, and nothing else", async () => {
    const own = await server();
    const proxy = await proxyTo(own.port);
    const connection = await connected(proxy.url);
    await connection.run(count, [key(connection, "warm")], [], true);
    proxy.cutNextReply();
    expect(await connection.run(count, [key(connection, "twice")], [], true)).toBe(2);
    proxy.cutNextReply();
    const { error } = await failureOf(() => connection.run(count, [key(connection, "once")], [], false));
    expect(error.code).toBe("store_unavailable");
    await eventually(() => connection.call("PING"));
    expect(await own.admin.get(key(connection, "once"))).toBe("1");
    expect(await own.admin.get(key(connection, "twice"))).toBe("2");
  });

  it("loses no record that says it is new: the repetition finds its own", async () => {
    const own = await server();
    const proxy = await proxyTo(own.port);
    const store = await readyStore(proxy.url);
    await store.records.put("warm", 1);
    proxy.cutNextReply();
    const version = await store.records.put("lock", "mine", { ifAbsent: true });
    expect(version).toBeTypeOf("number");
    expect(await store.records.get("lock")).toEqual({ key: "lock", value: "mine", version });
    expect(await store.records.put("lock", "theirs", { ifAbsent: true })).toBeUndefined();
    expect(await store.records.put("lock", "next", { ifVersion: version as number })).toBeGreaterThan(version as number);
  });
});

describe.skipIf(redisProgram === undefined)("a write of whose reply nobody knows", () => {
  it("is told to this process's watchers too when it happened", async () => {
    const own = await server();
    const proxy = await proxyTo(own.port);
    const store = await readyStore(proxy.url);
    await store.records.put("w/1", 1);
    const seen: unknown[] = [];
    store.records.watch("w/", (name, record) => void seen.push([name, record?.value]));
    await store.records.put("w/2", 2);
    // The server knows the script from now on.
    await store.records.delete("other");
    proxy.cutNextReply();
    expect((await failureOf(() => store.records.delete("w/1"))).error.code).toBe("store_unavailable");
    await expect
      .poll(() => seen)
      .toEqual([
        ["w/2", 2],
        ["w/1", undefined],
      ]);
  });
});

describe.skipIf(redisProgram === undefined)("a server that forgets its scripts", () => {
  it("is told the text once, however many calls find out", async () => {
    const own = await server();
    const connection = await connected(own.url);
    await connection.run(echo, [], ["x"], true);
    await own.admin.script("FLUSH");
    await own.admin.config("RESETSTAT");
    const said = await Promise.all(Array.from({ length: 64 }, (_, i) => connection.run(echo, [], [`${i}`], false)));
    expect(said.map(String)).toEqual(Array.from({ length: 64 }, (_, i) => `${i}`));
    expect(await own.admin.info("commandstats")).toMatch(/cmdstat_eval:calls=1,/);
  });
});

describe.skipIf(redisProgram === undefined)("a server that says no", () => {
  it("OOM, WRONGTYPE and NOPERM are store_unavailable, and a person is told once", async () => {
    const own = await server();
    await own.admin.call("ACL", "SETUSER", "gw", "on", ">pw", "~qg:*", "&qg:*", "+@all", "-zremrangebyscore");
    const { logger, lines, codes } = log();
    const store = await readyStore(own.url, { logger });
    const prefix = "qg:{qg}:";
    await own.admin.config("SET", "maxmemory", "1");
    for (let i = 0; i < 5; i += 1) expect((await failureOf(() => store.records.put("k", 1))).error.code).toBe("store_unavailable");
    // Who only reads is served.
    expect(await store.records.get("k")).toBeUndefined();
    await own.admin.config("SET", "maxmemory", "0");
    await store.records.put("k", 1);
    await own.admin.lpush(`${prefix}d:list`, "somebody else's");
    for (let i = 0; i < 5; i += 1) {
      expect((await failureOf(() => store.records.get("list"))).error).toMatchObject({
        code: "store_unavailable",
        message: expect.not.stringContaining("WRONGTYPE"),
      });
      expect((await failureOf(() => store.records.put("list", 1))).error.code).toBe("store_unavailable");
    }
    expect(await own.admin.lrange(`${prefix}d:list`, 0, -1)).toEqual(["somebody else's"]);
    expect(codes().filter((code) => code !== "QG_REDIS_NO_PERSISTENCE")).toEqual(["QG_REDIS_OOM", "QG_REDIS_WRONGTYPE"]);
    expect(lines.find(({ fields }) => fields.code === "QG_REDIS_OOM")).toMatchObject({
      level: "error",
      message: expect.stringContaining("raise maxmemory"),
    });

    // Inside a script the server's word for it is another one.
    const restricted = redisScript("restricted", "redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, 1)");
    const second = log();
    const connection = await connected(`redis://gw:pw@127.0.0.1:${own.port}`, { logger: second.logger });
    for (let i = 0; i < 5; i += 1) {
      expect((await failureOf(() => connection.run(restricted, [key(connection, "z")], [], true))).error.code).toBe("store_unavailable");
      expect((await failureOf(() => connection.call("GET", "elsewhere"))).error.code).toBe("store_unavailable");
    }
    expect(second.codes()).toEqual(["QG_REDIS_NOPERM"]);
  });

  it("READONLY: another server is in charge, so it is dialled anew until it is one that takes writes", async () => {
    const own = await server();
    const { logger, codes, has } = log();
    const connection = await connected(own.url, { logger });
    await own.admin.call("REPLICAOF", "127.0.0.1", "1");
    const failures = await Promise.all(Array.from({ length: 20 }, () => failureOf(() => connection.run(count, [key(connection, "n")], [], true))));
    for (const { error, ownMs } of failures) {
      expect(error.code).toBe("store_unavailable");
      expect(ownMs).toBeLessThan(DEADLINE_MS + SPARE_MS);
    }
    await own.admin.call("REPLICAOF", "NO", "ONE");
    await has("QG_REDIS_BACK");
    expect(await connection.run(count, [key(connection, "n")], [], true)).toBe(1);
    expect(codes()).toEqual(["QG_REDIS_LOST", "QG_REDIS_BACK"]);
  });

  it("BUSY with somebody's endless script: the calls end, and it is found again after the script", async () => {
    const own = await server("--busy-reply-threshold", "10");
    const connection = await connected(own.url);
    const killer = own.admin.duplicate({ enableReadyCheck: false });
    onTestFinished(() => killer.disconnect());
    const endless = own.admin.eval("while true do end", 0).catch((error: unknown) => String(error));
    // Before the threshold it is as good as frozen, and after it says BUSY. Until then the script may still be on its way.
    await expect.poll(() => killer.ping().catch(String), { timeout: 5000, interval: 20 }).toContain("BUSY");
    const { ownMs } = await failureOf(() => connection.run(count, [key(connection, "n")], [], true));
    expect(ownMs).toBeLessThan(DEADLINE_MS + SPARE_MS);
    await killer.script("KILL");
    expect(await endless).toContain("killed");
    expect((await eventually(() => connection.run(count, [key(connection, "n")], [], true))).ms).toBeLessThan(2000);
  });
});
