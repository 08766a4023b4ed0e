/** OpenAI's chat completions, legacy completions and embeddings, as a provider writes them. */
import {
  countOf,
  isRecord,
  listOf,
  planOf,
  recordsOf,
  fakeInputTokens,
  IMAGE_TOKENS,
  NOTHING,
  usageTold,
  type Composed,
  type FakeCount,
  type FakeEvent,
  type FakePlan,
  type FakeSegment,
  type Json,
} from "./fake-answers.ts";
import type { FakeDialect, FakeQuery } from "./fake-dialect.ts";
import { OPENAI_MODELS } from "./fake-models.ts";
import type { TokenCount } from "./truth-log.ts";

type Operation = "chat" | "completions";

const ERROR_TYPES: Readonly<Record<number, readonly [type: string, code: string | null]>> = {
  400: ["invalid_request_error", null],
  401: ["invalid_request_error", "invalid_api_key"],
  403: ["invalid_request_error", "unsupported_country_region_territory"],
  404: ["invalid_request_error", "model_not_found"],
  413: ["invalid_request_error", null],
  429: ["requests", "rate_limit_exceeded"],
};

/** OpenAI's envelope, of both its APIs. */
export function openaiError(status: number, message: string): Json {
  const [type, code] = ERROR_TYPES[status] ?? ["server_error", null];
  return { error: { message, type, param: null, code } };
}

export const openaiHeaders = (serial: number): Record<string, string> => ({
  "x-request-id": `req_fake${serial}`,
  "openai-organization": "org-fake",
  "openai-processing-ms": "1",
  "openai-version": "2020-10-01",
  "x-ratelimit-limit-requests": "10000",
  "x-ratelimit-remaining-requests": "9999",
  "x-ratelimit-reset-requests": "6ms",
  "set-cookie": "__fake=1; Path=/; HttpOnly",
});

const isCount = (value: unknown): value is number => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

/** Totals, when both are counts. */
export const tokenCount = (inputTokens: unknown, outputTokens: unknown): TokenCount | null =>
  isCount(inputTokens) && isCount(outputTokens) ? { inputTokens, outputTokens } : null;

function told({ usage }: Json): TokenCount | null {
  return isRecord(usage) ? tokenCount(usage.prompt_tokens, usage.completion_tokens ?? 0) : null;
}

const figures = ({ inputTokens, cacheReadTokens, outputTokens, reasoningTokens }: FakeCount): Json => ({
  prompt_tokens: inputTokens,
  completion_tokens: outputTokens,
  total_tokens: inputTokens + outputTokens,
  prompt_tokens_details: { cached_tokens: cacheReadTokens },
  completion_tokens_details: { reasoning_tokens: reasoningTokens },
});

const FINISH: Readonly<Record<FakePlan["stop"], string>> = { stop: "stop", length: "length", tool_calls: "tool_calls", refusal: "stop" };

/** The function that a request insists on, or offers first; none behind a tool's result. */
function toolIn(body: Json): string | null {
  const last = listOf(body.messages).at(-1);
  if (body.tool_choice === "none" || (isRecord(last) && last.role === "tool")) return null;
  const chosen = isRecord(body.tool_choice) ? body.tool_choice.function : undefined;
  const offered = recordsOf(body.tools).find((tool) => isRecord(tool.function))?.function;
  const name = (isRecord(chosen) ? chosen.name : undefined) ?? (isRecord(offered) ? offered.name : undefined);
  return typeof name === "string" ? name : null;
}

function compose(operation: Operation, { body, answer, serial, createdS, model = "unknown" }: FakeQuery): Composed {
  const chat = operation === "chat";
  const last = chat ? listOf(body.messages).at(-1) : body.prompt;
  const plan = planOf(
    {
      body,
      last: isRecord(last) ? last.content : last,
      tool: chat ? toolIn(body) : null,
      maxOutputTokens: countOf(body.max_completion_tokens) ?? countOf(body.max_tokens),
      choices: countOf(body.n) ?? 1,
    },
    answer,
  );
  if (!chat && plan.segments.some(({ kind }) => kind !== "text")) throw new Error("a legacy completion is nothing but text");
  const { segments, count } = plan;
  const finish = answer.finishReason === undefined ? FINISH[plan.stop] : answer.finishReason;
  const usage = answer.usage ?? "as-asked";
  const indices = Array.from({ length: plan.choices }, (_, index) => index);
  const common = { id: `${chat ? "chatcmpl" : "cmpl"}-fake${serial}`, created: createdS, model };
  const callId = (choice: number, at: number, id: string | undefined): string => id ?? `call_fake${serial}_${choice}${at === 0 ? "" : `_${at}`}`;
  const textOf = (kind: FakeSegment["kind"]): string => segments.flatMap((segment) => (segment.kind === kind ? segment.pieces : [])).join("");
  const has = (kind: FakeSegment["kind"]): boolean => segments.some((segment) => segment.kind === kind);
  const images = segments.flatMap((segment) => (segment.kind === "image" ? [shownImage(segment.image)] : []));

  function message(choice: number): Json {
    const calls = segments.flatMap((segment) =>
      segment.kind === "call" ? [callOf(callId(choice, segment.at, segment.call.id), segment, segment.pieces.join(""))] : [],
    );
    return {
      role: "assistant",
      content: has("text") ? textOf("text") : null,
      ...(textOf("thoughts") === "" ? {} : { reasoning_content: textOf("thoughts") }),
      ...(images.length > 0 ? { images } : {}),
      ...(calls.length > 0 ? { tool_calls: calls } : { refusal: has("refusal") ? textOf("refusal") : null }),
    };
  }

  function whole(): Record<string, unknown> {
    const list = indices.map((index) => ({
      index,
      ...(chat ? { message: message(index) } : { text: textOf("text") }),
      logprobs: null,
      finish_reason: finish,
    }));
    const completion = { ...common, object: chat ? "chat.completion" : "text_completion", choices: list };
    const said = usageTold(usage, figures, count);
    return said === undefined ? completion : { ...completion, usage: said };
  }

  function events(): FakeEvent[] {
    const list: FakeEvent[] = [];
    const asked = isRecord(body.stream_options) && body.stream_options.include_usage === true;
    const object = chat ? "chat.completion.chunk" : "text_completion";
    let outputTokens = 0;
    let reasoningTokens = 0;
    const push = (choice: Json | null, tokens: number, isLast = false): void => {
      outputTokens += tokens;
      const event: Record<string, unknown> = { ...common, object, choices: choice ? [choice] : [] };
      if (usage === "cumulative" || (usage === "in-finish" && isLast) || choice === null)
        event.usage = usageTold(usage, figures, { ...count, outputTokens, reasoningTokens });
      else if (usage === "null" || (asked && usage !== "missing")) event.usage = null;
      list.push({ data: JSON.stringify(event), outputTokens: tokens });
    };
    const choiceOf = (index: number, said: Json, reason: string | null = null): Json => ({
      index,
      ...(chat ? { delta: said } : { text: said.content ?? "" }),
      logprobs: null,
      finish_reason: reason,
    });
    if (chat) for (const index of indices) push(choiceOf(index, { role: "assistant", content: has("text") ? "" : null }), 0);
    for (const segment of segments) {
      if (segment.kind === "call") {
        for (const index of indices)
          push(choiceOf(index, { tool_calls: [{ index: segment.at, ...callOf(callId(index, segment.at, segment.call.id), segment, "") }] }), 0);
      }
      for (const piece of segment.pieces) {
        for (const index of indices) {
          const tokens = segment.kind === "image" ? IMAGE_TOKENS : plan.tokensOf(piece);
          if (segment.kind === "thoughts") reasoningTokens += tokens;
          push(choiceOf(index, deltaOf(segment, piece)), tokens);
        }
      }
    }
    if (finish !== null) for (const index of indices) push(choiceOf(index, {}, finish), 0, index === plan.choices - 1);
    const isOwn = typeof usage === "object" || usage === "as-asked" || usage === "zero";
    if (isOwn && asked) push(null, 0);
    if (answer.done ?? true) list.push({ data: "[DONE]", outputTokens: 0 });
    return list;
  }

  return { whole, events, inputTokens: count.inputTokens, outputTokens: count.outputTokens };
}

type CallSegment = Extract<FakeSegment, { kind: "call" }>;

function callOf(id: string, { call }: CallSegment, text: string): Json {
  return call.isCustom
    ? { id, type: "custom", custom: { name: call.name, input: text } }
    : { id, type: "function", function: { name: call.name, arguments: text } };
}

const shownImage = ({ mediaType, data }: { readonly mediaType: string; readonly data: string }): Json => ({
  type: "image_url",
  image_url: { url: `data:${mediaType};base64,${data}` },
});

function deltaOf(segment: FakeSegment, piece: string): Json {
  switch (segment.kind) {
    case "thoughts":
      return { reasoning_content: piece };
    case "text":
      return { content: piece };
    case "refusal":
      return { refusal: piece };
    case "image":
      return { images: [shownImage(segment.image)] };
    case "call":
      return { tool_calls: [{ index: segment.at, ...(segment.call.isCustom ? { custom: { input: piece } } : { function: { arguments: piece } }) }] };
  }
}

function embeddings({ body, answer }: FakeQuery): Composed {
  const inputTokens = fakeInputTokens(body, answer.countTokens);
  const { input } = body;
  const isMany = Array.isArray(input) && typeof input[0] !== "number";
  const dimensions = Math.min(countOf(body.dimensions) ?? 8, 4_096);
  const vector = (index: number): number[] => Array.from({ length: dimensions }, (_, i) => ((index + 1) * (i + 1)) / 64);
  // OpenAI's own SDK asks for base64 unless told otherwise.
  const encode = (values: number[]): number[] | string =>
    body.encoding_format === "base64" ? Buffer.from(new Float32Array(values).buffer).toString("base64") : values;
  const many = isMany ? (input as readonly unknown[]).length : 1;
  const data = Array.from({ length: many }, (_, index) => ({ object: "embedding", index, embedding: encode(vector(index)) }));
  const whole = (): Record<string, unknown> => {
    const said = usageTold(answer.usage ?? "as-asked", (count) => ({ prompt_tokens: count.inputTokens, total_tokens: count.inputTokens }), {
      ...NOTHING,
      inputTokens,
    });
    const list = { object: "list", data, model: body.model };
    return said === undefined ? list : { ...list, usage: said };
  };
  return { whole, events: () => [], inputTokens, outputTokens: 0 };
}

const wantsStream = ({ stream }: Json): boolean => stream === true;

export const fakeOpenai: FakeDialect = {
  routes: [
    { path: /\/chat\/completions$/, compose: (query) => compose("chat", query), isStream: wantsStream },
    { path: /\/completions$/, compose: (query) => compose("completions", query), isStream: wantsStream },
    { path: /\/embeddings$/, compose: embeddings, isStream: () => false },
  ],
  error: openaiError,
  errorEvent: (message) => ({ data: JSON.stringify(openaiError(500, message)) }),
  models: OPENAI_MODELS,
  headers: openaiHeaders,
  teller: () => told,
};
