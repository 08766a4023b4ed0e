import { describe, expect, test } from "vitest";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { offers, type ModelEntry, type ModelLists, type Offers } from "../../src/pool/offers.ts";
import { refusalOf } from "../core/context-kit.ts";
import { credential, numbered, offersOf } from "./pool-kit.ts";

const offered = (from: Offers, model: string): (readonly [string, string])[] =>
  from.of(model).candidates.map(({ credential: { name }, model: theirs }) => [name, theirs] as const);

describe("who offers a model", () => {
  const entry = (name: string, more: Partial<ModelEntry> = {}): ModelEntry => ({ name, ...more });

  test.each<[string, Offers, string, (readonly [string, string])[]]>([
    [
      "a match in the credential's own models",
      offersOf([credential("a", { models: ["gpt-*"] }), credential("b", { models: ["claude-*"] })]),
      "gpt-4o",
      [["a", "gpt-4o"]],
    ],
    [
      "an entry bound to it, whatever its models say",
      offersOf([credential("a", { models: ["x"] })], [entry("m", { credential: "a", model: "real" })]),
      "m",
      [["a", "real"]],
    ],
    ["a credential that says nothing", offersOf([credential("a"), credential("b", { models: ["x"] })]), "m", [["a", "m"]]],
    [
      "not one without models when the entry is bound to others",
      offersOf([credential("a"), credential("b")], [entry("m", { credential: "b" })]),
      "m",
      [["b", "m"]],
    ],
    [
      "every credential for an entry that is bound to none",
      offersOf([credential("a"), credential("b")], [entry("m", { model: "real" })]),
      "m",
      [
        ["a", "real"],
        ["b", "real"],
      ],
    ],
    [
      "each by its own name for it",
      offersOf([credential("a"), credential("b")], [entry("m", { credential: "a", model: "at-a" }), entry("m", { model: "elsewhere" })]),
      "m",
      [
        ["a", "at-a"],
        ["b", "elsewhere"],
      ],
    ],
    ["the entry's name for a match too", offersOf([credential("a", { models: ["m"] })], [entry("m", { model: "real" })]), "m", [["a", "real"]]],
    [
      "a match although the entry is bound to another",
      offersOf([credential("a", { models: ["m*"] }), credential("b")], [entry("m", { credential: "b", model: "at-b" })]),
      "m",
      [
        ["a", "m"],
        ["b", "at-b"],
      ],
    ],
    [
      "not a list that names others, though an entry is bound to none",
      offersOf([credential("a", { models: ["x"] }), credential("b")], [entry("m")]),
      "m",
      [["b", "m"]],
    ],
    ["nobody with an empty list", offersOf([credential("a", { models: [] }), credential("b")]), "m", [["b", "m"]]],
  ])("%s", (_name, from, model, expected) => {
    expect(offered(from, model)).toEqual(expected);
  });

  test("nobody is model_not_found, at once", () => {
    for (const ask of [() => offersOf([credential("a", { models: ["x"] })]).of("m"), () => offersOf([]).of("m")]) {
      expect(refusalOf(ask)).toMatchObject({ code: "model_not_found", status: 400, param: "model" });
    }
  });
});

describe("names", () => {
  const named = offersOf([credential("o"), credential("q", { provider: "qwen" })], [], {
    fast: "gpt-4o-mini",
    cheap: "qwen:qwen-flash",
    loop: "loop",
  });

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
    expect(named.resolve(asked)).toBe(resolved);
    expect(offered(named, asked)).toEqual(expected);
  });

  test("a candidate tells both: the provider's name, and the one that config and prices know", () => {
    const big = offersOf([credential("o")], [{ name: "big", model: "gpt-4o-2024-11-20" }], { fast: "big" });
    expect(big.of("fast").candidates[0]).toMatchObject({ model: "gpt-4o-2024-11-20", name: "big", key: "o/big" });
  });

  test("of a provider that has no credential are plain names", () => {
    expect(offered(offersOf([credential("o")]), "anthropic:claude")).toEqual([["o", "anthropic:claude"]]);
  });

  test("of a large table are all remembered, so that a walk through it works nothing out again", () => {
    const models = Array.from({ length: 1_500 }, (_, i) => ({ name: `m${i}` }));
    const large = offersOf([credential("a"), credential("b")], models);
    const walk = () => models.map(({ name }) => large.of(name));
    const first = walk();
    expect(walk().every((offer, i) => offer === first[i])).toBe(true);
  });

  test("that clients make up by the thousand are forgotten", () => {
    const many = offersOf(numbered(2));
    const first = many.of("made-up-0");
    expect(many.of("made-up-0")).toBe(first);
    for (let i = 1; i < 2_001; i += 1) many.of(`made-up-${i}`);
    expect(many.of("made-up-0")).not.toBe(first);
    expect(offered(many, "made-up-0")).toHaveLength(2);
  });
});

describe("lists that providers gave", () => {
  const listing = (lists: Record<string, readonly string[]>, version = 1): ModelLists => ({
    version,
    lists: (name) => (lists[name] ? new Set(lists[name]) : null),
  });

  test("narrow the choice to those that list the model, and to those whose list is unknown", () => {
    const lists = listing({ a: ["m"], b: ["other"] });
    expect(offered(offersOf([credential("a"), credential("b"), credential("c")], [], {}, lists), "m").map(([name]) => name)).toEqual(["a", "c"]);
  });

  test("say nothing about a model that is on none of them: who was not told what to offer may try", () => {
    const lists = listing({ a: ["x"], b: ["y"] });
    expect(
      offered(offersOf([credential("a"), credential("b"), credential("c", { models: ["z"] })], [], {}, lists), "m").map(([name]) => name),
    ).toEqual(["a", "b"]);
  });

  test("do not overrule the configuration", () => {
    const lists = listing({ a: [], b: ["m"] });
    expect(offered(offersOf([credential("a", { models: ["m"] }), credential("b")], [], {}, lists), "m").map(([name]) => name)).toEqual(["a", "b"]);
    expect(offered(offersOf([credential("a"), credential("b")], [{ name: "m", credential: "a" }], {}, lists), "m").map(([name]) => name)).toEqual([
      "a",
    ]);
  });

  test("are asked for the provider's name of an entry that is bound to nobody", () => {
    const lists = listing({ a: ["real"], b: ["m"] });
    expect(offered(offersOf([credential("a"), credential("b")], [{ name: "m", model: "real" }], {}, lists), "m")).toEqual([["a", "real"]]);
  });

  test("are looked at again when they change", () => {
    const lists = { version: 1, known: { a: ["x"], b: ["m"] } as Record<string, readonly string[]> };
    const from = offers({
      credentials: credentialSet([credential("a"), credential("b")]),
      models: [],
      aliases: {},
      lists: {
        get version() {
          return lists.version;
        },
        lists: (name) => new Set(lists.known[name]),
      },
    });
    expect(offered(from, "m").map(([name]) => name)).toEqual(["b"]);
    lists.known = { a: ["m"], b: ["m"] };
    lists.version = 2;
    expect(offered(from, "m").map(([name]) => name)).toEqual(["a", "b"]);
  });
});

test("an operation without a model may go to every credential, fallbacks last, under a name of its own", () => {
  const any = offersOf([credential("f", { isFallback: true }), credential("a", { models: ["x"] })]).any("/v1/files");
  expect(any.tiers.map((tier) => tier.map(({ key }) => key))).toEqual([["a//v1/files"], ["f//v1/files"]]);
});
