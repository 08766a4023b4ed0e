/** The neutral form, written as a conversation with Kiro. */
import { toolId } from "../anthropic/encode-request.ts";
import { objectSchema } from "../anthropic/tool-schema.ts";
import type { EncodedRequest, EncodeOptions } from "../codec.ts";
import { flattenedInput, flattenedTool } from "../custom-tools.ts";
import type { Losses } from "../losses.ts";
import type { AssistantBlock, ChatRequest, ImageBlock, JsonObject, Tool, ToolCallBlock, ToolResultBlock, Turn, UserBlock } from "../message.ts";
import { parsedObject } from "../parsed-object.ts";
import { namesIn, toolNames, type NameRule, type ToolNames } from "../tool-names.ts";

const NAMES: NameRule = { maxLength: 64, allowed: /[a-zA-Z0-9_-]/, first: /[a-zA-Z_]/ };
const IMAGE_FORMATS: readonly string[] = ["png", "jpeg", "gif", "webp"];
/** No message may be without words. */
const NO_WORDS = ".";

type UserTurn = Extract<Turn, { role: "user" }>;
type AssistantTurn = Extract<Turn, { role: "assistant" }>;
const NOBODY: AssistantTurn = { role: "assistant", blocks: [] };
/** A tool that was called, and that nobody describes any more. */
const FORGOTTEN = { kind: "function", description: null, schema: null, strict: null } as const;

/** What the body still lacks is the account's: `profileArn`, and an id of the conversation. */
export function encodeRequest(request: ChatRequest, { losses, outputCap }: EncodeOptions): EncodedRequest {
  const names = toolNames(namesIn(request), NAMES);
  const writer = new Writer(modelId(request.model), names, losses);
  const history = request.turns.slice();
  // The end of a conversation is the user's: what is put into the model's mouth, or was called and never answered, is none.
  if (history.at(-1)?.role === "assistant") {
    history.pop();
    losses.drops("messages");
  }
  if (history[0]?.role !== "user") history.unshift({ role: "user", blocks: [] });
  const messages = history.map((turn, i) => {
    const system = i === 0 ? request.system.map(({ text }) => text) : [];
    if (turn.role === "user") return writer.user(turn, (history[i - 1] ?? NOBODY) as AssistantTurn, system);
    return writer.assistant(turn, history[i + 1] as UserTurn);
  });
  const { userInputMessage } = messages.pop() as { readonly userInputMessage: UserMessage };
  const tools = toolsOf(request, writer, losses);
  const context = { ...userInputMessage.userInputMessageContext, ...(tools.length > 0 ? { tools } : {}) };
  const current = Object.keys(context).length > 0 ? { ...userInputMessage, userInputMessageContext: context } : userInputMessage;
  const config = inferenceConfig(request, outputCap);
  refuseWhatIsUnknown(request, losses);
  const body = {
    conversationState: {
      chatTriggerType: "MANUAL",
      currentMessage: { userInputMessage: current },
      ...(messages.length > 0 ? { history: messages } : {}),
    },
    ...(Object.keys(config).length > 0 ? { inferenceConfig: config } : {}),
  };
  return { body, toolName: names.original };
}

/** A conversation in which tools were called is refused without those tools, so they are declared, whether or not the caller still offers them. */
function toolsOf({ tools, toolChoice }: ChatRequest, writer: Writer, losses: Losses): readonly JsonObject[] {
  const { called } = writer;
  const isForbidden = toolChoice?.kind === "none";
  if (isForbidden && called.size > 0) losses.cannot("tool_choice", "Kiro's models may call the tools that the conversation has called before");
  if (toolChoice?.kind === "required" || toolChoice?.kind === "tool") losses.cannot("tool_choice", "Kiro's models choose by themselves");
  const declared = tools.flatMap((tool) => (tool.kind !== "web_search" && (!isForbidden || called.has(tool.name)) ? [tool] : []));
  const known = new Set(declared.map(({ name }) => name));
  const forgotten = [...called].flatMap((name) => (known.has(name) ? [] : [{ ...FORGOTTEN, name }]));
  return [...declared, ...forgotten].map((tool) => writer.tool(tool));
}

/** Kiro's own name of a model: `kiro-claude-sonnet-4-5` and Anthropic's `claude-sonnet-4-5-20250929` are `claude-sonnet-4.5`. */
export const modelId = (model: string): string =>
  model
    .replace(/^kiro-/, "")
    .replace(/-\d{8}$/, "")
    .replace(/(?<=^claude-(?:[a-z]+-)?\d)-(?=\d{1,2}(?:-|$))/, ".");

function inferenceConfig({ maxOutputTokens, temperature, topP }: ChatRequest, outputCap: number | undefined): JsonObject {
  const maxTokens = outputCap === undefined ? maxOutputTokens : Math.min(maxOutputTokens ?? outputCap, outputCap);
  return Object.fromEntries(Object.entries({ maxTokens, temperature, topP }).filter(([, value]) => value !== null));
}

function refuseWhatIsUnknown(request: ChatRequest, losses: Losses): void {
  if (request.tools.some(({ kind }) => kind === "web_search")) losses.cannot("tools", "Kiro runs no searches for others");
  if (request.stop.length > 0) losses.cannot("stop", "Kiro knows no stop sequences");
  if (request.topK !== null) losses.cannot("top_k", "Kiro has no counterpart");
  if (request.format) losses.cannot("response_format", "Kiro answers in no format that is asked for");
  if (request.parallelToolCalls === false) losses.drops("parallel_tool_calls");
  if (request.seed !== null) losses.drops("seed");
  if (request.reasoning !== null && request.reasoning.level !== "none") losses.drops("reasoning");
}

interface UserMessage {
  readonly content: string;
  readonly modelId: string;
  readonly origin: "AI_EDITOR";
  readonly images?: readonly JsonObject[];
  readonly userInputMessageContext?: JsonObject;
}

class Writer {
  /** Names of the tools that the conversation has called. */
  readonly called = new Set<string>();
  readonly #model: string;
  readonly #names: ToolNames;
  readonly #losses: Losses;

  constructor(model: string, names: ToolNames, losses: Losses) {
    this.#model = model;
    this.#names = names;
    this.#losses = losses;
  }

  /** `before` = the turn that it answers: only its calls can have results. */
  user({ blocks }: UserTurn, before: AssistantTurn, system: readonly string[]): { readonly userInputMessage: UserMessage } {
    const asked = new Set(before.blocks.flatMap((block) => (block.type === "tool_call" ? [block.id] : [])));
    const kept = blocks.filter((block) => block.type !== "tool_result" || asked.has(block.id));
    if (kept.length < blocks.length) this.#losses.drops("messages");
    const results = kept.flatMap((block) => (block.type === "tool_result" ? [resultOf(block)] : []));
    const images = kept.flatMap((block) => (block.type === "tool_result" ? block.content : [block])).flatMap((block) => this.#image(block));
    const words = [...system, ...kept.flatMap((block) => (block.type === "text" ? [block.text] : []))];
    return {
      userInputMessage: {
        content: contentOf(words),
        modelId: this.#model,
        origin: "AI_EDITOR",
        ...(images.length > 0 ? { images } : {}),
        ...(results.length > 0 ? { userInputMessageContext: { toolResults: results } } : {}),
      },
    };
  }

  /** `next` = the turn behind it: calls without their result are refused, and so are two of one id. */
  assistant({ blocks }: AssistantTurn, next: UserTurn): JsonObject {
    const answered = new Set(next.blocks.flatMap((block) => (block.type === "tool_result" ? [block.id] : [])));
    const words = blocks.flatMap((block) => this.#words(block));
    const byId = new Map(blocks.flatMap((block) => (block.type === "tool_call" && answered.has(block.id) ? [[block.id, block]] : [])));
    const calls = [...byId.values()];
    for (const { name } of calls) this.called.add(name);
    const toolUses = calls.map((call) => this.#use(call));
    return { assistantResponseMessage: { content: contentOf(words), ...(toolUses.length > 0 ? { toolUses } : {}) } };
  }

  tool(tool: Exclude<Tool, { kind: "web_search" }>): JsonObject {
    const { description, schema } = tool.kind === "custom" ? flattenedTool(tool) : tool;
    const name = this.#names.sent(tool.name);
    // A tool without a description is refused.
    return { toolSpecification: { name, description: description || name, inputSchema: { json: objectSchema(schema) } } };
  }

  #words(block: AssistantBlock): readonly string[] {
    if (block.type === "text") return [block.text];
    // Past thoughts have no place here; an assistant shows no images.
    if (block.type === "image" || block.type === "media") this.#losses.drops("messages");
    return [];
  }

  #use({ id, name, input, isCustom }: ToolCallBlock): JsonObject {
    return { toolUseId: toolId(id), name: this.#names.sent(name), input: parsedObject(isCustom ? flattenedInput(input) : input) ?? {} };
  }

  #image(block: Exclude<UserBlock, ToolResultBlock>): readonly JsonObject[] {
    if (block.type === "text") return [];
    const format = block.type === "image" ? formatOf(block) : null;
    if (block.type !== "image") this.#losses.cannot("messages", "Kiro takes text and images, no files, sound or video");
    else if (block.source.kind === "url") this.#losses.cannot("messages", "Kiro takes an image's bytes, not its address");
    else if (format === null) this.#losses.cannot("messages", `Kiro takes images of ${IMAGE_FORMATS.join(", ")}`);
    else return [{ format, source: { bytes: block.source.data } }];
    return [];
  }
}

const contentOf = (words: readonly string[]): string => words.join("\n\n") || NO_WORDS;

function formatOf({ source }: ImageBlock): string | null {
  const format = source.mediaType?.replace(/^image\//, "").replace(/^jpg$/, "jpeg") ?? "";
  return IMAGE_FORMATS.includes(format) ? format : null;
}

/** Images among a result stand with those of its message. */
function resultOf({ id, content, isError }: ToolResultBlock): JsonObject {
  const texts = content.flatMap((block) => (block.type === "text" ? [{ text: block.text }] : []));
  return { toolUseId: toolId(id), content: texts.length > 0 ? texts : [{ text: "" }], status: isError ? "error" : "success" };
}
