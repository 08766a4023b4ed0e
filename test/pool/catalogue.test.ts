import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { modelCatalogue, type ListedModel, type ModelCatalogue } from "../../src/pool/catalogue.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { offers } from "../../src/pool/offers.ts";
import { credential } from "./pool-kit.ts";

const listed = (id: string, more: Partial<ListedModel> = {}): ListedModel => ({ id, created: null, ownedBy: null, ...more });
const list = (...ids: string[]): ListedModel[] => ids.map((id) => listed(id));
const ids = (catalogue: ModelCatalogue, name: string): string[] => catalogue.models(name).map(({ id }) => id);

describe("a credential's list", () => {
  test("is unknown until its provider was asked, which is not the same as empty", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a"), credential("b")]));
    expect([catalogue.lists("a"), catalogue.lists("nobody"), catalogue.models("a"), catalogue.model("a", "m")]).toEqual([null, null, [], null]);
    catalogue.set("a", []);
    expect(catalogue.lists("a")).toEqual(new Set());
    expect(catalogue.lists("b")).toBeNull();
  });

  test("is the last one that was read, in its provider's order, each model once", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a")]));
    catalogue.set("a", list("x", "y"));
    catalogue.set("a", list("z", "x", "z"));
    expect(ids(catalogue, "a")).toEqual(["z", "x"]);
    expect([catalogue.lists("a")?.has("y"), catalogue.model("a", "y")]).toEqual([false, null]);
  });

  test("holds what matches the credential's own models", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a", { models: ["gpt-*", "o1"] }), credential("b", { models: [] })]));
    for (const name of ["a", "b"]) catalogue.set(name, list("gpt-4o", "whisper-1", "o1", "o1-mini"));
    expect([ids(catalogue, "a"), ids(catalogue, "b")]).toEqual([["gpt-4o", "o1"], []]);
  });

  test("of a provider without end is cut at ten thousand, of those that match", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a", { models: ["even-*"] })]));
    function* endless(): Generator<ListedModel> {
      for (let i = 0; ; i += 1) yield listed(`${i % 2 === 0 ? "even" : "odd"}-${i}`);
    }
    catalogue.set("a", endless());
    expect(catalogue.lists("a")?.size).toBe(10_000);
    expect(catalogue.lists("a")?.has("even-19998")).toBe(true);
  });

  test("keeps what was said first about a model: some servers make up a new date at each question", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a")]));
    catalogue.set("a", [listed("m", { created: 1, ownedBy: "x" })]);
    catalogue.set("a", [listed("m", { created: 2, ownedBy: "x" }), listed("n", { created: 2 })]);
    expect([catalogue.model("a", "m")?.created, catalogue.model("a", "n")?.created]).toEqual([1, 2]);
  });

  test("of a credential that does not exist is a mistake", () => {
    expect(() => modelCatalogue(credentialSet([credential("a")])).set("b", [])).toThrow(/no credential b/);
  });
});

describe("the version", () => {
  test("grows when an unknown list becomes known, even an empty one", () => {
    const catalogue = modelCatalogue(credentialSet([credential("a")]));
    const before = catalogue.version;
    catalogue.set("a", []);
    expect(catalogue.version).toBe(before + 1);
  });

  test("grows exactly when a list names other models than before", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.subarray(["a", "b", "c", "d"]).chain((some) => fc.shuffledSubarray(some, { minLength: some.length })),
          { maxLength: 20 },
        ),
        (steps) => {
          const catalogue = modelCatalogue(credentialSet([credential("c")]));
          let last: string | null = null;
          for (const step of steps) {
            const { version } = catalogue;
            catalogue.set("c", list(...step));
            const now = step.toSorted().join();
            expect(catalogue.version - version).toBe(now === last ? 0 : 1);
            last = now;
          }
        },
      ),
    );
  });

  test("makes the pool ask again: a model goes to whoever lists it now", () => {
    const credentials = credentialSet([credential("a"), credential("b")]);
    const catalogue = modelCatalogue(credentials);
    const offered = offers({ credentials, models: [], aliases: {}, lists: catalogue });
    const who = (): string[] => offered.of("m").candidates.map((each) => each.credential.name);
    expect(who()).toEqual(["a", "b"]);
    catalogue.set("a", list("other"));
    expect(who()).toEqual(["b"]);
    catalogue.set("b", list("m"));
    catalogue.set("a", list("m"));
    expect(who()).toEqual(["a", "b"]);
    const remembered = offered.of("m");
    catalogue.set("a", list("m"));
    expect(offered.of("m")).toBe(remembered);
  });
});
