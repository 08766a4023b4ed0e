/** What the fake upstream says, before any dialect writes it: what a script asks for, and the order and the price of its pieces. */

export type FakeUsage =
  /**
   * As the dialect does it: whole answers carry it; of streams OpenAI's chat when `stream_options.include_usage` is set, in an event of its own, and the
   * others always.
   */
  | "as-asked"
  /** Never sent. */
  | "missing"
  /** Sent, with every figure 0. */
  | "zero"
  /** `null` in place of the figures, wherever they would stand. */
  | "null"
  /** Streams: inside the event that carries the finish reason, asked for or not, and nowhere before it. */
  | "in-finish"
  /** Streams: cumulative figures on every event that has room for them, asked for or not. */
  | "cumulative"
  /** Sent as it stands, whatever it is. */
  | Readonly<Record<string, unknown>>;

export interface FakeToolCall {
  readonly name: string;
  /** Pieces of the arguments' JSON text; each costs one output token and is one event of a stream (Gemini sends a call whole). */
  readonly arguments: readonly string[];
  /** Default: one in the manner of the provider; Gemini sends none. */
  readonly id?: string;
  /** One of OpenAI's custom tools, whose arguments are free text. */
  readonly isCustom?: true;
}

export interface FakeImage {
  readonly mediaType: string;
  /** In base64. Costs one output token, however tokens are counted. */
  readonly data: string;
}

export interface FakeAnswer {
  /** Pieces of the text; each costs one output token and is one event of a stream. Default: an echo of the last message, when nothing else is said. */
  readonly text?: readonly string[];
  /** Calls this tool, or these, after the text, if any is given; null = none. Default: the first offered function, when the request offers any. */
  readonly toolCall?: FakeToolCall | readonly FakeToolCall[] | null;
  /** Pieces of what a reasoning model thinks ahead of all that; each costs as a piece of the text does, counted as reasoning. */
  readonly reasoning?: readonly string[];
  /** What proves the thoughts: Anthropic's `signature`, Responses' `encrypted_content`, Gemini's `thoughtSignature`. OpenAI's chat knows none. */
  readonly signature?: string;
  /** Anthropic: thoughts that nobody may read, ahead of the others. */
  readonly redactedReasoning?: string;
  /**
   * How this provider counts: with it a piece costs as many tokens as it has, and so does the input (with three more for each message, and three for the
   * answer's beginning, as OpenAI does). Default: one token for each piece of output and for each word of input.
   */
  readonly countTokens?: (text: string) => number;
  /** Images in the answer. Anthropic's answers hold none. */
  readonly images?: readonly FakeImage[];
  /** The model declines with these words, one piece; Gemini declines without words, for nothing. */
  readonly refusal?: string;
  /** How many of the input tokens were read from a prompt cache. */
  readonly cacheReadTokens?: number;
  /** How many of the input tokens were written to one; only Anthropic tells. */
  readonly cacheWriteTokens?: number;
  readonly usage?: FakeUsage;
  /** In the dialect's own words; null = none is sent. Default: what fits the answer. Of Responses: `completed`, `failed`, or why it is incomplete. */
  readonly finishReason?: string | null;
  /** Whether a stream ends with the event that its dialect ends with: `[DONE]`, `message_stop`, `response.completed`. Default true; Gemini has none. */
  readonly done?: boolean;
}

/** One event of a stream: its name, where the dialect names events, its data, and the output tokens that it delivers. */
export interface FakeEvent {
  readonly event?: string;
  readonly data: string;
  readonly outputTokens: number;
}

export interface Composed {
  /** The whole answer's body. */
  readonly whole: () => Record<string, unknown>;
  /** A stream's events. */
  readonly events: () => FakeEvent[];
  /** How events are strung together. Default `sse`; Gemini also streams one JSON array, and Kiro the frames of AWS. */
  readonly framing?: "sse" | "array" | "aws";
  /** Nobody is billed for it, and it tells no usage: a count of tokens. */
  readonly isFree?: true;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

export type Json = Readonly<Record<string, unknown>>;

export const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);
export const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
export const recordsOf = (value: unknown): readonly Json[] => listOf(value).filter(isRecord);
export const countOf = (value: unknown): number | null => (typeof value === "number" && value >= 0 ? Math.floor(value) : null);

/** All texts inside a message's content, a prompt or an input; results of tools are among them. */
function textsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (Array.isArray(value)) return value.flatMap(textsOf);
  if (!isRecord(value)) return [];
  if (typeof value.text === "string") return [value.text];
  const response =
    isRecord(value.functionResponse) && isRecord(value.functionResponse.response) ? Object.values(value.functionResponse.response) : null;
  return textsOf(value.content ?? value.parts ?? value.output ?? response);
}

const words = (texts: readonly string[]): string[] =>
  texts
    .join(" ")
    .split(/\s+/)
    .filter((word) => word !== "");

/**
 * How the fake counts input, of every dialect: its whitespace-separated words (at least 1). Token ids in an `input` array count one each.
 * @example
 * fakeInputTokens({ messages: [{ role: "user", content: "one two three" }] }); // 3
 */
export function fakeInputTokens(body: Json, countTokens?: (text: string) => number): number {
  const parts = [body.system, body.instructions, body.systemInstruction, body.messages, body.contents, body.prompt, body.input];
  const texts = parts.flatMap(textsOf);
  const numbers = [body.prompt, body.input].flat(2).filter((value) => typeof value === "number").length;
  if (!countTokens) return Math.max(1, words(texts).length + numbers);
  const turns = recordsOf(body.messages ?? body.contents ?? body.input);
  const roles = turns.flatMap(({ role }) => textsOf(role));
  return [...roles, ...texts].reduce((sum, text) => sum + countTokens(text), turns.length > 0 ? 3 * turns.length + 3 + numbers : numbers);
}

/** What an answer depends on, as a dialect reads it from a request. */
export interface FakeQuestion {
  readonly body: Json;
  /** The last thing that was said. */
  readonly last: unknown;
  /** The tool to call when the script says nothing; null = none. */
  readonly tool: string | null;
  readonly maxOutputTokens: number | null;
  readonly choices?: number;
}

/** Pieces of one kind that belong together. */
export type FakeSegment =
  | { readonly kind: "thoughts" | "text" | "refusal"; readonly pieces: readonly string[] }
  | { readonly kind: "image"; readonly pieces: readonly string[]; readonly image: FakeImage }
  | { readonly kind: "call"; readonly pieces: readonly string[]; readonly call: FakeToolCall; readonly at: number };

/** Totals, and their parts. */
export interface FakeCount {
  readonly inputTokens: number;
  readonly cacheReadTokens: number;
  readonly cacheWriteTokens: number;
  readonly outputTokens: number;
  readonly reasoningTokens: number;
}

export interface FakePlan {
  /** What a piece costs. */
  readonly tokensOf: (piece: string) => number;
  readonly segments: readonly FakeSegment[];
  readonly stop: "stop" | "length" | "tool_calls" | "refusal";
  readonly choices: number;
  readonly count: FakeCount;
}

export const IMAGE_TOKENS = 1;
/** OpenAI's own maximum of `n`. */
const MAX_CHOICES = 128;

function toolCallsOf(question: FakeQuestion, answer: FakeAnswer): readonly FakeToolCall[] {
  if (answer.toolCall !== undefined) return answer.toolCall === null ? [] : [answer.toolCall].flat();
  if (answer.text || answer.images || answer.refusal !== undefined || question.tool === null) return [];
  return [{ name: question.tool, arguments: ['{"city"', ': "Oslo"', "}"] }];
}

/** What is said, up to the cap. Throws when a script asks for more cached tokens than there are. */
export function planOf(question: FakeQuestion, answer: FakeAnswer): FakePlan {
  const { reasoning, signature, refusal, images = [], cacheReadTokens = 0, cacheWriteTokens = 0, countTokens } = answer;
  const inputTokens = fakeInputTokens(question.body, countTokens);
  const tokensOf = countTokens ?? (() => 1);
  const costOf = (segment: FakeSegment, piece: string): number => (segment.kind === "image" ? IMAGE_TOKENS : tokensOf(piece));
  if (cacheReadTokens + cacheWriteTokens > inputTokens)
    throw new Error(`${cacheReadTokens + cacheWriteTokens} cached tokens are more than the ${inputTokens} of the input`);
  const calls = toolCallsOf(question, answer);
  const echoes = calls.length === 0 && images.length === 0 && refusal === undefined;
  const text =
    answer.text ??
    (echoes
      ? [
          "You",
          " said:",
          ...words(textsOf(question.last))
            .slice(0, 12)
            .map((word) => ` ${word}`),
        ]
      : null);
  const wanted: FakeSegment[] = [
    ...(reasoning || signature !== undefined ? [{ kind: "thoughts" as const, pieces: reasoning ?? [] }] : []),
    ...(text ? [{ kind: "text" as const, pieces: text }] : []),
    ...(refusal === undefined ? [] : [{ kind: "refusal" as const, pieces: [refusal] }]),
    ...images.map((image) => ({ kind: "image" as const, pieces: [""], image })),
    ...calls.map((call, at) => ({ kind: "call" as const, pieces: call.arguments, call, at })),
  ];
  let room = question.maxOutputTokens ?? Number.POSITIVE_INFINITY;
  let isCut = false;
  const segments: FakeSegment[] = [];
  for (const segment of wanted) {
    const given: unknown = segment.pieces;
    if (!Array.isArray(given)) throw new Error(`the pieces of a ${segment.kind} are a list of texts`);
    const pieces: string[] = [];
    for (const piece of segment.pieces) {
      room -= costOf(segment, piece);
      if (room < 0) break;
      pieces.push(piece);
    }
    // What begins behind the cap is never said.
    if (!isCut) segments.push({ ...segment, pieces });
    isCut ||= pieces.length < segment.pieces.length;
  }
  const choices = Math.min(Math.max(1, question.choices ?? 1), MAX_CHOICES);
  const sumOf = (some: readonly FakeSegment[]): number =>
    some.reduce((sum, segment) => segment.pieces.reduce((more, piece) => more + costOf(segment, piece), sum), 0) * choices;
  return {
    tokensOf,
    segments,
    stop: isCut ? "length" : calls.length > 0 ? "tool_calls" : refusal === undefined ? "stop" : "refusal",
    choices,
    count: {
      inputTokens,
      cacheReadTokens,
      cacheWriteTokens,
      outputTokens: sumOf(segments),
      reasoningTokens: sumOf(segments.filter(({ kind }) => kind === "thoughts")),
    },
  };
}

export const NOTHING: FakeCount = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0 };

/** The usage that an answer tells when `delivered` of it is out; undefined = no member at all. */
export function usageTold(usage: FakeUsage, figures: (count: FakeCount) => Json, delivered: FakeCount): Json | null | undefined {
  if (usage === "missing") return undefined;
  if (usage === "null") return null;
  if (usage === "zero") return figures(NOTHING);
  return typeof usage === "object" ? usage : figures(delivered);
}

/** Arguments as an object, for dialects that write them so. */
export const argumentsIn = (pieces: readonly string[]): Json => {
  try {
    const value: unknown = JSON.parse(pieces.join("") || "{}");
    return isRecord(value) ? value : {};
  } catch {
    // Cut off by the cap, or garbage by intent: where arguments are an object, there is none then.
    return {};
  }
};
