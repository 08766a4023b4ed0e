/** What the fake upstream says: OpenAI-shaped answers, whole and streamed, from a request body and the changes a script asks for. */

export type FakeUsage =
  /** As asked for: whole answers carry it, streams when `stream_options.include_usage` is set, in an event of its own. */
  | "as-asked"
  /** Never sent. */
  | "missing"
  /** Sent, with every figure 0. */
  | "zero"
  /** `usage: null` on every event, and no figures at all. */
  | "null"
  /** Streams: inside the event that carries the finish reason, asked for or not. */
  | "in-finish"
  /** Streams: cumulative figures on every event, asked for or not. */
  | "cumulative"
  /** Sent as it stands, whatever it is. */
  | Readonly<Record<string, unknown>>;

export interface FakeToolCall {
  readonly name: string;
  /** Pieces of the arguments' JSON text; each costs one output token and is one event of a stream. */
  readonly arguments: readonly string[];
}

export interface FakeAnswer {
  /** Pieces of the text; each costs one output token and is one event of a stream. Default: an echo of the last message. */
  readonly text?: readonly string[];
  /** Pieces of what a reasoning model thinks aloud before the text (`reasoning_content`), of chats; each costs as a piece of the text does. */
  readonly reasoning?: readonly string[];
  /**
   * How this provider counts: with it a piece costs as many tokens as it has, and so does the input (with three more for each message, and three for the
   * answer's beginning, as OpenAI does). Default: one token for each piece of output and for each word of input.
   */
  readonly countTokens?: (text: string) => number;
  /** Calls this tool, or these, instead of answering with text; null = none. Default: the first offered function, when the request offers any. */
  readonly toolCall?: FakeToolCall | readonly FakeToolCall[] | null;
  readonly usage?: FakeUsage;
  /** Null = none is sent. Default: `stop`, `length` or `tool_calls`. */
  readonly finishReason?: string | null;
  /** Whether a stream ends with `data: [DONE]`. Default true. */
  readonly done?: boolean;
}

/** A piece of the answer: of its text, of what was thought before it, or of the arguments of one of its tool calls. */
interface Piece {
  readonly text: string;
  readonly part: "content" | "reasoning_content" | number;
  readonly tokens: number;
}

export type FakeOperation = "chat" | "completions" | "embeddings";

export interface Composed {
  /** The whole answer's body. */
  readonly whole: () => Record<string, unknown>;
  /** A stream's events as JSON texts (or `[DONE]`), and the output tokens that each delivers. */
  readonly events: () => { readonly data: string; readonly outputTokens: number }[];
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** OpenAI's own maximum of `n`. */
const MAX_CHOICES = 128;

type Json = Readonly<Record<string, unknown>>;

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const countOf = (value: unknown): number | null => (typeof value === "number" && value >= 0 ? Math.floor(value) : null);

/** All texts inside a message's content, a prompt or an input. */
function textsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (Array.isArray(value)) return value.flatMap(textsOf);
  return isRecord(value) && typeof value.text === "string" ? [value.text] : [];
}

const words = (texts: readonly string[]): string[] =>
  texts
    .join(" ")
    .split(/\s+/)
    .filter((word) => word !== "");

/**
 * How the fake counts input: its whitespace-separated words (at least 1). Token ids in an `input` array count one each.
 * @example
 * fakeInputTokens({ messages: [{ role: "user", content: "one two three" }] }); // 3
 */
export function fakeInputTokens(body: Json, countTokens?: (text: string) => number): number {
  const messages = listOf(body.messages).flatMap((message) => (isRecord(message) ? textsOf(message.content) : []));
  const numbers = [body.prompt, body.input].flat(2).filter((value) => typeof value === "number").length;
  const texts = [...messages, ...textsOf(body.prompt), ...textsOf(body.input)];
  if (!countTokens) return Math.max(1, words(texts).length + numbers);
  const frame = Array.isArray(body.messages) ? 3 * body.messages.length + 3 : 0;
  const roles = listOf(body.messages).flatMap((message) => (isRecord(message) ? textsOf(message.role) : []));
  return [...roles, ...texts].reduce((sum, text) => sum + countTokens(text), frame + numbers);
}

/** As many of the pieces as the cap has room for. */
function within(pieces: readonly Piece[], cap: number): readonly Piece[] {
  let sum = 0;
  const end = pieces.findIndex(({ tokens }) => (sum += tokens) > cap);
  return end < 0 ? pieces : pieces.slice(0, end);
}

function echo(body: Json, operation: FakeOperation): string[] {
  const last = operation === "chat" ? listOf(body.messages).at(-1) : undefined;
  const said = words(textsOf(isRecord(last) ? last.content : body.prompt)).slice(0, 12);
  return ["You", " said:", ...said.map((word) => ` ${word}`)];
}

function toolsOf(body: Json, answer: FakeAnswer): readonly FakeToolCall[] {
  if (answer.toolCall !== undefined) return answer.toolCall === null ? [] : [answer.toolCall].flat();
  const last = listOf(body.messages).at(-1);
  if (answer.text || body.tool_choice === "none" || (isRecord(last) && last.role === "tool")) return [];
  const chosen = isRecord(body.tool_choice) && isRecord(body.tool_choice.function) ? body.tool_choice.function.name : undefined;
  const first = listOf(body.tools).find((tool) => isRecord(tool) && isRecord(tool.function));
  const offered = isRecord(first) && isRecord(first.function) ? first.function.name : undefined;
  const name = chosen ?? offered;
  return typeof name === "string" ? [{ name, arguments: ['{"city"', ': "Oslo"', "}"] }] : [];
}

function figures(operation: FakeOperation, inputTokens: number, outputTokens: number, reasoningTokens = 0): Json {
  if (operation === "embeddings") return { prompt_tokens: inputTokens, total_tokens: inputTokens };
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: reasoningTokens },
  };
}

/** Composes the answer to a request body. `serial` makes ids unique, `createdS` is the time in seconds. */
export function compose(operation: FakeOperation, body: Json, answer: FakeAnswer, serial: number, createdS: number): Composed {
  if (operation === "embeddings") return embeddings(body, answer);
  const chat = operation === "chat";
  const model = typeof body.model === "string" ? body.model : "unknown";
  const tools = chat ? toolsOf(body, answer) : [];
  const piece = (part: Piece["part"]) => (text: string) => ({ text, part, tokens: answer.countTokens?.(text) ?? 1 });
  const wanted: readonly Piece[] = [
    ...(chat ? (answer.reasoning ?? []) : []).map(piece("reasoning_content")),
    ...(tools.length > 0
      ? tools.flatMap((tool, index) => tool.arguments.map(piece(index)))
      : (answer.text ?? echo(body, operation)).map(piece("content"))),
  ];
  const pieces = within(wanted, countOf(body.max_completion_tokens) ?? countOf(body.max_tokens) ?? Number.POSITIVE_INFINITY);
  const usual = pieces.length < wanted.length ? "length" : tools.length > 0 ? "tool_calls" : "stop";
  const finish = answer.finishReason === undefined ? usual : answer.finishReason;
  const choices = Math.min(Math.max(1, countOf(body.n) ?? 1), MAX_CHOICES);
  const inputTokens = fakeInputTokens(body, answer.countTokens);
  const tokensOf = (some: readonly Piece[]): number => some.reduce((sum, { tokens }) => sum + tokens, 0);
  const outputTokens = tokensOf(pieces) * choices;
  const usage = answer.usage ?? "as-asked";
  const indices = Array.from({ length: choices }, (_, index) => index);
  const common = { id: `${chat ? "chatcmpl" : "cmpl"}-fake${serial}`, created: createdS, model };
  const callId = (choice: number, tool: number): string => `call_fake${serial}_${choice}${tool === 0 ? "" : `_${tool}`}`;
  const thought = pieces.filter(({ part }) => part === "reasoning_content");
  const textOf = (wantedPart: Piece["part"]): string =>
    pieces
      .filter(({ part }) => part === wantedPart)
      .map(({ text }) => text)
      .join("");

  function usageNow(delivered: number): unknown {
    if (usage === "zero") return figures(operation, 0, 0);
    return typeof usage === "object" ? usage : figures(operation, inputTokens, delivered, Math.min(delivered, tokensOf(thought) * choices));
  }

  function whole(): Record<string, unknown> {
    const text = textOf("content");
    const list = indices.map((index) => {
      if (!chat) return { index, text, logprobs: null, finish_reason: finish };
      const calls = tools.map(({ name }, at) => ({ id: callId(index, at), type: "function", function: { name, arguments: textOf(at) } }));
      const said = calls.length > 0 ? { role: "assistant", content: null, tool_calls: calls } : { role: "assistant", content: text, refusal: null };
      const message = thought.length > 0 ? { ...said, reasoning_content: textOf("reasoning_content") } : said;
      return { index, message, logprobs: null, finish_reason: finish };
    });
    const completion = { ...common, object: chat ? "chat.completion" : "text_completion", choices: list };
    if (usage === "missing") return completion;
    return { ...completion, usage: usage === "null" ? null : usageNow(outputTokens) };
  }

  function events(): { data: string; outputTokens: number }[] {
    const list: { data: string; outputTokens: number }[] = [];
    const asked = isRecord(body.stream_options) && body.stream_options.include_usage === true;
    const object = chat ? "chat.completion.chunk" : "text_completion";
    let delivered = 0;
    const push = (choice: Json | null, tokens: number, last = false): void => {
      delivered += tokens;
      const event: Record<string, unknown> = { ...common, object, choices: choice ? [choice] : [] };
      if (usage === "cumulative" || (usage === "in-finish" && last) || choice === null) event.usage = usageNow(delivered);
      else if (usage === "null" || (asked && usage !== "missing")) event.usage = null;
      list.push({ data: JSON.stringify(event), outputTokens: tokens });
    };
    const delta = (index: number, content: Json, reason: string | null = null): Json => ({
      index,
      delta: content,
      logprobs: null,
      finish_reason: reason,
    });
    if (chat) for (const index of indices) push(delta(index, { role: "assistant", content: tools.length > 0 ? null : "" }), 0);
    for (const [at, { name }] of tools.entries()) {
      for (const index of indices) {
        push(delta(index, { tool_calls: [{ index: at, id: callId(index, at), type: "function", function: { name, arguments: "" } }] }), 0);
      }
    }
    for (const { text, part, tokens } of pieces) {
      for (const index of indices) {
        if (!chat) push({ index, text, logprobs: null, finish_reason: null }, tokens);
        else
          push(delta(index, typeof part === "string" ? { [part]: text } : { tool_calls: [{ index: part, function: { arguments: text } }] }), tokens);
      }
    }
    if (finish !== null) {
      for (const index of indices)
        push(chat ? delta(index, {}, finish) : { index, text: "", logprobs: null, finish_reason: finish }, 0, index === choices - 1);
    }
    const own = typeof usage === "object" || usage === "as-asked" || usage === "zero";
    if (own && asked) push(null, 0);
    if (answer.done ?? true) list.push({ data: "[DONE]", outputTokens: 0 });
    return list;
  }

  return { whole, events, inputTokens, outputTokens };
}

function embeddings(body: Json, answer: FakeAnswer): Composed {
  const inputTokens = fakeInputTokens(body, answer.countTokens);
  const { input } = body;
  const many = Array.isArray(input) && typeof input[0] !== "number";
  const dimensions = Math.min(countOf(body.dimensions) ?? 8, 4_096);
  const vector = (index: number): number[] => Array.from({ length: dimensions }, (_, i) => ((index + 1) * (i + 1)) / 64);
  // OpenAI's own SDK asks for base64 unless told otherwise.
  const encode = (values: number[]): number[] | string =>
    body.encoding_format === "base64" ? Buffer.from(new Float32Array(values).buffer).toString("base64") : values;
  const count = many ? (input as readonly unknown[]).length : 1;
  const data = Array.from({ length: count }, (_, index) => ({ object: "embedding", index, embedding: encode(vector(index)) }));
  const usage = answer.usage ?? "as-asked";
  const whole = (): Record<string, unknown> => {
    const list = { object: "list", data, model: body.model };
    if (usage === "missing") return list;
    if (usage === "null") return { ...list, usage: null };
    return { ...list, usage: typeof usage === "object" ? usage : figures("embeddings", usage === "zero" ? 0 : inputTokens, 0) };
  };
  return { whole, events: () => [], inputTokens, outputTokens: 0 };
}
