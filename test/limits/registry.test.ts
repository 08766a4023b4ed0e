import { beforeEach, describe, expect, test } from "vitest";
import { LIMIT_NUMBERS, type Rule } from "../../src/core/store.ts";
import { encodeValue, limitRegistry, valueLabel, type LimitRegistry } from "../../src/limits/registry.ts";
import type { LimitDefinition } from "../../src/limits/limit.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { kit, type Kit } from "../core/context-kit.ts";
import { definition, FACTS } from "./definition-kit.ts";

let from: Kit;
let store: ReturnType<typeof memoryStore>;
let registry: LimitRegistry;
const make = (): LimitRegistry => limitRegistry({ records: store.records, clock: from.clock, logger: from.logger });
beforeEach(() => {
  from = kit();
  store = memoryStore({ clock: from.clock });
  registry = make();
});

const ruleFor = (more: Partial<LimitDefinition>, label: string): Rule | null =>
  registry.add(definition(more)).rule(label, FACTS, from.clock.now()) as Rule | null;
const capacity = (label: string, name = "user-tokens"): number | null => {
  const rule = registry.get(name)?.rule(label, FACTS, from.clock.now()) as Rule | null | undefined;
  return rule?.kind === "bucket" ? rule.capacity : null;
};

describe("numbers for single values", () => {
  const overrides = { alice: 50, "acme/bob": 7, "eve:gpt-4o": 3, free: -1 };

  test.each<[string, number | null]>([
    ["alice", 50],
    ["acme/alice", 50],
    ["acme/bob", 7],
    ["bob", 100],
    ["globex/bob", 100],
    ["eve:gpt-4o", 3],
    ["free", null],
    ["Alice", 100],
  ])("%s has %s", (label, expected) => {
    registry.add(definition({ overrides }));
    expect(capacity(label)).toBe(expected);
  });

  test.each([["constructor"], ["__proto__"], ["toString"], ["hasOwnProperty"], ["valueOf"], ["acme/constructor"]])(
    "%s is a user like any other",
    (label) => {
      expect(ruleFor({ overrides }, label)).toEqual({ kind: "bucket", capacity: 100, n: 1, d: 1_000 });
    },
  );

  test("belong to the whole name of a model, not to what follows a slash in it", () => {
    expect(ruleFor({ scope: ["model"], overrides: { "gpt-4o": 5 } }, "openai/gpt-4o")).toMatchObject({ capacity: 100 });
  });

  test("set at run time win, until they are reset", async () => {
    registry.add(definition({ overrides }));
    await registry.set("user-tokens", "alice", { limit: 9, refillPerSec: 2, until: null });
    expect(registry.get("user-tokens")?.rule("alice", FACTS, from.clock.now())).toEqual({ kind: "bucket", capacity: 9, n: 1, d: 500 });
    expect(registry.numbers("user-tokens", "alice")).toEqual({ limit: 9, refillPerSec: 2, until: null });
    await registry.set("user-tokens", "alice", { limit: -1, until: null });
    expect(capacity("alice")).toBeNull();
    await registry.set("user-tokens", "alice", undefined);
    expect([capacity("alice"), registry.numbers("user-tokens", "alice")]).toEqual([50, undefined]);
  });

  test("count for one value of one limit only", async () => {
    registry.add(definition());
    registry.add(definition({ name: "other" }));
    await registry.set("user-tokens", "acme/alice", { limit: 9, until: null });
    expect([capacity("acme/alice"), capacity("alice"), capacity("globex/alice"), capacity("acme/alice", "other")]).toEqual([9, 100, 100, 100]);
  });

  test("end to the ms", async () => {
    registry.add(definition());
    await registry.set("user-tokens", "alice", { limit: 9, until: from.clock.now() + 1_000 });
    from.clock.advance(999);
    expect(capacity("alice")).toBe(9);
    from.clock.advance(1);
    expect([capacity("alice"), registry.numbers("user-tokens", "alice")]).toEqual([100, undefined]);
  });

  test("outlive a restart, odd names and all", async () => {
    const odd = "acme/a:b/c\n%2F ключ";
    await registry.set("user tokens/ё", odd, { limit: 9, until: null });
    registry.close();
    registry = make();
    registry.add(definition({ name: "user tokens/ё" }));
    expect([capacity(odd, "user tokens/ё"), registry.hasNumbers("user tokens/ё")]).toEqual([100, false]);
    await registry.load();
    expect([capacity(odd, "user tokens/ё"), registry.hasNumbers("user tokens/ё"), registry.hasNumbers("user")]).toEqual([9, true, false]);
  });

  test("set elsewhere on the same store arrive, and do no more once closed", async () => {
    const elsewhere = make();
    registry.add(definition());
    const { version } = registry;
    await elsewhere.set("user-tokens", "alice", { limit: 9, until: null });
    expect([capacity("alice"), registry.version > version]).toEqual([9, true]);
    await elsewhere.set("user-tokens", "alice", undefined);
    expect(capacity("alice")).toBe(100);
    registry.close();
    await elsewhere.set("user-tokens", "alice", { limit: 8, until: null });
    expect(capacity("alice")).toBe(100);
  });

  test("that another process sets while the reply to an own write is on its way are newer", async () => {
    const reply = Promise.withResolvers<void>();
    registry = limitRegistry({
      records: {
        ...store.records,
        async put(...args) {
          const version = await store.records.put(...args);
          await reply.promise;
          return version;
        },
      },
      clock: from.clock,
      logger: from.logger,
    });
    registry.add(definition());
    const setting = registry.set("user-tokens", "alice", { limit: 9, until: null });
    await make().set("user-tokens", "alice", { limit: 5, until: null });
    reply.resolve();
    await setting;
    expect(capacity("alice")).toBe(5);
  });

  test("stand in the records that outlive the store as they stand in the store, whoever wrote there last", async () => {
    const memo = memoryStore({ clock: from.clock }).records;
    const [begun, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    registry = limitRegistry({
      records: store.records,
      memo: {
        ...memo,
        async put(key, value) {
          begun.resolve();
          await goOn.promise;
          return memo.put(key, value);
        },
      },
      clock: from.clock,
      logger: from.logger,
    });
    registry.add(definition());
    const setting = registry.set("user-tokens", "alice", { limit: 9, until: null });
    await begun.promise;
    await make().set("user-tokens", "alice", { limit: 5, until: null });
    goOn.resolve();
    await setting;
    expect((await memo.list(LIMIT_NUMBERS)).map(({ value }) => value)).toEqual([{ limit: 5, until: null }]);
  });

  test("that are set while those from before are being read are newer", async () => {
    await make().set("user-tokens", "alice", { limit: 9, until: null });
    const slow = Promise.withResolvers<void>();
    registry = limitRegistry({
      records: {
        ...store.records,
        async list(prefix) {
          const found = await store.records.list(prefix);
          await slow.promise;
          return found;
        },
      },
      clock: from.clock,
      logger: from.logger,
    });
    registry.add(definition());
    const loading = registry.load();
    await make().set("user-tokens", "alice", { limit: 5, until: null });
    slow.resolve();
    await loading;
    expect(capacity("alice")).toBe(5);
  });

  test("are kept where a store looks for them, and whoever wants to know of them hears their limit's name", async () => {
    const heard: string[] = [];
    registry.onNumbers((name) => void heard.push(`${name} ${String(registry.numbers(name, "alice")?.limit)}`));
    await make().set("made elsewhere", "alice", { limit: 9, until: null });
    expect((await store.records.list(LIMIT_NUMBERS)).map(({ value }) => value)).toEqual([{ limit: 9, until: null }]);
    await make().set("made elsewhere", "alice", undefined);
    expect(heard).toEqual(["made elsewhere 9", "made elsewhere undefined"]);
  });

  test("that could not be stored are not in force", async () => {
    registry = limitRegistry({
      records: { ...store.records, put: () => Promise.reject(new Error("disk full")) },
      clock: from.clock,
      logger: from.logger,
    });
    registry.add(definition());
    await expect(registry.set("user-tokens", "alice", { limit: 9, until: null })).rejects.toThrow("disk full");
    expect(capacity("alice")).toBe(100);
  });

  test("are all that a limit made at run time has", async () => {
    registry.add(definition(), true);
    expect(capacity("alice")).toBeNull();
    await registry.set("user-tokens", "alice", { limit: 9, until: null });
    expect([capacity("alice"), capacity("bob")]).toEqual([9, null]);
  });
});

describe("a limit's rule", () => {
  test("is one object while nothing in it changes", () => {
    const first = ruleFor({}, "alice");
    from.clock.advance(3_600_000);
    expect(ruleFor({}, "bob")).toBe(first);
  });

  test("of a calendar turns with the clock, also with numbers of its own", () => {
    const kind = { window: { limit: 10, per: "day", timeZone: "UTC" } } as const;
    const overrides = { alice: 50 };
    const midnight = Date.UTC(2026, 0, 2);
    for (const label of ["alice", "bob"]) {
      from.clock.set(midnight - 1);
      const before = ruleFor({ kind, overrides }, label);
      expect(ruleFor({ kind, overrides }, label)).toBe(before);
      from.clock.set(midnight);
      const after = ruleFor({ kind, overrides }, label);
      expect([before, after].map((rule) => (rule?.kind === "calendar" ? [rule.bounds[1], rule.limit] : null))).toEqual([
        [midnight - 86_400_000, label === "alice" ? 50 : 10],
        [midnight, label === "alice" ? 50 : 10],
      ]);
      // A clock that was put back opens the old window again.
      from.clock.set(midnight - 1);
      expect(ruleFor({ kind, overrides }, label)).toEqual(before);
    }
  });

  test("that is a function is asked each time, with the facts of each request", async () => {
    const limit = registry.add(definition({ kind: { bucket: { capacity: ({ scopes }) => Number(scopes.size), refillPerSec: 1 } } }));
    const sizes = ["3", "4"].map((size) => limit.rule("alice", { ...FACTS, scopes: { size } }, from.clock.now()) as Rule);
    expect(sizes).toMatchObject([{ capacity: 3 }, { capacity: 4 }]);
    const later = registry.add(definition({ name: "later", kind: { bucket: { capacity: async () => 5, refillPerSec: 1 } } }));
    expect(await later.rule("alice", FACTS, from.clock.now())).toMatchObject({ capacity: 5 });
    expect(await later.rule("alice", FACTS, from.clock.now())).toMatchObject({ capacity: 5 });
  });

  test("watches only, before the time from which it is enforced", () => {
    const now = from.clock.now();
    const from5 = registry.add(definition({ enforceFrom: now + 5_000 }));
    expect([from5.enforcing(now), from5.enforcing(now + 4_999), from5.enforcing(now + 5_000)]).toEqual([false, false, true]);
    const shadow = registry.add(definition({ name: "shadow", mode: "shadow", enforceFrom: now }));
    expect([shadow.enforcing(now), registry.add(definition({ name: "now" })).enforcing(0)]).toEqual([false, true]);
  });
});

describe("names", () => {
  test("of the same shape are one limit, whatever the numbers", () => {
    const first = registry.add(definition());
    const { version } = registry;
    expect(registry.add(definition({ kind: { bucket: { capacity: 5, refillPerSec: 5 } } }))).toBe(first);
    expect([registry.version, registry.all()]).toEqual([version, [first]]);
  });

  test.each<[Partial<LimitDefinition>]>([
    [{ scope: ["team"] }],
    [{ unit: "usd" }],
    [{ kind: { window: { limit: 1, per: "day", timeZone: "UTC" } } }],
  ])("of another shape are a mistake that is named: %j", (other) => {
    registry.add(definition());
    expect(() => registry.add(definition(other))).toThrow(/limits: user-tokens is defined twice/);
    expect(() => registry.add(definition(other))).toThrow(expect.objectContaining({ code: "config_invalid" }) as Error);
  });
});

describe("keys", () => {
  const key = (scope: string[], values: readonly string[]): string =>
    registry.add(definition({ name: scope.join("-"), scope })).key(values.map(encodeValue));

  test("tell apart what only looks the same when joined", () => {
    const pairs: (readonly string[])[] = [
      ["a", "b:c"],
      ["a:b", "c"],
      ["a:b:c", ""],
      ["", "a:b:c"],
      ["a", "b", "c"],
      ["a}x{b", "c"],
      ["a", "x{b}c"],
      ["a\nb", "c"],
      ["a/b", "c"],
      ["A", "b:c"],
    ];
    const keys = pairs.map((values) => key(["user", "model"], values));
    expect(new Set(keys).size).toBe(pairs.length);
    for (const text of keys) expect(text).toMatch(/^b:user-model(:[A-Za-z0-9._@~-]+)+$/);
  });

  test("tell a value from the digest of another", () => {
    expect(encodeValue(encodeValue("alice:admin"))).not.toBe(encodeValue("alice:admin"));
  });

  test("show harmless values as they are, and are short for any other", () => {
    expect([encodeValue("alice@example.com"), encodeValue("x".repeat(64))]).toEqual(["alice@example.com", "x".repeat(64)]);
    for (const value of ["x".repeat(65), "a b", "ключ", "a:b", ""]) expect(encodeValue(value).length).toBeLessThanOrEqual(24);
  });

  test("tell shapes of one limit's name apart", () => {
    const bucket = registry.add(definition()).key(["alice"]);
    const other = limitRegistry({ records: store.records, clock: from.clock, logger: from.logger });
    const day = other.add(definition({ kind: { window: { limit: 1, per: "day", timeZone: "UTC" } } })).key(["alice"]);
    expect(bucket).not.toBe(day);
  });

  test("labels are what people write", () => {
    expect([valueLabel(null, ["alice"]), valueLabel("acme", ["alice"]), valueLabel(null, ["alice", "gpt-4o"])]).toEqual([
      "alice",
      "acme/alice",
      "alice:gpt-4o",
    ]);
  });
});

describe("numbers in a store that may lose them", () => {
  const numbersOf = (of: LimitRegistry): unknown => of.numbers("user-tokens", "alice");

  test("are kept in lasting records as well, and put back", async () => {
    const memo = memoryStore({ clock: from.clock }).records;
    const before = limitRegistry({ records: store.records, memo, clock: from.clock, logger: from.logger });
    await before.set("user-tokens", "alice", { limit: 7, until: null });
    await before.set("user-tokens", "bob", { limit: 8, until: null });
    await before.set("user-tokens", "bob", undefined);

    const emptied = memoryStore({ clock: from.clock }).records;
    const after = limitRegistry({ records: emptied, memo, clock: from.clock, logger: from.logger });
    await after.load();
    expect(numbersOf(after)).toBeUndefined();
    await after.restore();
    expect(numbersOf(after)).toEqual({ limit: 7, until: null });
    expect(after.numbers("user-tokens", "bob")).toBeUndefined();
  });

  test("never replace newer ones", async () => {
    const memo = memoryStore({ clock: from.clock }).records;
    const old = limitRegistry({ records: memoryStore({ clock: from.clock }).records, memo, clock: from.clock, logger: from.logger });
    await old.set("user-tokens", "alice", { limit: 7, until: null });
    await registry.set("user-tokens", "alice", { limit: 9, until: null });
    const both = limitRegistry({ records: store.records, memo, clock: from.clock, logger: from.logger });
    await both.load();
    await both.restore();
    expect(numbersOf(both)).toEqual({ limit: 9, until: null });
  });

  test("are gone where no other records keep them", async () => {
    await registry.set("user-tokens", "alice", { limit: 7, until: null });
    const after = limitRegistry({ records: memoryStore({ clock: from.clock }).records, clock: from.clock, logger: from.logger });
    await after.restore();
    expect(numbersOf(after)).toBeUndefined();
  });
});
