import { describe, expect, test } from "vitest";
import type { GuardEvents } from "../../src/core/events.ts";
import { hosted, pluginKit, settled } from "./plugin-kit.ts";

const BAN: GuardEvents["ban"] = { credential: "main", model: null, client: null, code: 429, until: null };

describe("listening", () => {
  test("a throw or a rejection is logged by the plugin's name and counted, and the others hear all the same", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "listener");
    const heard: string[] = [];
    host.on("ban", () => {
      throw new Error("thrown");
    });
    host.on("ban", () => Promise.reject(new Error("rejected")) as unknown as void);
    host.on("ban", ({ credential }) => void heard.push(String(credential)));
    kit.events.emit("ban", BAN);
    await settled();
    expect(heard).toEqual(["main"]);
    expect(kit.failures).toEqual(["listener listener", "listener listener"]);
    expect(kit.logger.lines.map(({ level, fields }) => [level, fields.plugin, (fields.err as Error).message])).toEqual([
      ["warn", "listener", "thrown"],
      ["warn", "listener", "rejected"],
    ]);
  });

  test("of an event that never comes, or that cannot be called, is told at once", async () => {
    const { host } = await hosted(pluginKit());
    expect(() => host.on("reqest" as never, () => {})).toThrow(/there is no event reqest; did you mean request\?/);
    expect(() => host.on("request", undefined as never)).toThrow(/on\("request", listener\) needs a function/);
  });

  test("ends when it is stopped, or with the plugin; others' listeners stay", async () => {
    const kit = pluginKit();
    const { host, set } = await hosted(kit);
    const heard: string[] = [];
    const stop = host.on("ban", () => void heard.push("first"));
    host.on("ban", () => void heard.push("second"));
    kit.events.on("ban", () => void heard.push("the host's own"));
    stop();
    stop();
    kit.events.emit("ban", BAN);
    await set.close();
    kit.events.emit("ban", BAN);
    expect(heard).toEqual(["second", "the host's own", "the host's own"]);
  });

  test("the table is bounded", async () => {
    const { host } = await hosted(pluginKit(), "leaky");
    for (let i = 0; i < 1_000; i += 1) host.on("ban", () => {});
    expect(() => host.on("ban", () => {})).toThrow("the plugin leaky has 1000 listeners and watchers; stop one before you add another");
  });
});

describe("timers", () => {
  test("run by the clock, until they are stopped", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit);
    let turns = 0;
    const stop = host.every(100, () => void (turns += 1));
    kit.clock.advance(99);
    expect(turns).toBe(0);
    for (let i = 0; i < 5; i += 1) {
      kit.clock.advance(100);
      await settled();
    }
    expect(turns).toBe(5);
    stop();
    kit.clock.advance(1_000);
    expect([turns, kit.clock.pending()]).toEqual([5, 0]);
  });

  test("never two at a time: what takes longer misses turns", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit);
    const gates: PromiseWithResolvers<void>[] = [];
    let running = 0;
    let most = 0;
    host.every(100, async () => {
      most = Math.max(most, (running += 1));
      const gate = Promise.withResolvers<void>();
      gates.push(gate);
      await gate.promise;
      running -= 1;
    });
    kit.clock.advance(450);
    expect([gates.length, most]).toEqual([1, 1]);
    gates[0]?.resolve();
    await settled();
    kit.clock.advance(50);
    expect([gates.length, most]).toEqual([2, 1]);
    gates[1]?.resolve();
  });

  test("one that fails is logged and counted, and goes on", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "ticker");
    let turns = 0;
    host.every(100, () => {
      turns += 1;
      if (turns === 1) throw new Error("thrown");
      return turns === 2 ? Promise.reject(new Error("rejected")) : undefined;
    });
    for (let i = 0; i < 3; i += 1) {
      kit.clock.advance(100);
      await settled();
    }
    expect([turns, kit.failures]).toEqual([3, ["ticker timer", "ticker timer"]]);
  });

  test("one that never ends holds the end up for 5 s at most", async () => {
    const kit = pluginKit();
    const { host, set } = await hosted(kit, "stuck");
    host.every(100, () => new Promise<void>(() => {}));
    kit.clock.advance(100);
    let isClosed = false;
    const closing = set.close().then(() => (isClosed = true));
    await settled();
    kit.clock.advance(4_999);
    await settled();
    expect(isClosed).toBe(false);
    kit.clock.advance(1);
    await closing;
    expect(kit.failures).toEqual(["stuck teardown"]);
  });

  test.each([0, -1, 0.5, Number.NaN, Infinity, 2 ** 31, "5m" as unknown as number])("no time is %s", async (ms) => {
    const { host } = await hosted(pluginKit());
    expect(() => host.every(ms, () => {})).toThrow("every(ms, fn) takes 1 to 2147483647 ms");
  });

  test("the table is bounded", async () => {
    const { host } = await hosted(pluginKit());
    for (let i = 0; i < 256; i += 1) host.every(100, () => {});
    expect(() => host.every(100, () => {})).toThrow("has 256 timers; stop one before you start another");
  });
});

test("lines carry the plugin's name", async () => {
  const kit = pluginKit();
  const { host } = await hosted(kit, "speaker");
  for (const level of ["debug", "info", "warn", "error"] as const) host.logger[level]({ a: 1 }, level);
  expect(kit.logger.lines).toEqual(
    ["debug", "info", "warn", "error"].map((level) => ({ level, message: level, fields: { plugin: "speaker", a: 1 } })),
  );
});

test("a lock is the plugin's own: another may have one of the same name", async () => {
  const kit = pluginKit();
  const { host: a } = await hosted(kit, "a");
  const { host: b } = await hosted(kit, "b");
  const lock = await a.lock("poll", 1_000);
  expect(await a.lock("poll", 1_000)).toBeNull();
  expect(await b.lock("poll", 1_000)).not.toBeNull();
  await lock?.release();
  expect(await a.lock("poll", 1_000)).not.toBeNull();
});

test("what concerns the pool goes there by the plugin's name", async () => {
  const kit = pluginKit();
  const { host, set } = await hosted(kit, "accounts");
  host.credentials.upsert({ name: "one", provider: "openai", apiKey: "k" });
  host.strategy("cheap", () => null);
  host.provider({ id: "mine", extends: "openai-compatible" });
  await set.close();
  expect(kit.control.asked).toEqual([
    'accounts upsert [{"name":"one","provider":"openai","apiKey":"k"}]',
    "strategy cheap",
    "provider mine",
    "drop accounts",
  ]);
});
