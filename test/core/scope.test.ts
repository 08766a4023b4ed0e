import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { scopesFrom, scopeValue } from "../../src/core/scope.ts";
import { refusalOf } from "./context-kit.ts";

const HOSTILE: readonly (readonly [string, string])[] = [
  ["empty", ""],
  ["129 characters", "a".repeat(129)],
  ["a space", "a b"],
  ["a repeated header", "alice, bob"],
  ["a line break", "alice\nbob"],
  ["a line break at the end", "alice\n"],
  ["a carriage return", "alice\r"],
  ["NUL", "alice\0"],
  ["escape", "\u001b[31mred"],
  ["a slash", "acme/alice"],
  ["braces", "a}x{b"],
  ["a Cyrillic a", "аlice"],
  ["full width", "ａlice"],
  ["a combining mark", "e\u0301ve"],
  ["zero width", "ali\u200bce"],
  ["right to left", "\u202ealice"],
  ["a lone surrogate", "\ud800"],
  ["a quote", 'a"b'],
  ["a percent escape", "%61lice"],
];

describe("a scope value", () => {
  test.each(HOSTILE)("with %s is refused without repeating it", (_name, value) => {
    const error = refusalOf(() => scopeValue("user", value));
    expect(error).toMatchObject({ code: "scope_invalid", status: 400, scope: "user" });
    if (value !== "" && value !== "a b") expect(error.message).not.toContain(value);
  });

  test.each([["a"], ["A".repeat(128)], ["alice@example.com"], ["a.b_c-d:e"], ["0"], ["__proto__"], ["constructor"]])("%s stays as it is", (value) => {
    expect(scopeValue("user", value)).toBe(value);
  });

  test("is exactly what the alphabet allows", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }), (value) => {
        const allowed = value.split("").every((unit) => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@:-".includes(unit));
        let passed = true;
        try {
          scopeValue("user", value);
        } catch {
          passed = false;
        }
        expect(passed).toBe(allowed);
      }),
    );
  });
});

describe("what a host gives", () => {
  test("strings, numbers and bigints become text; nothing stays nothing", () => {
    expect(scopesFrom({ user: 42, team: 9_007_199_254_740_993n, org: "acme", role: null, rolegroup: undefined, feature: "" })).toEqual({
      user: "42",
      team: "9007199254740993",
      org: "acme",
    });
  });

  test.each([[{}], [["a"]], [true], [new Date(0)], [() => "alice"], [Symbol("x")]])("%s is refused by name", (value) => {
    expect(refusalOf(() => scopesFrom({ user: value }))).toMatchObject({ code: "scope_invalid", scope: "user" });
  });

  test.each([[NaN], [Infinity], [-Infinity], [1e21]])("%d makes no usable value or a literal one, never an exception of another kind", (value) => {
    try {
      expect(scopesFrom({ user: value }).user).toMatch(/^[A-Za-z0-9._@:-]{1,128}$/);
    } catch (error) {
      expect(error).toMatchObject({ code: "scope_invalid" });
    }
  });

  test.each(["alice", ["alice"], 7, () => ({})])("%j is no scopes, and said so: a limit that is not required would let it pass", (given) => {
    expect(() => scopesFrom(given as never)).toThrow("scopes: expected an object such as { user: req.user?.id }");
  });

  test.each([null, undefined])("%s is none", (given) => expect(scopesFrom(given)).toEqual({}));

  test("is frozen, and a name from the prototype changes no prototype", () => {
    const given = JSON.parse('{"__proto__":"alice","constructor":"bob","user":"eve"}') as Record<string, string>;
    const scopes = scopesFrom(given);
    expect(Object.isFrozen(scopes)).toBe(true);
    expect(scopes.user).toBe("eve");
    expect(Object.getPrototypeOf(scopes)).toBe(Object.prototype);
    expect(({} as Record<string, unknown>).user).toBeUndefined();
  });
});
