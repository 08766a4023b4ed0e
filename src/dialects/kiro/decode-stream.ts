/**
 * Kiro's event stream, read into neutral events. An answer is over when the body is: what was used may come behind everything else. That nothing is missing shows
 * in what only comes behind an answer.
 */
import { GuardError } from "../../core/errors.ts";
import { stopOf } from "../anthropic/answer.ts";
import type { DecodeOptions, StreamDecoder } from "../codec.ts";
import { settledStop, type BlockStart, type ChatEvent, type JsonObject, type StopReason } from "../message.ts";
import { fieldsOf, kiroUsage } from "../usage.ts";
import { decodeError, exceptionName } from "./errors.ts";
import { frameReader, type Frame } from "./frames.ts";

const MOST_BLOCKS = 10_000;
/** The model has written as much as it may. The answer is cut, and no failure. */
const TOO_LONG = "ContentLengthExceededException";

const text = (value: unknown): string => (typeof value === "string" ? value : "");

export function kiroDecoder({ toolName }: Pick<DecodeOptions, "toolName">): StreamDecoder {
  const reader = frameReader();
  /** Keys of calls by id; null = the call has ended. */
  const calls = new Map<string, number | null>();
  let openCalls = 0;
  let lastCall = "";
  /** The text, or the thoughts, that are being written. */
  let open: { readonly key: number; readonly type: "text" | "thinking" } | null = null;
  let keys = 0;
  let started = false;
  let stop: StopReason = "stop";
  let hasCall = false;
  let hasFailed = false;
  /** Whether the last that came is what comes behind an answer, or the end of its last call. */
  let isOver = false;

  function begin(block: BlockStart, out: ChatEvent[]): number {
    if (keys >= MOST_BLOCKS) throw new GuardError("upstream_protocol", "the upstream sent more blocks than one answer can hold");
    keys += 1;
    out.push({ type: "open", choice: 0, key: keys, block });
    return keys;
  }

  function closeText(out: ChatEvent[]): void {
    if (open) out.push({ type: "close", key: open.key });
    open = null;
  }

  /** The key of the block that is being written. */
  function written(type: "text" | "thinking", out: ChatEvent[]): number {
    if (open?.type === type) return open.key;
    closeText(out);
    open = { key: begin({ type }, out), type };
    return open.key;
  }

  function think({ text: thought, signature, redactedContent: hidden }: JsonObject, out: ChatEvent[]): void {
    if (text(thought) !== "") out.push({ type: "delta", key: written("thinking", out), text: text(thought) });
    if (text(signature) !== "")
      out.push({ type: "signature", key: written("thinking", out), signature: { family: "anthropic", value: text(signature) } });
    if (text(hidden) === "") return;
    closeText(out);
    const key = begin({ type: "redacted_thinking", signature: { family: "anthropic", value: text(hidden) } }, out);
    out.push({ type: "close", key });
  }

  /** Fragments of a call's input, and its end. */
  function use(event: JsonObject, out: ChatEvent[]): void {
    const id = text(event.toolUseId) || lastCall;
    let key = calls.get(id);
    if (key === null) return;
    if (key === undefined) {
      if (text(event.name) === "") return;
      closeText(out);
      hasCall = true;
      key = begin({ type: "tool_call", id, name: toolName(text(event.name)) }, out);
      calls.set(id, key);
      openCalls += 1;
      lastCall = id;
    }
    isOver = false;
    const whole = fieldsOf(event.input);
    const piece = whole ? JSON.stringify(whole) : text(event.input);
    if (piece !== "") out.push({ type: "delta", key, text: piece });
    if (event.stop !== true) return;
    calls.set(id, null);
    openCalls -= 1;
    isOver = openCalls === 0;
    out.push({ type: "close", key });
  }

  function one({ headers, payload }: Frame, out: ChatEvent[]): void {
    if (headers[":message-type"] === "exception" || headers[":message-type"] === "error") {
      fail(headers, payload ?? {}, out);
      return;
    }
    const type = headers[":event-type"] ?? "";
    // Some of its hosts put an event into an object of its name.
    const event = fieldsOf(payload?.[type]) ?? payload ?? {};
    switch (type) {
      case "assistantResponseEvent":
        if (text(event.content) === "") return;
        isOver = false;
        out.push({ type: "delta", key: written("text", out), text: text(event.content) });
        return;
      case "reasoningContentEvent":
        isOver = false;
        think(event, out);
        return;
      case "toolUseEvent":
        use(event, out);
        return;
      case "messageMetadataEvent":
      case "metadataEvent": {
        const usage = kiroUsage(event.tokenUsage);
        if (!usage) break;
        isOver = true;
        out.push({ type: "usage", usage });
        return;
      }
      case "messageStopEvent":
        isOver = true;
        stop = stopOf(text(event.stopReason).toLowerCase());
        return;
      case "meteringEvent":
      case "contextUsageEvent":
        isOver = true;
        break;
      case "invalidStateEvent":
        fail({ ":exception-type": text(event.reason) }, event, out);
        return;
      default:
    }
    out.push({ type: "ping" });
  }

  function fail(headers: Frame["headers"], body: JsonObject, out: ChatEvent[]): void {
    const name = exceptionName(headers[":exception-type"] ?? headers[":error-code"]);
    if (name === TOO_LONG && keys > 0) {
      isOver = true;
      stop = "length";
      return;
    }
    hasFailed = true;
    const said = decodeError(body);
    const message = said?.message || headers[":error-message"] || name || "the provider failed";
    out.push({ type: "error", message, kind: said?.kind ?? (name === "" ? null : name) });
  }

  return {
    push(chunk) {
      const out: ChatEvent[] = [];
      for (const frame of reader.push(chunk)) {
        if (hasFailed) break;
        if (!started) out.push({ type: "start", id: null, model: null });
        started = true;
        one(frame, out);
      }
      return out;
    },
    end() {
      if (hasFailed) return [];
      reader.end();
      if (!isOver) return [];
      const out: ChatEvent[] = [];
      closeText(out);
      for (const key of calls.values()) if (key !== null) out.push({ type: "close", key });
      out.push({ type: "stop", choice: 0, reason: settledStop(stop, hasCall), stopSequence: null }, { type: "end" });
      return out;
    },
  };
}
