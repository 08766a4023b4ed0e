/** A Messages request, read into the neutral form. */
import { flagOf, invalid, listOf, numberOf, objectOf, requiredObject, requiredText, textOf, textsOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import {
  REASONING_LEVELS,
  type AssistantBlock,
  type CacheMark,
  type ChatRequest,
  type FileBlock,
  type ImageBlock,
  type JsonObject,
  type MediaSource,
  type OutputFormat,
  type Reasoning,
  type ReasoningLevel,
  type TextBlock,
  type Tool,
  type ToolChoice,
  type UserBlock,
} from "../message.ts";
import { levelOf } from "../reasoning.ts";
import { turnBuilder } from "../turns.ts";

/** Read here, or by the gateway itself. */
const READ = new Set(
  "model messages system stream max_tokens stop_sequences temperature top_p top_k tools tool_choice thinking output_config output_format metadata session_id"
    .split(" ")
    .concat("mcp_servers", "container"),
);

export function decodeRequest(
  body: JsonObject,
  { model, stream }: { readonly model: string; readonly stream: boolean },
  losses: Losses,
): ChatRequest {
  const turns = turnBuilder();
  listOf(body.messages, "messages").forEach((value, i) => {
    const field = `messages[${i}]`;
    const message = requiredObject(value, field);
    const role = requiredText(message.role, `${field}.role`);
    const content = blocksIn(message.content, `${field}.content`);
    if (role === "assistant") turns.assistant(...content.flatMap(([block, at]) => assistantBlock(block, at, losses)));
    // A system message inside the conversation is said where it stands.
    else if (role === "user" || role === "system") turns.user(...content.flatMap(([block, at]) => userBlock(block, at, losses)));
    else throw invalid(`${field}.role`, "must be user or assistant");
  });
  for (const field of ["mcp_servers", "container"]) {
    const value = body[field];
    if (value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0)) losses.cannot(field, "only Anthropic runs these");
  }
  for (const field of Object.keys(body)) if (!READ.has(field) && body[field] !== null) losses.drops(field);
  const choice = objectOf(body.tool_choice, "tool_choice");
  const effort = objectOf(body.output_config, "output_config");
  return {
    model,
    system: systemOf(body.system),
    turns: turns.turns(),
    tools: listOf(body.tools, "tools").flatMap((tool, i) => toolOf(requiredObject(tool, `tools[${i}]`), `tools[${i}]`, losses)),
    toolChoice: choice && choiceOf(choice),
    parallelToolCalls: flagOf(choice?.disable_parallel_tool_use, "tool_choice.disable_parallel_tool_use") === true ? false : null,
    maxOutputTokens: numberOf(body.max_tokens, "max_tokens"),
    stop: textsOf(body.stop_sequences, "stop_sequences"),
    temperature: numberOf(body.temperature, "temperature"),
    topP: numberOf(body.top_p, "top_p"),
    topK: numberOf(body.top_k, "top_k"),
    seed: null,
    format: formatOf(body.output_format, "output_format") ?? formatOf(effort?.format, "output_config.format"),
    reasoning: reasoningOf(objectOf(body.thinking, "thinking"), effort),
    promptCacheKey: null,
    user: textOf(objectOf(body.metadata, "metadata")?.user_id, "metadata.user_id"),
    stream,
  };
}

/** The blocks of a content and where each stands; a text is one block. */
function blocksIn(content: unknown, field: string): readonly (readonly [JsonObject, string])[] {
  if (typeof content === "string") return [[{ type: "text", text: content }, field]];
  return listOf(content, field).map((block, i) => [requiredObject(block, `${field}[${i}]`), `${field}[${i}]`] as const);
}

function systemOf(value: unknown): readonly TextBlock[] {
  if (value === undefined || value === null) return [];
  return blocksIn(value, "system").flatMap(([block, at]) => {
    const text = textOf(block.text, `${at}.text`) ?? "";
    return text === "" ? [] : [{ type: "text" as const, text, ...cacheOf(block) }];
  });
}

function cacheOf(block: JsonObject): { readonly cache?: CacheMark } {
  const mark = block.cache_control as JsonObject | null | undefined;
  if (typeof mark !== "object" || mark === null) return {};
  return { cache: { ttl: mark.ttl === "1h" || mark.ttl === "5m" ? mark.ttl : null } };
}

function userBlock(block: JsonObject, field: string, losses: Losses): readonly UserBlock[] {
  switch (block.type) {
    case "tool_result": {
      const id = textOf(block.tool_use_id, `${field}.tool_use_id`) ?? "";
      const isError = flagOf(block.is_error, `${field}.is_error`) === true;
      // Nothing and null are answers as well.
      const content = block.content === undefined || block.content === null ? [] : blocksIn(block.content, `${field}.content`);
      return [
        { type: "tool_result", id, name: null, content: content.flatMap(([each, at]) => shownBlock(each, at, losses)), isError, ...cacheOf(block) },
      ];
    }
    // Thoughts are the assistant's.
    case "thinking":
    case "redacted_thinking":
      return [];
    default:
      return shownBlock(block, field, losses);
  }
}

function shownBlock(block: JsonObject, field: string, losses: Losses): readonly (TextBlock | ImageBlock | FileBlock)[] {
  switch (block.type) {
    case "text": {
      const text = textOf(block.text, `${field}.text`) ?? "";
      return text === "" ? [] : [{ type: "text", text, ...cacheOf(block) }];
    }
    case "image":
    case "document": {
      const source = requiredObject(block.source, `${field}.source`);
      if (block.type === "document" && source.type === "text")
        return [{ type: "text", text: textOf(source.data, `${field}.source.data`) ?? "", ...cacheOf(block) }];
      const found = sourceOf(source, `${field}.source`, block.type === "image" ? "image/png" : "application/pdf", losses);
      if (!found) return [];
      if (block.type === "image") return [{ type: "image", source: found, ...cacheOf(block) }];
      return [{ type: "file", source: found, filename: textOf(block.title, `${field}.title`), ...cacheOf(block) }];
    }
    // A tool may point to another tool that it found.
    case "tool_reference":
      losses.drops(field);
      return [];
    case "search_result": {
      const content = listOf(block.content, `${field}.content`);
      return content.flatMap((each, i) => shownBlock(requiredObject(each, `${field}.content[${i}]`), `${field}.content[${i}]`, losses));
    }
    default:
      losses.cannot(`${field}.type`, "is a kind of content that this model's provider does not know");
      return [];
  }
}

function sourceOf(source: JsonObject, field: string, mediaType: string, losses: Losses): MediaSource | null {
  if (source.type === "base64") {
    const data = requiredText(source.data, `${field}.data`);
    return { kind: "base64", mediaType: textOf(source.media_type, `${field}.media_type`) ?? mediaType, data };
  }
  if (source.type === "url") return { kind: "url", url: requiredText(source.url, `${field}.url`), mediaType: null };
  losses.cannot(`${field}.type`, "only bytes in base64 and addresses are known to every provider");
  return null;
}

function assistantBlock(block: JsonObject, field: string, losses: Losses): readonly AssistantBlock[] {
  switch (block.type) {
    case "text": {
      const text = textOf(block.text, `${field}.text`) ?? "";
      return text === "" ? [] : [{ type: "text", text, ...cacheOf(block) }];
    }
    case "tool_use": {
      const id = textOf(block.id, `${field}.id`) ?? "";
      const input = block.input === undefined || block.input === null ? "{}" : JSON.stringify(block.input);
      return [{ type: "tool_call", id, name: requiredText(block.name, `${field}.name`), input, ...cacheOf(block) }];
    }
    case "thinking": {
      const value = textOf(block.signature, `${field}.signature`) ?? "";
      const text = textOf(block.thinking, `${field}.thinking`) ?? "";
      if (text === "" && value === "") return [];
      return [{ type: "thinking", text, signature: value === "" ? null : { family: "anthropic", value } }];
    }
    case "redacted_thinking":
      return [{ type: "redacted_thinking", signature: { family: "anthropic", value: requiredText(block.data, `${field}.data`) } }];
    // What Anthropic's own tools did: their result is in the text that follows.
    case "server_tool_use":
    case "web_search_tool_result":
      losses.drops(field);
      return [];
    default:
      losses.cannot(`${field}.type`, "is a kind of content that this model's provider does not know");
      return [];
  }
}

function toolOf(tool: JsonObject, field: string, losses: Losses): readonly Tool[] {
  const type = textOf(tool.type, `${field}.type`);
  if (type?.startsWith("web_search_")) return [{ kind: "web_search" }];
  if (type !== null && type !== "custom") {
    losses.cannot(`${field}.type`, "is a tool that only Anthropic runs");
    return [];
  }
  return [
    {
      kind: "function",
      name: requiredText(tool.name, `${field}.name`),
      description: textOf(tool.description, `${field}.description`),
      schema: objectOf(tool.input_schema, `${field}.input_schema`),
      strict: flagOf(tool.strict, `${field}.strict`),
      ...cacheOf(tool),
    },
  ];
}

function choiceOf(choice: JsonObject): ToolChoice {
  switch (choice.type) {
    case "auto":
    case "none":
      return { kind: choice.type };
    case "any":
      return { kind: "required" };
    case "tool":
      return { kind: "tool", name: requiredText(choice.name, "tool_choice.name") };
    default:
      throw invalid("tool_choice.type", "must be auto, any, tool or none");
  }
}

function formatOf(value: unknown, field: string): OutputFormat | null {
  const format = objectOf(value, field);
  if (!format) return null;
  if (format.type !== "json_schema") throw invalid(`${field}.type`, "must be json_schema");
  return { kind: "json_schema", name: "response", schema: requiredObject(format.schema, `${field}.schema`), strict: true, description: null };
}

function reasoningOf(thinking: JsonObject | null, config: JsonObject | null): Reasoning | null {
  const effort = textOf(config?.effort, "output_config.effort");
  if (effort !== null && !(REASONING_LEVELS as readonly string[]).includes(effort))
    throw invalid("output_config.effort", `must be one of ${REASONING_LEVELS.join(", ")}`);
  switch (thinking?.type) {
    case undefined:
      return effort === null ? null : { level: effort as ReasoningLevel, budgetTokens: null, wantsThoughts: null };
    case "disabled":
      return { level: "none", budgetTokens: null, wantsThoughts: false };
    case "adaptive":
      // As much as it takes, where the model is not the one to decide.
      return { level: (effort ?? "xhigh") as ReasoningLevel, budgetTokens: null, wantsThoughts: true };
    case "enabled": {
      const budgetTokens = numberOf(thinking.budget_tokens, "thinking.budget_tokens");
      if (budgetTokens === null || !Number.isInteger(budgetTokens) || budgetTokens < 1)
        throw invalid("thinking.budget_tokens", "must be a positive integer");
      return { level: levelOf(budgetTokens), budgetTokens, wantsThoughts: true };
    }
    default:
      throw invalid("thinking.type", "must be enabled, adaptive or disabled");
  }
}
