import type { Call } from "../core/call.ts";
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

const FAST_MARGIN_PCT = 25;
/** On top of the margin: short texts are off by a token or two, and providers put their own frame around a request. */
const FRAME_TOKENS = 8;
/** Providers explain the use of tools to the model in a preamble of their own and bill it; Anthropic's is the longest. */
const TOOLS_PREAMBLE_TOKENS = 350;
const CEILING_IMAGE_TOKENS = 5_000;
/** A photograph at the usual resolution. */
const EXPECTED_IMAGE_TOKENS = 1_000;
/** Base64 characters of audio per token: 32 tokens a second at 8 kbit/s, the densest of the usual codecs. */
const AUDIO_CHARS_PER_TOKEN = 40;
/** Base64 characters of a document per token: its text, compressed. Its pages as images are in the flat figure. */
const FILE_CHARS_PER_TOKEN = 4;

/** What cannot be audio or an image. Whatever else there is may be. */
const TEXT_PARTS: ReadonlySet<unknown> = new Set(["text", "input_text", "output_text", "refusal"]);
/** The same of a message: an earlier answer's `audio`, for one, is named by its id and is input again. */
const TEXT_FIELDS: ReadonlySet<string> = new Set([
  "role",
  "content",
  "name",
  "tool_calls",
  "tool_call_id",
  "function_call",
  "refusal",
  "reasoning",
  "reasoning_content",
]);

type Fields = Readonly<Record<string, unknown>>;

/** Makes the estimator of one guard. */
export function estimator(options: EstimatorOptions): Estimator {
  const { tokenizer, defaultMaxOutputTokens } = options;
  const margin = 1 + (options.inputMarginPct ?? (tokenizer === fastTokenizer ? FAST_MARGIN_PCT : 0)) / 100;
  const ceilingImageTokens = options.imageTokens ?? CEILING_IMAGE_TOKENS;
  const expectedImageTokens = Math.min(EXPECTED_IMAGE_TOKENS, ceilingImageTokens);
  // Parts that are no text, counted on the way. One call is read at a time, without a pause.
  let images = 0;
  let isText = true;

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

  function contentTokens(content: unknown): number {
    if (typeof content === "string") return tokenizer(content);
    if (content === undefined || content === null) return 0;
    if (!Array.isArray(content)) {
      isText = false;
      return valueTokens(content);
    }
    let tokens = 0;
    for (const part of content as readonly unknown[]) tokens += partTokens(part);
    return tokens;
  }

  function partTokens(part: unknown): number {
    if (typeof part !== "object" || part === null) return valueTokens(part);
    const fields = part as Fields;
    if (!TEXT_PARTS.has(fields.type)) isText = false;
    switch (fields.type) {
      case "text":
      case "input_text":
        return typeof fields.text === "string" ? tokenizer(fields.text) : valueTokens(part);
      case "image_url":
      case "input_image":
      case "image":
        images += 1;
        return 0;
      case "input_audio":
        return Math.ceil(charsIn(fields.input_audio, "data") / AUDIO_CHARS_PER_TOKEN) + 1;
      case "file":
      case "input_file":
        images += 1;
        return Math.ceil(charsIn(fields.file ?? part, "file_data") / FILE_CHARS_PER_TOKEN);
      default:
        return valueTokens(part);
    }
  }

  function messageTokens(message: unknown): number {
    if (typeof message !== "object" || message === null) return MESSAGE_TOKENS + valueTokens(message);
    isText &&= !Array.isArray(message);
    let tokens = MESSAGE_TOKENS;
    const fields = message as Fields;
    for (const key in fields) {
      if (fields[key] !== null && !TEXT_FIELDS.has(key)) isText = false;
      if (key === "content") tokens += contentTokens(fields.content);
      // The role is in the four; an id only ties a tool's answer to its call.
      else if (key !== "role" && key !== "tool_call_id" && fields[key] !== null) tokens += valueTokens(fields[key]);
    }
    return tokens;
  }

  function chatTokens(body: Fields): number {
    const { messages } = body;
    let tokens = CHAT_TOKENS;
    if (Array.isArray(messages)) for (const message of messages as readonly unknown[]) tokens += messageTokens(message);
    if (body.tools) tokens += valueTokens(body.tools);
    if (body.functions) tokens += valueTokens(body.functions);
    if (body.response_format) tokens += valueTokens(body.response_format);
    if (body.prediction) tokens += valueTokens(body.prediction);
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

  function textTokens({ operation, body }: Call): number {
    switch (operation) {
      case "chat":
      case "count_tokens":
        return chatTokens(body);
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
