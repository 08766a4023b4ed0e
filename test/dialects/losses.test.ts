import { expect, test } from "vitest";
import { losses } from "../../src/dialects/losses.ts";
import { refusalOf } from "../core/context-kit.ts";

test("what changes the meaning is refused by its name, and what only tunes is dropped and named", () => {
  const strict = losses(false);
  strict.drops("seed");
  expect(refusalOf(() => strict.cannot("logit_bias", "has no counterpart in Anthropic's API"))).toMatchObject({
    code: "untranslatable",
    status: 422,
    param: "logit_bias",
    message: "logit_bias: has no counterpart in Anthropic's API",
  });
  expect(strict.dropped).toEqual(["seed"]);
});

test("with leave to lose, it is dropped and named, each once, and not without end", () => {
  const lossy = losses(true);
  for (let i = 0; i < 200; i += 1) lossy.cannot(`f${i % 100}`, "cannot");
  expect(lossy.dropped).toHaveLength(50);
  expect(lossy.dropped.slice(0, 2)).toEqual(["f0", "f1"]);
});
