import { describe, expect, test } from "vitest";
import { chunk, cuts, event, FIVE_SIX, FIVE_SIX_USAGE, observe, usageChunk } from "./stream-kit.ts";

const HI = chunk({ role: "assistant", content: "Hé😀" });
const STOP = chunk({}, { finish_reason: "stop" });
const TEXT = "Hé😀".length;
const streamOf = (end: string, ...bodies: (object | string)[]): string => bodies.map((body) => event(body, end)).join("");

interface Case {
  readonly name: string;
  readonly bodies: readonly (object | string)[];
  readonly complete: boolean;
  readonly usage: typeof FIVE_SIX_USAGE | null;
  readonly delivered: number;
}

const CASES: readonly Case[] = [
  { name: "usage in a chunk of its own", bodies: [HI, STOP, usageChunk(FIVE_SIX), "[DONE]"], complete: true, usage: FIVE_SIX_USAGE, delivered: TEXT },
  {
    name: "usage in the finish chunk",
    bodies: [HI, chunk({}, { finish_reason: "stop", usage: FIVE_SIX }), "[DONE]"],
    complete: true,
    usage: FIVE_SIX_USAGE,
    delivered: TEXT,
  },
  {
    name: "usage null on every chunk",
    bodies: [{ ...HI, usage: null }, { ...STOP, usage: null }, "[DONE]"],
    complete: true,
    usage: null,
    delivered: TEXT,
  },
  {
    name: "usage null on every chunk but one",
    bodies: [{ ...HI, usage: null }, { ...STOP, usage: FIVE_SIX }, { ...usageChunk({}), usage: null }, "[DONE]"],
    complete: true,
    usage: FIVE_SIX_USAGE,
    delivered: TEXT,
  },
  {
    name: "usage that grows from chunk to chunk",
    bodies: [{ ...HI, usage: { prompt_tokens: 5, completion_tokens: 1 } }, { ...STOP, usage: FIVE_SIX }, "[DONE]"],
    complete: true,
    usage: FIVE_SIX_USAGE,
    delivered: TEXT,
  },
  {
    name: "usage that nobody can have",
    bodies: [HI, STOP, usageChunk({ prompt_tokens: -1, completion_tokens: 1e18 }), "[DONE]"],
    complete: true,
    usage: null,
    delivered: TEXT,
  },
  { name: "no usage", bodies: [HI, chunk({ content: "!" }), STOP, "[DONE]"], complete: true, usage: null, delivered: TEXT + 1 },
  { name: "no [DONE] but a finish reason", bodies: [HI, STOP], complete: true, usage: null, delivered: TEXT },
  {
    name: "no [DONE], a finish reason, then usage",
    bodies: [HI, STOP, usageChunk(FIVE_SIX)],
    complete: true,
    usage: FIVE_SIX_USAGE,
    delivered: TEXT,
  },
  { name: "[DONE] without a finish reason", bodies: [HI, "[DONE]"], complete: true, usage: null, delivered: TEXT },
  { name: "neither", bodies: [HI, HI], complete: false, usage: null, delivered: 2 * TEXT },
  { name: "neither, but usage as it goes", bodies: [{ ...HI, usage: FIVE_SIX }], complete: false, usage: FIVE_SIX_USAGE, delivered: TEXT },
  {
    name: "generated text that looks like the end and like usage",
    bodies: [chunk({ content: 'data: [DONE]\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n"choices":[]' })],
    complete: false,
    usage: null,
    delivered: 'data: [DONE]\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n"choices":[]'.length,
  },
  {
    name: "a usage that belongs to something else",
    bodies: [chunk({ content: "a", usage: { prompt_tokens: 1 } }), { choices: [], x: { usage: { prompt_tokens: 1 } } }, "[DONE]"],
    complete: true,
    usage: null,
    delivered: 1,
  },
  {
    name: "tool calls, reasoning and a refusal",
    bodies: [
      chunk({ reasoning_content: "think" }),
      chunk({ tool_calls: [{ index: 0, function: { name: "get", arguments: "" } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: '{"city":"Oslo"}' } }] }),
      chunk({ refusal: "no" }),
      chunk({ function_call: { arguments: "{}" } }),
      STOP,
      "[DONE]",
    ],
    complete: true,
    usage: null,
    delivered: "thinkget".length + '{"city":"Oslo"}'.length + "no{}".length,
  },
  {
    name: "completions of old",
    bodies: [{ choices: [{ text: "ab", index: 0, finish_reason: null }] }, { choices: [{ text: "", finish_reason: "length" }] }, "[DONE]"],
    complete: true,
    usage: null,
    delivered: 2,
  },
  {
    name: "two choices",
    bodies: [{ choices: [{ delta: { content: "ab" } }, { delta: { content: "cd" } }] }, "[DONE]"],
    complete: true,
    usage: null,
    delivered: 4,
  },
  { name: "events that are no JSON or no object", bodies: ["{", "3", '"x"', "null", HI, "[DONE]"], complete: true, usage: null, delivered: TEXT },
  { name: "nothing", bodies: [], complete: false, usage: null, delivered: 0 },
];

describe.each([
  ["LF", "\n"],
  ["CRLF", "\r\n"],
  ["CR", "\r"],
])("framed by %s, cut at every byte", (_name, end) => {
  test.each(CASES)("$name", ({ bodies, complete, usage, delivered }) => {
    const text = streamOf(end, ...bodies);
    for (const parts of cuts(text)) expect(observe(parts, false)).toEqual({ forwarded: text, complete, usage, delivered });
  });

  test.each(CASES)("$name, usage hidden", ({ bodies, complete, usage, delivered }) => {
    const text = streamOf(end, ...bodies);
    const isHidden = (body: object | string): boolean =>
      typeof body === "object" && "usage" in body && body.usage !== null && (body as { choices?: unknown[] }).choices?.length === 0;
    const shown = streamOf(end, ...bodies.filter((body) => !isHidden(body)));
    for (const parts of cuts(text)) expect(observe(parts, true)).toEqual({ forwarded: shown, complete, usage, delivered });
  });
});

describe("the usage chunk that the client did not ask for", () => {
  test.each<[string, string]>([
    ["as most write it", '{"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}'],
    ["with a space", '{"id": "x", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}'],
    ["with more spaces", '{ "id" : "x", "choices" : [ ], "usage" : { "prompt_tokens" : 5, "completion_tokens" : 6 } }'],
    ["usage first", '{"usage":{"prompt_tokens":5,"completion_tokens":6},"choices":[]}'],
  ])("stays away: %s", (_name, text) => {
    const seen = observe([Buffer.from(event(HI) + event(STOP) + event(text) + event("[DONE]"))], true);
    const { raw: _figures, ...counts } = FIVE_SIX_USAGE;
    expect(seen).toMatchObject({ forwarded: event(HI) + event(STOP) + event("[DONE]"), complete: true, usage: counts });
  });

  test("stays away however many there are, in either spelling", () => {
    const loose = event('{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}');
    const tight = event(usageChunk(FIVE_SIX));
    const text = loose + event(HI) + tight + loose + event(STOP) + tight + event("[DONE]");
    for (const parts of cuts(text)) expect(observe(parts, true).forwarded).toBe(event(HI) + event(STOP) + event("[DONE]"));
  });

  test("stays away when its empty line never comes", () => {
    const text = event(HI) + event(STOP) + event(usageChunk(FIVE_SIX)).trimEnd();
    expect(observe([Buffer.from(text)], true)).toMatchObject({ forwarded: event(HI) + event(STOP), usage: FIVE_SIX_USAGE });
  });

  test("is not confused with a first chunk of content filters", () => {
    const filters = event({ choices: [], prompt_filter_results: [], usage: null });
    expect(observe([Buffer.from(filters + event(HI) + event("[DONE]"))], true).forwarded).toBe(filters + event(HI) + event("[DONE]"));
  });

  test("takes its comments and other fields along, and leaves those of others", () => {
    const text = `: ping\n\nid: 1\n${event(HI)}id: 2\n${event(usageChunk(FIVE_SIX))}: pong\n\n${event("[DONE]")}`;
    expect(observe([Buffer.from(text)], true).forwarded).toBe(`: ping\n\nid: 1\n${event(HI)}: pong\n\n${event("[DONE]")}`);
  });
});

describe("while the stream runs", () => {
  test("a client that leaves is told what was delivered and reported so far", async () => {
    const { openaiObserver } = await import("../../../src/dialects/openai/stream.ts");
    const observer = openaiObserver({ hideUsage: false, countTokens: (text) => text.length });
    observer.push(Buffer.from(event(HI)));
    expect([observer.usage(), observer.deliveredTokens()]).toEqual([null, TEXT]);
    observer.push(Buffer.from(event({ ...HI, usage: FIVE_SIX })));
    expect([observer.usage(), observer.deliveredTokens()]).toEqual([FIVE_SIX_USAGE, 2 * TEXT]);
  });

  test("every chunk with text counts for a token at least", () => {
    const parts = Array.from({ length: 40 }, () => event(chunk({ content: "a" }))).join("");
    const seen = observe([Buffer.from(parts + event("[DONE]"))], false);
    expect(seen.delivered).toBe(40);
  });
});
