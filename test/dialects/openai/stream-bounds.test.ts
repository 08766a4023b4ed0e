import { describe, expect, test } from "vitest";
import { openaiObserver } from "../../../src/dialects/openai/stream.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { chunk, event, FIVE_SIX, FIVE_SIX_USAGE, observe, usageChunk } from "./stream-kit.ts";
import { keptBytes } from "../../helpers/kept-bytes.ts";

const MIB = 1024 * 1024;
const STOP = event(chunk({}, { finish_reason: "stop" }));
const observer = (hideUsage: boolean) => openaiObserver({ hideUsage, countTokens: (text) => text.length });

describe.each([[true], [false]])("an event without end (usage hidden: %s)", (hideUsage) => {
  test("is a protocol error as soon as it is larger than 1 MiB", () => {
    const watched = observer(hideUsage);
    watched.push(Buffer.from(event(chunk({ content: "a" }))));
    const piece = Buffer.alloc(64 * 1024, "x");
    watched.push(Buffer.from("data: "));
    for (let i = 0; i < 15; i += 1) watched.push(piece);
    expect(refusalOf(() => [watched.push(piece), watched.push(piece)])).toMatchObject({ code: "upstream_protocol", status: 502 });
  });

  test("at 1 MiB less a little is still an event", () => {
    const text = event(chunk({ content: "x".repeat(MIB - 1_000) })) + STOP + event("[DONE]");
    const parts = Array.from({ length: Math.ceil(text.length / 65_536) }, (_, i) => Buffer.from(text.slice(i * 65_536, (i + 1) * 65_536)));
    expect(observe(parts, hideUsage)).toMatchObject({ forwarded: text, complete: true, delivered: MIB - 1_000 });
  });

  test.each([
    ["whole events", (text: string) => [text]],
    ["the empty line in a write of its own", (text: string) => [text.slice(0, -1), "\n"]],
    ["the first byte in a write of its own", (text: string) => [text.slice(0, 1), text.slice(1)]],
    ["the empty line with the next event", (text: string) => [`\n${text.slice(0, -1)}`]],
  ])("is not what 3 MiB of small events are: %s", (_name, split) => {
    const watched = observer(hideUsage);
    const text = event(chunk({ content: "y".repeat(1_000) }));
    let size = 0;
    while (size < 3 * MIB) {
      for (const part of split(text)) {
        watched.push(Buffer.from(part));
        size += part.length;
      }
    }
    expect(watched.deliveredTokens()).toBeGreaterThan(2 * MIB);
  });

  test("nor what 3 MiB of events that end with CR are", () => {
    const watched = observer(hideUsage);
    const text = Buffer.from(event(chunk({ content: "y".repeat(1_000) }), "\r"));
    for (let size = 0; size < 3 * MIB; size += text.length) watched.push(text);
    expect(watched.deliveredTokens()).toBeGreaterThan(2 * MIB);
  });
});

test("20 MiB of stream keep less than 4 MiB", () => {
  const text = event(chunk({ content: "words and ".repeat(40) }));
  // The code that the engine makes of ours on the way is not the stream's memory: it is made before the measuring begins.
  const warming = observer(true);
  for (let i = 0; i < 20_000; i += 1) warming.push(Buffer.from(text));
  const watched = observer(true);
  const before = keptBytes();
  let most = 0;
  for (let size = 0, i = 0; size < 20 * MIB; size += text.length, i += 1) {
    watched.push(Buffer.from(text));
    if (i % 10_000 === 9_999) most = Math.max(most, keptBytes() - before);
  }
  most = Math.max(most, keptBytes() - before);
  expect(most).toBeLessThan(4 * MIB);
  watched.push(Buffer.from(STOP + event(usageChunk(FIVE_SIX)) + event("[DONE]")));
  expect(watched.end().complete).toBe(true);
  expect(watched.usage()).toEqual(FIVE_SIX_USAGE);
});

describe("text that is made to fool whoever looks only at the end", () => {
  /** Wherever the last bytes are cut off, the cut may fall in front of any of these. */
  const bait = "data: [DONE] ";
  test.each(Array.from(bait, (_, shift) => [shift]))("[DONE] inside text is not the end (shifted by %i)", (shift) => {
    const text = event(chunk({ content: bait.repeat(800) + ".".repeat(shift) })) + event({ ...chunk({ content: "x" }), usage: FIVE_SIX });
    expect(observe([Buffer.from(text)], false)).toMatchObject({ complete: false, usage: FIVE_SIX_USAGE });
  });

  test("[DONE] inside text is not the end where a write happens to begin", () => {
    const body = event({ ...chunk({ content: `${"z".repeat(66_000)}data: [DONE]` }), usage: FIVE_SIX });
    const at = body.indexOf("data: [DONE]");
    expect(observe([Buffer.from(body.slice(0, at)), Buffer.from(body.slice(at))], false).complete).toBe(false);
  });

  test("usage inside text counts for nothing, wherever the text is cut", () => {
    const lie = '\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n';
    for (let shift = 0; shift < lie.length; shift += 1) {
      const text = event(chunk({ content: lie.repeat(100) + ".".repeat(shift) })) + STOP + event("[DONE]");
      expect(observe([Buffer.from(text)], false)).toMatchObject({ complete: true, usage: null });
    }
  });

  test("usage inside a tool call's arguments counts for nothing", () => {
    const args = JSON.stringify({ usage: FIVE_SIX, choices: [] });
    const text = event(chunk({ tool_calls: [{ index: 0, function: { name: "f", arguments: args } }] })) + STOP + event("[DONE]");
    expect(observe([Buffer.from(text)], true)).toMatchObject({ forwarded: text, complete: true, usage: null, delivered: args.length + 1 });
  });
});
