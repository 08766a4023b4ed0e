/** A stream of the Messages API, read into neutral events. */
import { GuardError } from "../../core/errors.ts";
import type { DecodeOptions, StreamDecoder } from "../codec.ts";
import { settledStop, type ChatEvent, type JsonObject, type StopReason } from "../message.ts";
import { isComment, sseReader, type SseEvent } from "../sse-reader.ts";
import { anthropicUsage, fieldsOf } from "../usage.ts";
import { decodeError, stopOf } from "./answer.ts";
import { parsedObject } from "../parsed-object.ts";

const MOST_BLOCKS = 10_000;

const text = (value: unknown): string => (typeof value === "string" ? value : "");

export function anthropicDecoder({ toolName, unwrap }: DecodeOptions): StreamDecoder {
  const reader = sseReader();
  /** Keys of open blocks by index. */
  const open = new Map<unknown, number>();
  let keys = 0;
  let used: JsonObject | null = null;
  let stop: StopReason = "stop";
  let stopSequence: string | null = null;
  let hasCall = false;
  let started = false;
  let over = false;

  function use(value: unknown, isBeginning: boolean, out: ChatEvent[]): void {
    const given = fieldsOf(value);
    if (!given) return;
    // The beginning tells the input, the end the output: neither takes back what the other said.
    used = { ...used, ...Object.fromEntries(Object.entries(given).filter(([, count]) => count !== null && count !== undefined)) };
    const usage = anthropicUsage(used);
    if (usage) out.push({ type: "usage", usage, ...(isBeginning ? { isBeginning } : {}) });
  }

  function begin(index: unknown, block: JsonObject, out: ChatEvent[]): void {
    if (keys >= MOST_BLOCKS) throw new GuardError("upstream_protocol", "the upstream sent more blocks than one answer can hold");
    const key = keys + 1;
    const push = (event: ChatEvent): void => {
      keys = key;
      open.set(index, key);
      out.push(event);
    };
    switch (block.type) {
      case "text":
        push({ type: "open", choice: 0, key, block: { type: "text" } });
        if (text(block.text) !== "") out.push({ type: "delta", key, text: text(block.text) });
        return;
      case "thinking":
        push({ type: "open", choice: 0, key, block: { type: "thinking" } });
        if (text(block.thinking) !== "") out.push({ type: "delta", key, text: text(block.thinking) });
        return;
      case "redacted_thinking":
        push({ type: "open", choice: 0, key, block: { type: "redacted_thinking", signature: { family: "anthropic", value: text(block.data) } } });
        return;
      case "tool_use": {
        hasCall = true;
        push({ type: "open", choice: 0, key, block: { type: "tool_call", id: text(block.id), name: toolName(text(block.name)) } });
        const input = fieldsOf(block.input);
        if (input && Object.keys(input).length > 0) out.push({ type: "delta", key, text: JSON.stringify(input) });
        return;
      }
      // What Anthropic's own tools do is told in the text.
      default:
    }
  }

  function change(index: unknown, delta: JsonObject, out: ChatEvent[]): void {
    const key = open.get(index);
    if (key === undefined) return;
    const piece = text(delta.text) || text(delta.thinking) || text(delta.partial_json);
    if (piece !== "") out.push({ type: "delta", key, text: piece });
    else if (delta.type === "signature_delta" && text(delta.signature) !== "")
      out.push({ type: "signature", key, signature: { family: "anthropic", value: text(delta.signature) } });
  }

  function one(body: JsonObject, out: ChatEvent[]): void {
    switch (body.type) {
      case "message_start": {
        const message = fieldsOf(body.message) ?? {};
        started = true;
        out.push({ type: "start", id: text(message.id) || null, model: text(message.model) || null });
        use(message.usage, true, out);
        return;
      }
      case "content_block_start":
        begin(body.index, fieldsOf(body.content_block) ?? {}, out);
        return;
      case "content_block_delta":
        change(body.index, fieldsOf(body.delta) ?? {}, out);
        return;
      case "content_block_stop": {
        const key = open.get(body.index);
        open.delete(body.index);
        if (key !== undefined) out.push({ type: "close", key });
        return;
      }
      case "message_delta": {
        const delta = fieldsOf(body.delta) ?? {};
        if (typeof delta.stop_reason === "string") stop = stopOf(delta.stop_reason);
        if (typeof delta.stop_sequence === "string") stopSequence = delta.stop_sequence;
        use(body.usage, typeof fieldsOf(body.usage)?.output_tokens !== "number", out);
        return;
      }
      case "message_stop":
        over = true;
        if (!started) return;
        for (const key of open.values()) out.push({ type: "close", key });
        out.push({ type: "stop", choice: 0, reason: settledStop(stop, hasCall), stopSequence }, { type: "end" });
        return;
      case "ping":
        out.push({ type: "ping" });
        return;
      default: {
        const error = body.type === "error" || body.error !== undefined ? (decodeError(body) ?? { message: "", kind: null }) : null;
        if (!error) return;
        over = true;
        out.push({ type: "error", ...error });
      }
    }
  }

  function take(events: readonly SseEvent[]): readonly ChatEvent[] {
    const out: ChatEvent[] = [];
    for (const event of events) {
      if (over) break;
      if (isComment(event)) out.push({ type: "ping" });
      else {
        const body = parsedObject(event.data);
        if (body) one(unwrap ? unwrap(body) : body, out);
      }
    }
    return out;
  }

  return {
    push: (chunk) => take(reader.push(chunk)),
    end: () => take(reader.end()),
  };
}
