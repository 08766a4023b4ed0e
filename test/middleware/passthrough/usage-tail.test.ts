import { describe, expect, test } from "vitest";
import { usageTail } from "../../../src/middleware/passthrough/usage-tail.ts";

const USAGE = { input_tokens: 10, output_tokens: 20 };
const PAD = "A".repeat(200_000);

function tokensIn(text: string, events = false, chunk = 1_000): number | null {
  const tail = usageTail(events);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += chunk) tail.push(bytes.subarray(at, at + chunk));
  const found = tail.found();
  return found && found.usage.inputTokens + found.usage.outputTokens;
}

describe("a JSON answer", () => {
  test.each<[string, string, number | null]>([
    ["small", JSON.stringify({ usage: USAGE }), 30],
    ["spread out", JSON.stringify({ data: [], usage: USAGE }, null, 2), 30],
    ["large, with the usage last", JSON.stringify({ data: PAD, usage: USAGE }), 30],
    ["large, with more behind it", JSON.stringify({ data: PAD, usage: USAGE, size: "1024x1024", background: { a: [1] } }), 30],
    ["large, with the usage far in front", JSON.stringify({ usage: USAGE, data: PAD }), null],
    ["large, with the usage of a part", JSON.stringify({ data: [PAD, { usage: USAGE }] }), null],
    ["large, with a text that names one", JSON.stringify({ data: PAD, text: JSON.stringify({ usage: USAGE }) }), null],
    ["without usage", JSON.stringify({ data: PAD }), null],
    ["with a usage of null", JSON.stringify({ data: PAD, usage: null }), null],
    ["with counts that are none", JSON.stringify({ usage: { input_tokens: -1, output_tokens: "20" } }), null],
    ["that is no JSON", `"usage": {${PAD}`, null],
    ["that is empty", "", null],
  ])("%s", (_what, text, tokens) => {
    for (const chunk of [1, 77, 65_536]) if (chunk > 1 || text.length < 1_000) expect(tokensIn(text, false, chunk)).toBe(tokens);
  });
});

describe("server-sent events", () => {
  const event = (data: object, end = "\n"): string => `event: x${end}data: ${JSON.stringify(data)}${end}${end}`;

  test.each<[string, string, number | null]>([
    ["in the last one", event({ delta: "a" }) + event({ type: "done", usage: USAGE }), 30],
    ["in front of the end mark", `${event({ usage: USAGE })}data: [DONE]\n\n`, 30],
    ["with other line ends", event({ usage: USAGE }, "\r\n"), 30],
    ["with old line ends", event({ usage: USAGE }, "\r"), 30],
    ["in the last of several", event({ usage: { input_tokens: 1, output_tokens: 1 } }) + event({ usage: USAGE }), 30],
    ["behind an image in the same one", event({ b64_json: PAD, usage: USAGE }), 30],
    ["inside its response", event({ type: "response.completed", response: { id: "r", usage: USAGE, metadata: {} } }), 30],
    ["without an end", event({ usage: USAGE }).trimEnd(), 30],
    ["cut off in the middle", event({ usage: USAGE }).slice(0, -10), null],
    ["in none", event({ delta: "a" }), null],
  ])("%s", (_what, text, tokens) => {
    for (const chunk of [13, 65_536]) expect(tokensIn(text, true, chunk)).toBe(tokens);
  });
});

test("no more than the end is kept", () => {
  const behind = (bytes: number): string => JSON.stringify({ a: PAD, usage: USAGE, b: "A".repeat(bytes) });
  expect([tokensIn(behind(64_000)), tokensIn(behind(70_000))]).toEqual([30, null]);
});
