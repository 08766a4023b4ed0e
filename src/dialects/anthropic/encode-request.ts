/** The neutral form, written as a Messages request. */
import type { EncodedRequest, EncodeOptions } from "../codec.ts";
import { flattenedInput, flattenedTool } from "../custom-tools.ts";
import { fieldsOf } from "../usage.ts";
import type { Losses } from "../losses.ts";
import type {
  AssistantBlock,
  CacheMark,
  ChatRequest,
  FileBlock,
  ImageBlock,
  JsonObject,
  MediaBlock,
  MediaSource,
  TextBlock,
  Tool,
  ToolChoice,
  Turn,
  UserBlock,
} from "../message.ts";
import { namesIn, toolNames, type NameRule, type ToolNames } from "../tool-names.ts";
import { objectSchema } from "./tool-schema.ts";
import { thinkingOf } from "./thinking.ts";
import { parsedObject } from "../parsed-object.ts";

const NAMES: NameRule = { maxLength: 128, allowed: /[a-zA-Z0-9_-]/ };
/** The API wants a cap, and nobody named one. */
const DEFAULT_MAX_TOKENS = 32_000;
/** As many as one request may have. */
const MOST_CACHE_MARKS = 4;

export function encodeRequest(request: ChatRequest, { losses, family, outputCap }: EncodeOptions): EncodedRequest {
  const names = toolNames(namesIn(request), NAMES);
  const cap = request.maxOutputTokens ?? outputCap ?? DEFAULT_MAX_TOKENS;
  const maxTokens = outputCap === undefined ? cap : Math.min(cap, outputCap);
  const writer = new Writer(names, losses, family === "anthropic");
  const tools = request.tools.map((tool) => writer.tool(tool));
  const system = request.system.map((block) => writer.text(block));
  const messages = messagesOf(request.turns.map((turn) => writer.turn(turn)));
  const body: Record<string, unknown> = { model: request.model, max_tokens: maxTokens };
  if (system.length > 0) body.system = system.every((block) => !("cache_control" in block)) ? system.map(({ text }) => text).join("\n\n") : system;
  body.messages = messages;
  if (tools.length > 0) {
    body.tools = tools;
    const choice = choiceOf(request, names);
    if (choice) body.tool_choice = choice;
  }
  if (request.stop.length > 0) body.stop_sequences = request.stop;
  const thinking = thinkingOf(request, maxTokens, messages, losses);
  Object.assign(body, thinking);
  setSampling(body, request, fieldsOf(body.thinking)?.type !== undefined, losses);
  setFormat(body, request, losses);
  if (request.seed !== null) losses.drops("seed");
  if (request.user !== null) body.metadata = { user_id: request.user };
  if (request.stream) body.stream = true;
  orderCacheMarks(body);
  return { body, toolName: names.original };
}

function setSampling(body: Record<string, unknown>, { temperature, topP, topK }: ChatRequest, isThinking: boolean, losses: Losses): void {
  const given = { temperature: temperature === null ? null : Math.min(temperature, 1), top_p: topP, top_k: topK };
  for (const [name, value] of Object.entries(given)) {
    if (value === null) continue;
    // Anthropic refuses them beside thinking.
    if (isThinking) losses.drops(name);
    else body[name] = value;
  }
}

function setFormat(body: Record<string, unknown>, { format }: ChatRequest, losses: Losses): void {
  if (format?.kind === "json")
    losses.cannot("response_format", "a Claude model takes a JSON schema, not just the wish for JSON; send one as json_schema");
  if (format?.kind !== "json_schema") return;
  body.output_config = { ...fieldsOf(body.output_config), format: { type: "json_schema", schema: format.schema } };
}

function choiceOf({ toolChoice, parallelToolCalls }: ChatRequest, names: ToolNames): JsonObject | null {
  const choice: ToolChoice | null = toolChoice ?? (parallelToolCalls === false ? { kind: "auto" } : null);
  if (!choice) return null;
  const apart = parallelToolCalls === false && choice.kind !== "none" ? { disable_parallel_tool_use: true } : {};
  if (choice.kind === "tool") return { type: "tool", name: names.sent(choice.name), ...apart };
  return { type: choice.kind === "required" ? "any" : choice.kind, ...apart };
}

type Message = JsonObject & { readonly role: Turn["role"]; readonly content: readonly JsonObject[] };

/** Begins with the user. A turn whose thoughts were another family's may have nothing left, and then its neighbours are one. */
function messagesOf(turns: readonly Message[]): readonly JsonObject[] {
  const messages: Message[] = [];
  for (const turn of turns) {
    const last = messages.at(-1);
    if (turn.content.length === 0) continue;
    if (last?.role === turn.role) messages[messages.length - 1] = { role: turn.role, content: [...last.content, ...turn.content] };
    else messages.push(turn);
  }
  return messages[0]?.role === "user" ? messages : [{ role: "user", content: [{ type: "text", text: "." }] }, ...messages];
}

type Written = Readonly<Record<string, unknown>> & { readonly type: string };

class Writer {
  readonly #names: ToolNames;
  readonly #losses: Losses;
  readonly #isClaude: boolean;

  constructor(names: ToolNames, losses: Losses, isClaude: boolean) {
    this.#names = names;
    this.#losses = losses;
    this.#isClaude = isClaude;
  }

  turn({ role, blocks }: Turn): Message {
    const content = role === "user" ? blocks.flatMap((block) => this.#user(block)) : blocks.flatMap((block) => this.#assistant(block));
    return { role, content };
  }

  text({ text, cache }: TextBlock): { readonly type: "text"; readonly text: string } {
    return { type: "text", text, ...cacheControl(cache) };
  }

  tool(tool: Tool): JsonObject {
    if (tool.kind === "web_search") return { type: "web_search_20250305", name: "web_search" };
    const { description, schema } = tool.kind === "custom" ? flattenedTool(tool) : tool;
    return {
      name: this.#names.sent(tool.name),
      ...(description === null ? {} : { description }),
      input_schema: objectSchema(schema),
      ...(tool.kind === "function" ? cacheControl(tool.cache) : {}),
    };
  }

  #user(block: UserBlock): readonly Written[] {
    if (block.type !== "tool_result") return this.#shown(block);
    const content = block.content.flatMap((each) => this.#shown(each));
    return [
      {
        type: "tool_result",
        tool_use_id: toolId(block.id),
        content,
        ...(block.isError ? { is_error: true } : {}),
        ...cacheControl(block.cache),
      },
    ];
  }

  #shown(block: TextBlock | ImageBlock | FileBlock | MediaBlock): readonly Written[] {
    switch (block.type) {
      case "text":
        return [this.text(block)];
      case "image":
        return [{ type: "image", source: sourceOf(block.source), ...cacheControl(block.cache) }];
      case "file":
        return [
          {
            type: "document",
            source: sourceOf(block.source),
            ...(block.filename === null ? {} : { title: block.filename }),
            ...cacheControl(block.cache),
          },
        ];
      case "media":
        this.#losses.cannot("messages", "a Claude model takes no sound and no video");
        return [];
    }
  }

  #assistant(block: AssistantBlock): readonly Written[] {
    switch (block.type) {
      case "text":
        return [this.text(block)];
      case "tool_call":
        return [
          {
            type: "tool_use",
            id: toolId(block.id),
            name: this.#names.sent(block.name),
            input: parsedObject(block.isCustom ? flattenedInput(block.input) : block.input) ?? {},
            ...cacheControl(block.cache),
          },
        ];
      case "thinking":
        // Thoughts that Anthropic did not sign, or signed for nobody here, are refused by it.
        if (!this.#isClaude || block.signature?.family !== "anthropic") return [];
        return [{ type: "thinking", thinking: block.text, signature: block.signature.value }];
      case "redacted_thinking":
        return this.#isClaude && block.signature.family === "anthropic" ? [{ type: "redacted_thinking", data: block.signature.value }] : [];
      default:
        // An assistant shows no images here.
        this.#losses.drops("messages");
        return [];
    }
  }
}

/** Anthropic's ids are of these characters alone; the same id gives the same one. */
export const toolId = (id: string): string => id.replaceAll(/[^a-zA-Z0-9_-]/g, "_") || "tool";

const sourceOf = (source: MediaSource): JsonObject =>
  source.kind === "url" ? { type: "url", url: source.url } : { type: "base64", media_type: source.mediaType, data: source.data };

const cacheControl = (cache: CacheMark | undefined): { readonly cache_control?: JsonObject } =>
  cache ? { cache_control: { type: "ephemeral", ...(cache.ttl === null ? {} : { ttl: cache.ttl }) } } : {};

/** At most four marks, the last ones; and none that lives for an hour behind one that lives for minutes. */
function orderCacheMarks(body: Record<string, unknown>): void {
  const marked: Record<string, unknown>[] = [];
  const collect = (value: unknown): void => {
    if (Array.isArray(value)) for (const each of value) collect(each);
    const fields = fieldsOf(value);
    if (!fields) return;
    if (fieldsOf(fields.cache_control)) marked.push(fields);
    if (Array.isArray(fields.content)) collect(fields.content);
  };
  // In the order in which Anthropic reads them.
  for (const part of [body.tools, body.system, body.messages]) collect(part);
  for (const fields of marked.slice(0, -MOST_CACHE_MARKS)) delete fields.cache_control;
  let isShort = false;
  for (const fields of marked.slice(-MOST_CACHE_MARKS)) {
    if ((fields.cache_control as JsonObject).ttl !== "1h") isShort = true;
    else if (isShort) fields.cache_control = { type: "ephemeral" };
  }
}
