/** The neutral form, written as a chat completions request. */
import type { EncodedRequest, EncodeOptions } from "../codec.ts";
import { flattenedInput, flattenedTool } from "../custom-tools.ts";
import type {
  AssistantBlock,
  ChatRequest,
  FileBlock,
  ImageBlock,
  JsonObject,
  MediaBlock,
  MediaSource,
  OutputFormat,
  ReasoningLevel,
  TextBlock,
  Tool,
  ToolChoice,
  ToolResultBlock,
  Turn,
} from "../message.ts";
import type { Losses } from "../losses.ts";
import { nearestLevel } from "../reasoning.ts";
import { namesIn, toolNames, type NameRule, type ToolNames } from "../tool-names.ts";
import { parameterRule } from "./parameters.ts";

const NAMES: NameRule = { maxLength: 64, allowed: /[a-zA-Z0-9_-]/ };
const LEVELS: readonly ReasoningLevel[] = ["none", "minimal", "low", "medium", "high", "xhigh"];
const AUDIO_FORMATS: Readonly<Record<string, string>> = { "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav" };
/** Models that are known not to reason, and refuse to be asked for it. */
export const PLAIN_MODEL = /(?:^|\/)(?:gpt-3\.5|gpt-4|chatgpt)/i;

export function encodeRequest(
  request: ChatRequest,
  { losses, outputCap, capField = "max_tokens", keepsThoughts = false }: EncodeOptions,
): EncodedRequest {
  const names = toolNames(namesIn(request), NAMES);
  const rule = parameterRule(request.model);
  const body: Record<string, unknown> = { model: request.model, messages: messagesOf(request, names, keepsThoughts, losses) };
  const set = (field: string, value: unknown): void => {
    if (value === null || value === undefined) return;
    // Reasoning models refuse what chat models take.
    if (rule?.drop.includes(field)) losses.drops(field);
    else body[field] = value;
  };
  if (request.stream) {
    body.stream = true;
    body.stream_options = { include_usage: true };
  }
  set(
    rule ? "max_completion_tokens" : capField,
    outputCap === undefined ? request.maxOutputTokens : Math.min(request.maxOutputTokens ?? outputCap, outputCap),
  );
  set("temperature", request.temperature);
  set("top_p", request.topP);
  set("seed", request.seed);
  if (request.topK !== null) losses.cannot("top_k", "an OpenAI model has no counterpart");
  if (request.stop.length > 0) set("stop", request.stop.length === 1 ? request.stop[0] : request.stop);
  const tools = request.tools.flatMap((tool) => toolOf(tool, names, body));
  if (tools.length > 0) {
    body.tools = tools;
    set("tool_choice", request.toolChoice && choiceOf(request.toolChoice, names));
    set("parallel_tool_calls", request.parallelToolCalls);
  }
  set("response_format", request.format && formatOf(request.format));
  set("reasoning_effort", effortOf(request, rule !== null, losses));
  set("prompt_cache_key", request.promptCacheKey);
  set("user", request.user);
  return { body, toolName: names.original };
}

function messagesOf({ system, turns }: ChatRequest, names: ToolNames, keepsThoughts: boolean, losses: Losses): readonly JsonObject[] {
  const messages: JsonObject[] = [];
  if (system.length > 0) messages.push({ role: "system", content: system.map(({ text }) => text).join("\n\n") });
  for (const turn of turns) messages.push(...(turn.role === "user" ? userMessages(turn, losses) : assistantMessages(turn, names, keepsThoughts)));
  // A model answers somebody.
  if (turns.length === 0) messages.push({ role: "user", content: "" });
  return messages;
}

function userMessages({ blocks }: Extract<Turn, { role: "user" }>, losses: Losses): readonly JsonObject[] {
  const messages: JsonObject[] = [];
  const parts: JsonObject[] = [];
  for (const block of blocks) {
    if (block.type === "tool_result") {
      messages.push({ role: "tool", tool_call_id: block.id, content: resultText(block) });
      // An answer is text here; what a tool shows comes behind the answers.
      for (const shown of block.content) if (shown.type !== "text") parts.push(...partOf(shown, losses));
    } else parts.push(...partOf(block, losses));
  }
  const [only] = parts;
  if (parts.length === 1 && only?.type === "text") messages.push({ role: "user", content: only.text });
  else if (parts.length > 0) messages.push({ role: "user", content: parts });
  return messages;
}

const resultText = ({ content }: ToolResultBlock): string =>
  content
    .filter((block): block is TextBlock => block.type === "text")
    .map(({ text }) => text)
    .join("\n");

export const urlOf = (source: MediaSource): string => (source.kind === "url" ? source.url : `data:${source.mediaType};base64,${source.data}`);

function partOf(block: TextBlock | ImageBlock | FileBlock | MediaBlock, losses: Losses): readonly JsonObject[] {
  switch (block.type) {
    case "text":
      return [{ type: "text", text: block.text }];
    case "image":
      return [{ type: "image_url", image_url: { url: urlOf(block.source), ...(block.detail === undefined ? {} : { detail: block.detail }) } }];
    case "file":
      if (block.source.kind === "url") {
        losses.cannot("document", "an OpenAI model takes a document's bytes, not its address");
        return [];
      }
      return [{ type: "file", file: { filename: block.filename ?? "document.pdf", file_data: urlOf(block.source) } }];
    case "media": {
      const { source } = block;
      if (source.mediaType?.startsWith("video/") || source.kind === "url") return [{ type: "video_url", video_url: { url: urlOf(source) } }];
      const format = AUDIO_FORMATS[source.mediaType] ?? source.mediaType.replace(/^audio\//, "");
      return [{ type: "input_audio", input_audio: { data: source.data, format } }];
    }
  }
}

function assistantMessages({ blocks }: Extract<Turn, { role: "assistant" }>, names: ToolNames, keepsThoughts: boolean): readonly JsonObject[] {
  const text = blocks.filter((block): block is TextBlock => block.type === "text").map((block) => block.text);
  const calls = blocks.filter((block): block is Extract<AssistantBlock, { type: "tool_call" }> => block.type === "tool_call");
  if (text.length === 0 && calls.length === 0) return [];
  const thoughts = keepsThoughts ? blocks.flatMap((block) => (block.type === "thinking" ? [block.text] : [])).join("") : "";
  const kept = thoughts === "" ? {} : { reasoning_content: thoughts };
  const content = text.length === 0 ? null : text.join("");
  if (calls.length === 0) return [{ role: "assistant", content, ...kept }];
  return [
    {
      role: "assistant",
      content,
      ...kept,
      tool_calls: calls.map(({ id, name, input, isCustom }) => ({
        id,
        type: "function",
        function: { name: names.sent(name), arguments: isCustom ? flattenedInput(input) : jsonOrEmpty(input) },
      })),
    },
  ];
}

/** The text of a JSON object; what is none is an empty one, because a provider would refuse the whole conversation. */
export function jsonOrEmpty(text: string): string {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? text : "{}";
  } catch {
    return "{}";
  }
}

function toolOf(tool: Tool, names: ToolNames, body: Record<string, unknown>): readonly JsonObject[] {
  if (tool.kind === "web_search") {
    body.web_search_options = {};
    return [];
  }
  const { description, schema } = tool.kind === "custom" ? flattenedTool(tool) : tool;
  const strict = tool.kind === "function" ? tool.strict : null;
  return [
    {
      type: "function",
      function: {
        name: names.sent(tool.name),
        ...(description === null ? {} : { description }),
        parameters: withProperties(schema ?? { type: "object" }),
        ...(strict === null ? {} : { strict }),
      },
    },
  ];
}

/** OpenAI wants `properties` on every object, also on one without any. */
export function withProperties(schema: JsonObject): JsonObject {
  const entries = Object.entries(schema).map(([name, value]): [string, unknown] => {
    if (VALUES.has(name)) return [name, value];
    return [name, SCHEMA_MAPS.has(name) ? mapped(value) : within(value)];
  });
  const copy = Object.fromEntries(entries);
  return schema.type === "object" && schema.properties === undefined ? { ...copy, properties: {} } : copy;
}

/** Members of a schema whose own members are names, not keywords. */
const SCHEMA_MAPS: ReadonlySet<string> = new Set(["properties", "$defs", "definitions", "patternProperties", "dependentSchemas"]);
/** Members of a schema that hold values, not schemas. */
const VALUES: ReadonlySet<string> = new Set(["enum", "const", "default", "examples", "example"]);

const isSchema = (value: unknown): value is JsonObject => typeof value === "object" && value !== null && !Array.isArray(value);

const mapped = (value: unknown): unknown =>
  isSchema(value) ? Object.fromEntries(Object.entries(value).map(([name, each]): [string, unknown] => [name, within(each)])) : value;

function within(value: unknown): unknown {
  if (Array.isArray(value)) return value.map((each: unknown) => within(each));
  return isSchema(value) ? withProperties(value) : value;
}

const choiceOf = (choice: ToolChoice, names: ToolNames): unknown =>
  choice.kind === "tool" ? { type: "function", function: { name: names.sent(choice.name) } } : choice.kind;

function formatOf(format: OutputFormat): JsonObject {
  if (format.kind === "json") return { type: "json_object" };
  const { name, schema, strict, description } = format;
  return {
    type: "json_schema",
    json_schema: { name, schema, ...(strict === null ? {} : { strict }), ...(description === null ? {} : { description }) },
  };
}

function effortOf({ reasoning, model }: ChatRequest, isReasoner: boolean, losses: Losses): string | null {
  // Left to itself, a model that can think decides by itself how much.
  if (reasoning === null || reasoning.level === "auto") return null;
  if (!isReasoner && PLAIN_MODEL.test(model)) {
    losses.drops("reasoning");
    return null;
  }
  return nearestLevel(reasoning.level, LEVELS);
}
