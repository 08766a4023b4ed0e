/** Neutral events, written as a stream of the Responses API. */
import { GuardError } from "../../core/errors.ts";
import { NO_USAGE, type Usage } from "../../core/usage.ts";
import type { AnswerOptions, StreamEncoder } from "../codec.ts";
import type { BlockStart, ChatEvent, JsonObject, Signature, StopReason } from "../message.ts";
import { oneAtATime } from "../one-at-a-time.ts";
import { encodeUsage } from "./answer.ts";
import {
  callItemId,
  callSealed,
  callShapes,
  imageItem,
  messageItem,
  reasoningItem,
  summaryPart,
  textPart,
  thoughtsSealed,
  toldInput,
  type CallShape,
  type ItemStatus,
} from "./items.ts";
import { isCut, responseBody, responseId } from "./response-body.ts";
import { sealed } from "./seals.ts";

/** The last event holds the whole answer again. */
const MOST_CHARS = 32 * 1024 * 1024;

/** The item that is being written. */
interface OpenItem {
  readonly type: "text" | "thinking" | "tool_call";
  readonly id: string;
  readonly shape: CallShape | null;
  /** The type of the events that tell it piece by piece; null = there are none. */
  readonly deltas: string | null;
  /** What stands in such an event before and behind the piece. */
  readonly before: string;
  readonly after: string;
  text: string;
  /** Whether the caller knows of it: an empty text is no item. */
  begun: boolean;
  signature: Signature | null;
}

export function responsesEncoder(options: AnswerOptions): StreamEncoder {
  const order = oneAtATime();
  const shapeOf = callShapes(options);
  const output: JsonObject[] = [];
  let body: ReturnType<typeof responseBody> | null = null;
  let sequence = -1;
  let current: OpenItem | null = null;
  /** Its end is told when it is known whether the answer was cut there. */
  let ended = false;
  let usage: Usage | null = null;
  let stop: StopReason = "stop";
  let chars = 0;

  function event(type: string, fields: JsonObject): string {
    return `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: (sequence += 1), ...fields })}\n\n`;
  }

  function start(id: string | null): string {
    if (body) return "";
    body = responseBody(responseId(id, options), options);
    const response = body({ stop: null, output: [], usage: null });
    return event("response.created", { response }) + event("response.in_progress", { response });
  }

  /** An item that comes whole. */
  function whole(added: JsonObject, done: JsonObject): string {
    const told = event("response.output_item.added", { output_index: output.length, item: added });
    output.push(done);
    return told + event("response.output_item.done", { output_index: output.length - 1, item: done });
  }

  const hidden = (content: string): string => {
    const reasoning = reasoningItem(`rs_${options.nextId()}`, "", content);
    return whole(reasoning, reasoning);
  };

  function open(block: BlockStart): string {
    switch (block.type) {
      case "text":
        current = item("text", `msg_${options.nextId()}`, "response.output_text.delta", '"content_index":0,', ',"logprobs":[]');
        return "";
      case "thinking":
        current = item("thinking", `rs_${options.nextId()}`, "response.reasoning_summary_text.delta", '"summary_index":0,');
        return "";
      case "redacted_thinking":
        return hidden(sealed(block.signature, "redacted"));
      case "tool_call": {
        const shape = shapeOf(block);
        const type = shape.isCustom ? "response.custom_tool_call_input.delta" : "response.function_call_arguments.delta";
        const content = callSealed(block.signature);
        const before = content === null ? "" : hidden(content);
        current = item("tool_call", callItemId(shape, options.nextId), shape.isFlattened ? null : type, "", "", shape);
        current.begun = true;
        return before + event("response.output_item.added", { output_index: output.length, item: shape.item(current.id, "in_progress", "") });
      }
      case "media": {
        const done = block.block.type === "image" ? imageItem(`ig_${options.nextId()}`, block.block) : null;
        return done ? whole({ ...done, status: "in_progress", result: null }, done) : "";
      }
    }
  }

  function item(type: OpenItem["type"], id: string, deltas: string | null, index: string, after = "", shape: CallShape | null = null): OpenItem {
    const before = `,"item_id":${JSON.stringify(id)},"output_index":${output.length},${index}"delta":`;
    return { type, id, shape, deltas, before, after: `${after}}\n\n`, text: "", begun: false, signature: null };
  }

  /** Tells of an item with the first that there is to tell. */
  function begin(own: OpenItem): string {
    if (own.begun) return "";
    own.begun = true;
    const isText = own.type === "text";
    const added = isText ? messageItem(own.id, "in_progress", []) : reasoningItem(own.id, "", null);
    const told = event("response.output_item.added", { output_index: output.length, item: added });
    return isText ? told + event("response.content_part.added", { ...placeOf(own), content_index: 0, part: textPart("") }) : told;
  }

  const placeOf = ({ id }: OpenItem) => ({ item_id: id, output_index: output.length });

  function delta(own: OpenItem, piece: string): string {
    if (piece === "") return "";
    chars += piece.length;
    if (chars > MOST_CHARS) throw new GuardError("upstream_protocol", "the provider's answer is larger than 32 MiB; ask for less in one request");
    let told = begin(own);
    if (own.type === "thinking" && own.text === "")
      told += event("response.reasoning_summary_part.added", { ...placeOf(own), summary_index: 0, part: summaryPart("") });
    own.text += piece;
    const { deltas, before, after } = own;
    if (deltas === null) return told;
    return `${told}event: ${deltas}\ndata: {"type":"${deltas}","sequence_number":${(sequence += 1)}${before}${JSON.stringify(piece)}${after}`;
  }

  /** The end of the item that was written. */
  function finish(status: ItemStatus): string {
    const own = current;
    current = null;
    ended = false;
    if (!own?.begun) return "";
    const [told, done] = finished(own, status);
    output.push(done);
    return told + event("response.output_item.done", { output_index: output.length - 1, item: done });
  }

  function finished(own: OpenItem, status: ItemStatus): readonly [string, JsonObject] {
    const { id, type, shape, text } = own;
    const at = placeOf(own);
    if (type === "text") {
      const part = textPart(text);
      const told = event("response.output_text.done", { ...at, content_index: 0, text, logprobs: [] });
      return [told + event("response.content_part.done", { ...at, content_index: 0, part }), messageItem(id, status, [part])];
    }
    if (type === "thinking") {
      const done = reasoningItem(id, text, thoughtsSealed(own.signature));
      if (text === "") return ["", done];
      const told = event("response.reasoning_summary_text.done", { ...at, summary_index: 0, text });
      return [told + event("response.reasoning_summary_part.done", { ...at, summary_index: 0, part: summaryPart(text) }), done];
    }
    const call = shape as CallShape;
    const input = toldInput(call, text);
    const done = call.item(id, status, input);
    if (!call.isCustom) return [event("response.function_call_arguments.done", { ...at, name: done.name, arguments: input }), done];
    const late = call.isFlattened && input !== "" ? event("response.custom_tool_call_input.delta", { ...at, delta: input }) : "";
    return [late + event("response.custom_tool_call_input.done", { ...at, input }), done];
  }

  function end(): string {
    const begun = start(null);
    const type = isCut(stop) ? "response.incomplete" : "response.completed";
    const last = event(type, { response: body?.({ stop, output, usage: encodeUsage(usage ?? NO_USAGE) }) });
    return begun + last;
  }

  function one(each: ChatEvent): string {
    switch (each.type) {
      case "start":
        return start(each.id);
      case "open":
        return (ended ? finish("completed") : "") + start(null) + open(each.block);
      case "delta":
        return current && !ended ? delta(current, each.text) : "";
      case "signature":
        if (!current || ended) return "";
        current.signature = each.signature;
        return begin(current);
      case "close":
        ended = current !== null;
        return "";
      case "usage":
        ({ usage } = each);
        return "";
      case "stop":
        stop = each.reason;
        return finish(isCut(stop) ? "incomplete" : "completed");
      case "ping":
        return ": keep-alive\n\n";
      case "end":
        return finish("completed") + end();
      case "error":
        return "";
    }
  }

  /** Keys of blocks of other answers than the first: there is one here. */
  const others = new Set<number>();

  function isShown(each: ChatEvent): boolean {
    if (each.type === "stop") return each.choice === 0;
    if (each.type === "open" && each.choice !== 0) others.add(each.key);
    return !("key" in each && others.has(each.key));
  }

  return {
    push(events) {
      let out = "";
      for (const each of order.push(events.filter(isShown))) out += one(each);
      return out;
    },
  };
}
