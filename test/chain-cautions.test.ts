import { expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { chainCautions } from "../src/chain-cautions.ts";
import { offeredBy } from "../src/offered.ts";
import { resolveOptions } from "../src/options.ts";

const cautions = (chain: readonly string[], more: GuardOptions = {}): readonly string[] => {
  const options = resolveOptions({
    credentials: [
      { name: "main", apiKey: "sk-1", models: ["gpt-*"] },
      { name: "spare", apiKey: "sk-2", models: ["claude-x"] },
    ],
    router: { fallbackChains: { "gpt-4o": chain } },
    ...more,
  });
  return chainCautions(options, offeredBy(options));
};

test("what is there is not spoken of", () => {
  expect(cautions(["gpt-4o-mini", "claude-x", "claude-*", "spare", "fast"], { modelAlias: { fast: "gpt-b" } })).toEqual([]);
});

test.each([
  ["claude-y", "the fallback chain of gpt-4o: nobody offers claude-y now, and no credential is called so; did you mean claude-x?"],
  ["spere", "the fallback chain of gpt-4o: nobody offers spere now, and no credential is called so; did you mean spare?"],
  ["zebra", "the fallback chain of gpt-4o: nobody offers zebra now, and no credential is called so"],
  ["gemini-*", "the fallback chain of gpt-4o: no model that is offered now matches gemini-*"],
])("%s is told", (member, expected) => {
  expect(cautions([member])).toEqual([expected]);
});

test("where a credential may offer anything, only the mistyped name of another one is told", () => {
  const credentials = ["main", "spare"].map((name) => ({ name, apiKey: `sk-${name}` }));
  expect(cautions(["claude-y", "spair"], { credentials })).toEqual([
    "the fallback chain of gpt-4o: spair is taken for a model; did you mean the credential spare?",
  ]);
});
