import type { Call, DialectId } from "../core/call.ts";
import { fastTokenizer, type Tokenizer } from "./tokenizer.ts";

/**
 * What a call may cost, in tokens, before it is sent. The *expected* figure is what such a call usually takes; the *ceiling* is what it can take at
 * most, and the only one that a promise never to overspend can rest on. Both are read from what the provider will be asked to do: no field of ours
 * lets a client name its own price.
 */
export interface Estimate {
  /** Best figure for the input. */
  readonly inputTokens: number;
  /** The input with the tokenizer's margin. */
  readonly ceilingInputTokens: number;
  /** Over all choices: the client's cap, else the model's maximum, else the default. */
  readonly ceilingOutputTokens: number;
  /** Over all choices: the client's cap, else 150 each. */
  readonly expectedOutputTokens: number;
  /** There is no audio, image or file in the input, and none that an earlier answer made. */
  readonly isText: boolean;
  /** Neither client nor model named a maximum: the ceiling holds only if the default is sent upstream as the cap. */
  readonly cappedByDefault: boolean;
}

/** `maxOutputTokensOfModel`: the most that the model writes in one answer, per `models[]` or the price file; null = not known. */
export type Estimator = (call: Call, maxOutputTokensOfModel: number | null) => Estimate;

export interface EstimatorOptions {
  readonly tokenizer: Tokenizer;
  /** Output tokens of one answer when neither client nor model names a maximum. */
  readonly defaultMaxOutputTokens: number;
  /** Added to the counted input for the ceiling, in percent. Default 25 for the fast tokenizer (see its bounds), 0 for any other. */
  readonly inputMarginPct?: number;
  /**
   * The most that one image or file part may cost, in tokens: providers scale images down and bill by tile or patch, and nothing is fetched or decoded to
   * find out. Default 5,000, enough for one image of the usual models; gpt-4o-mini, which bills a large image as up to 48,169 tokens, needs more.
   */
  readonly imageTokens?: number;
}

// Expected: 4 + sum of (4 + tokens) over the messages + 3 + (max_tokens or 150).
const CHAT_TOKENS = 4 + 3;
const MESSAGE_TOKENS = 4;
const UNSAID_OUTPUT_TOKENS = 150;
/** Many clients send as their cap what the model can write at most, and get a few hundred tokens: as a guess at what is probable, a cap beyond this says nothing. */
export const LONG_OUTPUT_TOKENS = 1_000;

const FAST_MARGIN_PCT = 25;
/** On top of the margin: short texts are off by a token or two, and providers put their own frame around a request. */
const FRAME_TOKENS = 8;
/** Providers explain the use of tools to the model in a preamble of their own and bill it; Anthropic's is the longest. */
const TOOLS_PREAMBLE_TOKENS = 350;
const CEILING_IMAGE_TOKENS = 5_000;
/** A photograph at the usual resolution. */
const EXPECTED_IMAGE_TOKENS = 1_000;
/** Base64 characters of audio per token: 32 tokens a second at 8 kbit/s, the densest of the usual codecs. Video has no fewer. */
const SOUND_CHARS_PER_TOKEN = 40;
/** Base64 characters of a document per token: its text, compressed. Its pages as images are in the flat figure. */
const FILE_CHARS_PER_TOKEN = 4;

/** Blocks that cannot be audio or an image, unless something within them is. Whatever else there is may be. */
const TEXT_BLOCKS: ReadonlySet<unknown> = new Set(
  "refusal tool_use tool_result thinking redacted_thinking message function_call function_call_output custom_tool_call custom_tool_call_output reasoning"
    .split(" ")
    .concat("text", "input_text", "output_text", "summary_text", "reasoning_text"),
);
/** The same of members: an earlier answer's `audio`, for one, is named by its id and is input again. */
const TEXT_FIELDS: ReadonlySet<string> = new Set(
  [
    "role content parts output name type id call_id tool_call_id tool_use_id status text refusal tool_calls function_call functionCall input arguments",
    "reasoning reasoning_content thinking thought summary signature thoughtSignature thought_signature encrypted_content data is_error cache_control",
  ]
    .join(" ")
    .split(" "),
);

type Fields = Readonly<Record<string, unknown>>;

/** Where each dialect has what was said so far. */
const TURNS: Readonly<Record<DialectId, string>> = { openai: "messages", responses: "input", anthropic: "messages", gemini: "contents" };
const SYSTEM: Readonly<Record<DialectId, readonly string[]>> = {
  openai: [],
  responses: ["instructions"],
  anthropic: ["system"],
  gemini: ["systemInstruction", "system_instruction"],
};
/** What else the model reads: tools and schemas. */
const SHAPES: Readonly<Record<DialectId, readonly string[]>> = {
  openai: ["tools", "functions", "response_format", "prediction"],
  responses: ["tools", "text"],
  anthropic: ["tools", "output_config", "output_format"],
  gemini: ["tools", "generationConfig", "generation_config"],
};
/** Members of messages and blocks that hold parts. */
const CONTENTS: ReadonlySet<string> = new Set(["content", "parts", "output"]);
/** The role is in the four; an id only ties a tool's answer to its call. */
const TIES: ReadonlySet<string> = new Set(["role", "tool_call_id", "tool_use_id", "call_id", "cache_control"]);
/** Thoughts that only their provider can read. */
const SEALED: ReadonlySet<string> = new Set(["signature", "thoughtSignature", "thought_signature", "encrypted_content"]);

/** Makes the estimator of one guard. */
export function estimator(options: EstimatorOptions): Estimator {
  const { tokenizer, defaultMaxOutputTokens } = options;
  const margin = 1 + (options.inputMarginPct ?? (tokenizer === fastTokenizer ? FAST_MARGIN_PCT : 0)) / 100;
  const ceilingImageTokens = options.imageTokens ?? CEILING_IMAGE_TOKENS;
  const expectedImageTokens = Math.min(EXPECTED_IMAGE_TOKENS, ceilingImageTokens);
  // Parts that are no text, counted on the way. One call is read at a time, without a pause.
  let images = 0;
  let isText = true;
  /** Whether the dialect's parts say what they are. */
  let hasTypes = true;

  /** Tokens of any JSON value as a provider renders it. */
  function valueTokens(value: unknown): number {
    if (typeof value === "string") return tokenizer(value);
    if (typeof value === "number") return 2;
    if (typeof value !== "object" || value === null) return 1;
    let tokens = 1;
    if (Array.isArray(value)) {
      for (const item of value as readonly unknown[]) tokens += valueTokens(item) + 1;
      return tokens;
    }
    const fields = value as Fields;
    for (const key in fields) tokens += tokenizer(key) + 2 + valueTokens(fields[key]);
    return tokens;
  }

  /** A text, or a list of parts. */
  function contentTokens(content: unknown): number {
    if (typeof content === "string") return tokenizer(content);
    if (!Array.isArray(content)) return content === undefined || content === null ? 0 : partTokens(content);
    let tokens = 0;
    for (const part of content as readonly unknown[]) tokens += partTokens(part);
    return tokens;
  }

  function partTokens(part: unknown): number {
    if (typeof part !== "object" || part === null) return valueTokens(part);
    const fields = part as Fields;
    switch (fields.type) {
      case "text":
      case "input_text":
      case "output_text":
        return typeof fields.text === "string" ? tokenizer(fields.text) : valueTokens(part);
      case "image_url":
      case "input_image":
      case "image":
        isText = false;
        images += 1;
        return 0;
      case "input_audio":
        isText = false;
        return Math.ceil(charsIn(fields.input_audio, "data") / SOUND_CHARS_PER_TOKEN) + 1;
      case "file":
      case "input_file":
        isText = false;
        images += 1;
        return Math.ceil(charsIn(fields.file ?? part, "file_data") / FILE_CHARS_PER_TOKEN);
      case "document":
        return documentTokens(fields.source);
      case undefined:
        isText &&= !hasTypes;
        return geminiTokens(fields);
      default:
        return blockTokens(fields);
    }
  }

  /** Anthropic's documents: bytes, an address, or a text as it is. */
  function documentTokens(source: unknown): number {
    const { type, data, content } = fieldsIn(source);
    if (type === "text" && typeof data === "string") return tokenizer(data);
    if (content !== undefined) return contentTokens(content);
    isText = false;
    images += 1;
    return Math.ceil(charsIn(source, "data") / FILE_CHARS_PER_TOKEN);
  }

  /** Gemini's parts have no type: they are what they hold. */
  function geminiTokens(part: Fields): number {
    const inline = part.inlineData ?? part.inline_data;
    if (inline === undefined && part.fileData === undefined && part.file_data === undefined) return blockTokens(part);
    isText = false;
    const { mimeType, mime_type: snakeType = mimeType } = fieldsIn(inline);
    const type = typeof snakeType === "string" ? snakeType : "";
    if (/^(?:audio|video)\//.test(type)) return Math.ceil(charsIn(inline, "data") / SOUND_CHARS_PER_TOKEN) + 1;
    images += 1;
    return type.startsWith("image/") ? 0 : Math.ceil(charsIn(inline, "data") / FILE_CHARS_PER_TOKEN);
  }

  /** Any other block or message: its contents as contents, and what only ties it to others not at all. */
  function blockTokens(fields: Fields): number {
    if (fields.type !== undefined && !TEXT_BLOCKS.has(fields.type)) isText = false;
    let tokens = 0;
    for (const key in fields) {
      const value = fields[key];
      if (value !== null && !TEXT_FIELDS.has(key)) isText = false;
      if (CONTENTS.has(key)) tokens += contentTokens(value);
      else if (SEALED.has(key)) tokens += Math.ceil(charsIn(fields, key) / FILE_CHARS_PER_TOKEN);
      else if (!TIES.has(key) && value !== null) tokens += valueTokens(value);
    }
    return tokens;
  }

  const messageTokens = (message: unknown): number =>
    MESSAGE_TOKENS + (typeof message === "object" && message !== null ? blockTokens(message as Fields) : valueTokens(message));

  function chatTokens({ dialect, body }: Call): number {
    hasTypes = dialect !== "gemini";
    let tokens = CHAT_TOKENS;
    const turns = body[TURNS[dialect]];
    if (Array.isArray(turns)) for (const message of turns as readonly unknown[]) tokens += messageTokens(message);
    else if (typeof turns === "string") tokens += MESSAGE_TOKENS + tokenizer(turns);
    // Each dialect has its own; a name of another one's is nothing to its provider.
    for (const field of SYSTEM[dialect]) if (body[field]) tokens += MESSAGE_TOKENS + contentTokens(body[field]);
    for (const field of SHAPES[dialect]) if (body[field]) tokens += valueTokens(body[field]);
    return tokens;
  }

  /** A prompt or input: a text, several, one list of token ids, or several. */
  function promptTokens(prompt: unknown): number {
    if (typeof prompt === "string") return tokenizer(prompt);
    if (typeof prompt === "number") return 1;
    if (prompt === undefined || prompt === null) return 0;
    if (!Array.isArray(prompt)) {
      isText = false;
      return valueTokens(prompt);
    }
    let tokens = 0;
    for (const item of prompt as readonly unknown[]) tokens += promptTokens(item);
    return tokens;
  }

  function textTokens(call: Call): number {
    const { operation, body } = call;
    switch (operation) {
      case "chat":
      case "count_tokens":
        return chatTokens(call);
      case "completions":
        return promptTokens(body.prompt) + promptTokens(body.suffix);
      case "embeddings":
        return promptTokens(body.input);
    }
  }

  return function estimate(call, maxOutputTokensOfModel) {
    images = 0;
    isText = true;
    const text = Math.max(1, textTokens(call));
    const preamble = call.operation === "chat" && (call.body.tools || call.body.functions) ? TOOLS_PREAMBLE_TOKENS : 0;
    const input = text + images * expectedImageTokens;
    const ceilingInput = Math.ceil(text * margin) + FRAME_TOKENS + preamble + images * ceilingImageTokens;
    if (call.operation === "embeddings") {
      return {
        inputTokens: input,
        ceilingInputTokens: ceilingInput,
        ceilingOutputTokens: 0,
        expectedOutputTokens: 0,
        isText,
        cappedByDefault: false,
      };
    }
    const said = call.maxOutputTokens;
    return {
      inputTokens: input,
      ceilingInputTokens: ceilingInput,
      ceilingOutputTokens: (said ?? maxOutputTokensOfModel ?? defaultMaxOutputTokens) * call.choices,
      expectedOutputTokens: (said ?? UNSAID_OUTPUT_TOKENS) * call.choices,
      isText,
      cappedByDefault: said === null && maxOutputTokensOfModel === null,
    };
  };
}

const fieldsIn = (value: unknown): Fields => (typeof value === "object" && value !== null ? (value as Fields) : {});

function charsIn(value: unknown, field: string): number {
  if (typeof value !== "object" || value === null) return 0;
  const data = (value as Fields)[field];
  return typeof data === "string" ? data.length : 0;
}

/** The units that an estimate can say something about. Money is the price book's business. */
export interface TokenAmounts {
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly tokens: number;
}

export function amountsOf(estimate: Estimate, kind: "expected" | "ceiling"): TokenAmounts {
  const input = kind === "ceiling" ? estimate.ceilingInputTokens : estimate.inputTokens;
  const output = kind === "ceiling" ? estimate.ceilingOutputTokens : estimate.expectedOutputTokens;
  return { input_tokens: input, output_tokens: output, tokens: input + output };
}
