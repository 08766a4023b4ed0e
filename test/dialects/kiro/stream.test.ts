import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ProviderCodec } from "../../../src/dialects/codec.ts";
import { collectedAnswer } from "../../../src/dialects/collected-answer.ts";
import { codecOf } from "../../../src/dialects/index.ts";
import type { ChatAnswer, ChatEvent } from "../../../src/dialects/message.ts";
import { same } from "../codec-kit.ts";
import { answers, thinkingBlock } from "../generators.ts";
import { exception, frame, rawFrame, stream, streamed, type KiroEvent } from "./kit.ts";

const kiro: ProviderCodec = codecOf("kiro");

/** Cut behind each of these places. */
function decoded(bytes: Buffer, ...cuts: readonly number[]): readonly ChatEvent[] {
  const decoder = kiro.decoder({ toolName: same, unwrap: undefined });
  const places = [0, ...cuts, bytes.length];
  const events = places.slice(1).flatMap((to, i) => decoder.push(bytes.subarray(places[i], to)));
  return [...events, ...decoder.end()];
}

function answered(bytes: Buffer): ChatAnswer | null {
  const answer = collectedAnswer();
  answer.push(decoded(bytes));
  return answer.answer();
}

const TOKENS = { uncachedInputTokens: 3, cacheReadInputTokens: 2, cacheWriteInputTokens: 1, outputTokens: 4, totalTokens: 10 };
const SAID: KiroEvent = ["assistantResponseEvent", { content: "hé" }];
const METERED: KiroEvent = ["meteringEvent", { unit: "credit", usage: 0.1 }];
const ALL = stream(
  ["initial-response", { conversationId: "c" }],
  ["reasoningContentEvent", { text: "hm" }],
  ["reasoningContentEvent", { signature: "c2ln" }],
  SAID,
  ["assistantResponseEvent", { content: "llo 🙂" }],
  ["toolUseEvent", { toolUseId: "t1", name: "weather", input: '{"city"' }],
  ["toolUseEvent", { toolUseId: "t1", name: "weather", input: ':"Oslo"}' }],
  ["toolUseEvent", { toolUseId: "t1", name: "weather", stop: true }],
  ["supplementaryWebLinksEvent", { supplementaryWebLinks: [] }],
  ["messageStopEvent", { stopReason: "END_TURN" }],
  ["metadataEvent", { tokenUsage: TOKENS }],
  ["contextUsageEvent", { contextUsagePercentage: 12.5 }],
  METERED,
);

const damaged = (bytes: Buffer, at: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] as number) ^ 1;
  return copy;
};

test("a stream with everything", () => {
  const usage = { inputTokens: 3, cacheReadTokens: 2, cacheWriteTokens: 1, outputTokens: 4, reasoningTokens: 0, raw: [TOKENS] };
  expect(answered(ALL)).toEqual({
    id: null,
    model: null,
    usage,
    choices: [
      {
        index: 0,
        stop: "tool_calls",
        stopSequence: null,
        blocks: [
          { type: "thinking", text: "hm", signature: { family: "anthropic", value: "c2ln" } },
          { type: "text", text: "héllo 🙂" },
          { type: "tool_call", id: "t1", name: "weather", input: '{"city":"Oslo"}' },
        ],
      },
    ],
  });
});

test("it may be cut at any byte", () => {
  const whole = decoded(ALL);
  for (let at = 1; at < ALL.length; at += 1) expect(decoded(ALL, at)).toEqual(whole);
  expect(decoded(ALL, ...Array.from({ length: ALL.length - 1 }, (_, i) => i + 1))).toEqual(whole);
});

test("what ends too soon never ends well: inside a frame it is a fault, between two it has no end", () => {
  // Up to the end of the call, behind which nothing has to come.
  const ends = [...frames(ALL)];
  const boundaries = new Set(ends);
  for (let at = 1; at < ALL.length; at += 1) {
    const part = ALL.subarray(0, at);
    if (!boundaries.has(at)) expect(() => decoded(part)).toThrow(expect.objectContaining({ code: "upstream_protocol" }) as Error);
  }
  expect(ends.map((at) => decoded(ALL.subarray(0, at)).at(-1)?.type === "end")).toEqual([
    ...Array<boolean>(7).fill(false),
    ...Array<boolean>(6).fill(true),
  ]);
  expect(decoded(Buffer.alloc(0))).toEqual([]);
});

function* frames(bytes: Buffer): Generator<number> {
  for (let at = 0; at < bytes.length; yield at) at += bytes.readUInt32BE(at);
}

test("the law: what was streamed is what is understood, in fragments of any size, cut anywhere", () => {
  const hidden = fc.constant({ type: "redacted_thinking" as const, signature: { family: "anthropic" as const, value: "aGlkZGVu" } });
  fc.assert(
    fc.property(answers([thinkingBlock("anthropic"), hidden]), fc.integer({ min: 1, max: 9 }), fc.array(fc.nat()), (answer, step, wishes) => {
      const bytes = streamed(answer, step);
      const cuts = wishes.map((wish) => wish % bytes.length).toSorted((a, b) => a - b);
      const collected = collectedAnswer();
      collected.push(decoded(bytes, ...cuts));
      const [choice] = answer.choices;
      const { usage } = answer;
      // Thoughts are not counted apart here.
      const used = usage && { ...usage, outputTokens: usage.outputTokens + usage.reasoningTokens, reasoningTokens: 0 };
      const understood = collected.answer();
      expect(understood?.choices).toEqual([choice]);
      expect(understood?.usage).toEqual(used && { ...used, raw: understood?.usage?.raw });
    }),
    { numRuns: 300 },
  );
});

test.each<[string, Buffer]>([
  ["a damaged prelude", damaged(ALL, 9)],
  ["a damaged header", damaged(ALL, 14)],
  ["a damaged payload", damaged(ALL, ALL.length - 6)],
  ["a damaged checksum", damaged(ALL, ALL.length - 1)],
  ["a length without room for itself", Buffer.alloc(12)],
  ["a length of 4 GB", Buffer.alloc(12, 0xff)],
  ["no event stream", Buffer.from('data: {"type":"message_start"}\n\n')],
])("%s is a fault of the provider's", (_name, bytes) => {
  expect(() => decoded(bytes)).toThrow(expect.objectContaining({ code: "upstream_protocol" }) as Error);
});

test("headers that reach over their frame are a fault of the provider's", () => {
  const long = rawFrame({ ":event-type": "x" }, "{}");
  long.writeUInt32BE(4_000, 4);
  expect(() => decoded(long)).toThrow(expect.objectContaining({ code: "upstream_protocol" }) as Error);
});

test("a frame of 10 MB passes, in small pieces; of a larger one only the beginning is read", () => {
  const content = "x".repeat(10 * 1024 * 1024 - 200);
  const large = Buffer.concat([frame(["assistantResponseEvent", { content }]), frame(METERED)]);
  const cuts = Array.from({ length: Math.floor(large.length / 4_096) }, (_, i) => (i + 1) * 4_096);
  expect(decoded(large, ...cuts).flatMap((event) => (event.type === "delta" ? [event.text.length] : []))).toEqual([content.length]);
  const larger = frame(["assistantResponseEvent", { content: `${content}${"x".repeat(400)}` }]);
  const decoder = kiro.decoder({ toolName: same, unwrap: undefined });
  expect(() => decoder.push(larger.subarray(0, 12))).toThrow("the upstream's event stream has a frame of");
});

test("anything at all is understood or a fault of the provider's, and nothing else", () => {
  const payload = fc.oneof(fc.json(), fc.string());
  const type = fc.constantFrom(
    "assistantResponseEvent",
    "toolUseEvent",
    "reasoningContentEvent",
    "metadataEvent",
    "messageStopEvent",
    "invalidStateEvent",
    "x",
  );
  const kind = fc.constantFrom("event", "exception", "error", "x");
  const some = fc
    .tuple(kind, type, payload)
    .map(([message, event, body]) => rawFrame({ ":message-type": message, ":event-type": event, flag: true }, body));
  const bytes = fc.oneof(
    fc.array(some).map((all) => Buffer.concat(all)),
    fc.uint8Array().map((all) => Buffer.from(all)),
  );
  fc.assert(
    fc.property(bytes, (all) => {
      try {
        decoded(all);
      } catch (error) {
        expect(error).toMatchObject({ code: "upstream_protocol" });
      }
    }),
  );
});

describe("calls", () => {
  const call = (more: object): KiroEvent => ["toolUseEvent", { toolUseId: "t1", name: "f", ...more }];
  const callsIn = (bytes: Buffer) =>
    answered(bytes)?.choices[0]?.blocks.flatMap((block) => (block.type === "tool_call" ? [[block.id, block.name, block.input]] : []));

  test("an input may come as an object, and a fragment without its id belongs to the call before", () => {
    expect(callsIn(stream(call({ input: { a: 1 }, stop: true })))).toEqual([["t1", "f", '{"a":1}']]);
    expect(callsIn(stream(call({ input: "{" }), ["toolUseEvent", { input: "}" }], ["toolUseEvent", { stop: true }]))).toEqual([["t1", "f", "{}"]]);
  });

  test("calls that are written at one time, and one that is told twice", () => {
    const other = (more: object): KiroEvent => ["toolUseEvent", { toolUseId: "t2", name: "g", ...more }];
    const bytes = stream(
      call({ input: "{" }),
      other({ input: "[" }),
      call({ input: "}" }),
      call({ stop: true }),
      other({ input: "]", stop: true }),
      call({ input: "{}", stop: true }),
    );
    expect(callsIn(bytes)).toEqual([
      ["t1", "f", "{}"],
      ["t2", "g", "[]"],
    ]);
  });

  test("a call that never ends is no answer; where the provider says that it is over, it is", () => {
    const begun = [call({ input: '{"a' })];
    expect(answered(stream(...begun))).toBeNull();
    expect(answered(stream(...begun, ["toolUseEvent", { toolUseId: "t2", name: "g", stop: true }]))).toBeNull();
    expect(callsIn(stream(...begun, ["messageStopEvent", { stopReason: "MAX_TOKENS" }]))).toEqual([["t1", "f", '{"a']]);
  });

  test("an end without a beginning is nothing, and names are the caller's", () => {
    expect(callsIn(stream(SAID, ["toolUseEvent", { toolUseId: "t", stop: true }], METERED))).toEqual([]);
    const decoder = kiro.decoder({ toolName: (sent) => `own ${sent}`, unwrap: undefined });
    expect(decoder.push(stream(call({ stop: true })))).toContainEqual({
      type: "open",
      choice: 0,
      key: 1,
      block: { type: "tool_call", id: "t1", name: "own f" },
    });
  });

  test("more of them than an answer can hold", () => {
    const many = Buffer.concat(Array.from({ length: 10_001 }, (_, i) => frame(call({ toolUseId: `t${i}`, stop: true }))));
    expect(() => decoded(many)).toThrow("more blocks than one answer can hold");
  });
});

describe("why it ended", () => {
  const stopOf = (...events: readonly KiroEvent[]) => answered(stream(SAID, ...events))?.choices[0]?.stop;

  test.each([
    ["END_TURN", "stop"],
    ["end_turn", "stop"],
    ["MAX_TOKENS", "length"],
    ["TOOL_USE", "stop"],
    ["REFUSAL", "content_filter"],
    ["SOMETHING_NEW", "stop"],
    [undefined, "stop"],
  ])("%s is %s", (stopReason, stop) => {
    expect(stopOf(["messageStopEvent", { stopReason }])).toBe(stop);
  });

  test("each of what comes only behind an answer ends it, and nothing else does", () => {
    expect(stopOf(METERED)).toBe("stop");
    expect(stopOf(["contextUsageEvent", { contextUsagePercentage: 1 }])).toBe("stop");
    expect(stopOf(["messageMetadataEvent", { tokenUsage: TOKENS }])).toBe("stop");
    expect(stopOf(["metadataEvent", { metadataEvent: { tokenUsage: TOKENS } }])).toBe("stop");
    expect(stopOf()).toBeUndefined();
    expect(stopOf(["messageMetadataEvent", { conversationId: "c" }])).toBeUndefined();
    expect(stopOf(METERED, SAID)).toBeUndefined();
  });

  test("an answer that grew too long is cut, not failed", () => {
    const cut = exception("ContentLengthExceededException", { message: "too long" });
    expect(answered(Buffer.concat([frame(SAID), cut]))?.choices[0]).toMatchObject({ stop: "length", blocks: [{ text: "hé" }] });
    expect(decoded(cut).at(-1)).toEqual({ type: "error", message: "too long", kind: "ContentLengthExceededException" });
  });
});

describe("failures in the stream", () => {
  test.each<[string, Buffer, string, string | null]>([
    ["an exception", exception("ThrottlingException", { message: "slow down", reason: "BUSY" }), "slow down", "BUSY"],
    [
      "an exception without words",
      exception("com.amazon#InternalServerException:http://x", {}),
      "InternalServerException",
      "InternalServerException",
    ],
    ["an error", rawFrame({ ":message-type": "error", ":error-code": "500", ":error-message": "broken" }, ""), "broken", "500"],
    ["a failure as an event", frame(["invalidStateEvent", { reason: "INVALID", message: "no" }]), "no", "INVALID"],
    ["nothing but that", rawFrame({ ":message-type": "exception" }, "no json"), "the provider failed", null],
  ])("%s", (_name, failure, message, kind) => {
    const events = decoded(Buffer.concat([frame(SAID), failure, frame(SAID), frame(METERED)]));
    expect(events.at(-1)).toEqual({ type: "error", message, kind });
    expect(events.filter(({ type }) => type === "delta")).toHaveLength(1);
  });
});

test("figures that cannot be true are no usage", () => {
  for (const tokenUsage of [null, {}, { ...TOKENS, outputTokens: -1 }, { ...TOKENS, uncachedInputTokens: 1.5 }])
    expect(answered(stream(SAID, ["metadataEvent", { tokenUsage }], METERED))?.usage).toBeNull();
  // Of contradicting figures the larger ones count.
  expect(answered(stream(SAID, ["metadataEvent", { tokenUsage: { ...TOKENS, totalTokens: 50 } }]))?.usage).toMatchObject({ outputTokens: 44 });
});
