/** A Responses request, read into the neutral form. */
import { flagOf, invalid, listOf, numberOf, objectOf, requiredObject, requiredText, textOf, textsOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import {
  REASONING_LEVELS,
  type AssistantBlock,
  type ChatRequest,
  type JsonObject,
  type OutputFormat,
  type Reasoning,
  type ReasoningLevel,
  type Signature,
  type TextBlock,
} from "../message.ts";
import { turnBuilder, type TurnBuilder } from "../turns.ts";
import { readParts, readResult } from "./parts.ts";
import { unsealed } from "./seals.ts";
import { readChoice, readTools, type ReadTools } from "./tools.ts";

/** Read here, or by the gateway itself. */
const READ = new Set(
  [
    "model input instructions stream stream_options max_output_tokens stop temperature top_p top_k seed tools tool_choice parallel_tool_calls text",
    "reasoning include prompt_cache_key user safety_identifier store previous_response_id conversation prompt background top_logprobs n logit_bias",
    "session_id",
  ]
    .join(" ")
    .split(" "),
);

/** What the provider did by itself on the way to an answer: the answer tells it. */
const DONE_BY_PROVIDER = new Set([
  "web_search_call",
  "file_search_call",
  "code_interpreter_call",
  "image_generation_call",
  "mcp_call",
  "mcp_list_tools",
]);

export function decodeRequest(
  body: JsonObject,
  { model, stream }: { readonly model: string; readonly stream: boolean },
  losses: Losses,
): ChatRequest {
  checkMeaning(body, losses);
  for (const field of Object.keys(body)) if (!READ.has(field) && body[field] !== null) losses.drops(field);
  const declared = readTools(body.tools, losses);
  const { choice, tools } = readChoice(body.tool_choice, declared, losses);
  const conversation = new Conversation(declared, losses);
  const instructions = textOf(body.instructions, "instructions");
  if (instructions !== null && instructions !== "") conversation.system.push({ type: "text", text: instructions });
  if (typeof body.input === "string") conversation.turns.user({ type: "text", text: body.input });
  else listOf(body.input, "input").forEach((item, i) => conversation.read(requiredObject(item, `input[${i}]`), `input[${i}]`));
  return {
    model,
    system: conversation.system,
    turns: conversation.turns.turns(),
    tools,
    toolChoice: choice,
    parallelToolCalls: flagOf(body.parallel_tool_calls, "parallel_tool_calls"),
    maxOutputTokens: numberOf(body.max_output_tokens, "max_output_tokens"),
    stop: textsOf(body.stop, "stop"),
    temperature: numberOf(body.temperature, "temperature"),
    topP: numberOf(body.top_p, "top_p"),
    topK: numberOf(body.top_k, "top_k"),
    seed: numberOf(body.seed, "seed"),
    format: formatOf(objectOf(body.text, "text"), losses),
    reasoning: reasoningOf(objectOf(body.reasoning, "reasoning"), losses),
    promptCacheKey: textOf(body.prompt_cache_key, "prompt_cache_key"),
    user: textOf(body.safety_identifier, "safety_identifier") ?? textOf(body.user, "user"),
    stream,
  };
}

/** What other dialects cannot say, and what would be another answer without it. */
function checkMeaning(body: JsonObject, losses: Losses): void {
  const isSaid = (field: string): boolean => body[field] !== undefined && body[field] !== null;
  for (const field of ["previous_response_id", "conversation", "prompt"])
    if (isSaid(field)) losses.cannot(field, "what one provider has stored is not known to another; send the whole conversation as input");
  if (flagOf(body.background, "background") === true) losses.cannot("background", "this model's provider answers only while somebody listens");
  if (flagOf(body.store, "store") === true) losses.drops("store");
  if ((numberOf(body.n, "n") ?? 1) > 1) losses.cannot("n", "one answer at a time is all that this model's provider gives");
  if (Object.keys(objectOf(body.logit_bias, "logit_bias") ?? {}).length > 0) losses.cannot("logit_bias", "this model's provider has no counterpart");
  if ((numberOf(body.top_logprobs, "top_logprobs") ?? 0) > 0) losses.cannot("top_logprobs", "this model's provider tells no probabilities");
  listOf(body.include, "include").forEach((value, i) => {
    if (value === "message.output_text.logprobs") losses.cannot(`include[${i}]`, "this model's provider tells no probabilities");
    // Thoughts are handed over sealed in any case.
    else if (value !== "reasoning.encrypted_content") losses.drops(`include[${i}]`);
  });
}

/** The items of an input, put into turns. */
class Conversation {
  readonly system: TextBlock[] = [];
  readonly turns: TurnBuilder = turnBuilder();
  readonly #tools: ReadTools;
  readonly #losses: Losses;
  /** Of the call that comes next. */
  #signature: Signature | null = null;

  constructor(tools: ReadTools, losses: Losses) {
    this.#tools = tools;
    this.#losses = losses;
  }

  read(item: JsonObject, field: string): void {
    const type = textOf(item.type, `${field}.type`) ?? "message";
    switch (type) {
      case "message":
        this.#message(item, field);
        return;
      case "function_call":
      case "custom_tool_call":
        this.turns.assistant(this.#call(item, field, type === "custom_tool_call"));
        return;
      case "function_call_output":
      case "custom_tool_call_output":
        this.turns.user({
          type: "tool_result",
          id: textOf(item.call_id, `${field}.call_id`) ?? "",
          name: null,
          content: readResult(item.output, `${field}.output`, this.#losses),
          isError: false,
          ...(type === "custom_tool_call_output" ? { isCustom: true as const } : {}),
        });
        return;
      case "reasoning":
        this.turns.assistant(...this.#reasoning(item, field));
        return;
      case "item_reference":
        this.#losses.cannot(field, "what one provider has stored is not known to another; send the item itself");
        return;
      default:
        if (DONE_BY_PROVIDER.has(type)) this.#losses.drops(field);
        else this.#losses.cannot(`${field}.type`, "is a kind of item that this model's provider does not know");
    }
  }

  #message(item: JsonObject, field: string): void {
    const role = requiredText(item.role, `${field}.role`);
    const parts = readParts(item.content, `${field}.content`, this.#losses);
    switch (role) {
      case "system":
      case "developer":
        for (const part of parts) {
          if (part.type === "text") this.system.push(part);
          else this.#losses.cannot(`${field}.content`, "a system message can only be text");
        }
        return;
      case "user":
        this.turns.user(...parts);
        return;
      case "assistant":
        for (const part of parts) {
          if (part.type === "file") this.#losses.drops(`${field}.content`);
          else this.turns.assistant(part);
        }
        return;
      default:
        throw invalid(`${field}.role`, "must be system, developer, user or assistant");
    }
  }

  #call(item: JsonObject, field: string, isCustom: boolean): AssistantBlock {
    const name = this.#tools.nameOf(textOf(item.namespace, `${field}.namespace`), requiredText(item.name, `${field}.name`));
    const input = textOf(isCustom ? item.input : item.arguments, `${field}.${isCustom ? "input" : "arguments"}`) ?? "";
    const signature = this.#signature;
    this.#signature = null;
    return {
      type: "tool_call",
      id: textOf(item.call_id, `${field}.call_id`) ?? "",
      name,
      input,
      ...(isCustom ? { isCustom } : {}),
      ...(signature ? { signature } : {}),
    };
  }

  #reasoning(item: JsonObject, field: string): readonly AssistantBlock[] {
    const text = [...textsIn(item.summary, `${field}.summary`), ...textsIn(item.content, `${field}.content`)].join("\n\n");
    const content = textOf(item.encrypted_content, `${field}.encrypted_content`) ?? "";
    if (content === "") return text === "" ? [] : [{ type: "thinking", text, signature: null }];
    const { kind, signature } = unsealed(content);
    if (kind === "redacted") return [{ type: "redacted_thinking", signature }];
    if (kind === "thinking") return [{ type: "thinking", text, signature }];
    this.#signature = signature;
    return [];
  }
}

const textsIn = (value: unknown, field: string): readonly string[] =>
  listOf(value, field).flatMap((part, i) => {
    const text = textOf(requiredObject(part, `${field}[${i}]`).text, `${field}[${i}].text`) ?? "";
    return text === "" ? [] : [text];
  });

function formatOf(text: JsonObject | null, losses: Losses): OutputFormat | null {
  if (text && (text.verbosity ?? null) !== null) losses.drops("text.verbosity");
  const field = "text.format";
  const format = objectOf(text?.format, field);
  if (!format || format.type === "text") return null;
  if (format.type === "json_object") return { kind: "json" };
  if (format.type !== "json_schema") throw invalid(`${field}.type`, "must be text, json_object or json_schema");
  return {
    kind: "json_schema",
    name: textOf(format.name, `${field}.name`) ?? "response",
    schema: objectOf(format.schema, `${field}.schema`) ?? {},
    strict: flagOf(format.strict, `${field}.strict`),
    description: textOf(format.description, `${field}.description`),
  };
}

function reasoningOf(given: JsonObject | null, losses: Losses): Reasoning | null {
  if (!given) return null;
  for (const field of Object.keys(given)) if (!["effort", "summary", "generate_summary"].includes(field)) losses.drops(`reasoning.${field}`);
  const summary = textOf(given.summary, "reasoning.summary") ?? textOf(given.generate_summary, "reasoning.generate_summary");
  const wantsThoughts = summary === null ? null : summary !== "none";
  const effort = textOf(given.effort, "reasoning.effort");
  if (effort !== null && !(REASONING_LEVELS as readonly string[]).includes(effort))
    throw invalid("reasoning.effort", `must be one of ${REASONING_LEVELS.join(", ")}`);
  if (effort !== null) return { level: effort as ReasoningLevel, budgetTokens: null, wantsThoughts };
  // To see thoughts is to want some, as many as the model likes.
  return wantsThoughts === true ? { level: "auto", budgetTokens: null, wantsThoughts } : null;
}
