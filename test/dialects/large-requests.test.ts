// As large as a body may be: nothing in it may cost more than its size. Each of these took seconds to minutes of everybody's time.
import { expect, test } from "vitest";
import type { DialectId, WireId } from "../../src/core/call.ts";
import { codecOf, dialect } from "../../src/dialects/index.ts";
import { losses } from "../../src/dialects/losses.ts";
import type { JsonObject } from "../../src/dialects/message.ts";

const list = <T>(length: number, of: (i: number) => T): readonly T[] => Array.from({ length }, (_, i) => of(i));
const fields = (length: number, of: (i: number) => readonly [string, unknown]): JsonObject => Object.fromEntries(list(length, of));

function translated(from: DialectId, to: WireId, body: JsonObject): { readonly body: JsonObject; readonly cpuMs: number } {
  const lost = losses(true);
  const begun = process.threadCpuUsage();
  const request = dialect(from).codec.decodeRequest(body, { model: "some-model", stream: false }, lost);
  const sent = codecOf(to).encodeRequest(request, { losses: lost, family: to === "gemini" ? "gemini" : "anthropic" });
  const { user, system } = process.threadCpuUsage(begun);
  return { body: sent.body, cpuMs: (user + system) / 1_000 };
}

const withSchema = (parameters: JsonObject): JsonObject => ({ messages: [], tools: [{ type: "function", function: { name: "x", parameters } }] });
const MANY = 10_000;
const called = {
  messages: [
    { role: "assistant", tool_calls: list(MANY, (i) => ({ id: `c${i}`, type: "function", function: { name: "f", arguments: "{}" } })) },
    ...list(MANY, (i) => ({ role: "tool", tool_call_id: `c${MANY - 1 - i}`, content: "x" })),
  ],
};
const named = { messages: [], tools: list(20_000, (i) => ({ type: "function", function: { name: String.fromCharCode(0x4e00 + i) } })) };
const grouped = { input: "x", tools: [{ type: "namespace", name: "g", tools: list(20_000, () => ({ type: "function", name: "f" })) }] };
const referring = withSchema({ $ref: "#/$defs/d0", $defs: fields(30_000, (i) => [`d${i}`, { $ref: `#/$defs/d${i + 1}` }]) });
const wide = withSchema({
  type: "object",
  properties: fields(5_000, (i) => [`p${i}`, { $ref: "#/$defs/b" }]),
  $defs: { b: fields(40_000, (i) => [`k${i}`, 1]) },
});
const parts = (union: string): JsonObject =>
  withSchema({ type: "object", [union]: list(6_000, (i) => ({ properties: fields(3, (n) => [`p${i}_${n}`, {}]), required: [`p${i}_1`] })) });

test.each([
  ["calls and their answers", "openai", "gemini", called],
  ["calls and their answers", "openai", "anthropic", called],
  ["calls and their answers", "openai", "kiro", called],
  ["names that become the same", "openai", "gemini", named],
  ["names that become the same", "openai", "anthropic", named],
  ["names that become the same", "openai", "kiro", named],
  ["a group of one name", "responses", "gemini", grouped],
  ["references to references", "openai", "gemini", referring],
  ["references to one large schema", "openai", "gemini", wide],
  ["a schema of many", "openai", "gemini", parts("allOf")],
  ["a schema of many", "openai", "anthropic", parts("allOf")],
  ["a schema of any", "openai", "anthropic", parts("anyOf")],
] as const)("%s, from %s to %s", (_what, from, to, body) => {
  expect(translated(from, to, body as JsonObject).cpuMs).toBeLessThan(1_500);
});

test("names that become the same stay apart, long ones too", () => {
  const long = "n".repeat(64);
  const names = ["a工", "a業", "a作", `${long}1`, `${long}2`, `${long.slice(0, 62)}業業業`, `${long}3`];
  const { body } = translated("openai", "gemini", { messages: [], tools: names.map((name) => ({ type: "function", function: { name } })) });
  const [tool] = body.tools as readonly { readonly functionDeclarations: readonly { readonly name: string }[] }[];
  const sent = tool?.functionDeclarations.map(({ name }) => name) ?? [];
  expect(new Set(sent).size).toBe(names.length);
  expect(sent.every((name) => /^[\w-]{1,64}$/.test(name))).toBe(true);
});

test("an id that is used in each turn is answered in each", () => {
  const call = { role: "assistant", tool_calls: [{ id: "call_0", type: "function", function: { name: "f", arguments: "{}" } }] };
  const answer = (content: string): JsonObject => ({ role: "tool", tool_call_id: "call_0", content });
  const { body } = translated("openai", "anthropic", { messages: [call, answer("one"), call, answer("two")] });
  const results = (body.messages as readonly { readonly content: readonly JsonObject[] }[]).flatMap(({ content }) =>
    content.map((each) => each.content),
  );
  expect(JSON.stringify(results)).toMatch(/one.*two/);
});

test("a format that is named like a member of every object", () => {
  const audio = { type: "input_audio", input_audio: { format: "constructor", data: "aaaa" } };
  const { body } = translated("openai", "gemini", { messages: [{ role: "user", content: [audio] }] });
  expect(JSON.stringify(body)).toContain('"mimeType":"audio/constructor"');
});

test("a schema whose description is no text", () => {
  const { body } = translated("openai", "gemini", withSchema({ properties: { a: { $ref: "", description: { toString: 1 } } } }));
  expect(JSON.stringify(body)).toContain("see ");
});
