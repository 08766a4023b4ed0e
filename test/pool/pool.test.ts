import { describe, expect, test } from "vitest";
import type { Choice, Credential, Lease } from "../../src/core/credential.ts";
import { Secret } from "../../src/core/secret.ts";
import { credentialPool, type ModelEntry, type Pool } from "../../src/pool/pool.ts";
import { refusalOf } from "../core/context-kit.ts";

const credential = (name: string, more: Partial<Credential> = {}): Credential => ({
  name,
  provider: "openai",
  apiKey: new Secret("sk"),
  origin: "https://api.example",
  basePath: "",
  models: null,
  isFallback: false,
  priority: 0,
  weight: 1,
  headers: {},
  allowPrivate: false,
  proxyUrl: null,
  ...more,
});

function poolOf(credentials: readonly Credential[], models: readonly ModelEntry[] = [], aliases: Record<string, string> = {}): Pool {
  return credentialPool({ credentials, models, aliases });
}

const numbered = (count: number, more: Partial<Credential> = {}): Credential[] =>
  Array.from({ length: count }, (_, i) => credential(String(i + 1), more));

const lend = (choice: Choice): Lease | null => choice.next() as Lease | null;
/** The credential of each of `count` requests that succeed at once. */
const served = (pool: Pool, count: number, model = "m"): string[] =>
  Array.from({ length: count }, () => lend(pool.choose(model))?.credential.name ?? "none");
/** All credentials that one request may try, in order. */
function attempts(pool: Pool, model = "m"): string[] {
  const choice = pool.choose(model);
  const names: string[] = [];
  for (let lease = lend(choice); lease; lease = lend(choice)) names.push(lease.credential.name);
  return names;
}
const offered = (pool: Pool, model: string): (readonly [string, string])[] =>
  pool.candidates(model).map(({ credential: { name }, model: theirs }) => [name, theirs] as const);

describe("round robin", () => {
  test("takes three in turn", () => {
    expect(served(poolOf(numbered(3)), 6)).toEqual(["1", "2", "3", "1", "2", "3"]);
  });

  test("goes round those that are left", () => {
    const pool = poolOf(numbered(4).map((item) => (item.name === "2" || item.name === "4" ? item : { ...item, models: ["other"] })));
    expect(served(pool, 3)).toEqual(["2", "4", "2"]);
  });

  test("is not skewed by models that have other candidates", () => {
    const openai = numbered(3, { models: ["gpt"] });
    const vertex = ["a", "b", "c", "d"].map((name) => credential(name, { provider: "vertex", models: ["gemini"] }));
    const pool = poolOf([...openai, ...vertex]);
    const seen: string[] = [];
    for (let i = 0; i < 8; i += 1) {
      served(pool, 10, "gpt");
      seen.push(...served(pool, 1, "gemini"));
    }
    expect(seen).toEqual(["a", "b", "c", "d", "a", "b", "c", "d"]);
  });

  test("is fair to every one of them", () => {
    const counts = new Map<string, number>();
    for (const name of served(poolOf(numbered(7)), 700)) counts.set(name, (counts.get(name) ?? 0) + 1);
    expect([...counts.values()]).toEqual([100, 100, 100, 100, 100, 100, 100]);
  });

  test("of fallbacks begins when nothing else is left, and rotates too", () => {
    const pool = poolOf([credential("f1", { isFallback: true }), credential("1"), credential("f2", { isFallback: true })]);
    expect(served(pool, 3)).toEqual(["1", "1", "1"]);
    expect([attempts(pool), attempts(pool)]).toEqual([
      ["1", "f1", "f2"],
      ["1", "f2", "f1"],
    ]);
  });
});

describe("the attempts of one request", () => {
  test("never repeat a credential, and end", () => {
    const pool = poolOf(numbered(4));
    const choice = pool.choose("m");
    const names = Array.from({ length: 6 }, () => lend(choice)?.credential.name ?? null);
    expect(new Set(names.slice(0, 4)).size).toBe(4);
    expect(names.slice(4)).toEqual([null, null]);
  });

  test("go down the priorities, fallbacks last whatever theirs is", () => {
    const pool = poolOf([
      credential("fallback", { isFallback: true, priority: 100 }),
      credential("low", { priority: -1 }),
      credential("normal"),
      credential("high", { priority: 10 }),
      credential("last fallback", { isFallback: true }),
    ]);
    expect(attempts(pool)).toEqual(["high", "normal", "low", "fallback", "last fallback"]);
  });

  test("rotate within a tier only", () => {
    const pool = poolOf([credential("a", { priority: 1 }), credential("b", { priority: 1 }), credential("c")]);
    expect(served(pool, 4)).toEqual(["a", "b", "a", "b"]);
    expect(attempts(pool)[2]).toBe("c");
  });

  test("are counted while they are open, and given back once", () => {
    const pool = poolOf(numbered(1));
    const leases = [lend(pool.choose("m")), lend(pool.choose("m"))];
    expect(pool.inFlight("1")).toBe(2);
    leases[0]?.release({ kind: "abandoned" });
    leases[0]?.release({ kind: "served", status: 200 });
    expect(pool.inFlight("1")).toBe(1);
    leases[1]?.release({ kind: "served", status: 200 });
    expect([pool.inFlight("1"), pool.inFlight("unknown")]).toEqual([0, 0]);
  });
});

describe("who offers a model", () => {
  const entry = (name: string, more: Partial<ModelEntry> = {}): ModelEntry => ({ name, ...more });

  test.each<[string, Pool, string, (readonly [string, string])[]]>([
    [
      "a match in the credential's own models",
      poolOf([credential("a", { models: ["gpt-*"] }), credential("b", { models: ["claude-*"] })]),
      "gpt-4o",
      [["a", "gpt-4o"]],
    ],
    [
      "an entry bound to it, whatever its models say",
      poolOf([credential("a", { models: ["x"] })], [entry("m", { credential: "a", model: "real" })]),
      "m",
      [["a", "real"]],
    ],
    ["a credential that says nothing", poolOf([credential("a"), credential("b", { models: ["x"] })]), "m", [["a", "m"]]],
    [
      "not one without models when the entry is bound to others",
      poolOf([credential("a"), credential("b")], [entry("m", { credential: "b" })]),
      "m",
      [["b", "m"]],
    ],
    [
      "every credential for an entry that is bound to none",
      poolOf([credential("a"), credential("b")], [entry("m", { model: "real" })]),
      "m",
      [
        ["a", "real"],
        ["b", "real"],
      ],
    ],
    [
      "each by its own name for it",
      poolOf([credential("a"), credential("b")], [entry("m", { credential: "a", model: "at-a" }), entry("m", { model: "elsewhere" })]),
      "m",
      [
        ["a", "at-a"],
        ["b", "elsewhere"],
      ],
    ],
    ["the entry's name for a match too", poolOf([credential("a", { models: ["m"] })], [entry("m", { model: "real" })]), "m", [["a", "real"]]],
    [
      "a match although the entry is bound to another",
      poolOf([credential("a", { models: ["m*"] }), credential("b")], [entry("m", { credential: "b", model: "at-b" })]),
      "m",
      [
        ["a", "m"],
        ["b", "at-b"],
      ],
    ],
    [
      "not a list that names others, though an entry is bound to none",
      poolOf([credential("a", { models: ["x"] }), credential("b")], [entry("m")]),
      "m",
      [["b", "m"]],
    ],
    ["nobody with an empty list", poolOf([credential("a", { models: [] }), credential("b")]), "m", [["b", "m"]]],
  ])("%s", (_name, pool, model, expected) => {
    expect(offered(pool, model)).toEqual(expected);
  });

  test("nobody is model_not_found, at once", () => {
    const pool = poolOf([credential("a", { models: ["x"] })]);
    for (const ask of [() => pool.choose("m"), () => pool.candidates("m"), () => poolOf([]).choose("m")]) {
      expect(refusalOf(ask)).toMatchObject({ code: "model_not_found", status: 400, param: "model" });
    }
  });
});

describe("names", () => {
  const pool = poolOf([credential("o"), credential("q", { provider: "qwen" })], [], { fast: "gpt-4o-mini", cheap: "qwen:qwen-flash", loop: "loop" });

  test.each<[string, string, (readonly [string, string])[]]>([
    [
      "gpt-4o",
      "gpt-4o",
      [
        ["o", "gpt-4o"],
        ["q", "gpt-4o"],
      ],
    ],
    [
      "fast",
      "gpt-4o-mini",
      [
        ["o", "gpt-4o-mini"],
        ["q", "gpt-4o-mini"],
      ],
    ],
    ["qwen:qwen-flash", "qwen-flash", [["q", "qwen-flash"]]],
    ["cheap", "qwen-flash", [["q", "qwen-flash"]]],
    ["openai:ft:gpt-4o:acme", "ft:gpt-4o:acme", [["o", "ft:gpt-4o:acme"]]],
    [
      "llama3:8b",
      "llama3:8b",
      [
        ["o", "llama3:8b"],
        ["q", "llama3:8b"],
      ],
    ],
    [
      ":x",
      ":x",
      [
        ["o", ":x"],
        ["q", ":x"],
      ],
    ],
    [
      "loop",
      "loop",
      [
        ["o", "loop"],
        ["q", "loop"],
      ],
    ],
    [
      "constructor",
      "constructor",
      [
        ["o", "constructor"],
        ["q", "constructor"],
      ],
    ],
    [
      "__proto__",
      "__proto__",
      [
        ["o", "__proto__"],
        ["q", "__proto__"],
      ],
    ],
  ])("%s stands for %s", (asked, resolved, expected) => {
    expect(pool.resolve(asked)).toBe(resolved);
    expect(offered(pool, asked)).toEqual(expected);
  });

  test("a lease tells both: the provider's name, and the one that config and prices know", () => {
    const named = poolOf([credential("o")], [{ name: "big", model: "gpt-4o-2024-11-20" }], { fast: "big" });
    expect(lend(named.choose("fast"))).toMatchObject({ model: "gpt-4o-2024-11-20", name: "big" });
  });

  test("of a provider that has no credential are plain names", () => {
    expect(offered(poolOf([credential("o")]), "anthropic:claude")).toEqual([["o", "anthropic:claude"]]);
  });

  test("that clients make up by the thousand are forgotten, and the rotation is not", () => {
    const many = poolOf(numbered(2));
    for (let i = 0; i < 5_001; i += 1) void many.choose(`made-up-${i}`).next();
    expect(served(many, 2).toSorted()).toEqual(["1", "2"]);
  });
});
