import { describe, expect, test } from "vitest";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const resolved = (passthrough: GuardOptions["passthrough"]) => resolveOptions(passthrough === undefined ? {} : { passthrough }).passthrough;

describe("passthrough", () => {
  test.each([[undefined], [true], [{}], [{ paths: "default" as const }]])("%j is on, with the default paths and no costs", (option) =>
    expect(resolved(option)).toEqual({ paths: "default", cost: {} }),
  );

  test("false is off", () => expect(resolved(false)).toBeNull());

  test.each(["/v1/images/*", "/v1/files*", "/v1/realtime", "/v1/audio/speech", "/v1/vector_stores/*", "/v1/*", "/v1/a.b~c/d-e"])(
    "%s is a path",
    (path) => expect(resolved({ paths: [path] })?.paths).toEqual([path]),
  );

  test("a cost is USD, amounts or a model's price", () => {
    const messages = [{ role: "user", content: "hi" }];
    const cost = {
      "/v1/images/*": 0.04,
      "/v1/audio/*": { usd: 0.01, tokens: 500 },
      "/v1/audio/speech": { model: "tts-1", maxOutputTokens: 10 },
      "/v1/batches": { model: "gpt-4o", input: messages, maxOutputTokens: 5 },
    };
    expect(resolved({ cost })?.cost).toEqual({
      "/v1/images/*": { kind: "amounts", usd: 0.04 },
      "/v1/audio/*": { kind: "amounts", usd: 0.01, tokens: 500 },
      "/v1/audio/speech": { kind: "model", model: "tts-1", maxOutputTokens: 10 },
      "/v1/batches": { kind: "model", model: "gpt-4o", input: JSON.stringify(messages), maxOutputTokens: 5 },
    });
    expect(Object.isFrozen(messages)).toBe(false);
  });

  const PATH = "must be a path below /v1/, perhaps with a * at its end: /v1/images/*, /v1/files*";
  test.each([
    "images",
    "/images/*",
    "/v1/",
    "/v1",
    "/v2/files",
    "/v1/../admin",
    "/v1/./files",
    "/v1/a*b",
    "/v1/*/content",
    "/v1//files",
    "/v1/files/",
    "/v1/files?x=1",
    "/v1/f%2e",
    "/v1/**",
    "/v1/файлы",
  ])("%s is no path", (path) => {
    expect(problemsOf({ passthrough: { paths: ["/v1/files*", path] } })).toEqual([`passthrough.paths[1]: ${PATH}`]);
    expect(problemsOf({ passthrough: { cost: { [path]: 1 } } })).toEqual([`passthrough.cost.${path}: its name ${PATH}`]);
  });

  test.each(["/v1/chat/completions", "/v1/embeddings", "/v1/models", "/v1/models/*"])("%s is not passed through: the gateway reads it", (path) => {
    expect(problemsOf({ passthrough: { paths: [path] } })).toEqual([
      "passthrough.paths[0]: is not passed through: the gateway reads, meters and answers it itself",
    ]);
  });

  const FORMS =
    "expected one of USD, { usd, tokens, inputTokens, outputTokens }, { model, input, maxOutputTokens }; functions are for budgets() on routes of yours";
  const bad: readonly (readonly [string, unknown, string])[] = [
    ["no paths", { paths: [] }, "passthrough.paths: is empty; to pass nothing through, use false in place of the section"],
    ["a word for paths", { paths: "all" }, "passthrough.paths: expected default, or a list of paths such as /v1/images/*"],
    ["a negative cost", { cost: { "/v1/files*": -1 } }, "passthrough.cost./v1/files*: must be at least 0"],
    ["a cost that is a function", { cost: { "/v1/files*": () => 1 } }, `passthrough.cost./v1/files*: ${FORMS}`],
    ["a fraction of a token", { cost: { "/v1/files*": { tokens: 1.5 } } }, `passthrough.cost./v1/files*: ${FORMS}`],
    ["a word in its place", "on", "passthrough: expected true, false or { paths, cost }"],
    ["a mistyped option", { pahts: "default" }, "passthrough.pahts: unknown option; did you mean paths?"],
  ];
  test.each(bad)("%s is refused", (_what, passthrough, line) => expect(problemsOf({ passthrough })).toEqual([line]));
});
