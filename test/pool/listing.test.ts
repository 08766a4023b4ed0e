import { describe, expect, test } from "vitest";
import type { Credential } from "../../src/core/credential.ts";
import { modelCatalogue, type ListedModel, type ModelCatalogue } from "../../src/pool/catalogue.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { modelListing, type Listing } from "../../src/pool/listing.ts";
import { offers, type ModelEntry } from "../../src/pool/offers.ts";
import { credential } from "./pool-kit.ts";

interface Setting {
  readonly models?: readonly ModelEntry[];
  readonly aliases?: Record<string, string>;
  /** What each credential's provider lists; the others' lists are unknown. */
  readonly lists?: Readonly<Record<string, readonly (string | ListedModel)[]>>;
}

function listingOf(given: readonly Credential[], { models = [], aliases = {}, lists = {} }: Setting = {}): Listing & { catalogue: ModelCatalogue } {
  const credentials = credentialSet(given);
  const catalogue = modelCatalogue(credentials);
  const listing = modelListing({ offers: offers({ credentials, models, aliases, lists: catalogue }), catalogue, models, aliases });
  for (const [name, list] of Object.entries(lists))
    catalogue.set(
      name,
      list.map((item) => (typeof item === "string" ? { id: item, created: null, ownedBy: null } : item)),
    );
  return { ...listing, catalogue };
}

/** Names and who offers them. */
const shown = (listing: Listing): Record<string, readonly string[]> =>
  Object.fromEntries([...listing.all()].map(([id, model]) => [id, model.credentials]));
const names = (listing: Listing): string[] => [...listing.all().keys()];

describe("the names that clients may use", () => {
  test("are the configured ones in the order of the config, then what providers list by the alphabet, each once", () => {
    const listing = listingOf([credential("a", { models: ["zeta", "gpt-*"] }), credential("b"), credential("c", { models: ["alpha", "zeta"] })], {
      models: [{ name: "yankee" }, { name: "beta", credential: "b" }],
      lists: { a: ["gpt-4o", "gpt-3"], b: ["yankee", "gpt-4o", "delta"] },
    });
    expect(names(listing)).toEqual(["yankee", "beta", "zeta", "alpha", "delta", "gpt-3", "gpt-4o"]);
    expect(shown(listing)).toMatchObject({
      yankee: ["b"],
      beta: ["b"],
      zeta: ["a", "c"],
      alpha: ["c"],
      delta: ["b"],
      "gpt-3": ["a"],
      "gpt-4o": ["a", "b"],
    });
    expect([...listing.all().values()].filter(({ isConfigured }) => isConfigured).map(({ id }) => id)).toEqual(["yankee", "beta", "zeta", "alpha"]);
  });

  test("are the same whatever the order in which a provider lists them", () => {
    const one = listingOf([credential("a")], { lists: { a: ["x", "y", "z"] } });
    const other = listingOf([credential("a")], { lists: { a: ["z", "x", "y"] } });
    expect(names(one)).toEqual(names(other));
  });

  test("do not hold a model of the table that no credential offers", () => {
    const listing = listingOf([credential("a", { models: ["x"] })], { models: [{ name: "x" }, { name: "nobody-has-it" }] });
    expect(shown(listing)).toEqual({ x: ["a"] });
    expect(listing.find("nobody-has-it")).toBeNull();
  });

  test("do not hold a model that is bound to somebody else by its table entry as one of who lists it", () => {
    const listing = listingOf([credential("a"), credential("b")], { models: [{ name: "m", credential: "b" }], lists: { a: ["m"], b: ["m"] } });
    expect(shown(listing)).toEqual({ m: ["b"] });
  });

  test("name nobody who may be tried only because his list is unknown", () => {
    const listing = listingOf([credential("a", { models: ["m"] }), credential("b"), credential("c")], { lists: { c: ["m", "n"] } });
    expect(shown(listing)).toEqual({ m: ["a", "c"], n: ["c"] });
  });

  test("follow the lists", () => {
    const listing = listingOf([credential("a")], { lists: { a: ["x"] } });
    expect(names(listing)).toEqual(["x"]);
    expect(listing.all()).toBe(listing.all());
    listing.catalogue.set("a", [{ id: "y", created: null, ownedBy: null }]);
    expect(names(listing)).toEqual(["y"]);
  });
});

describe("a provider's own name", () => {
  test("is hidden where the table gives the model another, which is shown instead", () => {
    const listing = listingOf([credential("a"), credential("b")], {
      models: [{ name: "big", model: "llama-70b", credential: "a" }],
      lists: { a: ["llama-70b", "llama-8b"], b: ["llama-8b"] },
    });
    expect(shown(listing)).toEqual({ big: ["a"], "llama-8b": ["a", "b"] });
    expect(listing.find("llama-70b")).toBeNull();
  });

  test("is shown as long as somebody else offers it under that name", () => {
    const listing = listingOf([credential("a"), credential("b")], {
      models: [{ name: "big", model: "llama-70b", credential: "a" }],
      lists: { a: ["llama-70b"], b: ["llama-70b"] },
    });
    expect(shown(listing)).toEqual({ big: ["a"], "llama-70b": ["b"] });
  });

  test("is hidden everywhere by an entry for all credentials, and shown where it is configured itself", () => {
    const models = [{ name: "big", model: "llama-70b" }];
    const lists = { a: ["llama-70b"], b: ["llama-70b"] };
    expect(names(listingOf([credential("a"), credential("b")], { models, lists }))).toEqual(["big"]);
    expect(names(listingOf([credential("a"), credential("b")], { models: [...models, { name: "llama-70b" }], lists }))).toEqual(["big", "llama-70b"]);
  });
});

describe("names that stand for another", () => {
  const listing = listingOf([credential("o"), credential("q", { provider: "qwen" })], {
    models: [{ name: "shadowed" }],
    aliases: { fast: "gpt-4o-mini", flash: "qwen:qwen-flash", listed: "gpt-4o-mini", shadowed: "gpt-4o-mini", lost: "on-no-list" },
    lists: { o: ["gpt-4o-mini", "listed", "qwen:odd"], q: ["qwen-flash"] },
  });

  test("are hidden, also when a provider or the table uses them", () => {
    expect(names(listing)).toEqual(["gpt-4o-mini", "qwen-flash"]);
  });

  test.each([
    ["an alias", "fast", ["o"]],
    ["an alias for one provider's model", "flash", ["q"]],
    ["a name with its provider", "openai:gpt-4o-mini", ["o"]],
  ])("can be asked for: %s", (_what, name, credentials) => {
    expect(listing.find(name)).toMatchObject({ id: name, credentials });
  });

  test("an alias is the operator's word, even if nobody lists what it stands for", () => {
    expect(listing.find("lost")).toMatchObject({ id: "lost", ownedBy: "openai", created: null });
  });

  test.each([
    ["a provider that does not have it", "qwen:gpt-4o-mini"],
    ["a model that nobody lists", "openai:made-up"],
    ["nothing known", "made-up"],
    ["a member of every object", "constructor"],
  ])("%s is not there", (_what, name) => {
    expect(listing.find(name)).toBeNull();
  });

  test("an alias for what nobody offers is not there", () => {
    expect(listingOf([credential("a", { models: ["x"] })], { aliases: { fast: "y" } }).find("fast")).toBeNull();
  });
});

describe("what is said about a model", () => {
  test("is its provider's word, of the first that has it; also under the name that config gives it", () => {
    const listing = listingOf([credential("a"), credential("b"), credential("c")], {
      models: [{ name: "big", model: "llama-70b" }],
      lists: {
        a: [{ id: "x", created: 5, ownedBy: "meta" }],
        b: [
          { id: "x", created: 9, ownedBy: "other" },
          { id: "llama-70b", created: 7, ownedBy: "meta-llama" },
        ],
        c: [{ id: "llama-70b", created: 8, ownedBy: "other" }],
      },
    });
    expect(listing.find("x")).toMatchObject({ created: 5, ownedBy: "meta" });
    expect(listing.find("big")).toMatchObject({ created: 7, ownedBy: "meta-llama" });
  });

  test("is else the provider's id, never the credential's name", () => {
    const secret = credential("acme-secret-account", { models: ["named", "*"], provider: "openai-compatible" });
    const listing = listingOf([secret], { models: [{ name: "table" }], lists: { "acme-secret-account": ["listed"] } });
    expect([...listing.all().values()].map(({ ownedBy }) => ownedBy)).toEqual(["openai-compatible", "openai-compatible", "openai-compatible"]);
  });
});
