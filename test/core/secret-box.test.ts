import { describe, expect, test } from "vitest";
import { ConfigError, GuardError } from "../../src/core/errors.ts";
import { secretBox } from "../../src/core/secret-box.ts";
import { Secret } from "../../src/core/secret.ts";

const KEY = new Secret("0123456789abcdef0123456789abcdef");
const OTHER = new Secret("another key of somebody, 32 long");
const PLACE = "plugin-secrets/bot/token";
const TOKEN = "12345:canary-токен";

const flipped = (sealed: string, at: number): string => {
  const bytes = Buffer.from(sealed, "base64url");
  bytes[at < 0 ? bytes.length + at : at] = (bytes[at < 0 ? bytes.length + at : at] as number) ^ 1;
  return bytes.toString("base64url");
};

describe("a secret box", () => {
  const box = secretBox(KEY, "test");

  test("opens what it sealed, and what another box of the same key and purpose sealed", () => {
    expect(box.open(box.seal(TOKEN, PLACE), PLACE).reveal()).toBe(TOKEN);
    expect(secretBox(new Secret(KEY.reveal()), "test").open(box.seal(TOKEN, PLACE), PLACE).reveal()).toBe(TOKEN);
  });

  test("hides the value, and never seals the same twice", () => {
    const sealed = Array.from({ length: 200 }, () => Buffer.from(box.seal(TOKEN, PLACE), "base64url"));
    for (const bytes of sealed) expect(bytes.includes(Buffer.from("canary"))).toBe(false);
    // 12 bytes behind the head: a nonce that comes twice gives the key's stream away.
    expect(new Set(sealed.map((bytes) => bytes.subarray(5, 17).toString("hex"))).size).toBe(200);
    expect(new Set(sealed.map((bytes) => bytes.subarray(17).toString("hex"))).size).toBe(200);
  });

  test("does not open at another place", () => {
    const sealed = box.seal(TOKEN, PLACE);
    const thrown = (): unknown => box.open(sealed, "plugin-secrets/other/token");
    expect(thrown).toThrow(GuardError);
    expect(thrown).toThrow("plugin-secrets/other/token was changed in the database, or belongs to another place");
  });

  test("says which option is at fault when another key sealed it", () => {
    const thrown = (): unknown => box.open(secretBox(OTHER, "test").seal(TOKEN, PLACE), PLACE);
    expect(thrown).toThrow(ConfigError);
    expect(thrown).toThrow(/^secrets\.key: the secret plugin-secrets\/bot\/token was encrypted with another key; .*QUOTAGUARD_SECRET_KEY/);
  });

  test("is bound to its purpose", () => {
    expect(() => box.open(secretBox(KEY, "another purpose").seal(TOKEN, PLACE), PLACE)).toThrow(ConfigError);
  });

  test.each([
    ["the nonce", 6],
    ["the text", 20],
    ["the tag", -1],
  ])("notices a changed bit in %s", (_what, at) => {
    expect(() => box.open(flipped(box.seal(TOKEN, PLACE), at), PLACE)).toThrow("was changed in the database");
  });

  test.each([
    ["", "was changed"],
    ["AAAA", "was changed"],
    ["!!", "was changed"],
  ])("refuses %j", (sealed, why) => {
    expect(() => box.open(sealed, PLACE)).toThrow(why);
  });

  test("knows what a newer version wrote", () => {
    const bytes = Buffer.from(box.seal(TOKEN, PLACE), "base64url");
    bytes[0] = 2;
    expect(() => box.open(bytes.toString("base64url"), PLACE)).toThrow("newer version of quotaguard");
  });

  test("no error repeats a value or a key", () => {
    const sealed = box.seal(TOKEN, PLACE);
    for (const run of [() => box.open(sealed, "x"), () => secretBox(OTHER, "test").open(sealed, PLACE), () => box.open(sealed.slice(4), PLACE)]) {
      let text = "";
      try {
        run();
      } catch (error) {
        text = `${String(error)} ${JSON.stringify(error)} ${(error as Error).stack ?? ""}`;
      }
      expect(text).not.toBe("");
      for (const secret of ["canary", KEY.reveal(), OTHER.reveal(), sealed]) expect(text).not.toContain(secret);
    }
  });
});
