/** The neutral form, written as a Responses request. */
import { createHash } from "node:crypto";
import type { EncodedRequest, EncodeOptions } from "../codec.ts";
import { flattenedInput } from "../custom-tools.ts";
import type { Losses } from "../losses.ts";
import type { AssistantBlock, ChatRequest, JsonObject, OutputFormat, ToolChoice, ToolResultBlock, Turn } from "../message.ts";
import { jsonOrEmpty } from "../openai/encode-request.ts";
import { parameterRule } from "../openai/parameters.ts";
import { namesIn, toolNames, type NameRule, type ToolNames } from "../tool-names.ts";
import { reasoningOf, reasons } from "./effort.ts";
import { writePart } from "./parts.ts";
import { toolItem } from "./tools.ts";

const NAMES: NameRule = { maxLength: 64, allowed: /[a-zA-Z0-9_-]/ };
const MOST_ID_CHARS = 64;

export function encodeRequest(request: ChatRequest, { losses, family, outputCap }: EncodeOptions): EncodedRequest {
  const names = toolNames(namesIn(request), NAMES);
  const rule = parameterRule(request.model);
  const writer = new Writer(request, names, losses, family === "openai");
  const body: Record<string, unknown> = { model: request.model };
  const set = (field: string, value: unknown): void => {
    if (value === null || value === undefined) return;
    // Reasoning models refuse what chat models take.
    if (rule?.drop.includes(field)) losses.drops(field);
    else body[field] = value;
  };
  if (request.system.length > 0) body.instructions = request.system.map(({ text }) => text).join("\n\n");
  const items = request.turns.flatMap((turn) => writer.turn(turn));
  // A model answers somebody.
  body.input = items.length > 0 ? items : [{ type: "message", role: "user", content: "" }];
  if (request.stream) body.stream = true;
  // Callers of other dialects never asked the provider to keep what they say, and so bring the thoughts along.
  body.store = false;
  if (reasons(request)) body.include = ["reasoning.encrypted_content"];
  set("max_output_tokens", outputCap === undefined ? request.maxOutputTokens : Math.min(request.maxOutputTokens ?? outputCap, outputCap));
  set("temperature", request.temperature);
  set("top_p", request.topP);
  if (request.topK !== null) losses.cannot("top_k", "an OpenAI model has no counterpart");
  if (request.stop.length > 0) losses.cannot("stop", "the Responses API knows no stop sequences");
  if (request.seed !== null) losses.drops("seed");
  if (request.tools.length > 0) {
    body.tools = request.tools.map((tool) => toolItem(tool, names.sent));
    set("tool_choice", request.toolChoice && choiceOf(request, request.toolChoice, names));
    set("parallel_tool_calls", request.parallelToolCalls);
  }
  set("text", request.format && { format: formatItem(request.format) });
  set("reasoning", reasoningOf(request, losses));
  set("prompt_cache_key", request.promptCacheKey);
  set("user", request.user);
  return { body, toolName: names.original };
}

class Writer {
  readonly #names: ToolNames;
  readonly #losses: Losses;
  readonly #isOpenai: boolean;
  /** Names of tools that take text. */
  readonly #custom: ReadonlySet<string>;
  /** Ids of calls of such tools. */
  readonly #customCalls = new Set<string>();

  constructor({ tools }: ChatRequest, names: ToolNames, losses: Losses, isOpenai: boolean) {
    this.#names = names;
    this.#losses = losses;
    this.#isOpenai = isOpenai;
    this.#custom = new Set(tools.flatMap((tool) => (tool.kind === "custom" ? [tool.name] : [])));
  }

  turn(turn: Turn): readonly JsonObject[] {
    return turn.role === "user" ? this.#user(turn) : this.#assistant(turn);
  }

  #user({ blocks }: Extract<Turn, { role: "user" }>): readonly JsonObject[] {
    const items: JsonObject[] = [];
    const content: JsonObject[] = [];
    for (const block of blocks) {
      if (block.type === "tool_result") items.push(this.#result(block));
      else content.push(...writePart(block, this.#losses));
    }
    if (content.length > 0) items.push({ type: "message", role: "user", content });
    return items;
  }

  #result({ id, content }: ToolResultBlock): JsonObject {
    const isText = content.every(({ type }) => type === "text");
    const output = isText
      ? content.map((block) => (block.type === "text" ? block.text : "")).join("\n")
      : content.flatMap((block) => writePart(block, this.#losses));
    const type = this.#customCalls.has(id) ? "custom_tool_call_output" : "function_call_output";
    return { type, call_id: callId(id), output };
  }

  #assistant({ blocks }: Extract<Turn, { role: "assistant" }>): readonly JsonObject[] {
    const items: JsonObject[] = [];
    /** Of the message that is open. */
    let content: JsonObject[] | null = null;
    for (const block of blocks) {
      if (block.type === "text") {
        const part = { type: "output_text", text: block.text };
        if (content) content.push(part);
        else items.push({ type: "message", role: "assistant", content: (content = [part]) });
      } else {
        content = null;
        items.push(...this.#item(block));
      }
    }
    return items;
  }

  #item(block: Exclude<AssistantBlock, { type: "text" }>): readonly JsonObject[] {
    switch (block.type) {
      case "tool_call":
        return [this.#call(block)];
      case "thinking":
      case "redacted_thinking": {
        // Only what OpenAI encrypted is read by it; thoughts without that are nobody's.
        const { signature } = block;
        if (!this.#isOpenai || signature?.family !== "openai") return [];
        const summary = block.type === "thinking" && block.text !== "" ? [{ type: "summary_text", text: block.text }] : [];
        return [{ type: "reasoning", summary, encrypted_content: signature.value }];
      }
      default:
        // An assistant shows no images here.
        this.#losses.drops("messages");
        return [];
    }
  }

  #call({ id, name, input, isCustom }: Extract<AssistantBlock, { type: "tool_call" }>): JsonObject {
    const base = { call_id: callId(id), name: this.#names.sent(name) };
    if (isCustom && this.#custom.has(name)) {
      this.#customCalls.add(id);
      return { type: "custom_tool_call", ...base, input };
    }
    return { type: "function_call", ...base, arguments: isCustom ? flattenedInput(input) : jsonOrEmpty(input) };
  }
}

/** OpenAI refuses longer ones; the same id gives the same one. */
const callId = (id: string): string => (id.length <= MOST_ID_CHARS ? id : `call_${createHash("sha256").update(id).digest("hex").slice(0, 32)}`);

function choiceOf({ tools }: ChatRequest, choice: ToolChoice, names: ToolNames): unknown {
  if (choice.kind !== "tool") return choice.kind;
  const isCustom = tools.some((tool) => tool.kind === "custom" && tool.name === choice.name);
  return { type: isCustom ? "custom" : "function", name: names.sent(choice.name) };
}

export function formatItem(format: OutputFormat): JsonObject {
  if (format.kind === "json") return { type: "json_object" };
  const { name, schema, strict, description } = format;
  return { type: "json_schema", name, schema, ...(strict === null ? {} : { strict }), ...(description === null ? {} : { description }) };
}
