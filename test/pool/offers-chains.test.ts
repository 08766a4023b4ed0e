// Fallback chains: who takes over, in which order, and never the same thing twice.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Credential } from "../../src/core/credential.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import type { FallbackChains } from "../../src/pool/fallback-chains.ts";
import { offers, type ModelEntry, type ModelLists, type Offer, type Offers } from "../../src/pool/offers.ts";
import { refusalOf } from "../core/context-kit.ts";
import { candidate, credential } from "./pool-kit.ts";

interface Given {
  readonly models?: readonly ModelEntry[];
  readonly aliases?: Record<string, string>;
  readonly lists?: ModelLists;
  readonly kindsOf?: Parameters<typeof offers>[0]["kindsOf"];
}

const chained = (credentials: readonly Credential[], chains: FallbackChains, given: Given = {}): Offers =>
  offers({ credentials: credentialSet(credentials), models: [], aliases: {}, chains, ...given });

/** `credential/model at the provider`, tier by tier. */
const shown = ({ tiers }: Offer): string =>
  tiers.map((tier) => tier.map(({ credential: { name }, model }) => `${name}/${model}`).join(" ")).join(" | ");

const OPENAI = credential("o", { models: ["gpt-*"] });
const CLAUDE = credential("c", { provider: "anthropic", models: ["claude-*"] });
const listing = (lists: Record<string, readonly string[]>): ModelLists => ({
  version: 1,
  lists: (name) => (lists[name] ? new Set(lists[name]) : null),
});

describe("the members of a chain", () => {
  const names = (...all: readonly string[]): readonly ModelEntry[] => all.map((name) => ({ name }));

  test.each<[string, Offers, string, string]>([
    [
      "models, in their order",
      chained([OPENAI, CLAUDE], { "gpt-4o": ["gpt-4o-mini", "claude-x"] }),
      "gpt-4o",
      "o/gpt-4o | o/gpt-4o-mini | c/claude-x",
    ],
    [
      "a pattern: what is offered, in the order of the config, then of the lists by the alphabet",
      chained(
        [OPENAI, CLAUDE, credential("d")],
        { "gpt-4o": ["claude-*"] },
        { models: names("claude-b", "gpt-4o", "claude-a"), lists: listing({ d: ["claude-d", "claude-c", "gpt-4o"] }) },
      ),
      "gpt-4o",
      "o/gpt-4o d/gpt-4o | c/claude-b | c/claude-a | c/claude-c d/claude-c | c/claude-d d/claude-d",
    ],
    [
      "a pattern of everything, without the model itself",
      chained([OPENAI, CLAUDE], { "gpt-4o": ["*"] }, { models: names("gpt-4o", "claude-a", "gpt-b") }),
      "gpt-4o",
      "o/gpt-4o | c/claude-a | o/gpt-b",
    ],
    [
      "what an alias stands for",
      chained([OPENAI], { "gpt-4o": ["fast"] }, { aliases: { fast: "gpt-4o-mini" } }),
      "gpt-4o",
      "o/gpt-4o | o/gpt-4o-mini",
    ],
    ["a model at one provider", chained([credential("o"), credential("q", { provider: "qwen" })], { m: ["qwen:n"] }), "m", "o/m q/m | q/n"],
    [
      "a credential: the same model there, when nobody else said so",
      chained([credential("a"), credential("b", { provider: "qwen" })], { m: ["b"] }),
      "openai:m",
      "a/m | b/m",
    ],
    ["not a credential that cannot offer it", chained([OPENAI, CLAUDE], { "gpt-4o": ["c"] }), "gpt-4o", "o/gpt-4o"],
    ["not a model that nobody offers", chained([OPENAI], { "gpt-4o": ["claude-x", "gpt-b"] }), "gpt-4o", "o/gpt-4o | o/gpt-b"],
    ["a model that nobody offers by itself", chained([OPENAI], { best: ["gpt-4o", "gpt-b"] }), "best", "o/gpt-4o | o/gpt-b"],
    ["not the chains of members", chained([OPENAI], { "gpt-a": ["gpt-b"], "gpt-b": ["gpt-c", "gpt-a"] }), "gpt-a", "o/gpt-a | o/gpt-b"],
    [
      "what is the same model at the provider once",
      chained([OPENAI], { "gpt-a": ["gpt-b", "gpt-c"] }, { models: [{ name: "gpt-b", model: "gpt-a" }] }),
      "gpt-a",
      "o/gpt-a | o/gpt-c",
    ],
    [
      "each member with priorities and fallback credentials of its own",
      chained(
        [
          credential("low", { models: ["*"] }),
          credential("high", { priority: 5, models: ["*"] }),
          credential("last", { priority: 9, isFallback: true, models: ["*"] }),
        ],
        { m: ["n"] },
      ),
      "m",
      "high/m | low/m | last/m | high/n | low/n | last/n",
    ],
  ])("%s", (_what, from, model, expected) => {
    expect(shown(from.of(model))).toBe(expected);
  });

  test("who weighs priorities by themselves sees each member as one", () => {
    const from = chained([credential("low"), credential("high", { priority: 5 }), credential("last", { isFallback: true })], { m: ["n"] });
    expect(from.of("m").wholes.map((tier) => tier.map(({ key }) => key).join(" "))).toEqual(["low/m high/m", "last/m", "low/n high/n", "last/n"]);
  });

  test("what is the model's own, and what is not, each under its own name", () => {
    const offer = chained([OPENAI], { "gpt-a": ["gpt-b"] }, { models: [{ name: "gpt-b", model: "real" }] }).of("gpt-a");
    expect(offer.own.map(({ key }) => key)).toEqual(["o/gpt-a"]);
    expect(offer.candidates.map(({ name, model }) => [name, model])).toEqual([
      ["gpt-a", "gpt-a"],
      ["gpt-b", "real"],
    ]);
  });

  test("a model without a chain and without anybody is still nobody's", () => {
    const from = chained([OPENAI], { best: ["claude-x"] });
    for (const model of ["claude-x", "best"]) expect(refusalOf(() => from.of(model))).toMatchObject({ code: "model_not_found" });
  });

  test("a pattern of hundreds ends after thirty-two", () => {
    const models = Array.from({ length: 300 }, (_, i) => ({ name: `gpt-${i}` }));
    expect(chained([OPENAI], { "gpt-x": ["gpt-*"] }, { models }).of("gpt-x").fallbacks).toHaveLength(32);
  });

  test("a credential that comes or goes changes them", () => {
    const credentials = credentialSet([OPENAI]);
    const from = offers({ credentials, models: [], aliases: {}, chains: { "gpt-4o": ["claude-x"] } });
    expect(shown(from.of("gpt-4o"))).toBe("o/gpt-4o");
    credentials.put("plugin", CLAUDE);
    expect(shown(from.of("gpt-4o"))).toBe("o/gpt-4o | c/claude-x");
    credentials.remove("c");
    expect(shown(from.of("gpt-4o"))).toBe("o/gpt-4o");
  });
});

describe("which chain", () => {
  const kindsOf: Given["kindsOf"] = ({ credential: { provider } }) => [provider, provider === "azure" ? "openai" : provider];
  const azure = credential("z", { provider: "azure", models: ["gpt-*"] });
  const members = (chains: FallbackChains, asked: string, given: Given = {}): string => {
    const { fallbacks } = chained([azure, OPENAI], chains, { kindsOf, ...given }).of(asked);
    return fallbacks.map((each) => each.asked).join(" ");
  };
  const all = { "gpt-a": ["gpt-1"], z: ["gpt-2"], o: ["gpt-3"], azure: ["gpt-4"], openai: ["gpt-5"] };
  const { "gpt-a": _model, ...noModel } = all;
  const { z: _z, o: _o, ...noCredential } = noModel;
  const { azure: _azure, ...family } = noCredential;

  test.each<[string, FallbackChains, string, string]>([
    ["the model's own first", all, "gpt-a", "gpt-1"],
    ["then those of the credentials that serve it, in their order", noModel, "gpt-a", "gpt-2 gpt-3"],
    ["then those of their providers", noCredential, "gpt-a", "gpt-4 gpt-5"],
    ["then those of their families", family, "gpt-a", "gpt-5"],
    ["a name in another case, with Google's prefix", { "Models/GPT-A": ["gpt-1"] }, "models/gpt-a", "gpt-1"],
    ["the key with the prefix, the request without", { "models/gpt-a": ["gpt-1"] }, "gpt-a", "gpt-1"],
    ["nobody's", { "gpt-b": ["gpt-1"] }, "gpt-a", ""],
  ])("%s", (_what, chains, asked, expected) => {
    expect(members(chains, asked)).toBe(expected);
  });

  test.each(["constructor", "__proto__"])("%s is a name like any other", (name) => {
    expect(chained([credential("a")], { x: ["y"] }).of(name).fallbacks).toEqual([]);
  });

  test("of an alias: its own, else that of what it stands for", () => {
    const aliases = { fast: "gpt-a" };
    expect(members({ fast: ["gpt-1"], "gpt-a": ["gpt-2"] }, "fast", { aliases })).toBe("gpt-1");
    expect(members({ "gpt-a": ["gpt-2"] }, "fast", { aliases })).toBe("gpt-2");
  });

  test("`provider:model` has that of the model", () => {
    expect(members({ "gpt-a": ["gpt-1"] }, "openai:gpt-a")).toBe("gpt-1");
  });

  test("who is preferred to the current one: credentials of the first chain that names any", () => {
    const from = chained([azure, OPENAI], { "gpt-a": ["gpt-1"], z: ["gpt-2", "o"], azure: ["z"] }, { kindsOf });
    const current = candidate("z", "gpt-a", { provider: "azure" });
    expect(from.preferred(current, "gpt-a")).toEqual(["o"]);
    expect(from.preferred(candidate("y", "gpt-a", { provider: "azure" }), "gpt-a")).toEqual(["z"]);
    expect(from.preferred(candidate("o", "gpt-a"), "gpt-a")).toEqual([]);
  });
});

describe("for one request", () => {
  const from = chained([OPENAI, CLAUDE], { "gpt-4o": ["fast", "claude-x"], best: ["claude-x"] }, { aliases: { fast: "gpt-4o-mini" } });
  const slot = (models: readonly string[] | null) => ({ offer: undefined as object | undefined, principal: { models } });

  test.each<[string, readonly string[] | null, string]>([
    ["who may use all", null, "o/gpt-4o | o/gpt-4o-mini | c/claude-x"],
    ["who may not use the fallbacks", ["gpt-4o"], "o/gpt-4o"],
    ["who may use one of them", ["gpt-4o", "claude-*"], "o/gpt-4o | c/claude-x"],
    ["who may use one by the name in the chain", ["gpt-4o", "fast"], "o/gpt-4o | o/gpt-4o-mini"],
  ])("%s", (_what, models, expected) => {
    const request = slot(models);
    expect(shown(from.forRequest(request, "gpt-4o"))).toBe(expected);
    expect(from.forRequest(request, "gpt-4o")).toBe(request.offer);
    expect(from.forRequest(slot(models && [...models]), "gpt-4o")).toBe(request.offer);
  });

  test("nobody that the key may use is a refusal", () => {
    expect(refusalOf(() => from.forRequest(slot(["best"]), "best"))).toMatchObject({ code: "model_not_allowed", status: 403 });
  });

  test("what does not fit is left out from then on, and nothing when nothing fits", () => {
    const request = slot(null);
    from.keepFitting(request, "gpt-4o", ({ name }) => name === "claude-x");
    expect(shown(from.forRequest(request, "gpt-4o"))).toBe("o/gpt-4o | c/claude-x");
    from.keepFitting(request, "gpt-4o", () => false);
    expect(shown(from.forRequest(request, "gpt-4o"))).toBe("o/gpt-4o");
    expect(shown(from.keepFitting(slot(null), "best", () => false))).toBe("c/claude-x");
    expect(shown(from.of("gpt-4o"))).toBe("o/gpt-4o | o/gpt-4o-mini | c/claude-x");
  });
});

test("any configuration: own tiers first, the chain's order, nobody twice, nobody forgotten", () => {
  const model = fc.constantFrom("a", "b", "c", "d", "e");
  const account = fc.record({
    priority: fc.integer({ min: 0, max: 2 }),
    isFallback: fc.boolean(),
    models: fc.option(fc.array(model, { maxLength: 3 }), { nil: null }),
  });
  const renamed = fc.record({ name: model, model });
  const member = fc.oneof(model, fc.constantFrom("*", "0", "1", "nobody"));
  fc.assert(
    fc.property(
      fc.array(account, { minLength: 1, maxLength: 4 }),
      fc.uniqueArray(renamed, { selector: ({ name }) => name, maxLength: 3 }),
      fc.array(member, { minLength: 1, maxLength: 4 }),
      (given, models, chain) => {
        const credentials = given.map((more, i) => credential(String(i), more));
        const find = (from: Offers): Offer | null => {
          try {
            return from.of("a");
          } catch {
            return null;
          }
        };
        const plain = find(chained(credentials, {}, { models }));
        const offer = find(chained(credentials, { a: chain }, { models }));
        if (!offer) {
          expect(plain).toBeNull();
          return;
        }
        expect(offer.own).toEqual(plain?.own ?? []);
        const ownTiers = plain?.tiers ?? [];
        expect(offer.tiers.slice(0, ownTiers.length)).toEqual(ownTiers);
        expect(offer.wholes.slice(0, plain?.wholes.length ?? 0)).toEqual(plain?.wholes ?? []);
        const pairs = offer.candidates.map((each) => `${each.credential.name}/${each.model}`);
        expect(new Set(pairs).size).toBe(pairs.length);
        expect(offer.tiers.flat().toSorted(byKey)).toEqual([...offer.candidates].toSorted(byKey));
        expect(offer.wholes.flat().toSorted(byKey)).toEqual([...offer.candidates].toSorted(byKey));
        // A tier is one model, so that no two of it are the same account.
        for (const tier of [...offer.tiers, ...offer.wholes]) expect(new Set(tier.map(({ name }) => name)).size).toBe(1);
        const order = chain.map((each) => offer.fallbacks.findIndex(({ asked }) => asked === each)).filter((place) => place >= 0);
        if (!chain.includes("*")) expect([...new Set(order)]).toEqual([...new Set(order)].toSorted((x, y) => x - y));
      },
    ),
  );
});

const byKey = (x: { readonly key: string }, y: { readonly key: string }): number => (x.key < y.key ? -1 : 1);
