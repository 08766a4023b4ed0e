/** A stream of chat completion chunks, read into neutral events. */
import { GuardError } from "../../core/errors.ts";
import type { DecodeOptions, StreamDecoder } from "../codec.ts";
import type { ChatEvent, JsonObject, StopReason } from "../message.ts";
import { settledStop } from "../message.ts";
import { isComment, sseReader, type SseEvent } from "../sse-reader.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { decodeError, imageFrom, PLACEHOLDER, stopOf } from "./answer.ts";
import { parsedObject } from "../parsed-object.ts";

/** More than any model calls in one answer. */
const MOST_CALLS = 1_000;
const MOST_CHOICES = 128;
/** Arguments that came before the name did. */
const MOST_EARLY_CHARS = 1024 * 1024;

const text = (value: unknown): string => (typeof value === "string" ? value : "");

interface OpenCall {
  key: number | null;
  id: string;
  name: string;
  early: string;
}

interface Choice {
  /** The open block of text or thoughts. */
  open: { readonly type: "text" | "thinking"; readonly key: number } | null;
  readonly calls: Map<number, OpenCall>;
  stop: StopReason | null;
  hasCall: boolean;
}

export function openaiDecoder({ toolName, unwrap }: DecodeOptions): StreamDecoder {
  const reader = sseReader();
  const choices = new Map<number, Choice>();
  let keys = 0;
  let started = false;
  let done = false;
  let over = false;

  function start(body: JsonObject, out: ChatEvent[]): void {
    if (started) return;
    started = true;
    out.push({ type: "start", id: text(body.id) || null, model: text(body.model) || null });
  }

  function choiceAt(index: number): Choice {
    let choice = choices.get(index);
    if (!choice) {
      if (choices.size >= MOST_CHOICES) throw new GuardError("upstream_protocol", "the upstream sent more answers than were asked for");
      choices.set(index, (choice = { open: null, calls: new Map(), stop: null, hasCall: false }));
    }
    return choice;
  }

  function closeText(choice: Choice, out: ChatEvent[]): void {
    if (choice.open) out.push({ type: "close", key: choice.open.key });
    choice.open = null;
  }

  function say(choice: Choice, index: number, type: "text" | "thinking", piece: string, out: ChatEvent[]): void {
    if (piece === "") return;
    if (choice.open?.type !== type) {
      closeText(choice, out);
      choice.open = { type, key: (keys += 1) };
      out.push({ type: "open", choice: index, key: choice.open.key, block: { type } });
    }
    out.push({ type: "delta", key: choice.open.key, text: piece });
  }

  function openCall(choice: Choice, index: number, call: OpenCall, nth: number, out: ChatEvent[]): void {
    closeText(choice, out);
    call.key = keys += 1;
    choice.hasCall = true;
    const id = call.id || `call_${index}_${nth}`;
    out.push({ type: "open", choice: index, key: call.key, block: { type: "tool_call", id, name: toolName(call.name) || PLACEHOLDER } });
    if (call.early !== "") out.push({ type: "delta", key: call.key, text: call.early });
    call.early = "";
  }

  function callDelta(choice: Choice, index: number, value: JsonObject, position: number, out: ChatEvent[]): void {
    const nth = Number.isInteger(value.index) ? (value.index as number) : position;
    let call = choice.calls.get(nth);
    if (!call) {
      if (choice.calls.size >= MOST_CALLS) throw new GuardError("upstream_protocol", "the upstream called more tools than one answer can hold");
      choice.calls.set(nth, (call = { key: null, id: "", name: "", early: "" }));
    }
    const fn = fieldsOf(value.function);
    // Name and id may come late, be repeated, or be null: the first that says something counts.
    if (call.id === "") call.id = text(value.id);
    if (call.name === "") call.name = text(fn?.name);
    const piece = text(fn?.arguments);
    if (call.key !== null) {
      if (piece !== "") out.push({ type: "delta", key: call.key, text: piece });
      return;
    }
    call.early += piece;
    if (call.early.length > MOST_EARLY_CHARS) throw new GuardError("upstream_protocol", "the upstream wrote a tool's input before its name");
    if (call.name !== "" && call.id !== "") openCall(choice, index, call, nth, out);
  }

  /** What is still open when its choice, or the stream, ends. A call whose name never came has a placeholder, so that its input is not lost. */
  function finish(choice: Choice, index: number, out: ChatEvent[]): void {
    closeText(choice, out);
    for (const [nth, call] of choice.calls) {
      if (call.key === null && (call.name !== "" || call.early !== "")) openCall(choice, index, call, nth, out);
      if (call.key !== null) out.push({ type: "close", key: call.key });
    }
    choice.calls.clear();
  }

  function chunk(body: JsonObject, out: ChatEvent[]): void {
    const error = decodeError(body);
    if (error) {
      over = true;
      out.push({ type: "error", ...error });
      return;
    }
    if (!Array.isArray(body.choices) && !body.usage) return;
    start(body, out);
    for (const [i, value] of (Array.isArray(body.choices) ? body.choices : []).entries()) {
      const fields = fieldsOf(value);
      if (!fields) continue;
      const index = Number.isInteger(fields.index) && (fields.index as number) >= 0 ? (fields.index as number) : i;
      const choice = choiceAt(index);
      const delta = fieldsOf(fields.delta) ?? fieldsOf(fields.message);
      if (delta) {
        say(choice, index, "thinking", text(delta.reasoning_content) || text(delta.reasoning), out);
        say(choice, index, "text", text(delta.content) + text(delta.refusal), out);
        if (text(delta.refusal) !== "") choice.stop = "content_filter";
        for (const image of Array.isArray(delta.images) ? delta.images : []) {
          const block = imageFrom(image);
          if (!block) continue;
          closeText(choice, out);
          out.push({ type: "open", choice: index, key: (keys += 1), block: { type: "media", block } }, { type: "close", key: keys });
        }
        for (const [n, call] of (Array.isArray(delta.tool_calls) ? delta.tool_calls : []).entries()) {
          const one = fieldsOf(call);
          if (one) callDelta(choice, index, one, n, out);
        }
      }
      if (typeof fields.finish_reason === "string") choice.stop ??= stopOf(fields.finish_reason);
    }
    const usage = openaiUsage(body.usage);
    if (usage) out.push({ type: "usage", usage });
  }

  function take(events: readonly SseEvent[]): readonly ChatEvent[] {
    const out: ChatEvent[] = [];
    for (const event of events) {
      if (over || done) break;
      if (isComment(event)) out.push({ type: "ping" });
      else if (event.data === "[DONE]") done = true;
      else {
        const parsed = parsedObject(event.data);
        if (parsed) chunk(unwrap ? unwrap(parsed) : parsed, out);
      }
    }
    if (done && !over) end(out);
    return out;
  }

  /** The stops come last, because usage and late pieces may follow a finish reason. */
  function end(out: ChatEvent[]): void {
    over = true;
    if (!started) return;
    for (const [index, choice] of choices) finish(choice, index, out);
    for (const [index, choice] of choices) {
      const reason = settledStop(choice.stop ?? "stop", choice.hasCall);
      out.push({ type: "stop", choice: index, reason, stopSequence: null });
    }
    out.push({ type: "end" });
  }

  return {
    push: (bytes) => take(reader.push(bytes)),
    end() {
      const out = [...take(reader.end())];
      // Without `[DONE]` it ended normally only if somebody said why it stopped.
      if (!over && [...choices.values()].some(({ stop }) => stop !== null)) end(out);
      return out;
    },
  };
}
