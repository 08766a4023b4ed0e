/** A stream of generateContent fragments, read into neutral events. */
import { GuardError } from "../../core/errors.ts";
import type { DecodeOptions, StreamDecoder } from "../codec.ts";
import { settledStop, type AssistantBlock, type ChatEvent, type JsonObject, type Signature, type StopReason } from "../message.ts";
import { isComment, sseReader, type SseEvent } from "../sse-reader.ts";
import { fieldsOf } from "../usage.ts";
import { answerBlocks, decodeError, isBlocked, stopOf, usageIn } from "./answer.ts";
import { member } from "./names.ts";
import { parsedObject } from "../parsed-object.ts";

const MOST_CHOICES = 128;
const MOST_BLOCKS = 10_000;

const text = (value: unknown): string => (typeof value === "string" ? value : "");

type Call = Extract<AssistantBlock, { type: "tool_call" }>;

interface Choice {
  open: { readonly type: "text" | "thinking"; readonly key: number; isSigned: boolean } | null;
  stop: StopReason | null;
  hasCall: boolean;
}

export function geminiDecoder({ toolName, unwrap }: DecodeOptions): StreamDecoder {
  const reader = sseReader();
  const choices = new Map<number, Choice>();
  let keys = 0;
  let started = false;
  let over = false;

  function choiceAt(index: number): Choice {
    let choice = choices.get(index);
    if (!choice) {
      if (choices.size >= MOST_CHOICES) throw new GuardError("upstream_protocol", "the upstream sent more answers than were asked for");
      choices.set(index, (choice = { open: null, stop: null, hasCall: false }));
    }
    return choice;
  }

  function nextKey(): number {
    if (keys >= MOST_BLOCKS) throw new GuardError("upstream_protocol", "the upstream sent more blocks than one answer can hold");
    return (keys += 1);
  }

  function close(choice: Choice, out: ChatEvent[]): void {
    if (choice.open) out.push({ type: "close", key: choice.open.key });
    choice.open = null;
  }

  function say(choice: Choice, index: number, type: "text" | "thinking", piece: string, signature: Signature | null, out: ChatEvent[]): void {
    // A signature ends the thoughts that it signs.
    if (choice.open?.type !== type || choice.open.isSigned) {
      close(choice, out);
      choice.open = { type, key: nextKey(), isSigned: false };
      out.push({ type: "open", choice: index, key: choice.open.key, block: { type } });
    }
    if (piece !== "") out.push({ type: "delta", key: choice.open.key, text: piece });
    if (!signature) return;
    out.push({ type: "signature", key: choice.open.key, signature });
    choice.open.isSigned = true;
  }

  function call(choice: Choice, index: number, block: Call, out: ChatEvent[]): void {
    close(choice, out);
    choice.hasCall = true;
    const key = nextKey();
    const { input, ...start } = block;
    out.push(
      { type: "open", choice: index, key, block: { ...start, id: block.id || `call_${index}_${key}` } },
      { type: "delta", key, text: input },
      { type: "close", key },
    );
  }

  function part(choice: Choice, index: number, value: JsonObject, out: ChatEvent[]): void {
    for (const block of answerBlocks(value, toolName)) {
      if (block.type === "text") say(choice, index, "text", block.text, null, out);
      else if (block.type === "thinking") say(choice, index, "thinking", block.text, block.signature, out);
      else if (block.type === "tool_call") call(choice, index, block, out);
      else if (block.type === "image" || block.type === "media") {
        close(choice, out);
        const key = nextKey();
        out.push({ type: "open", choice: index, key, block: { type: "media", block } }, { type: "close", key });
      }
    }
  }

  function fragment(body: JsonObject, out: ChatEvent[]): void {
    const error = decodeError(body);
    if (error) {
      over = true;
      out.push({ type: "error", ...error });
      return;
    }
    const candidates = Array.isArray(body.candidates) ? body.candidates : [];
    const usage = usageIn(body);
    if (!started && (candidates.length > 0 || usage || isBlocked(body))) {
      started = true;
      out.push({ type: "start", id: text(member(body, "responseId")) || null, model: text(member(body, "modelVersion")) || null });
    }
    for (const [i, value] of candidates.entries()) {
      const candidate = fieldsOf(value);
      if (!candidate) continue;
      const index = Number.isInteger(candidate.index) && (candidate.index as number) >= 0 ? (candidate.index as number) : i;
      const choice = choiceAt(index);
      const parts = fieldsOf(candidate.content)?.parts;
      for (const each of Array.isArray(parts) ? parts : []) {
        const fields = fieldsOf(each);
        if (fields) part(choice, index, fields, out);
      }
      const reason = member(candidate, "finishReason");
      if (typeof reason === "string" && reason !== "" && reason !== "FINISH_REASON_UNSPECIFIED") choice.stop = stopOf(reason);
    }
    if (isBlocked(body)) choiceAt(0).stop = "content_filter";
    if (usage) out.push({ type: "usage", usage });
  }

  function take(events: readonly SseEvent[]): ChatEvent[] {
    const out: ChatEvent[] = [];
    for (const event of events) {
      if (over) break;
      if (isComment(event)) out.push({ type: "ping" });
      else {
        const body = parsedObject(event.data);
        if (body) fragment(unwrap ? unwrap(body) : body, out);
      }
    }
    return out;
  }

  return {
    push: (chunk) => take(reader.push(chunk)),
    end() {
      const out = take(reader.end());
      // Nothing ends such a stream but its last fragment, which says why.
      if (over || !started || ![...choices.values()].every(({ stop }) => stop !== null) || choices.size === 0) return out;
      over = true;
      for (const choice of choices.values()) close(choice, out);
      for (const [index, { stop, hasCall }] of choices)
        out.push({ type: "stop", choice: index, reason: settledStop(stop ?? "stop", hasCall), stopSequence: null });
      out.push({ type: "end" });
      return out;
    },
  };
}
