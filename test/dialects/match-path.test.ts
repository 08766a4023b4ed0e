import { describe, expect, test } from "vitest";
import type { Dialect } from "../../src/dialects/dialect.ts";
import { callerDialect, dialect, matchPath, matchSuffix } from "../../src/dialects/index.ts";
import { pathMatcher } from "../../src/dialects/routes.ts";

describe("a path", () => {
  test.each([
    ["/v1/chat/completions", "chat"],
    ["/v1/completions", "completions"],
    ["/v1/embeddings", "embeddings"],
  ])("%s is a call", (path, operation) => {
    const matched = { kind: "call", method: "POST", route: path, dialect: "openai", path: { operation, model: null, stream: null } };
    expect(matchPath(path, false)).toEqual(matched);
    expect(matchPath(path, true)).toEqual(matched);
    expect(matchPath(path.slice(3), true)).toEqual(matched);
    expect(matchPath(path.slice(3), false)).toBeUndefined();
  });

  test("lists models, or one of them", () => {
    expect(matchPath("/v1/models", false)).toMatchObject({ kind: "models", method: "GET", route: "/v1/models", id: null });
    expect(matchPath("/models", true)).toMatchObject({ kind: "models", id: null });
    expect(matchPath("/v1/models", true)).toMatchObject({ kind: "models", id: null });
    expect(matchPath("/v1/models/gpt-4o", true)).toMatchObject({ kind: "models", id: "gpt-4o" });
    expect(matchPath("/v1/models/gpt-4o", false)).toMatchObject({ kind: "models", route: "/v1/models/{id}", id: "gpt-4o" });
    expect(matchPath("/v1/models/openai/gpt-4o", false)).toMatchObject({ id: "openai/gpt-4o" });
  });

  test.each([
    ["/"],
    [""],
    ["/v1"],
    ["/v1/"],
    ["/v1/models/"],
    ["/v1/chat/completions/"],
    ["/v1/Chat/Completions"],
    ["/v1//chat/completions"],
    ["/v1/modelsx"],
    ["/v2/models"],
    ["/__proto__"],
    ["/constructor"],
  ])("%s is the host's own", (path) => {
    expect(matchPath(path, false)).toBeUndefined();
    expect(matchPath(path, true)).toBeUndefined();
  });

  test("of another version is not completed to ours", () => {
    expect(matchPath("/v1/v1/models", true)).toBeUndefined();
  });
});

test("every route of a dialect belongs to it", () => {
  for (const { path } of dialect("openai").routes) expect(matchPath(path, false)).toMatchObject({ dialect: "openai" });
});

describe("a model in the path", () => {
  const routes = ["/v1beta", "/v1"].flatMap((version) => [
    { method: "POST", path: `${version}/models/{model}:say`, operation: "chat", stream: false } as const,
    { method: "POST", path: `${version}/models/{model}:sayOn`, operation: "chat", stream: true } as const,
  ]);
  const match = pathMatcher([{ ...dialect("openai"), id: "gemini", routes } satisfies Dialect]);

  test.each([
    ["/v1beta/models/some-model:say", "some-model", false],
    ["/v1beta/models/some-model:sayOn", "some-model", true],
    ["/v1/models/some-model:say", "some-model", false],
    ["/v1beta/models/tuned%2Fmy:own%3Amodel:say", "tuned/my:own:model", false],
    ["/v1beta/models/a/b:say", "a/b", false],
    ["/v1beta/models/gpt-5(high):say", "gpt-5(high)", false],
  ])("%s", (path, model, stream) => {
    const matched = { kind: "call", dialect: "gemini", path: { operation: "chat", model, stream } };
    expect(match(path, false)).toMatchObject(matched);
    expect(match(path, true)).toMatchObject(matched);
    expect(match(path.replace(/^\/v1(beta)?/, ""), true)).toMatchObject(matched);
    expect(match(path.replace(/^\/v1(beta)?/, ""), false)).toBeUndefined();
  });

  test.each(["/v1beta/models/:say", "/v1beta/models/%E0%A4:say", "/v1beta/models/m:sing"])("%s is no call", (path) => {
    expect(match(path, false)?.kind).not.toBe("call");
  });

  test("is found behind any prefix, and not inside a model's name", () => {
    expect(matchSuffix("/api/v1/chat/completions")).toMatchObject({ kind: "call", dialect: "openai" });
    expect(matchSuffix("/a/v1/b/v1/messages")).toMatchObject({ kind: "call", dialect: "anthropic" });
    expect(matchSuffix("/api/v1beta/models")).toMatchObject({ kind: "models", dialect: "gemini" });
    expect(matchSuffix("/api/v1/nothing")).toBeUndefined();
  });
});

test("a list of models is in the dialect of who asks", () => {
  expect(matchPath("/v1/models", false)).toMatchObject({ dialect: "openai" });
  expect(matchPath("/v1/models/x", false, { "anthropic-version": "2023-06-01" })).toMatchObject({ dialect: "anthropic", id: "x" });
  expect(matchPath("/v1beta/models", false, { "anthropic-version": "2023-06-01" })).toMatchObject({ dialect: "gemini", route: "/v1beta/models" });
  expect(matchPath("/v1beta/models/x", true)).toMatchObject({ dialect: "gemini", route: "/v1beta/models/{id}", id: "x" });
  expect(matchPath("/models", true, { "anthropic-version": "2023-06-01" })).toMatchObject({ dialect: "anthropic" });
  for (const headers of [{ "x-goog-api-key": "k" }, { "x-goog-api-client": "google-genai-sdk/3" }]) {
    expect(matchPath("/v1/models", false, headers)).toMatchObject({ dialect: "gemini", route: "/v1/models" });
    expect(callerDialect(undefined, "/v1/nothing", headers)).toBe("gemini");
  }
});

test("a path of nobody's is refused in what its caller most likely speaks", () => {
  expect(callerDialect(undefined, "/v1/nothing", {})).toBe("openai");
  expect(callerDialect(undefined, "/v1/messages/batches", {})).toBe("anthropic");
  expect(callerDialect(undefined, "/v1/nothing", { "anthropic-version": "2023-06-01" })).toBe("anthropic");
});
