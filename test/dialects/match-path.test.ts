import { describe, expect, test } from "vitest";
import { dialect, matchPath } from "../../src/dialects/index.ts";

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
