import { RATE_NAMES } from "../../src/metering/price.ts";
import { describe, expect, test } from "vitest";
import { resolveOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const GPT = { inputPerMtok: 2.5, outputPerMtok: 10 };
const rules = (...list: readonly object[]): readonly string[] => problemsOf({ prices: { rules: list } });
const price = (written: object): readonly string[] => problemsOf({ models: [{ name: "m", price: written }] });

describe("a price", () => {
  test("is said per million or per thousand tokens, or per request", () => {
    for (const good of [
      GPT,
      { inputPerKtok: 1, outputPerMtok: "0.5" },
      { perRequest: 1 },
      { ...GPT, tiers: [{ aboveInputTokens: 9, inputPerKtok: 1 }] },
    ])
      expect(price(good)).toEqual([]);
  });

  test("is refused where a class is missing: it would be free by mistake", () => {
    expect(price({ inputPerMtok: 1 })).toEqual(["models[0].price.outputPerMtok: is required; say what output costs, 0 if it is free"]);
    expect(price({ outputPerKtok: 1, perRequest: 1 })).toEqual(["models[0].price.inputPerMtok: is required; say what input costs, 0 if it is free"]);
    expect(price({})).toHaveLength(2);
    expect(rules({ price: { cacheReadPerMtok: 1 } })).toHaveLength(2);
  });

  test("has a rate for each class, in one of two units, and may be by the image alone", () => {
    for (const name of RATE_NAMES) {
      expect(price({ ...GPT, [`${name}PerMtok`]: 1 })).toEqual([]);
      expect(price({ ...GPT, [`${name}PerMtok`]: 1, [`${name}PerKtok`]: 1 })).not.toEqual([]);
    }
    expect(price({ perImage: 0.04 })).toEqual([]);
    expect(price({ ...GPT, audioPerMtok: 1 })[0]).toContain("audioPerMtok: unknown option");
  });

  test("whose tiers are for what is above them has nothing there that is billed one by one", () => {
    const tiers = [{ aboveInputTokens: 5, inputPerMtok: 1 }];
    expect(price({ ...GPT, tiers, tiersApplyTo: "excess" })).toEqual([]);
    expect(price({ ...GPT, tiers, tiersApplyTo: "some" })[0]).toContain("models[0].price.tiersApplyTo");
    expect(price({ ...GPT, tiers: [{ aboveInputTokens: 5, perRequest: 1 }] })).toEqual([]);
    expect(price({ ...GPT, tiers: [{ aboveInputTokens: 5, perImage: 1 }], tiersApplyTo: "excess" })).toEqual([
      "models[0].price.tiers[0].perImage: a request has no excess; say it beside the tiers, not in one",
    ]);
  });

  test("is refused when it is said twice", () => {
    expect(price({ ...GPT, inputPerKtok: 1 })).toEqual(["models[0].price.inputPerKtok: inputPerMtok says it too; keep one of them"]);
    const tier = { aboveInputTokens: 5, reasoningPerKtok: 1, reasoningPerMtok: 1 };
    expect(rules({ price: { ...GPT, tiers: [tier] } })).toEqual([
      "prices.rules[0].price.tiers[0].reasoningPerKtok: reasoningPerMtok says it too; keep one of them",
    ]);
    const twice = [{ aboveInputTokens: 5 }, { aboveInputTokens: 6 }, { aboveInputTokens: 5 }];
    expect(price({ ...GPT, tiers: twice })).toEqual(["models[0].price.tiers[2].aboveInputTokens: another tier begins there too"]);
  });
});

describe("prices.files", () => {
  const files = (file: unknown): readonly string[] => problemsOf({ prices: { files: [file] } });

  test("are paths, https URLs, or URLs of this machine", () => {
    for (const good of [
      "./prices.json",
      "/etc/prices.json",
      "https://models.dev/api.json",
      "http://127.0.0.1:8000/p",
      "http://localhost/p",
      "http://[::1]/p",
    ])
      expect(files(good)).toEqual([]);
  });

  test("must be what nobody on the way can change, and hold no password", () => {
    for (const bad of ["http://models.dev/api.json", "http://10.0.0.5/p", "http://127.0.0.1.evil.example/p", "ftp://h/p", "file:///etc/p"])
      expect(files(bad)).toEqual(["prices.files[0]: must be a path or an https:// URL; http:// only for an address of this machine"]);
    expect(files("https://u:secret@h/p")).toEqual(["prices.files[0]: must not contain a user or password"]);
    expect(files("https://")).toEqual(["prices.files[0]: is not a valid URL"]);
    expect(files("")).toHaveLength(1);
  });
});

describe("prices.rules", () => {
  test("resolve with their dates in ms", () => {
    const rule = {
      org: "acme",
      provider: "openai",
      model: "gpt-*",
      price: GPT,
      markupPct: 5,
      from: "2027-01-01",
      until: "2027-02-01T00:00:00+01:00",
    };
    expect(resolveOptions({ prices: { rules: [rule] } }).prices).toEqual({
      markupPct: 0,
      files: [],
      book: true,
      refreshMs: 3_600_000,
      rules: [{ ...rule, from: Date.UTC(2027, 0, 1), until: Date.UTC(2027, 0, 31, 23) }],
    });
  });

  test("must say something, of a time that there is", () => {
    expect(rules({ model: "m" })).toEqual(["prices.rules[0]: says neither a price nor a markupPct"]);
    expect(rules({ markupPct: 1, from: "2027-01-02", until: "2027-01-02" })).toEqual(["prices.rules[0].until: must be after from"]);
    expect(rules({ markupPct: 1, model: "m", modle: "m" })[0]).toContain("modle: unknown option");
  });

  test("say what others do not say of the same", () => {
    const same = { org: "acme", model: "m" };
    expect(
      rules({ ...same, price: GPT }, { ...same, markupPct: 5 }, { ...same, price: GPT, from: "2027-01-01" }, { model: "m", price: GPT }),
    ).toEqual([]);
    expect(rules({ ...same, price: GPT }, { model: "m", markupPct: 1 }, { ...same, price: GPT, until: "2027-01-01" })).toEqual([
      "prices.rules[2].price: prices.rules[0] says it of the same; keep one of them, or say from when",
    ]);
  });
});
