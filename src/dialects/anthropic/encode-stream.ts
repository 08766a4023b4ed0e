/** Neutral events, written as a stream of the Messages API. */
import type { Usage } from "../../core/usage.ts";
import type { AnswerOptions, StreamEncoder } from "../codec.ts";
import type { BlockStart, ChatEvent, JsonObject, StopReason } from "../message.ts";
import { oneAtATime } from "../one-at-a-time.ts";
import { EMPTY_USAGE, encodeUsage, messageId, STOP_REASONS } from "./answer.ts";
import { toolId } from "./encode-request.ts";

const event = (body: JsonObject & { readonly type: string }): string => `event: ${body.type}\ndata: ${JSON.stringify(body)}\n\n`;

/** One block is open at a time, and their indexes follow one another. */
export function anthropicEncoder(options: AnswerOptions): StreamEncoder {
  const order = oneAtATime();
  let index = -1;
  /** What is written for a piece of the open block, up to the piece itself; null = the block is not shown. */
  let before: string | null = null;
  let opened = false;
  let begun = false;
  let usage: Usage | null = null;
  let stop: { readonly reason: StopReason; readonly stopSequence: string | null } = { reason: "stop", stopSequence: null };

  function start(id: string | null): string {
    if (begun) return "";
    begun = true;
    const message = {
      id: messageId(id, options),
      type: "message",
      role: "assistant",
      model: options.model,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      // Whose provider tells it only at the end: the last event has all of it.
      usage: usage ? { ...encodeUsage(usage), output_tokens: 0 } : EMPTY_USAGE,
    };
    return event({ type: "message_start", message });
  }

  function open(block: BlockStart): string {
    const shown = blockStart(block);
    opened = shown !== null;
    before = null;
    if (!shown) return "";
    index += 1;
    const [type, member] = DELTAS[block.type] ?? [null, null];
    if (type !== null)
      before = `event: content_block_delta\ndata: {"type":"content_block_delta","index":${index},"delta":{"type":"${type}","${member}":`;
    return start(null) + event({ type: "content_block_start", index, content_block: shown });
  }

  function one(each: ChatEvent): string {
    switch (each.type) {
      case "start":
        return start(each.id);
      case "open":
        return open(each.block);
      case "delta":
        return before === null || each.text === "" ? "" : `${before}${JSON.stringify(each.text)}}}\n\n`;
      case "signature":
        // That of another family would be a forgery.
        if (!opened || each.signature.family !== "anthropic") return "";
        return event({ type: "content_block_delta", index, delta: { type: "signature_delta", signature: each.signature.value } });
      case "close":
        if (!opened) return "";
        opened = false;
        before = null;
        return event({ type: "content_block_stop", index });
      case "usage":
        ({ usage } = each);
        return "";
      case "stop":
        if (each.choice === 0) stop = each;
        return "";
      case "ping":
        return begun ? event({ type: "ping" }) : "";
      case "end":
        return (
          start(null) +
          event({
            type: "message_delta",
            delta: { stop_reason: STOP_REASONS[stop.reason], stop_sequence: stop.stopSequence },
            usage: usage ? encodeUsage(usage) : EMPTY_USAGE,
          }) +
          event({ type: "message_stop" })
        );
      case "error":
        return "";
    }
  }

  return {
    push(events) {
      let out = "";
      for (const each of order.push(events)) out += one(each);
      return out;
    },
  };
}

const DELTAS: Readonly<Partial<Record<BlockStart["type"], readonly [string, string]>>> = {
  text: ["text_delta", "text"],
  thinking: ["thinking_delta", "thinking"],
  tool_call: ["input_json_delta", "partial_json"],
};

function blockStart(block: BlockStart): JsonObject | null {
  switch (block.type) {
    case "text":
      return { type: "text", text: "" };
    case "thinking":
      return { type: "thinking", thinking: "", signature: "" };
    case "redacted_thinking":
      return block.signature.family === "anthropic" ? { type: "redacted_thinking", data: block.signature.value } : null;
    case "tool_call":
      return { type: "tool_use", id: toolId(block.id), name: block.name, input: {} };
    case "media":
      return null;
  }
}
