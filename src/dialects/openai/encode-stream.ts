/** Neutral events, written as chat completion chunks. */
import { GuardError } from "../../core/errors.ts";
import type { Usage } from "../../core/usage.ts";
import type { AnswerOptions, StreamEncoder } from "../codec.ts";
import { restoredInput } from "../custom-tools.ts";
import type { BlockStart, ChatEvent } from "../message.ts";
import { customNames, encodeUsage, FINISH } from "./answer.ts";
import { urlOf } from "./encode-request.ts";

interface OpenBlock {
  readonly choice: number;
  readonly type: BlockStart["type"];
  /** Of a tool call: its place among the calls of its choice. */
  readonly index: number;
  /** Of a tool that takes text: its input so far, which can only be written whole. */
  custom: string | null;
  /** Of a tool call: whether nothing of its input came yet. */
  isEmpty: boolean;
}

/** What a tool's input may be that is written whole. */
const MOST_INPUT_CHARS = 4 * 1024 * 1024;

export function openaiEncoder(options: AnswerOptions): StreamEncoder {
  const custom = customNames(options);
  const blocks = new Map<number, OpenBlock>();
  const calls = new Map<number, number>();
  const begun = new Set<number>();
  let head = "";
  let usage: Usage | null = null;

  function start(id: string | null): void {
    const chunk = { id: id ?? `chatcmpl-${options.nextId()}`, object: "chat.completion.chunk", created: options.created, model: options.model };
    head = `data: ${JSON.stringify(chunk).slice(0, -1)},"choices":[`;
  }

  function written(choice: number, content: string, finish: string): string {
    return `${head}{"index":${choice},"delta":${content},"logprobs":null,"finish_reason":${finish}}]}\n\n`;
  }

  /** The role comes with the first thing that is said. */
  function said(choice: number, member: string): string {
    if (begun.has(choice)) return written(choice, `{${member}}`, "null");
    begun.add(choice);
    return written(choice, `{"role":"assistant",${member}}`, "null");
  }

  function open(choice: number, key: number, block: BlockStart): string {
    if (block.type === "media") {
      if (block.block.type !== "image") return "";
      return said(choice, `"images":[${JSON.stringify({ type: "image_url", image_url: { url: urlOf(block.block.source) } })}]`);
    }
    const isCall = block.type === "tool_call";
    const index = isCall ? (calls.get(choice) ?? 0) : 0;
    const isCustom = isCall && custom.has(block.name);
    blocks.set(key, { choice, type: block.type, index, custom: isCustom ? "" : null, isEmpty: true });
    if (!isCall) return "";
    calls.set(choice, index + 1);
    const { id, name } = block;
    const what = isCustom
      ? { index, id, type: "custom", custom: { name, input: "" } }
      : { index, id, type: "function", function: { name, arguments: "" } };
    return said(choice, `"content":null,"tool_calls":[${JSON.stringify(what)}]`);
  }

  function delta(key: number, piece: string): string {
    const block = blocks.get(key);
    if (!block || piece === "") return "";
    switch (block.type) {
      case "text":
        return said(block.choice, `"content":${JSON.stringify(piece)}`);
      case "thinking":
        return said(block.choice, `"reasoning_content":${JSON.stringify(piece)}`);
      case "tool_call":
        if (block.custom !== null) {
          block.custom += piece;
          if (block.custom.length > MOST_INPUT_CHARS) throw new GuardError("upstream_protocol", "the upstream wrote a tool's input without end");
          return "";
        }
        block.isEmpty = false;
        return said(block.choice, `"tool_calls":[{"index":${block.index},"function":{"arguments":${JSON.stringify(piece)}}}]`);
      default:
        return "";
    }
  }

  function close(key: number): string {
    const block = blocks.get(key);
    blocks.delete(key);
    if (block?.type !== "tool_call") return "";
    // Clients parse what they are told, and nothing is no JSON.
    if (block.custom === null)
      return block.isEmpty ? said(block.choice, `"tool_calls":[{"index":${block.index},"function":{"arguments":"{}"}}]`) : "";
    const input = JSON.stringify(restoredInput(block.custom));
    return said(block.choice, `"tool_calls":[{"index":${block.index},"custom":{"input":${input}}}]`);
  }

  function one(event: ChatEvent): string {
    switch (event.type) {
      case "start":
        start(event.id);
        return "";
      case "open":
        return open(event.choice, event.key, event.block);
      case "delta":
        return delta(event.key, event.text);
      case "close":
        return close(event.key);
      case "usage":
        ({ usage } = event);
        return "";
      case "stop":
        return (
          (begun.has(event.choice) ? "" : said(event.choice, '"content":""')) + written(event.choice, "{}", JSON.stringify(FINISH[event.reason]))
        );
      case "end":
        return `${options.wantsUsage && usage ? `${head}],"usage":${JSON.stringify(encodeUsage(usage))}}\n\n` : ""}data: [DONE]\n\n`;
      case "ping":
        return ": keep-alive\n\n";
      case "signature":
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
