/** Anthropic's Messages, as a provider writes them. */
import {
  argumentsIn,
  countOf,
  fakeInputTokens,
  isRecord,
  listOf,
  NOTHING,
  planOf,
  recordsOf,
  usageTold,
  type Composed,
  type FakeAnswer,
  type FakeCount,
  type FakeEvent,
  type FakePlan,
  type FakeSegment,
  type Json,
} from "./fake-answers.ts";
import type { FakeDialect, FakeQuery } from "./fake-dialect.ts";
import { ANTHROPIC_MODELS } from "./fake-models.ts";
import { tokenCount } from "./fake-openai.ts";
import type { TokenCount } from "./truth-log.ts";

const ERROR_TYPES: Readonly<Record<number, string>> = {
  400: "invalid_request_error",
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  504: "timeout_error",
  529: "overloaded_error",
};

function error(status: number, message: string, serial: number): Json {
  const type = ERROR_TYPES[status] ?? (status < 500 ? "invalid_request_error" : "api_error");
  return { type: "error", error: { type, message }, request_id: `req_fake${serial}` };
}

/** Cached tokens stand beside the input, not in it. */
const inputFigures = ({ inputTokens, cacheReadTokens, cacheWriteTokens }: FakeCount): Json => ({
  input_tokens: inputTokens - cacheReadTokens - cacheWriteTokens,
  cache_creation_input_tokens: cacheWriteTokens,
  cache_read_input_tokens: cacheReadTokens,
});

const figures = (count: FakeCount): Json => ({
  ...inputFigures(count),
  cache_creation: { ephemeral_5m_input_tokens: count.cacheWriteTokens, ephemeral_1h_input_tokens: 0 },
  output_tokens: count.outputTokens,
  service_tier: "standard",
});

/** A stream tells the input where it begins, and the output where it ends. */
function teller(): (json: Json) => TokenCount | null {
  let input: unknown;
  const inputOf = (usage: Json): unknown =>
    usage.input_tokens === undefined
      ? input
      : Number(usage.input_tokens) + Number(usage.cache_creation_input_tokens ?? 0) + Number(usage.cache_read_input_tokens ?? 0);
  return (json) => {
    const { usage } = isRecord(json.message) ? json.message : json;
    if (!isRecord(usage)) return null;
    input = inputOf(usage);
    return json.type === "message_start" ? null : tokenCount(input, usage.output_tokens);
  };
}

function toolIn(body: Json): string | null {
  const choice = isRecord(body.tool_choice) ? body.tool_choice : {};
  const last = listOf(body.messages).at(-1);
  const isResult = isRecord(last) && recordsOf(last.content).some(({ type }) => type === "tool_result");
  if (choice.type === "none" || isResult) return null;
  const name = choice.name ?? recordsOf(body.tools).find(({ input_schema: schema }) => schema !== undefined)?.name;
  return typeof name === "string" ? name : null;
}

const STOP_REASONS: Readonly<Record<FakePlan["stop"], string>> = {
  stop: "end_turn",
  length: "max_tokens",
  tool_calls: "tool_use",
  refusal: "refusal",
};

/** A block of the answer: whole, as it is announced, and what is sent in between. */
interface Block {
  readonly whole: Json;
  readonly begun: Json;
  readonly deltas: readonly { readonly delta: Json; readonly outputTokens: number }[];
}

function blockOf(segment: FakeSegment, serial: number, { signature = "" }: FakeAnswer, tokensOf: FakePlan["tokensOf"]): Block {
  const said = segment.pieces.join("");
  const deltas = (type: string, member: string): Block["deltas"] =>
    segment.pieces.map((piece) => ({ delta: { type, [member]: piece }, outputTokens: tokensOf(piece) }));
  switch (segment.kind) {
    case "thoughts": {
      const signed = signature === "" ? [] : [{ delta: { type: "signature_delta", signature }, outputTokens: 0 }];
      return {
        whole: { type: "thinking", thinking: said, signature },
        begun: { type: "thinking", thinking: "", signature: "" },
        deltas: [...deltas("thinking_delta", "thinking"), ...signed],
      };
    }
    case "text":
    case "refusal":
      return { whole: { type: "text", text: said }, begun: { type: "text", text: "" }, deltas: deltas("text_delta", "text") };
    case "image":
      throw new Error("an answer of Anthropic's holds no images");
    case "call": {
      const { name, isCustom, id = `toolu_fake${serial}_${segment.at}` } = segment.call;
      if (isCustom) throw new Error("Anthropic has no custom tools whose input is text");
      const begun = { type: "tool_use", id, name, input: {} };
      return { whole: { ...begun, input: argumentsIn(segment.pieces) }, begun, deltas: deltas("input_json_delta", "partial_json") };
    }
  }
}

function compose({ body, answer, serial, model = "unknown" }: FakeQuery): Composed {
  const last = listOf(body.messages).at(-1);
  const question = { body, last: isRecord(last) ? last.content : last, tool: toolIn(body), maxOutputTokens: countOf(body.max_tokens) };
  const plan = planOf(question, answer);
  const { count } = plan;
  const usage = answer.usage ?? "as-asked";
  const stop = answer.finishReason === undefined ? STOP_REASONS[plan.stop] : answer.finishReason;
  const hidden = answer.redactedReasoning === undefined ? null : { type: "redacted_thinking", data: answer.redactedReasoning };
  const blocks: readonly Block[] = [
    ...(hidden ? [{ whole: hidden, begun: hidden, deltas: [] }] : []),
    ...plan.segments.map((segment) => blockOf(segment, serial, answer, plan.tokensOf)),
  ];
  const message = {
    id: `msg_fake${serial}`,
    type: "message",
    role: "assistant",
    model,
    content: [] as readonly Json[],
    stop_reason: null as string | null,
    stop_sequence: null,
  };
  const withUsage = (all: Json, told: Json | null | undefined): Record<string, unknown> =>
    told === undefined ? { ...all } : { ...all, usage: told };

  const whole = (): Record<string, unknown> =>
    withUsage({ ...message, content: blocks.map((block) => block.whole), stop_reason: stop }, usageTold(usage, figures, count));

  function events(): FakeEvent[] {
    const list: FakeEvent[] = [];
    const push = (type: string, said: Json, outputTokens = 0): void => {
      list.push({ event: type, data: JSON.stringify({ type, ...said }), outputTokens });
    };
    const begun = usage === "in-finish" ? NOTHING : { ...count, outputTokens: 1 };
    push("message_start", { message: withUsage(message, usageTold(usage, figures, begun)) });
    push("ping", {});
    for (const [index, block] of blocks.entries()) {
      push("content_block_start", { index, content_block: block.begun });
      for (const { delta, outputTokens } of block.deltas) push("content_block_delta", { index, delta }, outputTokens);
      push("content_block_stop", { index });
    }
    if (stop !== null) {
      const atEnd = ({ outputTokens }: FakeCount): Json => ({
        ...(usage === "in-finish" || usage === "cumulative" ? inputFigures(count) : {}),
        output_tokens: outputTokens,
      });
      push("message_delta", withUsage({ delta: { stop_reason: stop, stop_sequence: null } }, usageTold(usage, atEnd, count)));
    }
    if (answer.done ?? true) push("message_stop", {});
    return list;
  }

  return { whole, events, inputTokens: count.inputTokens, outputTokens: count.outputTokens };
}

/** What the provider checks first, and a translation gets wrong most easily. */
function complaint(body: Json, headers: Json): string | null {
  if (headers["anthropic-version"] === undefined) return "anthropic-version: header is required";
  if (typeof body.model !== "string") return "model: Field required";
  const messages = recordsOf(body.messages);
  if (messages.length === 0) return "messages: at least one message is required";
  let asked: readonly unknown[] = [];
  for (const [i, { role, content }] of messages.entries()) {
    if (role !== "user" && role !== "assistant") return `messages.${i}.role: Input should be 'user' or 'assistant'`;
    const blocks = recordsOf(content);
    if (blocks.some(({ type, text }) => type === "text" && text === "")) return "messages: text content blocks must be non-empty";
    const results = blocks.flatMap((block) => (block.type === "tool_result" ? [block.tool_use_id] : []));
    if (results.some((id) => !asked.includes(id))) return `messages.${i}: unexpected tool_use_id found in tool_result blocks`;
    if (asked.some((id) => !results.includes(id))) return `messages.${i - 1}: tool_use ids were found without tool_result blocks immediately after`;
    asked = blocks.flatMap((block) => (block.type === "tool_use" ? [block.id] : []));
  }
  return null;
}

function complaintOfMessages(body: Json, headers: Json): string | null {
  const { max_tokens: cap, thinking } = body;
  if (typeof cap !== "number" || cap < 1) return "max_tokens: Field required";
  if (isRecord(thinking) && thinking.type === "enabled" && !(Number(thinking.budget_tokens) >= 1_024 && Number(thinking.budget_tokens) < cap))
    return "thinking.enabled.budget_tokens: Input should be at least 1024, and less than max_tokens";
  return complaint(body, headers);
}

const counted = ({ body, answer }: FakeQuery): Composed => ({
  whole: () => ({ input_tokens: fakeInputTokens(body, answer.countTokens) }),
  events: () => [],
  isFree: true,
  inputTokens: 0,
  outputTokens: 0,
});

export const fakeAnthropic: FakeDialect = {
  routes: [
    { path: /\/messages$/, compose, complaint: complaintOfMessages, isStream: ({ stream }) => stream === true },
    { path: /\/messages\/count_tokens$/, compose: counted, complaint, isStream: () => false },
  ],
  error,
  errorEvent: (message, serial) => ({ event: "error", data: JSON.stringify(error(500, message, serial)) }),
  models: ANTHROPIC_MODELS,
  headers: (serial) => ({
    "request-id": `req_fake${serial}`,
    "anthropic-organization-id": "00000000-0000-4000-8000-00000000fa4e",
    "anthropic-ratelimit-requests-limit": "10000",
    "anthropic-ratelimit-requests-remaining": "9999",
    "anthropic-ratelimit-requests-reset": "2030-01-01T00:00:00Z",
    "set-cookie": "__fake=1; Path=/; HttpOnly",
  }),
  teller,
};
