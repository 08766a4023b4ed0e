import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Call, DialectId } from "../../src/core/call.ts";
import { GuardError } from "../../src/core/errors.ts";
import { checkMedia } from "../../src/dialects/media-check.ts";
import { callOf } from "../core/context-kit.ts";

const PNG = `data:image/png;base64,${"A".repeat(64)}`;
const calling = (dialect: DialectId, body: Record<string, unknown>): Call => callOf("m", { dialect, body });

/** The request with one part, in each dialect's own shape. */
const SHAPES = {
  "OpenAI's image": (url: string) => calling("openai", { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }] }),
  "OpenAI's image as text": (url: string) => calling("openai", { messages: [{ role: "user", content: [{ type: "image_url", image_url: url }] }] }),
  "Responses' image": (url: string) => calling("responses", { input: [{ role: "user", content: [{ type: "input_image", image_url: url }] }] }),
  "Responses' tool answer": (url: string) =>
    calling("responses", { input: [{ type: "function_call_output", output: [{ type: "input_image", image_url: url }] }] }),
  "Anthropic's image": (url: string) =>
    calling("anthropic", { messages: [{ role: "user", content: [{ type: "image", source: { type: "url", url } }] }] }),
  "Anthropic's tool answer": (url: string) =>
    calling("anthropic", {
      messages: [{ role: "user", content: [{ type: "tool_result", content: [{ type: "image", source: { type: "url", url } }] }] }],
    }),
  "Gemini's file": (url: string) => calling("gemini", { contents: [{ parts: [{ fileData: { fileUri: url } }] }] }),
  "Gemini's file, snake case": (url: string) => calling("gemini", { contents: [{ parts: [{ file_data: { file_uri: url } }] }] }),
};

const FIELDS: Readonly<Record<keyof typeof SHAPES, string>> = {
  "OpenAI's image": "messages[0].content[0].image_url.url",
  "OpenAI's image as text": "messages[0].content[0].image_url",
  "Responses' image": "input[0].content[0].image_url",
  "Responses' tool answer": "input[0].output[0].image_url",
  "Anthropic's image": "messages[0].content[0].source.url",
  "Anthropic's tool answer": "messages[0].content[0].content[0].source.url",
  "Gemini's file": "contents[0].parts[0].fileData.fileUri",
  "Gemini's file, snake case": "contents[0].parts[0].file_data.file_uri",
};

function paramOf(call: Call): string | undefined | null {
  try {
    checkMedia(call);
    return null;
  } catch (error) {
    if (!GuardError.is(error) || error.code !== "body_invalid") throw error;
    return error.param;
  }
}

describe.each(Object.keys(SHAPES) as (keyof typeof SHAPES)[])("%s", (name) => {
  const shape = SHAPES[name];

  test.each(["https://example.com/a.png", "http://example.com/a.png", "HTTPS://example.com/a.png", PNG])("may be at %.30s", (url) => {
    expect(paramOf(shape(url))).toBeNull();
  });

  test.each([
    "file:///etc/passwd",
    "/etc/passwd",
    "ftp://example.com/a.png",
    "javascript:alert(1)",
    " https://example.com",
    "",
    "data:,hello",
    "data:image/png,hello",
    "data:;base64,AAAA",
    "data:image;base64,AAAA",
    "data:image/png;base64,",
  ])("may not be at %j", (url) => {
    expect(paramOf(shape(url))).toBe(FIELDS[name]);
  });

  test("has an end", () => {
    expect(paramOf(shape(`data:image/png;base64,${"A".repeat(69_905_068)}`))).toBe(FIELDS[name]);
  });
});

test("a bucket of Google's is for Google's models", () => {
  expect(paramOf(SHAPES["Gemini's file"]("gs://bucket/a.pdf"))).toBeNull();
  expect(paramOf(SHAPES["OpenAI's image"]("gs://bucket/a.png"))).toBe(FIELDS["OpenAI's image"]);
});

test("bytes have a media type, and there are some", () => {
  const claude = (source: object): Call =>
    calling("anthropic", { messages: [{ role: "user", content: [{ type: "image", source: { type: "base64", ...source } }] }] });
  expect(paramOf(claude({ media_type: "image/png", data: "AAAA" }))).toBeNull();
  expect(paramOf(claude({ media_type: "png", data: "AAAA" }))).toBe("messages[0].content[0].source.media_type");
  expect(paramOf(claude({ media_type: "image/png" }))).toBe("messages[0].content[0].source.data");
  const gemini = (inlineData: object): Call => calling("gemini", { contents: [{ parts: [{ inlineData }] }] });
  expect(paramOf(gemini({ mimeType: "image/png", data: "AAAA" }))).toBeNull();
  expect(paramOf(gemini({ data: "AAAA" }))).toBe("contents[0].parts[0].inlineData.mime_type");
});

test("there are no more than can be meant", () => {
  const content = Array.from({ length: 3_001 }, () => ({ type: "image_url", image_url: { url: PNG } }));
  expect(paramOf(calling("openai", { messages: [{ role: "user", content: content.slice(1) }] }))).toBeNull();
  expect(paramOf(calling("openai", { messages: [{ role: "user", content }] }))).toBe("messages[0].content[3000].image_url.url");
});

test("what is no medium is not looked at: a tool may be given any address", () => {
  const input = { type: "image", url: "file:///etc/passwd", source: { type: "url", url: "file:///x" } };
  expect(paramOf(calling("anthropic", { messages: [{ role: "assistant", content: [{ type: "tool_use", id: "1", name: "f", input }] }] }))).toBeNull();
  expect(paramOf(calling("gemini", { contents: [{ parts: [{ functionCall: { name: "f", args: { fileData: { fileUri: "x" } } } }] }] }))).toBeNull();
});

test("any JSON is taken or refused, never a fault", () => {
  fc.assert(
    fc.property(fc.constantFrom<DialectId>("openai", "responses", "anthropic", "gemini"), fc.jsonValue({ maxDepth: 6 }), (dialect, value) => {
      const part = { type: "image", source: value, image_url: value, inlineData: value, fileData: value, content: value, parts: value };
      for (const each of [value, [value], [{ content: [part], parts: [part] }]]) {
        paramOf(calling(dialect, { messages: each, input: each, contents: each, system: each }));
      }
    }),
    { numRuns: 1_000 },
  );
});
