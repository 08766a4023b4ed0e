/** Event streams as AWS writes them, made by hand. https://smithy.io/2.0/aws/amazon-eventstream.html */
import { crc32 } from "node:zlib";
import type { ChatAnswer, ChatRequest, JsonObject } from "../../../src/dialects/message.ts";

const STRING = 7;
const BOOLEAN_TRUE = 0;

function header(name: string, value: string | true): Buffer {
  const text = Buffer.from(name);
  const start = [Buffer.from([text.length]), text, Buffer.from([value === true ? BOOLEAN_TRUE : STRING])];
  if (value === true) return Buffer.concat(start);
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(bytes.length);
  return Buffer.concat([...start, length, bytes]);
}

export function rawFrame(headers: Readonly<Record<string, string | true>>, payload: string | Buffer): Buffer {
  const head = Buffer.concat(Object.entries(headers).map(([name, value]) => header(name, value)));
  const body = Buffer.from(payload as string);
  const frame = Buffer.alloc(16 + head.length + body.length);
  frame.writeUInt32BE(frame.length, 0);
  frame.writeUInt32BE(head.length, 4);
  frame.writeUInt32BE(crc32(frame.subarray(0, 8)), 8);
  head.copy(frame, 12);
  body.copy(frame, 12 + head.length);
  frame.writeUInt32BE(crc32(frame.subarray(0, -4)), frame.length - 4);
  return frame;
}

export type KiroEvent = readonly [type: string, payload: JsonObject];

export const frame = ([type, payload]: KiroEvent): Buffer =>
  rawFrame({ ":event-type": type, ":content-type": "application/json", ":message-type": "event" }, JSON.stringify(payload));

export const exception = (type: string, payload: JsonObject): Buffer =>
  rawFrame({ ":exception-type": type, ":content-type": "application/json", ":message-type": "exception" }, JSON.stringify(payload));

export const stream = (...events: readonly KiroEvent[]): Buffer => Buffer.concat(events.map(frame));

const STOPS = { stop: "END_TURN", length: "MAX_TOKENS", tool_calls: "TOOL_USE", content_filter: "REFUSAL", stop_sequence: "STOP_SEQUENCE" } as const;

/** An answer as Kiro streams it: fragments of `step` characters. */
export function streamed({ choices, usage }: ChatAnswer, step: number): Buffer {
  const pieces = (text: string): readonly string[] => text.match(new RegExp(`[^]{1,${step}}`, "gu")) ?? [];
  const events: KiroEvent[] = [["messageMetadataEvent", { conversationId: "c" }]];
  for (const block of choices[0]?.blocks ?? []) {
    if (block.type === "text") for (const content of pieces(block.text)) events.push(["assistantResponseEvent", { content }]);
    if (block.type === "thinking") {
      for (const text of pieces(block.text)) events.push(["reasoningContentEvent", { text }]);
      if (block.signature) events.push(["reasoningContentEvent", { signature: block.signature.value }]);
    }
    if (block.type === "redacted_thinking") events.push(["reasoningContentEvent", { redactedContent: block.signature.value }]);
    if (block.type !== "tool_call") continue;
    const { id: toolUseId, name } = block;
    for (const input of pieces(block.input)) events.push(["toolUseEvent", { toolUseId, name, input }]);
    events.push(["toolUseEvent", { toolUseId, name, stop: true }]);
  }
  events.push(["messageStopEvent", { stopReason: STOPS[choices[0]?.stop ?? "stop"] }], ["contextUsageEvent", { contextUsagePercentage: 1.5 }]);
  if (usage) {
    const { inputTokens: uncachedInputTokens, cacheReadTokens: cacheReadInputTokens, cacheWriteTokens: cacheWriteInputTokens } = usage;
    const outputTokens = usage.outputTokens + usage.reasoningTokens;
    const totalTokens = uncachedInputTokens + cacheReadInputTokens + cacheWriteInputTokens + outputTokens;
    events.push(["metadataEvent", { tokenUsage: { uncachedInputTokens, cacheReadInputTokens, cacheWriteInputTokens, outputTokens, totalTokens } }]);
  }
  events.push(["meteringEvent", { unit: "credit", usage: 0.02 }]);
  return stream(...events);
}

/** What a request to Kiro says. */
export interface KiroBody {
  readonly conversationState: {
    readonly chatTriggerType: string;
    readonly currentMessage: KiroUser;
    readonly history?: readonly (KiroUser | KiroAssistant)[];
  };
  readonly inferenceConfig?: JsonObject;
}

export interface KiroUser {
  readonly userInputMessage: {
    readonly content: string;
    readonly modelId: string;
    readonly origin: string;
    readonly images?: readonly { readonly format: string; readonly source: { readonly bytes: string } }[];
    readonly userInputMessageContext?: {
      readonly toolResults?: readonly {
        readonly toolUseId: string;
        readonly content: readonly { readonly text: string }[];
        readonly status: string;
      }[];
      readonly tools?: readonly {
        readonly toolSpecification: { readonly name: string; readonly description: string; readonly inputSchema: JsonObject };
      }[];
    };
  };
}

export interface KiroAssistant {
  readonly assistantResponseMessage: {
    readonly content: string;
    readonly toolUses?: readonly { readonly toolUseId: string; readonly name: string; readonly input: JsonObject }[];
  };
}

export const messagesOf = ({ conversationState: { history = [], currentMessage } }: KiroBody): readonly (KiroUser | KiroAssistant)[] => [
  ...history,
  currentMessage,
];

/** What a conversation says, as Kiro reads it. */
export function saidTo(body: KiroBody): readonly unknown[] {
  return messagesOf(body).map((message) => {
    if ("assistantResponseMessage" in message) {
      const { content, toolUses = [] } = message.assistantResponseMessage;
      return ["assistant", content, toolUses.map(({ toolUseId, name, input }) => [toolUseId, name, input])];
    }
    const { content, images = [], userInputMessageContext: { toolResults = [] } = {} } = message.userInputMessage;
    return [
      "user",
      content,
      toolResults.map((result) => [result.toolUseId, result.content.map(({ text }) => text)]),
      images.map(({ source }) => source.bytes),
    ];
  });
}

/** The same of a neutral conversation. `system` stands before the first words. */
export function said({ system, turns }: ChatRequest): readonly unknown[] {
  const before = system.map(({ text }) => text);
  const all = turns[0]?.role === "user" ? turns : [{ role: "user", blocks: [] } as const, ...turns];
  return all.map(({ role, blocks }, i) => {
    const words = [...(i === 0 ? before : []), ...blocks.flatMap((block) => (block.type === "text" ? [block.text] : []))].join("\n\n") || ".";
    if (role === "assistant")
      return [role, words, blocks.flatMap((block) => (block.type === "tool_call" ? [[block.id, block.name, JSON.parse(block.input)]] : []))];
    const results = blocks.flatMap((block) =>
      block.type === "tool_result" ? [[block.id, block.content.flatMap((each) => (each.type === "text" ? [each.text] : []))]] : [],
    );
    const images = blocks.flatMap((block) => (block.type === "image" && block.source.kind === "base64" ? [block.source.data] : []));
    return [role, words, results, images];
  });
}

/** Frames whose headers are all text, taken apart by hand. */
export function readFrames(bytes: Buffer): readonly { readonly headers: Readonly<Record<string, string>>; readonly payload: JsonObject }[] {
  const frames = [];
  for (let at = 0; at < bytes.length;) {
    const one = bytes.subarray(at, (at += bytes.readUInt32BE(at)));
    if (crc32(one.subarray(0, -4)) !== one.readUInt32BE(one.length - 4)) throw new Error("a frame's checksum is wrong");
    const behind = 12 + one.readUInt32BE(4);
    const headers: Record<string, string> = {};
    for (let i = 12; i < behind;) {
      const name = one.toString("utf8", i + 1, (i += 1 + one.readUInt8(i)));
      headers[name] = one.toString("utf8", i + 3, (i += 3 + one.readUInt16BE(i + 1)));
    }
    frames.push({ headers, payload: JSON.parse(one.toString("utf8", behind, one.length - 4)) as JsonObject });
  }
  return frames;
}
