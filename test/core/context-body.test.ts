import { describe, expect, test } from "vitest";
import { isSource, jsonAnswer } from "../../src/core/answer.ts";
import { GuardError } from "../../src/core/errors.ts";
import { callOf, contextWith, kit } from "./context-kit.ts";

const reader = { call: () => callOf("gpt-4o") };

describe("a request's body and query", () => {
  test("are read when somebody asks, and once", async () => {
    const asked: string[] = [];
    const ctx = contextWith(kit().services, {
      reader: {
        ...reader,
        body: () => (asked.push("body"), Promise.resolve(Buffer.from("hello"))),
        query: () => (asked.push("query"), "a=1&b=%20x&a=2"),
      },
    });
    expect(asked).toEqual([]);
    expect(await ctx.body()).toBe(await ctx.body());
    expect(String(await ctx.body())).toBe("hello");
    expect([ctx.query.getAll("a"), ctx.query.get("b"), ctx.query.get("c")]).toEqual([["1", "2"], " x", null]);
    expect(ctx.query).toBe(ctx.query);
    expect(asked).toEqual(["body", "query"]);
  });

  test("are empty where the edge has none", async () => {
    const ctx = contextWith(kit().services, { reader });
    expect([(await ctx.body()).length, ctx.query.size]).toEqual([0, 0]);
  });

  test("a body that cannot be read says so each time", async () => {
    const error = new GuardError("body_too_large", "too large");
    const ctx = contextWith(kit().services, { reader: { ...reader, body: () => Promise.reject(error) } });
    await expect(ctx.body()).rejects.toBe(error);
    await expect(ctx.body()).rejects.toBe(error);
  });
});

test("jsonAnswer() makes an answer of any value", () => {
  for (const [value, text] of [
    [{ a: [1, null] }, '{"a":[1,null]}'],
    ["ü", '"ü"'],
    [undefined, "null"],
  ] as const) {
    const { status, headers, body } = jsonAnswer(value);
    expect([status, headers, (body as Buffer).toString(), isSource(body)]).toEqual([
      200,
      ["content-type", "application/json; charset=utf-8"],
      text,
      false,
    ]);
  }
  expect(jsonAnswer(null, 202).status).toBe(202);
});
