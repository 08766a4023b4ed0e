// Plugins in real guards: their stores, their requests, their processes.
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import express from "express";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { contextOf, createGuard, GuardError, type GuardOptions, type PluginHost, type PluginLock, type QuotaGuard } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { fakeUpstream } from "quotaguard/testing";
import { silentLogger } from "../../src/core/logger.ts";
import { keptLogger } from "../core/context-kit.ts";
import { chat, listen, testGateway } from "../helpers/app.ts";
import { endChildren, folder, ROOT, script, type Folder } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { forget } from "../stores/redis/limits-kit.ts";

const redisUrl = await testServer("redis");
const family = `plugins-${randomUUID()}`;
const SECRET_KEY = "a-secret-key-of-the-operator-01";

let place: Folder;
let closers: (() => Promise<unknown>)[] = [];
beforeEach(() => {
  place = folder();
});
afterEach(async () => {
  for (const close of closers.toReversed()) await close();
  closers = [];
  await endChildren();
  place.remove();
});
afterAll(async () => {
  if (redisUrl === undefined) return;
  const client = new Redis(redisUrl);
  await forget(client, `qg:{${family}`);
  client.disconnect();
});

interface Hosted {
  readonly guard: QuotaGuard;
  readonly host: PluginHost;
}

/** A guard whose only plugin does nothing by itself. */
async function hosting(options: GuardOptions, name = "probe"): Promise<Hosted> {
  let host: PluginHost | undefined;
  const guard = createGuard({ ...options, plugins: [{ name, setup: (given) => void (host = given) }] });
  closers.push(() => guard.close());
  await guard.ready();
  return { guard, host: host as PluginHost };
}

const sqlite = (): GuardOptions => ({ store: { url: `sqlite:${join(place.path, "quota.db")}` } });

describe("secrets in a SQLite ledger", () => {
  test("are there after a restart, encrypted with the key beside the database", async () => {
    const first = await hosting(sqlite());
    await first.host.secrets.put("token", "canary-of-a-token");
    // Another process on the same file.
    const second = await hosting(sqlite());
    expect((await second.host.secrets.get("token"))?.reveal()).toBe("canary-of-a-token");
    await first.guard.close();
    await second.guard.close();
    const third = await hosting(sqlite());
    expect((await third.host.secrets.get("token"))?.reveal()).toBe("canary-of-a-token");
    await third.guard.close();
    const files = readdirSync(place.path);
    expect(files).toContain("quota.db.key");
    for (const file of files) expect(readFileSync(join(place.path, file)).includes("canary"), file).toBe(false);
  });

  test("say what is wrong when the key file is another one", async () => {
    const first = await hosting(sqlite());
    await first.host.secrets.put("token", "v");
    await first.guard.close();
    writeFileSync(join(place.path, "quota.db.key"), `${"ab".repeat(32)}\n`, { mode: 0o600 });
    const { host } = await hosting(sqlite());
    await expect(host.secrets.get("token")).rejects.toThrow(/^secrets\.key: the secret plugin-secrets\/probe\/token was encrypted with another key/);
  });

});

test("records are the store's, secrets the ledger's", async () => {
  const store = sqliteStore(join(place.path, "store.db"));
  const { host } = await hosting({ store, ledger: { url: `sqlite:${join(place.path, "ledger.db")}` } });
  closers.unshift(async () => store.close());
  await host.records.put("state", 1);
  await host.secrets.put("token", "v");
  expect((await store.records.list("")).map(({ key }) => key)).toEqual(["plugins/probe/state"]);
  expect(readdirSync(place.path)).toContain("ledger.db.key");
});

interface Shared {
  readonly name: string;
  readonly skip?: boolean;
  readonly options: () => GuardOptions;
}

const shared: readonly Shared[] = [
  { name: "one SQLite file", options: sqlite },
  {
    name: "one Redis",
    skip: redisUrl === undefined,
    options: () => ({ store: redisStore(redisUrl ?? "", { partition: family }), secrets: { key: SECRET_KEY }, logger: silentLogger }),
  },
];

for (const { name, skip = false, options } of shared) {
  describe.skipIf(skip)(`two guards on ${name}`, () => {
    const two = async (): Promise<readonly [Hosted, Hosted]> => {
      const made = [options(), options()].map(({ store, ...more }) => {
        if (store && "close" in store) closers.unshift(async () => store.close());
        return { ...more, store };
      });
      const [a, b] = await Promise.all(made.map((one) => hosting(one)));
      return [a as Hosted, b as Hosted];
    };

    test("never have two holders of a lock, whoever of fifty asks", async () => {
      const [a, b] = await two();
      const taken: PluginLock[] = [];
      for (let round = 0; round < 5; round += 1) {
        const asked = await Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? a : b).host.lock("poll", 60_000)));
        taken.push(...asked.filter((lock) => lock !== null));
        expect(taken).toHaveLength(1);
        expect(await taken[0]?.extend()).toBe(true);
        await taken.pop()?.release();
      }
    });

    test("see each other's records and secrets, by the plugin's name alone", async () => {
      const [a, b] = await two();
      await a.host.records.put("seen/by", "both");
      await a.host.secrets.put("token", "shared");
      expect((await b.host.records.get("seen/by"))?.value).toBe("both");
      expect((await b.host.secrets.get("token"))?.reveal()).toBe("shared");
      const heard = Promise.withResolvers<string>();
      b.host.records.watch("news/", (key, record) => heard.resolve(`${key} ${String(record?.value)}`));
      await a.host.records.put("news/1", "hello");
      expect(await heard.promise).toBe("news/1 hello");
    });
  });
}

describe("the life of a guard", () => {
  test("plugins are set up before ready() resolves, with a store and an admin that work, and end before the store does", async () => {
    const notes: string[] = [];
    const guard = createGuard({
      ...sqlite(),
      plugins: [
        {
          name: "first",
          async setup(host) {
            await host.records.put("begun", 1);
            notes.push(`${host.admin.health().status} ${(await host.admin.usage()).length} ${(await host.records.list("")).length}`);
            return async () => void (await host.records.put("ended", 1));
          },
        },
        { name: "second", setup: () => () => void notes.push("second ends") },
      ],
    });
    await guard.ready();
    expect(notes).toEqual([expect.stringMatching(/^starting \d 1$/)]);
    await guard.close();
    expect(notes[1]).toBe("second ends");
    const { host } = await hosting(sqlite(), "first");
    expect((await host.records.list("")).map(({ key }) => key)).toEqual(["begun", "ended"]);
  });

  test("a plugin that fails stops it: ready() names it, and everything that was opened is closed", async () => {
    const logger = keptLogger();
    const ended: string[] = [];
    const guard = createGuard({
      ...sqlite(),
      logger,
      plugins: [
        { name: "good", setup: () => () => void ended.push("good") },
        {
          name: "bad",
          setup() {
            throw new Error("no such bot");
          },
        },
      ],
    });
    const error = await guard.ready().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(GuardError.is(error) && [error.code, error.message, (error.cause as Error).message]).toEqual([
      "plugin_failed",
      "the plugin bad could not be set up: no such bot",
      "no such bot",
    ]);
    expect(ended).toEqual(["good"]);
    expect(guard.admin.health().status).toBe("unavailable");
    await guard.close();
    // The last connection took the write-ahead log with it.
    expect(readdirSync(place.path)).toEqual(["quota.db", "quota.db.key"]);
  });

  test("hears what requests do, and none of them feels a listener that fails", async () => {
    const heard: string[] = [];
    const logger = keptLogger();
    const guard = createGuard({
      auth: false,
      logger,
      scopes: () => ({ user: "alice" }),
      limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } }],
      plugins: [
        {
          name: "listener",
          setup(host) {
            host.on("settled", ({ scopes, amounts }) => void heard.push(`settled ${scopes.user} ${amounts.input_tokens}`));
            host.on("settled", () => {
              throw new Error("not mine");
            });
            host.on("refused", ({ error }) => Promise.reject(new Error(error.code)) as unknown as void);
          },
        },
      ],
    });
    closers.push(() => guard.close());
    const app = express();
    app.get("/own", guard.budgets({ limits: ["calls"] }), (req, res) => {
      contextOf(req).meter({ inputTokens: 1 });
      res.end();
    });
    const { url, close } = await listen(app);
    closers.push(close);
    const statuses: number[] = [];
    for (let i = 0; i < 3; i += 1) statuses.push((await fetch(`${url}/own`)).status);
    expect(statuses).toEqual([200, 200, 429]);
    await expect.poll(() => logger.lines.filter(({ fields }) => fields.plugin === "listener").length).toBe(3);
    expect(heard).toEqual(["settled alice 1", "settled alice 1"]);
  });

  test("a credential that a plugin brings serves requests, and goes with it", async () => {
    const upstream = await fakeUpstream();
    closers.push(() => upstream.close());
    const gateway = await testGateway({
      plugins: [
        {
          name: "accounts",
          setup: (host) =>
            host.credentials.upsert({ name: "brought", provider: "openai", apiKey: "sk-of-the-plugin-1", baseUrl: upstream.url, priority: 5 }),
        },
      ],
    });
    closers.push(() => gateway.close());
    expect((await chat(gateway.url)).status).toBe(200);
    expect([upstream.totals().requests, gateway.upstream.totals().requests]).toEqual([1, 0]);
    expect(gateway.guard.admin.health().credentials.map(({ name }) => name)).toEqual(["main", "brought"]);
  });

  test("timers keep no process alive", async () => {
    const code = `
      import { createGuard } from "quotaguard";
      const guard = createGuard({ plugins: [{ name: "ticker", setup(host) { host.every(100000, () => {}); host.on("ban", () => {}); } }] });
      await guard.ready();
      console.log("ready");`;
    const { code: status, stdout, stderr } = await script(code, { cwd: ROOT }).ended;
    expect([status, stdout, stderr]).toEqual([0, "ready\n", ""]);
  });
});
