/**
 * The neutral form: what every dialect can be read into and written from. It holds the meaning, not the spelling; a field that only one dialect knows does
 * not come in here but into {@link Losses}.
 */
import type { Family } from "../core/call.ts";
import type { Usage } from "../core/usage.ts";

/** What a provider signed, byte for byte. It goes back to a model of the same family, or nowhere. */
export interface Signature {
  readonly family: Family;
  readonly value: string;
}

/** Where a medium is: its bytes in base64, or an address that the provider fetches. Nothing is fetched by us. */
export type MediaSource =
  | { readonly kind: "base64"; readonly mediaType: string; readonly data: string }
  | { readonly kind: "url"; readonly url: string; readonly mediaType: string | null };

/** A prompt cache ends here; `ttl` as Anthropic writes it, null = the usual. */
export interface CacheMark {
  readonly ttl: "5m" | "1h" | null;
}

interface Cached {
  readonly cache?: CacheMark;
}

export interface TextBlock extends Cached {
  readonly type: "text";
  readonly text: string;
}

export interface ImageBlock extends Cached {
  readonly type: "image";
  readonly source: MediaSource;
  /** OpenAI's `detail`. */
  readonly detail?: string;
}

/** A document: PDF, plain text. */
export interface FileBlock extends Cached {
  readonly type: "file";
  readonly source: MediaSource;
  readonly filename: string | null;
}

/** Audio or video, by its media type. */
export interface MediaBlock extends Cached {
  readonly type: "media";
  readonly source: MediaSource;
}

export interface ThinkingBlock {
  readonly type: "thinking";
  /** Empty when only the signature is known. */
  readonly text: string;
  readonly signature: Signature | null;
}

/** Thoughts that the provider keeps to itself; never text. */
export interface RedactedThinkingBlock {
  readonly type: "redacted_thinking";
  readonly signature: Signature;
}

export interface ToolCallBlock extends Cached {
  readonly type: "tool_call";
  readonly id: string;
  readonly name: string;
  /** JSON text, as the model wrote it; it may be no JSON at all. Of a custom tool: free text. */
  readonly input: string;
  /** OpenAI's custom tools take text instead of JSON. */
  readonly isCustom?: true;
  /** Gemini signs calls. */
  readonly signature?: Signature;
}

export interface ToolResultBlock extends Cached {
  readonly type: "tool_result";
  /** Of the call that it answers. */
  readonly id: string;
  /** Where the dialect says it, or the call before told it; null = nobody did. */
  readonly name: string | null;
  readonly content: readonly (TextBlock | ImageBlock | FileBlock | MediaBlock)[];
  readonly isError: boolean;
  readonly isCustom?: true;
}

export type UserBlock = TextBlock | ImageBlock | FileBlock | MediaBlock | ToolResultBlock;
export type AssistantBlock = TextBlock | ImageBlock | MediaBlock | ThinkingBlock | RedactedThinkingBlock | ToolCallBlock;

/** Turns alternate: neighbours of one role are one turn. Tool results are the user's, and come first in their turn. */
export type Turn =
  | { readonly role: "user"; readonly blocks: readonly UserBlock[] }
  | { readonly role: "assistant"; readonly blocks: readonly AssistantBlock[] };

export type JsonObject = Readonly<Record<string, unknown>>;

/** OpenAI's Responses keep tools in groups. `name` of such a tool holds both names in one, for those that know no groups. */
export interface ToolGroup {
  readonly name: string;
  readonly description: string | null;
  /** The tool's own name within the group. */
  readonly member: string;
}

export interface FunctionTool extends Cached {
  readonly kind: "function";
  readonly name: string;
  readonly group?: ToolGroup;
  readonly description: string | null;
  /** JSON schema of the input; null = none was given. */
  readonly schema: JsonObject | null;
  readonly strict: boolean | null;
}

/** OpenAI's tool whose input is text. */
export interface CustomTool {
  readonly kind: "custom";
  readonly name: string;
  readonly group?: ToolGroup;
  readonly description: string | null;
  readonly format: JsonObject | null;
}

/** A search that the provider itself runs. */
export interface WebSearchTool {
  readonly kind: "web_search";
}

export type Tool = FunctionTool | CustomTool | WebSearchTool;

export type ToolChoice = { readonly kind: "auto" | "none" | "required" } | { readonly kind: "tool"; readonly name: string };

export type OutputFormat =
  | { readonly kind: "json" }
  | {
      readonly kind: "json_schema";
      readonly name: string;
      readonly schema: JsonObject;
      readonly strict: boolean | null;
      readonly description: string | null;
    };

export const REASONING_LEVELS = ["none", "auto", "minimal", "low", "medium", "high", "xhigh", "max"] as const;
export type ReasoningLevel = (typeof REASONING_LEVELS)[number];

export interface Reasoning {
  readonly level: ReasoningLevel;
  /** Tokens, where the caller said a number; the level is the nearest one. */
  readonly budgetTokens: number | null;
  /** Whether the caller wants to see the thoughts; null = it did not say. */
  readonly wantsThoughts: boolean | null;
}

export interface ChatRequest {
  /** As the provider knows it. */
  readonly model: string;
  readonly system: readonly TextBlock[];
  readonly turns: readonly Turn[];
  readonly tools: readonly Tool[];
  readonly toolChoice: ToolChoice | null;
  readonly parallelToolCalls: boolean | null;
  readonly maxOutputTokens: number | null;
  readonly stop: readonly string[];
  readonly temperature: number | null;
  readonly topP: number | null;
  readonly topK: number | null;
  readonly seed: number | null;
  readonly format: OutputFormat | null;
  readonly reasoning: Reasoning | null;
  readonly promptCacheKey: string | null;
  /** The caller's id for its end user. */
  readonly user: string | null;
  readonly stream: boolean;
}

/** Why an answer ended. `tool_calls` only when there is one: see `settledStop`. */
export type StopReason = "stop" | "stop_sequence" | "length" | "tool_calls" | "content_filter";

export interface ChatChoice {
  readonly index: number;
  readonly blocks: readonly AssistantBlock[];
  readonly stop: StopReason;
  readonly stopSequence: string | null;
}

export interface ChatAnswer {
  readonly id: string | null;
  readonly model: string | null;
  readonly choices: readonly ChatChoice[];
  /** Null = the provider did not say. */
  readonly usage: Usage | null;
}

/** What a block begins with; the rest comes in deltas. A tool call has its name and id from the beginning. */
export type BlockStart =
  | { readonly type: "text" }
  | { readonly type: "thinking" }
  | { readonly type: "redacted_thinking"; readonly signature: Signature }
  | { readonly type: "tool_call"; readonly id: string; readonly name: string; readonly isCustom?: true; readonly signature?: Signature }
  /** Comes whole. */
  | { readonly type: "media"; readonly block: ImageBlock | MediaBlock };

/**
 * A stream, event by event. `key` names a block within the answer: its number in order of appearance. Decoders may have several blocks open at a time; each is
 * opened once and closed once. Exactly one `end` or `error` comes last.
 */
export type ChatEvent =
  | { readonly type: "start"; readonly id: string | null; readonly model: string | null }
  | { readonly type: "open"; readonly choice: number; readonly key: number; readonly block: BlockStart }
  /** Text, thoughts, or a piece of a tool's input. */
  | { readonly type: "delta"; readonly key: number; readonly text: string }
  /** Signs the block of thoughts that is open. */
  | { readonly type: "signature"; readonly key: number; readonly signature: Signature }
  | { readonly type: "close"; readonly key: number }
  /** What is known of the usage so far; a later one replaces it. `isBeginning` = its output is still to come. */
  | { readonly type: "usage"; readonly usage: Usage; readonly isBeginning?: true }
  | { readonly type: "stop"; readonly choice: number; readonly reason: StopReason; readonly stopSequence: string | null }
  /** Nothing to say, but the connection lives. */
  | { readonly type: "ping" }
  | { readonly type: "end" }
  /** The provider said in mid-stream that it failed. */
  | { readonly type: "error"; readonly message: string; readonly kind: string | null };

/** A tool call beats every other reason, and a call that was announced but never came is none. */
export function settledStop(said: StopReason, hasToolCall: boolean): StopReason {
  if (hasToolCall) return "tool_calls";
  return said === "tool_calls" ? "stop" : said;
}
