// What JavaScript may pass where TypeScript would not let it: the answer says what is missing, and is never a fault of our own.
import { expect, test } from "vitest";
import { combineStores, defineStore, memoryStore } from "quotaguard";
import { postgresStore } from "quotaguard/stores/postgres";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { ConfigError } from "../../src/core/errors.ts";

type Make = (...args: readonly unknown[]) => unknown;

const MAKERS = { combineStores, defineStore, sqliteStore, redisStore, postgresStore } as unknown as Readonly<Record<string, Make>>;
const WRONG: readonly (readonly unknown[])[] = [
  [],
  [null],
  [undefined, {}],
  [{}],
  [5],
  [""],
  [[]],
  [{ store: null, ledger: 1 }],
  [{ store: {}, ledger: {} }],
];

test.each(Object.keys(MAKERS).flatMap((name) => WRONG.map((args) => [name, JSON.stringify(args), args] as const)))(
  "%s of %s says what it needs",
  (name, _shown, args) => {
    const make = MAKERS[name] as Make;
    expect(() => make(...args)).toThrow(ConfigError);
    expect(() => make(...args)).toThrow(new RegExp(`${name}( needs|'s| has no option| knows no)`));
  },
);

test.each([
  ["memoryStore", () => memoryStore(null as never)],
  ["memoryStore", () => memoryStore(5 as never)],
  ["sqliteStore", () => sqliteStore("a", null as never)],
  ["sqliteStore", () => sqliteStore("a", 5 as never)],
  ["combineStores", () => combineStores({ store: memoryStore() } as never)],
  ["combineStores", () => combineStores({ ledger: memoryStore() } as never)],
  ["combineStores", () => combineStores(memoryStore() as never)],
  ["defineStore", () => defineStore({ shared: true, transact() {}, records: null, strikes: {}, ledger: {} } as never)],
])("%s says what is wrong with its options", (name, make) => {
  expect(make).toThrow(ConfigError);
  expect(make).toThrow(name);
});
