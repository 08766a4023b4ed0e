import { format, inspect } from "node:util";
import { expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";

const VALUE = "sk-canary-31337";
const secret = new Secret(VALUE);
const holder = { name: "main", apiKey: secret, deep: { list: [secret], map: new Map([["key", secret]]) } };

test("gives its value to whoever asks for it by name", () => {
  expect(secret.reveal()).toBe(VALUE);
});

test.each<[string, () => string]>([
  ["String()", () => String(secret)],
  ["a template", () => `key: ${secret as unknown as string}`],
  ["concatenation", () => "key: " + (secret as unknown as string)],
  ["join", () => [secret].join()],
  ["toLocaleString", () => secret.toLocaleString()],
  ["JSON", () => JSON.stringify(secret)],
  ["JSON, nested", () => JSON.stringify(holder)],
  ["inspect", () => inspect(secret)],
  ["inspect, nested", () => inspect(holder, { depth: null })],
  ["inspect without custom functions", () => inspect(holder, { depth: null, customInspect: false, showHidden: true, getters: true })],
  ["inspect with a proxy", () => inspect(new Proxy(holder, {}), { depth: null, showProxy: true })],
  ["format %s", () => format("%s", secret)],
  ["format %o", () => format("%o", holder)],
  ["format %O", () => format("%O", holder)],
  ["format %j", () => format("%j", holder)],
  ["entries", () => JSON.stringify([Object.entries(secret), Object.getOwnPropertyNames(secret), Reflect.ownKeys(secret).map(String)])],
  ["a copy", () => inspect(Object.assign({}, secret), { showHidden: true })],
  ["a structured clone", () => inspect(structuredClone(secret), { showHidden: true })],
  ["an error's message", () => new Error(secret as unknown as string).message],
  ["an error's cause", () => inspect(new Error("failed", { cause: holder }), { depth: null })],
  ["URLSearchParams", () => String(new URLSearchParams({ key: secret as unknown as string }))],
])("%s does not print it", (_name, print) => {
  expect(print()).not.toContain("canary");
});

test("says that something was left out", () => {
  expect([String(secret), JSON.stringify(secret), inspect(secret)]).toEqual(["[redacted]", '"[redacted]"', "[redacted]"]);
});
