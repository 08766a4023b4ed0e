/** A chat completions request, read into the neutral form. */
import { flagOf, invalid, listOf, mediaFrom, numberOf, objectOf, requiredObject, requiredText, textOf, textsOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import {
  REASONING_LEVELS,
  type AssistantBlock,
  type CacheMark,
  type ChatRequest,
  type FileBlock,
  type ImageBlock,
  type JsonObject,
  type MediaBlock,
  type OutputFormat,
  type Reasoning,
  type ReasoningLevel,
  type TextBlock,
  type Tool,
  type ToolChoice,
} from "../message.ts";
import { fieldsOf } from "../usage.ts";
import { turnBuilder, type TurnBuilder } from "../turns.ts";

type Part = TextBlock | ImageBlock | FileBlock | MediaBlock;

/** Read here, or by the gateway itself. */
const READ = new Set(
  [
    "model messages stream stream_options max_tokens max_completion_tokens stop temperature top_p top_k seed tools tool_choice functions function_call",
    "parallel_tool_calls response_format reasoning_effort prompt_cache_key user safety_identifier n logit_bias logprobs top_logprobs modalities audio",
    "web_search_options session_id",
  ]
    .join(" ")
    .split(" "),
);

const AUDIO_TYPES: ReadonlyMap<string, string> = new Map([
  ["mp3", "audio/mpeg"],
  ["wav", "audio/wav"],
]);

export function decodeRequest(
  body: JsonObject,
  { model, stream }: { readonly model: string; readonly stream: boolean },
  losses: Losses,
): ChatRequest {
  const system: TextBlock[] = [];
  const turns = turnBuilder();
  listOf(body.messages, "messages").forEach((message, i) => readMessage(message, `messages[${i}]`, system, turns, losses));
  checkMeaning(body, losses);
  for (const field of Object.keys(body)) if (!READ.has(field) && body[field] !== null) losses.drops(field);
  return {
    model,
    system,
    turns: turns.turns(),
    tools: toolsOf(body, losses),
    toolChoice: choiceOf(body.tool_choice, "tool_choice") ?? choiceOf(body.function_call, "function_call"),
    parallelToolCalls: flagOf(body.parallel_tool_calls, "parallel_tool_calls"),
    maxOutputTokens: numberOf(body.max_completion_tokens, "max_completion_tokens") ?? numberOf(body.max_tokens, "max_tokens"),
    stop: textsOf(body.stop, "stop"),
    temperature: numberOf(body.temperature, "temperature"),
    topP: numberOf(body.top_p, "top_p"),
    topK: numberOf(body.top_k, "top_k"),
    seed: numberOf(body.seed, "seed"),
    format: formatOf(body.response_format),
    reasoning: reasoningOf(body.reasoning_effort),
    promptCacheKey: textOf(body.prompt_cache_key, "prompt_cache_key"),
    user: textOf(body.safety_identifier, "safety_identifier") ?? textOf(body.user, "user"),
    stream,
  };
}

/** What other dialects cannot say, and what would be another answer without it. */
function checkMeaning(body: JsonObject, losses: Losses): void {
  if ((numberOf(body.n, "n") ?? 1) > 1) losses.cannot("n", "one answer at a time is all that this model's provider gives");
  if (Object.keys(objectOf(body.logit_bias, "logit_bias") ?? {}).length > 0) losses.cannot("logit_bias", "this model's provider has no counterpart");
  if (flagOf(body.logprobs, "logprobs") === true) losses.cannot("logprobs", "this model's provider tells no probabilities");
  const modalities = textsOf(body.modalities, "modalities");
  if (modalities.includes("audio") || objectOf(body.audio, "audio")) losses.cannot("modalities", "this model's provider does not answer in sound");
}

function readMessage(value: unknown, field: string, system: TextBlock[], turns: TurnBuilder, losses: Losses): void {
  const message = requiredObject(value, field);
  const role = requiredText(message.role, `${field}.role`);
  switch (role) {
    case "system":
    case "developer":
      for (const part of marked(partsOf(message.content, `${field}.content`, losses), message)) {
        if (part.type === "text") system.push(part);
        else losses.cannot(`${field}.content`, "a system message can only be text");
      }
      return;
    case "user":
      turns.user(...marked(partsOf(message.content, `${field}.content`, losses), message));
      return;
    case "assistant":
      turns.assistant(...assistantBlocks(message, field, losses));
      return;
    case "tool":
      turns.user({
        type: "tool_result",
        id: textOf(message.tool_call_id, `${field}.tool_call_id`) ?? "",
        name: null,
        content: resultParts(message.content, `${field}.content`, losses),
        isError: false,
      });
      return;
    case "function":
      turns.user({
        type: "tool_result",
        id: "",
        name: requiredText(message.name, `${field}.name`),
        content: partsOf(message.content, `${field}.content`, losses),
        isError: false,
      });
      return;
    default:
      throw invalid(`${field}.role`, "must be system, developer, user, assistant or tool");
  }
}

function assistantBlocks(message: JsonObject, field: string, losses: Losses): readonly AssistantBlock[] {
  const blocks: AssistantBlock[] = [];
  const thoughts = textOf(message.reasoning_content, `${field}.reasoning_content`);
  if (thoughts !== null && thoughts !== "") blocks.push({ type: "thinking", text: thoughts, signature: null });
  for (const part of partsOf(message.content, `${field}.content`, losses)) {
    if (part.type === "file") losses.drops(`${field}.content`);
    else blocks.push(part);
  }
  const refusal = textOf(message.refusal, `${field}.refusal`);
  if (refusal !== null) blocks.push({ type: "text", text: refusal });
  const legacy = objectOf(message.function_call, `${field}.function_call`);
  if (legacy) blocks.push(functionCall(legacy, "", `${field}.function_call`));
  listOf(message.tool_calls, `${field}.tool_calls`).forEach((each, i) => {
    const at = `${field}.tool_calls[${i}]`;
    const call = requiredObject(each, at);
    const id = textOf(call.id, `${at}.id`) ?? "";
    const custom = objectOf(call.custom, `${at}.custom`);
    if (custom) {
      const name = requiredText(custom.name, `${at}.custom.name`);
      blocks.push({ type: "tool_call", id, name, input: textOf(custom.input, `${at}.custom.input`) ?? "", isCustom: true });
    } else blocks.push(functionCall(requiredObject(call.function, `${at}.function`), id, `${at}.function`));
  });
  return blocks;
}

const functionCall = (call: JsonObject, id: string, field: string): AssistantBlock => ({
  type: "tool_call",
  id,
  name: requiredText(call.name, `${field}.name`),
  input: textOf(call.arguments, `${field}.arguments`) ?? "",
});

/** Some tools write their parts, images among them, as one text. */
function resultParts(content: unknown, field: string, losses: Losses): readonly Part[] {
  const parts = typeof content === "string" && content.startsWith("[{") ? partsInText(content) : null;
  return partsOf(parts ?? content, field, losses);
}

function partsInText(text: string): readonly unknown[] | null {
  try {
    const parts: unknown = JSON.parse(text);
    const isParts =
      Array.isArray(parts) &&
      parts.some((part) => fieldsOf(part)?.type === "image_url") &&
      parts.every((part) => PART_TYPES.has(fieldsOf(part)?.type));
    return isParts ? (parts as readonly unknown[]) : null;
  } catch {
    return null;
  }
}

const PART_TYPES: ReadonlySet<unknown> = new Set(["text", "image_url"]);

/** Where a prompt cache ends, as some clients say it in this dialect, too: at a part, or at a message, which is its last part. */
function marked(parts: readonly Part[], message: JsonObject): readonly Part[] {
  const cache = cacheOf(message);
  const last = parts.at(-1);
  if (!cache || !last || parts.some((part) => part.cache)) return parts;
  return [...parts.slice(0, -1), { ...last, cache }];
}

function cacheOf(fields: JsonObject): CacheMark | null {
  const mark = fieldsOf(fields.cache_control);
  if (!mark) return null;
  return { ttl: mark.ttl === "1h" || mark.ttl === "5m" ? mark.ttl : null };
}

function partsOf(content: unknown, field: string, losses: Losses): readonly Part[] {
  if (content === undefined || content === null) return [];
  if (typeof content === "string") return content === "" ? [] : [{ type: "text", text: content }];
  return listOf(content, field).flatMap((value, i) => {
    const part = requiredObject(value, `${field}[${i}]`);
    const cache = cacheOf(part);
    const parts = partOf(part, `${field}[${i}]`, losses);
    return cache ? parts.map((each) => ({ ...each, cache })) : parts;
  });
}

function partOf(part: JsonObject, field: string, losses: Losses): readonly Part[] {
  switch (part.type) {
    case "text":
    case "refusal": {
      const text = textOf(part.text ?? part.refusal, `${field}.text`) ?? "";
      return text === "" ? [] : [{ type: "text", text }];
    }
    case "image_url": {
      const image = typeof part.image_url === "string" ? { url: part.image_url } : requiredObject(part.image_url, `${field}.image_url`);
      const detail = textOf("detail" in image ? image.detail : undefined, `${field}.image_url.detail`);
      const source = mediaFrom(requiredText(image.url, `${field}.image_url.url`), `${field}.image_url.url`);
      return [{ type: "image", source, ...(detail === null ? {} : { detail }) }];
    }
    case "file": {
      const file = requiredObject(part.file, `${field}.file`);
      const data = textOf(file.file_data, `${field}.file.file_data`);
      if (data === null) {
        losses.cannot(`${field}.file.file_id`, "a file that is stored at one provider is not known to another; send its bytes as file_data");
        return [];
      }
      return [{ type: "file", source: mediaFrom(data, `${field}.file.file_data`), filename: textOf(file.filename, `${field}.file.filename`) }];
    }
    case "input_audio": {
      const audio = requiredObject(part.input_audio, `${field}.input_audio`);
      const format = requiredText(audio.format, `${field}.input_audio.format`);
      const mediaType = AUDIO_TYPES.get(format) ?? `audio/${format}`;
      return [{ type: "media", source: { kind: "base64", mediaType, data: requiredText(audio.data, `${field}.input_audio.data`) } }];
    }
    case "video_url": {
      const video = requiredObject(part.video_url, `${field}.video_url`);
      return [{ type: "media", source: mediaFrom(requiredText(video.url, `${field}.video_url.url`), `${field}.video_url.url`) }];
    }
    default:
      losses.cannot(`${field}.type`, "is a kind of content that this model's provider does not know");
      return [];
  }
}

function toolsOf(body: JsonObject, losses: Losses): readonly Tool[] {
  const legacy = listOf(body.functions, "functions").map((each, i) => functionTool(requiredObject(each, `functions[${i}]`), `functions[${i}]`));
  const tools = listOf(body.tools, "tools").flatMap((each, i): readonly Tool[] => {
    const field = `tools[${i}]`;
    const tool = requiredObject(each, field);
    if (tool.type === "function") return [functionTool(requiredObject(tool.function, `${field}.function`), `${field}.function`)];
    if (tool.type === "custom") {
      const custom = requiredObject(tool.custom, `${field}.custom`);
      const name = requiredText(custom.name, `${field}.custom.name`);
      const description = textOf(custom.description, `${field}.custom.description`);
      return [{ kind: "custom", name, description, format: objectOf(custom.format, `${field}.custom.format`) }];
    }
    losses.cannot(`${field}.type`, "is a kind of tool that this model's provider does not know");
    return [];
  });
  const search: readonly Tool[] = objectOf(body.web_search_options, "web_search_options") ? [{ kind: "web_search" }] : [];
  return [...legacy, ...tools, ...search];
}

const functionTool = (fn: JsonObject, field: string): Tool => ({
  kind: "function",
  name: requiredText(fn.name, `${field}.name`),
  description: textOf(fn.description, `${field}.description`),
  schema: objectOf(fn.parameters, `${field}.parameters`),
  strict: flagOf(fn.strict, `${field}.strict`),
});

function choiceOf(value: unknown, field: string): ToolChoice | null {
  if (value === undefined || value === null) return null;
  if (value === "none" || value === "auto" || value === "required") return { kind: value };
  const choice = requiredObject(value, field);
  const named = objectOf(choice.function, `${field}.function`) ?? objectOf(choice.custom, `${field}.custom`) ?? choice;
  return { kind: "tool", name: requiredText(named.name, `${field}.name`) };
}

function formatOf(value: unknown): OutputFormat | null {
  const format = objectOf(value, "response_format");
  if (!format || format.type === "text") return null;
  if (format.type === "json_object") return { kind: "json" };
  if (format.type !== "json_schema") throw invalid("response_format.type", "must be text, json_object or json_schema");
  const field = "response_format.json_schema";
  const json = requiredObject(format.json_schema, field);
  return {
    kind: "json_schema",
    name: textOf(json.name, `${field}.name`) ?? "response",
    schema: objectOf(json.schema, `${field}.schema`) ?? {},
    strict: flagOf(json.strict, `${field}.strict`),
    description: textOf(json.description, `${field}.description`),
  };
}

function reasoningOf(value: unknown): Reasoning | null {
  const effort = textOf(value, "reasoning_effort");
  if (effort === null) return null;
  if (!(REASONING_LEVELS as readonly string[]).includes(effort)) throw invalid("reasoning_effort", `must be one of ${REASONING_LEVELS.join(", ")}`);
  return { level: effort as ReasoningLevel, budgetTokens: null, wantsThoughts: null };
}
