// What a first reader sees. That the snippets run, and that the links lead somewhere, is test/docs/snippets.test.ts.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const README = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const FIRST_SCREEN_LINES = 50;

test("the first snippet is at most ten lines, installs before it, and shows its refusal", () => {
  const [install, snippet, calls, refusal] = [...README.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)];
  expect([install?.[1], snippet?.[1], calls?.[1], refusal?.[1]]).toEqual(["sh", "js", "sh", "http"]);
  expect(install?.[2]).toBe("npm install quotaguard express\n");
  expect(snippet?.[2]?.trimEnd().split("\n").length).toBeLessThanOrEqual(10);
  expect(refusal?.[2]).toMatch(/^HTTP\/1\.1 429 /);
  expect(README.slice(0, refusal?.index).split("\n").length).toBeLessThan(FIRST_SCREEN_LINES);
});

test("it is no longer than what people read, and says what the promise does not cover", () => {
  expect(README.split("\n").length).toBeLessThanOrEqual(200);
  expect(README).toContain("What it does *not* cover:");
});
