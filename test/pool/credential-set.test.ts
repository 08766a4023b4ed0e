import { expect, test } from "vitest";
import type { Credential } from "../../src/core/credential.ts";
import { modelCatalogue } from "../../src/pool/catalogue.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { offers } from "../../src/pool/offers.ts";
import { choice, credential, lend, poolKit, SERVED } from "./pool-kit.ts";

const names = (all: Iterable<Credential>): string => Array.from(all, ({ name }) => name).join("");

test("has the configured ones first, then those of plugins as they arrive, each replaced in its place", () => {
  const set = credentialSet([credential("a"), credential("b")]);
  set.put("p", credential("x"));
  set.put("q", credential("y"));
  set.put("p", credential("x", { priority: 3 }));
  expect([names(set), names(set.all), set.find("x")?.priority]).toEqual(["abxy", "abxy", 3]);
  expect([set.ownerOf("a"), set.ownerOf("x"), set.ownerOf("nobody")]).toEqual([null, "p", undefined]);
  expect([set.remove("x"), set.remove("x"), names(set)]).toEqual([true, false, "aby"]);
});

test("a configuration that is complete keeps the plugins' ones behind it, and says what has changed", () => {
  const a = credential("a");
  const set = credentialSet([a]);
  set.put("p", credential("x"));
  const changes: (readonly [string, boolean, boolean])[] = [];
  set.onChange((name, before, now) => void changes.push([name, before !== undefined, now !== undefined]));
  set.configure([credential("late"), a]);
  expect(names(set)).toBe("lateax");
  set.configure([a]);
  expect(changes).toEqual([
    ["late", false, true],
    ["late", true, false],
  ]);
});

test("its version grows with each change, and with nothing else", () => {
  const set = credentialSet([credential("a")]);
  const seen: number[] = [set.version];
  set.put("p", credential("x"));
  seen.push(set.version);
  set.remove("nobody");
  set.find("x");
  seen.push(set.version);
  set.remove("x");
  seen.push(set.version);
  expect(seen.map((version) => version - (seen[0] as number))).toEqual([0, 1, 1, 2]);
});

test("it is bounded", () => {
  const set = credentialSet(Array.from({ length: 10_000 }, (_, i) => credential(`c${i}`)));
  expect([set.put("p", credential("one-more")), set.put("p", credential("c1", { priority: 1 }))]).toEqual([false, true]);
});

test("the pool lends who has come and not who has gone; a lease keeps what it was lent", () => {
  const set = credentialSet([credential("a")]);
  const { pool } = poolKit(offers({ credentials: set, models: [], aliases: {} }));
  const first = lend(choice(pool));
  set.put("p", credential("b", { priority: 5 }));
  const second = lend(choice(pool));
  const replaced = credential("b", { priority: 5, basePath: "/new" });
  set.put("p", replaced);
  const third = lend(choice(pool));
  expect([first, second, third].map((lease) => lease?.credential.name)).toEqual(["a", "b", "b"]);
  expect([second?.credential.basePath, third?.credential]).toEqual(["", replaced]);
  expect(pool.inFlight("b")).toBe(2);
  set.remove("b");
  expect(lend(choice(pool))?.credential.name).toBe("a");
  expect(pool.inFlight("b")).toBe(2);
  for (const lease of [second, third]) lease?.release(SERVED);
  expect(pool.inFlight("b")).toBe(0);
});

test("a provider that has come can be named, and one that has gone cannot", () => {
  const set = credentialSet([credential("a")]);
  const from = offers({ credentials: set, models: [], aliases: {} });
  expect(from.resolve("mine:m")).toBe("mine:m");
  set.put("p", credential("x", { provider: "mine" }));
  expect([from.resolve("mine:m"), names(from.of("mine:m").candidates.map((each) => each.credential))]).toEqual(["m", "x"]);
  expect(names(from.any("/v1/files").candidates.map((each) => each.credential))).toBe("ax");
  set.remove("x");
  expect([from.resolve("mine:m"), names(from.any("/v1/files").candidates.map((each) => each.credential))]).toEqual(["mine:m", "a"]);
});

test("a list stays with another key, and becomes unknown with another address or other patterns", () => {
  const set = credentialSet();
  set.put("p", credential("x"));
  const catalogue = modelCatalogue(set);
  const list = (): void => catalogue.set("x", [{ id: "m", created: null, ownedBy: null }]);
  list();
  set.put("p", credential("x", { apiKey: null }));
  expect(catalogue.lists("x")).toEqual(new Set(["m"]));
  set.put("p", credential("x", { origin: "https://other.example" }));
  expect(catalogue.lists("x")).toBeNull();
  list();
  set.put("p", credential("x", { origin: "https://other.example", models: ["n"] }));
  expect(catalogue.lists("x")).toBeNull();
  set.remove("x");
  expect([catalogue.lists("x"), catalogue.models("x")]).toEqual([null, []]);
});
