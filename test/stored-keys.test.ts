import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createGuard, type GuardOptions, type QuotaGuard } from "quotaguard";
import { faultyStore, testClock, type TestClock } from "quotaguard/testing";
import { ConfigError } from "../src/core/errors.ts";
import { Secret } from "../src/core/secret.ts";
import { memoryRecords } from "../src/stores/memory-records.ts";
import { organisations } from "../src/organisations.ts";
import { storedKeys, type StoredKeys } from "../src/stored-keys.ts";
import { keptLogger } from "./core/context-kit.ts";
import { folder, type Folder } from "./helpers/child.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

let clock: TestClock;
let logger: ReturnType<typeof keptLogger>;
let records: ReturnType<typeof memoryRecords>;
let asked: string[];
beforeEach(() => {
  clock = testClock();
  logger = keptLogger();
  records = memoryRecords(clock.now, logger);
  asked = [];
});

function kept(more: { readonly configured?: readonly string[]; readonly secret?: string; readonly replaces?: string } = {}): StoredKeys {
  const own = records;
  const counted = { ...own, get: (key: string) => (asked.push(key), own.get(key)) };
  const mayMake = (): void => {};
  const orgs = organisations({ records, clock, logger, mayMake });
  return storedKeys({
    records: counted,
    replaces: more.replaces ?? null,
    secretKey: () => new Secret(more.secret ?? "a secret key for tests"),
    configured: more.configured ?? [],
    declaredScopes: new Set(["org", "team", "user"]),
    orgs,
    mayMake,
    clock,
    logger,
  });
}

const nameOf = async (keys: StoredKeys, key: string): Promise<string | undefined> => (await keys.find(key))?.principal.name;
const lookUps = (): number => asked.filter((key) => key.startsWith("api-key/")).length;

describe("the secret key", () => {
  test("of keys that were made is the only one that starts, and that makes more of them", async () => {
    const first = kept();
    await first.create({ name: "alice" });
    const other = kept({ secret: "another secret key" });
    await expect(other.load()).rejects.toThrow(
      /^secrets\.key: is another one than the keys of clients in the database were made with; .*replaces to [0-9a-f]{16}/,
    );
    for (const making of [other.create({ name: "bob" }), other.rotate("alice")]) {
      await expect(making).rejects.toMatchObject({ code: "forbidden", message: expect.stringContaining("is another one") });
    }
    expect((await first.list()).map(({ name }) => name)).toEqual(["alice"]);
    await kept().load();
  });

  test("is free to be another one while there are no keys, and once they are revoked", async () => {
    const first = kept();
    await first.create({ name: "alice" });
    await first.revoke("alice");
    const other = kept({ secret: "another secret key" });
    await other.load();
    const { key } = await other.create({ name: "bob" });
    expect(await nameOf(other, key)).toBe("bob");
    await expect(kept().load()).rejects.toThrow("is another one");
  });

  test("that is lost is replaced by name, once: another mark replaces nothing", async () => {
    await kept().create({ name: "alice" });
    const said = await kept({ secret: "the next secret key" }).load().catch(String);
    const replaces = /replaces to ([0-9a-f]{16})/.exec(String(said))?.[1] as string;
    await expect(kept({ secret: "the next secret key", replaces: "0".repeat(16) }).load()).rejects.toThrow("is another one");
    const next = kept({ secret: "the next secret key", replaces });
    await next.load();
    expect(await nameOf(next, (await next.rotate("alice")).key)).toBe("alice");
    await expect(kept({ secret: "a third secret key", replaces }).load()).rejects.toThrow("is another one");
    expect(JSON.stringify(logger.lines)).not.toContain("secret key for tests");
  });

  test("of a database from before marks were kept is marked by the next start", async () => {
    await kept().create({ name: "alice" });
    await records.delete("secret-key");
    await kept().load();
    await expect(kept({ secret: "another secret key" }).load()).rejects.toThrow("is another one");
  });
});

describe("a key", () => {
  test("is told once; it is 32 random bytes and a checksum, and nothing of it is kept but a keyed digest", async () => {
    const keys = kept();
    const { key, view } = await keys.create({ name: "alice", scopes: { user: "alice" }, org: "acme", models: ["gpt-*"], expires: clock.now() + DAY });
    expect(key).toMatch(/^qg_[A-Za-z0-9_-]{49}$/);
    expect(view).toEqual({
      name: "alice",
      prefix: key.slice(0, 8),
      org: "acme",
      scopes: { org: "acme", user: "alice" },
      models: ["gpt-*"],
      mayAssertScopes: false,
      createdAt: clock.now(),
      rotatedAt: null,
      expiresAt: clock.now() + DAY,
      lastUsedAt: null,
      previousUntil: null,
    });
    expect(await keys.list()).toEqual([view]);
    expect(JSON.stringify([await records.list(""), logger.lines])).not.toContain(key.slice(3, 46).slice(5));
    expect((await keys.find(key))?.principal).toEqual({
      kind: "key",
      name: "alice",
      scopes: { org: "acme", user: "alice" },
      models: ["gpt-*"],
      mayAssertScopes: false,
    });
  });

  test("is unknown to who has another secret key", async () => {
    const { key } = await kept().create({ name: "alice" });
    expect(await nameOf(kept({ secret: "another secret key" }), key)).toBeUndefined();
    expect(await nameOf(kept(), key)).toBe("alice");
  });

  test("that is made up is refused without a look at the database, however it is made up", async () => {
    const keys = kept();
    const { key } = await keys.create({ name: "alice" });
    asked = [];
    const last = key.endsWith("A") ? "B" : "A";
    for (const wrong of [key.slice(0, -1) + last, `qg_${"x".repeat(49)}`, key.slice(0, -1), `${key}a`, "qg_", ""]) {
      expect(await nameOf(keys, wrong)).toBeUndefined();
    }
    expect(asked).toEqual([]);
  });

  test("cannot be known without the secret key: that is said once, and stops a start where there are any", async () => {
    let secretAsked = 0;
    const mayMake = (): void => {};
    const parts = { records, replaces: null, configured: [], declaredScopes: new Set<string>(), mayMake, clock, logger };
    const lost = storedKeys({
      ...parts,
      orgs: organisations({ records, clock, logger, mayMake }),
      secretKey() {
        secretAsked += 1;
        throw new ConfigError(["secrets.key: is required"]);
      },
    });
    await lost.load();
    for (let i = 0; i < 3; i += 1) expect(await nameOf(lost, `qg_${"x".repeat(48)}${i}`)).toBeUndefined();
    expect([secretAsked, logger.lines.filter(({ level }) => level === "warn").length]).toEqual([1, 1]);
    await kept().create({ name: "alice" });
    await expect(lost.load()).rejects.toThrow("secrets.key: is required");
  });

  test("is not asked for again at each request, nor is one that was revoked", async () => {
    const keys = kept();
    const { key } = await keys.create({ name: "alice" });
    asked = [];
    for (let i = 0; i < 100; i += 1) expect(await nameOf(keys, key)).toBe("alice");
    expect(lookUps()).toBe(1);
    await keys.revoke("alice");
    asked = [];
    for (let i = 0; i < 100; i += 1) expect(await nameOf(keys, key)).toBeUndefined();
    expect(lookUps()).toBe(1);
    clock.advance(5_000);
    await keys.find(key);
    expect(lookUps()).toBe(2);
  });

  test("that another process revoked is refused as soon as that is heard; without hearing it, after a second and a half", async () => {
    const [here, there] = [kept(), kept()];
    const { key } = await here.create({ name: "alice" });
    expect(await nameOf(there, key)).toBe("alice");
    await here.revoke("alice");
    expect(await nameOf(there, key)).toBeUndefined();

    const second = await here.create({ name: "bob" });
    const deaf = kept();
    expect(await nameOf(deaf, second.key)).toBe("bob");
    deaf.close();
    await here.revoke("bob");
    expect(await nameOf(deaf, second.key)).toBe("bob");
    clock.advance(1_499);
    expect(await nameOf(deaf, second.key)).toBe("bob");
    clock.advance(1);
    expect(await nameOf(deaf, second.key)).toBeUndefined();
  });

  test("shows when it was used, to the hour", async () => {
    const keys = kept();
    const { key } = await keys.create({ name: "alice" });
    const lastUsed = async () => (await keys.list())[0]?.lastUsedAt;
    const hour = clock.now() - (clock.now() % HOUR);
    await keys.find(key);
    expect(await lastUsed()).toBe(hour);
    clock.advance(HOUR);
    await keys.find(key);
    expect(await lastUsed()).toBe(hour + HOUR);
  });
});

describe("a rotation", () => {
  test("leaves the key before it for as long as it says, by the clock", async () => {
    const keys = kept();
    const old = await keys.create({ name: "alice", scopes: { user: "alice" } });
    const made = await keys.rotate("alice", { overlap: "24h" });
    expect(made.key).not.toBe(old.key);
    expect(made.view).toMatchObject({ name: "alice", scopes: { user: "alice" }, previousUntil: clock.now() + DAY, rotatedAt: clock.now() });
    clock.advance(DAY - 1);
    expect((await keys.find(old.key))?.expiresAt).toBe(clock.now() + 1);
    expect(await nameOf(keys, made.key)).toBe("alice");
    clock.advance(1);
    const ended = await keys.find(old.key);
    expect(ended === undefined || (ended.expiresAt as number) <= clock.now()).toBe(true);
    expect(await keys.list()).toMatchObject([{ name: "alice", previousUntil: null }]);
  });

  test("ends it at once unless it says otherwise, and never makes a key live longer than it was to", async () => {
    const keys = kept();
    const old = await keys.create({ name: "alice", expires: clock.now() + HOUR });
    const next = await keys.rotate("alice", { overlap: "24h" });
    expect((await keys.find(old.key))?.expiresAt).toBe(clock.now() + HOUR);
    const last = await keys.rotate("alice");
    expect([await nameOf(keys, old.key), await nameOf(keys, next.key), await nameOf(keys, last.key)]).toEqual([undefined, undefined, "alice"]);
  });

  test("of one that is rotated still: two keys of a name work, never three", async () => {
    const keys = kept();
    const first = await keys.create({ name: "alice" });
    const second = await keys.rotate("alice", { overlap: DAY });
    const third = await keys.rotate("alice", { overlap: DAY });
    expect([await nameOf(keys, first.key), await nameOf(keys, second.key), await nameOf(keys, third.key)]).toEqual([undefined, "alice", "alice"]);
    await keys.revoke("alice");
    for (const { key } of [first, second, third]) expect(await nameOf(keys, key)).toBeUndefined();
    expect((await records.list("api-key/")).length).toBe(0);
  });

  test.each(["api-key/", "api-key-name/"])(
    "that a database breaks off at %s ends no key that works, and the next one goes on from there",
    async (prefix) => {
      const keys = kept();
      const old = await keys.create({ name: "alice" });
      const { put } = records;
      let writes = 0;
      const fails = kept();
      records = {
        ...records,
        put: (key, ...rest) =>
          key.startsWith(prefix) && (writes += 1) === (prefix === "api-key/" ? 2 : 1) ? Promise.reject(new Error("away")) : put(key, ...rest),
      };
      const broken = kept();
      await expect(broken.rotate("alice", { overlap: HOUR })).rejects.toThrow("away");
      expect(await nameOf(fails, old.key)).toBe("alice");
      const made = await keys.rotate("alice", { overlap: HOUR });
      expect([await nameOf(keys, old.key), await nameOf(keys, made.key)]).toEqual(["alice", "alice"]);
      expect((await records.list("api-key/")).length).toBe(2);
    },
  );

  test("by two at a time gives one of them a key, and the other nothing that works", async () => {
    const [a, b] = [kept(), kept()];
    await a.create({ name: "alice" });
    const made = await Promise.allSettled([a.rotate("alice", { overlap: HOUR }), b.rotate("alice", { overlap: HOUR })]);
    const won = made.filter((each) => each.status === "fulfilled");
    expect(won).toHaveLength(1);
    expect(made.find((each) => each.status === "rejected")).toMatchObject({ reason: { code: "overloaded" } });
    expect(await nameOf(a, won[0]?.value.key as string)).toBe("alice");
    expect((await records.list("api-key/")).length).toBeLessThanOrEqual(2);
  });

  test("while it is revoked leaves nothing that works", async () => {
    const [a, b] = [kept(), kept()];
    await a.create({ name: "alice" });
    const made = await Promise.allSettled([a.revoke("alice"), b.rotate("alice"), b.revoke("alice"), a.rotate("alice")]);
    await a.revoke("alice");
    expect((await records.list("api-key/")).length).toBe(0);
    expect(await a.list()).toEqual([]);
    for (const each of made)
      if (each.status === "fulfilled" && typeof each.value === "object") expect(await nameOf(a, each.value.key)).toBeUndefined();
    expect(await nameOf(a, (await a.create({ name: "alice" })).key)).toBe("alice");
  });
});

test("a revocation that is overtaken by a rotation ends nothing by halves: it is said, and the next one ends all", async () => {
  const other = kept();
  const old = await other.create({ name: "alice" });
  const { get } = records;
  let made: Awaited<ReturnType<StoredKeys["rotate"]>> | undefined;
  records = {
    ...records,
    async get(key) {
      const found = await get(key);
      if (key === "api-key-name/alice") made ??= await other.rotate("alice", { overlap: HOUR });
      return found;
    },
  };
  const late = kept();
  await expect(late.revoke("alice")).rejects.toMatchObject({ code: "overloaded" });
  expect([await nameOf(other, old.key), await nameOf(other, made?.key as string)]).toEqual(["alice", "alice"]);
  expect(await late.revoke("alice")).toBe(true);
  expect([await nameOf(other, old.key), await nameOf(other, made?.key as string)]).toEqual([undefined, undefined]);
});

describe("what no key can be is refused by name", () => {
  test.each<[string, unknown, string, RegExp]>([
    ["no name", {}, "body_invalid", /^name: is required/],
    ["a name that is none", { name: "a b" }, "body_invalid", /^name: must be 1 to 64/],
    ["a model with a blank", { name: "a", models: ["o3", " gpt-4o"] }, "body_invalid", /^models\[1\]: must not begin or end with a space/],
    ["a field that is none", { name: "a", model: ["x"] }, "body_invalid", /^model: unknown option; did you mean models\?/],
    [
      "a scope that nobody declares",
      { name: "a", scopes: { usr: "x" } },
      "scope_invalid",
      /^scopes\.usr: nobody declares this scope; did you mean user\?/,
    ],
    ["a scope value that is none", { name: "a", scopes: { user: "a b" } }, "body_invalid", /^scopes: the value of scope user/],
    ["an organisation that is none", { name: "a", org: "a b" }, "body_invalid", /scope org must be/],
    ["two organisations", { name: "a", org: "acme", scopes: { org: "globex" } }, "body_invalid", /^org: is another one than scopes\.org/],
    ["an end that is over", { name: "a", expires: "2020-01-01" }, "body_invalid", /^expires: must be a time that is still to come/],
    ["a date that is none", { name: "a", expires: "soon" }, "body_invalid", /^expires: expected a date/],
    ["a configured name", { name: "conf" }, "body_invalid", /^name: conf is the name of a key of the configuration/],
    ["a name that is taken", { name: "taken" }, "body_invalid", /^name: there is a key taken already; rotate it/],
  ])("%s", async (_what, input, code, message) => {
    const keys = kept({ configured: ["conf"] });
    await keys.create({ name: "taken" });
    await expect(keys.create(input as never)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    expect((await records.list("api-key/")).length).toBe(1);
  });

  test("rotating and revoking what is not there", async () => {
    const keys = kept({ configured: ["conf"] });
    await keys.create({ name: "alice" });
    await expect(keys.rotate("alcie")).rejects.toMatchObject({ code: "not_found", message: "there is no key alcie; did you mean alice?" });
    await expect(keys.rotate("conf")).rejects.toMatchObject({ code: "not_found", message: expect.stringContaining("configuration") });
    await expect(keys.rotate("alice", { overlap: "91d" })).rejects.toMatchObject({
      code: "body_invalid",
      message: expect.stringMatching(/^overlap: /),
    });
    await expect(keys.revoke("conf")).rejects.toMatchObject({ code: "forbidden" });
    expect([await keys.revoke("nobody"), await keys.revoke("../org/acme"), await keys.revoke("alice"), await keys.revoke("alice")]).toEqual([
      false,
      false,
      true,
      false,
    ]);
  });

  test("a configured key of the same name as a stored one stops the start", async () => {
    await kept().create({ name: "alice" });
    await expect(kept({ configured: ["bob", "alice"] }).load()).rejects.toThrow(/keys: alice is also the name of a key that was made at run time/);
    await expect(kept({ configured: ["bob"] }).load()).resolves.toBeUndefined();
  });
});

describe("in a guard", () => {
  const guards: QuotaGuard[] = [];
  let place: Folder;
  beforeEach(() => {
    place = folder();
  });
  afterEach(async () => {
    for (const guard of guards.splice(0)) await guard.close();
    place.remove();
  });
  async function started(options: GuardOptions): Promise<QuotaGuard> {
    const guard = createGuard({ logger, ...options });
    guards.push(guard);
    await guard.ready();
    return guard;
  }

  test("on SQLite they outlive a restart, and no file has one in clear", async () => {
    const options = { store: { url: `sqlite:${place.path}/quota.db` }, auth: { keys: [] } } as const;
    const first = await started(options);
    const { key } = await first.admin.keys.create({ name: "alice", org: "acme" });
    const before = await first.admin.keys.list();
    await first.close();
    const second = await started(options);
    expect(await second.admin.keys.list()).toEqual(before);
    expect(await second.admin.orgs.list()).toMatchObject([{ name: "acme", disabledAt: null }]);
    const files = readdirSync(place.path);
    expect(files).toContain("quota.db.key");
    for (const file of files) expect(readFileSync(`${place.path}/${file}`, "latin1")).not.toContain(key.slice(8, 46));
    for (const guard of [first, second]) expect(guard.admin.health().status).toMatch(/ok|closing/);
  });

  test("a key file that is gone is not made anew while keys were made with it: the start says what to do, and what to do helps", async () => {
    const options = { store: { url: `sqlite:${place.path}/quota.db` }, auth: { keys: [] } } as const;
    const file = `${place.path}/quota.db.key`;
    const first = await started(options);
    const { key } = await first.admin.keys.create({ name: "alice" });
    await first.close();
    const backup = readFileSync(file);
    rmSync(file);
    const refused = createGuard({ ...options, logger });
    const said = await refused.ready().then(String, (error: unknown) => (error as Error).message);
    expect(said).toMatch(
      /^secrets\.key: the key file .*quota\.db\.key is gone, .* put it back from a backup\. If it is lost, .* secrets\.replaces to [0-9a-f]{16}/,
    );
    expect(readdirSync(place.path)).not.toContain("quota.db.key");
    writeFileSync(file, backup, { mode: 0o600 });
    const restored = await started(options);
    expect((await restored.admin.keys.list()).map(({ name }) => name)).toEqual(["alice"]);
    await restored.close();
    rmSync(file);
    const replaces = /replaces to ([0-9a-f]{16})/.exec(said)?.[1] as string;
    const anew = await started({ ...options, secrets: { replaces } });
    expect(readFileSync(file)).not.toEqual(backup);
    const { key: next } = await anew.admin.keys.rotate("alice");
    expect(next).not.toBe(key);
    await anew.close();
    await (await started(options)).close();
  });

  test("a shared store with a ledger of this process's own keeps none", async () => {
    const guard = await started({
      store: faultyStore({ shared: true }),
      ledger: { url: `sqlite:${place.path}/quota.db` },
      auth: { keys: [] },
    });
    await expect(guard.admin.keys.create({ name: "alice" })).rejects.toMatchObject({
      code: "forbidden",
      message: expect.stringContaining("ledger.url"),
    });
    await expect(guard.admin.orgs.create({ name: "acme" })).rejects.toMatchObject({ code: "forbidden" });
    expect(await guard.admin.keys.list()).toEqual([]);
  });
});
