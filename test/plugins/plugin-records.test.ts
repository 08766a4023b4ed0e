import { describe, expect, test } from "vitest";
import { ConfigError, GuardError } from "../../src/core/errors.ts";
import { Secret } from "../../src/core/secret.ts";
import type { StoredRecord } from "../../src/core/store.ts";
import { hosted, pluginKit } from "./plugin-kit.ts";

const BAD_KEYS = ["", "/", "/a", "a/", "a//b", "..", "../other/secret", "a/../b", ".", "./a", "a b", "a\u0000b", "ключ", "a".repeat(513)];
const BAD_PREFIXES = ["/", "../", "..", "a/../", "a//", "a b", "\u0000"];
const KEY = "a-secret-key-of-the-operator-01";

describe("a plugin's records", () => {
  test("lie below its name and come back without it", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "reports");
    const { records } = host;
    const version = await records.put("day/1", { usd: 1 });
    expect(await records.get("day/1")).toEqual({ key: "day/1", value: { usd: 1 }, version });
    expect(await kit.records.get("plugins/reports/day/1")).toMatchObject({ value: { usd: 1 } });
    expect(await records.put("day/1", 2, { ifAbsent: true })).toBeUndefined();
    const next = await records.put("day/1", 2, { ifVersion: version as number });
    expect(next).toBeGreaterThan(version as number);
    await records.put("day/2", 3);
    await records.put("other", 4, { ttlMs: 100 });
    expect((await records.list("day/")).map(({ key, value }) => [key, value])).toEqual([
      ["day/1", 2],
      ["day/2", 3],
    ]);
    kit.clock.advance(100);
    expect((await records.list("")).map(({ key }) => key)).toEqual(["day/1", "day/2"]);
    expect(await records.delete("day/1")).toBe(true);
    expect(await records.delete("day/1")).toBe(false);
  });

  test("two plugins never meet, also when one's name begins the other's", async () => {
    const kit = pluginKit();
    const hosts = new Map<string, Awaited<ReturnType<typeof hosted>>["host"]>();
    await kit.start(["a", "a-b", "ab"].map((name) => ({ name, setup: (host) => void hosts.set(name, host) })));
    for (const [name, { records }] of hosts) await records.put("key", name);
    await kit.records.put("limit/x", "not theirs");
    for (const [name, { records }] of hosts) {
      expect((await records.list("")).map(({ key, value }) => [key, value])).toEqual([["key", name]]);
      expect(await records.get("limit/x")).toBeUndefined();
    }
  });

  test("are watched by their own keys, until the plugin ends; a watcher that fails is counted", async () => {
    const kit = pluginKit();
    const { host, set } = await hosted(kit, "watcher");
    const seen: (readonly [string, StoredRecord | undefined])[] = [];
    const stop = host.records.watch("day/", (key, record) => void seen.push([key, record]));
    host.records.watch("", () => {
      throw new Error("cannot look");
    });
    await host.records.put("day/1", 1);
    await kit.records.put("plugins/watcher-b/day/1", "another's");
    await host.records.delete("day/1");
    expect(seen).toEqual([
      ["day/1", expect.objectContaining({ key: "day/1", value: 1 })],
      ["day/1", undefined],
    ]);
    expect(kit.failures).toEqual(["watcher watcher", "watcher watcher"]);
    stop();
    await host.records.put("day/2", 1);
    expect(seen).toHaveLength(2);
    host.records.watch("", (key) => void seen.push([key, undefined]));
    await set.close();
    await kit.records.put("plugins/watcher/day/3", 1);
    expect(seen).toHaveLength(2);
  });

  test.each(BAD_KEYS)("no key is %j", async (key) => {
    const kit = pluginKit();
    const { host } = await hosted(kit);
    await kit.records.put("plugins/other/secret", "another's");
    for (const use of [() => host.records.get(key), () => host.records.put(key, 1), () => host.records.delete(key)]) expect(use).toThrow(ConfigError);
    for (const use of [() => host.secrets.get(key), () => host.secrets.put(key, "v"), () => host.secrets.delete(key), () => host.lock(key, 1_000)]) {
      await expect(use()).rejects.toThrow(ConfigError);
    }
    expect(await kit.records.list("")).toHaveLength(1);
  });

  const circle: { self?: object } = {};
  circle.self = circle;
  test.each([
    ["nothing", undefined],
    ["a function", () => 1],
    ["a bigint", 5n],
    ["a circle", circle],
  ])("no record is %s: the store never sees it, so it cannot be taken for ill", async (_what, value) => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "reports");
    expect(() => host.records.put("day", value)).toThrow(/the plugin reports: the record day must be JSON/);
    expect(() => host.records.put("day", 1, { ttlMs: Number.NaN })).toThrow(/needs a ttlMs above 0/);
    expect(await kit.records.list("")).toEqual([]);
  });

  test.each(BAD_PREFIXES)("no prefix is %j", async (prefix) => {
    const { host } = await hosted(pluginKit());
    for (const use of [() => host.records.list(prefix), () => host.records.watch(prefix, () => {})]) expect(use).toThrow(ConfigError);
    await expect(host.secrets.keys(prefix)).rejects.toThrow(ConfigError);
  });
});

describe("a plugin's secrets", () => {
  const options = { secrets: { key: KEY } };

  test("are kept in the ledger's store, encrypted, and come back as secrets", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "bot", options);
    await host.secrets.put("tokens/main", "canary-1");
    await host.secrets.put("tokens/spare", new Secret("canary-2"));
    expect(await host.secrets.get("tokens/none")).toBeUndefined();
    const found = await host.secrets.get("tokens/main");
    expect([found?.reveal(), String(found), JSON.stringify(found)]).toEqual(["canary-1", "[redacted]", '"[redacted]"']);
    expect((await host.secrets.get("tokens/spare"))?.reveal()).toBe("canary-2");
    expect(await host.secrets.keys()).toEqual(["tokens/main", "tokens/spare"]);
    expect(await host.secrets.keys("tokens/s")).toEqual(["tokens/spare"]);
    expect(await kit.records.list("")).toEqual([]);
    const stored = JSON.stringify(await kit.kept.list(""));
    expect(stored).toContain("plugin-secrets/bot/tokens/main");
    expect(stored).not.toContain("canary");
    // They are no plain records of the plugin, not even in one store.
    expect(await host.records.list("")).toEqual([]);
    expect(await host.secrets.delete("tokens/main")).toBe(true);
    expect(await host.secrets.get("tokens/main")).toBeUndefined();
  });

  test("end with their ttl", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "bot", options);
    await host.secrets.put("code", "v", { ttlMs: 100 });
    kit.clock.advance(99);
    expect((await host.secrets.get("code"))?.reveal()).toBe("v");
    kit.clock.advance(1);
    expect(await host.secrets.get("code")).toBeUndefined();
  });

  test("do not open at another key, or for another plugin", async () => {
    const kit = pluginKit();
    const { host } = await hosted(kit, "bot", options);
    await host.secrets.put("admin", "v");
    const { value } = (await kit.kept.get("plugin-secrets/bot/admin")) ?? {};
    await kit.kept.put("plugin-secrets/bot/user", value);
    await kit.kept.put("plugin-secrets/other/admin", value);
    await expect(host.secrets.get("user")).rejects.toThrow(GuardError);
    const { host: other } = await hosted(kit, "other", options);
    await expect(other.secrets.get("admin")).rejects.toThrow("belongs to another place");
    await kit.kept.put("plugin-secrets/bot/admin", { not: "ours" });
    await expect(host.secrets.get("admin")).rejects.toThrow("was changed in the database");
  });

  test("name secrets.key when it is another one", async () => {
    const kit = pluginKit();
    await (await hosted(kit, "bot", options)).host.secrets.put("token", "v");
    const { host } = await hosted(kit, "bot", { secrets: { key: `${KEY}-new` } });
    await expect(host.secrets.get("token")).rejects.toThrow(/^secrets\.key: the secret plugin-secrets\/bot\/token was encrypted with another key/);
    // The way out.
    await host.secrets.put("token", "anew");
    expect((await host.secrets.get("token"))?.reveal()).toBe("anew");
  });

  test.each([
    ["", "empty"],
    ["x".repeat(65_537), "too long"],
    [5 as unknown as string, "a number"],
  ])("no value is %j", async (value) => {
    const { host } = await hosted(pluginKit());
    await expect(host.secrets.put("token", value)).rejects.toThrow("must be text of 1 to 65536 characters");
    await expect(host.secrets.put("token", "v", { ttlMs: Number.NaN })).rejects.toThrow("the record token needs a ttlMs above 0");
  });
});
