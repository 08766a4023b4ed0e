/** Neutral events, written as generateContent fragments. */
import { GuardError } from "../../core/errors.ts";
import type { Usage } from "../../core/usage.ts";
import type { AnswerOptions, StreamEncoder } from "../codec.ts";
import type { BlockStart, ChatEvent, JsonObject, StopReason } from "../message.ts";
import { callPart, encodeUsage, FINISH, signatureOf } from "./answer.ts";
import { mediumPart } from "./encode-request.ts";

/** What a tool's input may be: it is written whole. */
const MOST_INPUT_CHARS = 4 * 1024 * 1024;

interface OpenBlock {
  readonly choice: number;
  readonly start: BlockStart;
  input: string;
}

export function geminiEncoder(options: AnswerOptions): StreamEncoder {
  const blocks = new Map<number, OpenBlock>();
  const stops = new Map<number, StopReason>();
  let id: string | null = null;
  let usage: Usage | null = null;

  const tail = (): string => `,"modelVersion":${JSON.stringify(options.model)},"responseId":${JSON.stringify((id ??= options.nextId()))}}\n\n`;

  const fragment = (choice: number, part: string): string =>
    `data: {"candidates":[{"content":{"role":"model","parts":[${part}]},"index":${choice}}]${tail()}`;

  const written = (choice: number, part: JsonObject): string => fragment(choice, JSON.stringify(part));

  function delta(key: number, piece: string): string {
    const block = blocks.get(key);
    if (!block || piece === "") return "";
    switch (block.start.type) {
      case "text":
        return fragment(block.choice, `{"text":${JSON.stringify(piece)}}`);
      case "thinking":
        return fragment(block.choice, `{"text":${JSON.stringify(piece)},"thought":true}`);
      case "tool_call":
        block.input += piece;
        if (block.input.length > MOST_INPUT_CHARS) throw new GuardError("upstream_protocol", "the upstream wrote a tool's input without end");
        return "";
      default:
        return "";
    }
  }

  function close(key: number): string {
    const block = blocks.get(key);
    blocks.delete(key);
    if (block?.start.type !== "tool_call") return "";
    const { start } = block;
    return written(block.choice, callPart(start.id, start.name, block.input, start.signature));
  }

  /** All that is left to say comes in the last fragment of each answer. */
  function end(): string {
    const last = [...(stops.size > 0 ? stops : new Map<number, StopReason>([[0, "stop"]]))];
    const candidates = last.map(([index, reason]) => ({ content: { role: "model", parts: [{ text: "" }] }, finishReason: FINISH[reason], index }));
    const used = usage ? `,"usageMetadata":${JSON.stringify(encodeUsage(usage))}` : "";
    return `data: {"candidates":${JSON.stringify(candidates)}${used}${tail()}`;
  }

  function one(event: ChatEvent): string {
    switch (event.type) {
      case "start":
        ({ id } = event);
        return "";
      case "open":
        blocks.set(event.key, { choice: event.choice, start: event.block, input: "" });
        return event.block.type === "media" ? written(event.choice, mediumPart(event.block.block.source, null)) : "";
      case "delta":
        return delta(event.key, event.text);
      case "signature": {
        const block = blocks.get(event.key);
        const signed = signatureOf(event.signature);
        return block && signed.thoughtSignature !== undefined ? written(block.choice, { text: "", thought: true, ...signed }) : "";
      }
      case "close":
        return close(event.key);
      case "usage":
        ({ usage } = event);
        return "";
      case "stop":
        stops.set(event.choice, event.reason);
        return "";
      case "ping":
        return ": keep-alive\n\n";
      case "end":
        return end();
      case "error":
        return "";
    }
  }

  return {
    push(events) {
      let out = "";
      for (const event of events) out += one(event);
      return out;
    },
  };
}
