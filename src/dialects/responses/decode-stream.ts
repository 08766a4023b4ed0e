/** A stream of the Responses API, read into neutral events. */
import { GuardError } from "../../core/errors.ts";
import type { DecodeOptions, StreamDecoder } from "../codec.ts";
import { settledStop, type ChatEvent, type JsonObject } from "../message.ts";
import { isComment, sseReader, type SseEvent } from "../sse-reader.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { BETWEEN_THOUGHTS, callStart, imageIn, messageParts, signatureIn, stopOf, text, thoughtParts } from "./answer.ts";
import { decodeError } from "./errors.ts";
import { parsedObject } from "../parsed-object.ts";

/** Items and parts of them. */
const MOST_PARTS = 20_000;
/** Input of a call that came before the call's name did. */
const MOST_EARLY_CHARS = 1024 * 1024;

type Kind = "text" | "thinking" | "tool_call";

const KINDS: Readonly<Record<string, Kind>> = {
  message: "text",
  reasoning: "thinking",
  function_call: "tool_call",
  custom_tool_call: "tool_call",
};

/** An event that tells text. */
interface TextEvent {
  readonly kind: Kind;
  readonly of: "content" | "summary";
  readonly field: "delta" | "text" | "refusal";
  readonly isWhole: boolean;
  readonly isRefusal?: true;
}

const TEXT_EVENTS: ReadonlyMap<unknown, TextEvent> = new Map([
  ["response.output_text.delta", { kind: "text", of: "content", field: "delta", isWhole: false }],
  ["response.output_text.done", { kind: "text", of: "content", field: "text", isWhole: true }],
  ["response.refusal.delta", { kind: "text", of: "content", field: "delta", isWhole: false, isRefusal: true }],
  ["response.refusal.done", { kind: "text", of: "content", field: "refusal", isWhole: true, isRefusal: true }],
  ["response.reasoning_summary_text.delta", { kind: "thinking", of: "summary", field: "delta", isWhole: false }],
  ["response.reasoning_summary_text.done", { kind: "thinking", of: "summary", field: "text", isWhole: true }],
  ["response.reasoning_text.delta", { kind: "thinking", of: "content", field: "delta", isWhole: false }],
  ["response.reasoning_text.done", { kind: "thinking", of: "content", field: "text", isWhole: true }],
]);

const BEGINNINGS: ReadonlySet<unknown> = new Set(["response.created", "response.in_progress", "response.queued"]);
/** `response.done` is what it is called on a WebSocket. */
const TERMINAL: ReadonlySet<unknown> = new Set(["response.completed", "response.incomplete", "response.done"]);

interface Item {
  readonly kind: Kind;
  readonly isCustom: boolean;
  /** Of its block; null = nothing was told yet. */
  key: number | null;
  /** Of a call: input that waits for its name. */
  early: string;
  /** Parts that came in pieces: what tells them whole adds nothing. */
  readonly told: Set<string>;
  lastPart: string;
  isDone: boolean;
}

export function responsesDecoder({ toolName, unwrap }: DecodeOptions): StreamDecoder {
  const reader = sseReader();
  /** By `output_index` and by id: some providers leave out one, and some change the other from event to event. */
  const items = new Map<string, Item>();
  let made = 0;
  let keys = 0;
  let started = false;
  let refused = false;
  let hasCall = false;
  let over = false;

  function count(): void {
    if ((made += 1) > MOST_PARTS) throw new GuardError("upstream_protocol", "the upstream sent more parts than one answer can hold");
  }

  function start(response: JsonObject, out: ChatEvent[]): void {
    if (started) return;
    started = true;
    out.push({ type: "start", id: text(response.id) || null, model: text(response.model) || null });
  }

  const names = (index: unknown, id: unknown): readonly string[] => [
    ...(typeof index === "number" ? [`#${index}`] : []),
    ...(typeof id === "string" && id !== "" ? [id] : []),
  ];

  const known = (index: unknown, id: unknown): Item | undefined => {
    for (const name of names(index, id)) {
      const item = items.get(name);
      if (item) return item;
    }
    return undefined;
  };

  function itemAt(index: unknown, id: unknown, kind: Kind, isCustom: boolean): Item {
    const given = names(index, id);
    // Where nothing is said of it, it is the one that is being written.
    const own = given.length > 0 ? given : [`?${kind}`];
    const found = given.length > 0 ? known(index, id) : items.get(`?${kind}`);
    if (found && (given.length > 0 || !found.isDone)) return found;
    count();
    const item: Item = { kind, isCustom, key: null, early: "", told: new Set(), lastPart: "", isDone: false };
    for (const name of own) items.set(name, item);
    return item;
  }

  function say(item: Item, part: string, piece: string, out: ChatEvent[]): void {
    if (piece === "" || item.isDone || item.kind === "tool_call") return;
    start({}, out);
    if (item.key === null) out.push({ type: "open", choice: 0, key: (item.key = keys += 1), block: { type: item.kind } });
    // The parts of one reasoning are one block of thoughts.
    else if (item.kind === "thinking" && part !== item.lastPart) out.push({ type: "delta", key: item.key, text: BETWEEN_THOUGHTS });
    if (part !== item.lastPart) {
      count();
      item.told.add(part);
    }
    item.lastPart = part;
    out.push({ type: "delta", key: item.key, text: piece });
  }

  /** A part that is told whole counts only if it did not come in pieces. */
  function fill(item: Item, part: string, whole: string, out: ChatEvent[]): void {
    if (!item.told.has(part)) say(item, part, whole, out);
  }

  function open(item: Item, fields: JsonObject, out: ChatEvent[]): void {
    if (item.kind !== "tool_call" || item.key !== null || item.isDone) return;
    start({}, out);
    hasCall = true;
    const key = (keys += 1);
    item.key = key;
    const type = item.isCustom ? "custom_tool_call" : "function_call";
    out.push({ type: "open", choice: 0, key, block: callStart({ ...fields, type }, `call_${key}`, toolName) });
    if (item.early !== "") out.push({ type: "delta", key, text: item.early });
    item.early = "";
  }

  function input(item: Item, piece: string, out: ChatEvent[]): void {
    if (piece === "" || item.isDone || item.kind !== "tool_call") return;
    item.told.add("input");
    if (item.key !== null) {
      out.push({ type: "delta", key: item.key, text: piece });
      return;
    }
    item.early += piece;
    if (item.early.length > MOST_EARLY_CHARS) throw new GuardError("upstream_protocol", "the upstream wrote a tool's input before its name");
  }

  function added(index: unknown, fields: JsonObject, out: ChatEvent[]): void {
    const kind = kindOf(fields);
    if (kind === null) return;
    const item = itemAt(index, fields.id, kind, fields.type === "custom_tool_call");
    if (text(fields.name) !== "" && (text(fields.call_id) || text(fields.id)) !== "") open(item, fields, out);
  }

  /** An item that is told whole: what of it did not come before comes now. */
  function done(index: unknown, fields: JsonObject, out: ChatEvent[]): void {
    if (fields.type === "image_generation_call") image(index, fields, out);
    const kind = kindOf(fields);
    if (kind === null) return;
    const item = itemAt(index, fields.id, kind, fields.type === "custom_tool_call");
    if (item.isDone) return;
    if (kind === "tool_call") {
      open(item, fields, out);
      if (!item.told.has("input")) input(item, wholeInput(fields), out);
    } else if (kind === "text") {
      for (const [i, part] of messageParts(fields).entries()) fill(item, `content${i}`, part, out);
      refused ||= isRefusal(fields);
    } else {
      const summary = Array.isArray(fields.summary) ? fields.summary.length : 0;
      for (const [i, part] of thoughtParts(fields).entries()) fill(item, i < summary ? `summary${i}` : `content${i - summary}`, part, out);
      sign(item, fields, out);
    }
    close(item, out);
  }

  function sign(item: Item, fields: JsonObject, out: ChatEvent[]): void {
    const signature = signatureIn(fields);
    if (!signature) return;
    start({}, out);
    if (item.key === null) out.push({ type: "open", choice: 0, key: (item.key = keys += 1), block: { type: "thinking" } });
    out.push({ type: "signature", key: item.key, signature });
  }

  function image(index: unknown, fields: JsonObject, out: ChatEvent[]): void {
    const block = imageIn(fields);
    if (!block || known(index, fields.id)) return;
    start({}, out);
    itemAt(index, fields.id, "text", false).isDone = true;
    out.push({ type: "open", choice: 0, key: (keys += 1), block: { type: "media", block } }, { type: "close", key: keys });
  }

  function close(item: Item, out: ChatEvent[]): void {
    if (item.isDone) return;
    item.isDone = true;
    item.told.clear();
    if (item.key !== null) out.push({ type: "close", key: item.key });
  }

  function terminal(response: JsonObject, out: ChatEvent[]): void {
    over = true;
    start(response, out);
    // Items that came in no event of their own, or whose end did not.
    if (Array.isArray(response.output)) for (const [i, value] of response.output.entries()) done(i, fieldsOf(value) ?? {}, out);
    for (const item of new Set(items.values())) {
      if (item.early !== "") open(item, {}, out);
      close(item, out);
    }
    use(response, out);
    const reason = settledStop(refused ? "content_filter" : stopOf(response), hasCall);
    out.push({ type: "stop", choice: 0, reason, stopSequence: null }, { type: "end" });
  }

  function use(response: JsonObject, out: ChatEvent[]): void {
    const usage = openaiUsage(response.usage);
    if (usage) out.push({ type: "usage", usage });
  }

  function last(body: JsonObject, response: JsonObject, out: ChatEvent[]): void {
    const error = decodeError(body);
    const isTerminal = TERMINAL.has(body.type);
    if (!error && !isTerminal) return;
    over = true;
    if (!error) {
      terminal(body.type === "response.incomplete" ? { ...response, status: "incomplete" } : response, out);
      return;
    }
    use(response, out);
    out.push({ type: "error", ...error });
  }

  function write({ kind, of, field, isWhole, isRefusal: refuses }: TextEvent, body: JsonObject, out: ChatEvent[]): void {
    refused ||= refuses === true;
    const at = body[`${of}_index`];
    const tell = isWhole ? fill : say;
    tell(itemAt(body.output_index, body.item_id, kind, false), `${of}${typeof at === "number" ? at : 0}`, text(body[field]), out);
  }

  function one(body: JsonObject, out: ChatEvent[]): void {
    const { type, output_index: index, item_id: id } = body;
    const textEvent = TEXT_EVENTS.get(type);
    if (textEvent) {
      write(textEvent, body, out);
      return;
    }
    switch (type) {
      case "response.output_item.added":
        added(index, fieldsOf(body.item) ?? {}, out);
        return;
      case "response.output_item.done":
        done(index, fieldsOf(body.item) ?? {}, out);
        return;
      case "response.function_call_arguments.delta":
      case "response.custom_tool_call_input.delta":
        input(itemAt(index, id, "tool_call", type === "response.custom_tool_call_input.delta"), text(body.delta), out);
        return;
      case "response.function_call_arguments.done":
      case "response.custom_tool_call_input.done": {
        const item = itemAt(index, id, "tool_call", type === "response.custom_tool_call_input.done");
        if (!item.told.has("input")) input(item, wholeInput(body), out);
        return;
      }
      default: {
        const response = fieldsOf(body.response) ?? {};
        if (BEGINNINGS.has(type)) start(response, out);
        else last(body, response, out);
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

const kindOf = ({ type }: JsonObject): Kind | null => (typeof type === "string" && Object.hasOwn(KINDS, type) ? (KINDS[type] as Kind) : null);

/** A call's input as an event or an item tells it. */
const wholeInput = (fields: JsonObject): string => text(fields.arguments) || text(fields.input);

const isRefusal = ({ content }: JsonObject): boolean => Array.isArray(content) && content.some((value) => text(fieldsOf(value)?.refusal) !== "");
