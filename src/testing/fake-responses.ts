/** OpenAI's Responses API, as a provider writes it. */
import {
  countOf,
  IMAGE_TOKENS,
  isRecord,
  listOf,
  NOTHING,
  planOf,
  recordsOf,
  usageTold,
  type Composed,
  type FakeCount,
  type FakeEvent,
  type FakeSegment,
  type Json,
} from "./fake-answers.ts";
import type { FakeDialect, FakeQuery } from "./fake-dialect.ts";
import { OPENAI_MODELS } from "./fake-models.ts";
import { openaiError, openaiHeaders, tokenCount } from "./fake-openai.ts";
import type { TokenCount } from "./truth-log.ts";

const figures = ({ inputTokens, cacheReadTokens, outputTokens, reasoningTokens }: FakeCount): Json => ({
  input_tokens: inputTokens,
  input_tokens_details: { cached_tokens: cacheReadTokens },
  output_tokens: outputTokens,
  output_tokens_details: { reasoning_tokens: reasoningTokens },
  total_tokens: inputTokens + outputTokens,
});

function told(json: Json): TokenCount | null {
  const { usage } = isRecord(json.response) ? json.response : json;
  return isRecord(usage) ? tokenCount(usage.input_tokens, usage.output_tokens ?? 0) : null;
}

function toolIn(body: Json): string | null {
  const last = listOf(body.input).at(-1);
  const isResult = isRecord(last) && typeof last.type === "string" && last.type.endsWith("_call_output");
  if (body.tool_choice === "none" || isResult) return null;
  const chosen = isRecord(body.tool_choice) ? body.tool_choice.name : undefined;
  const name = chosen ?? recordsOf(body.tools).find(({ type }) => type === "function")?.name;
  return typeof name === "string" ? name : null;
}

/** How a part of a message is written while it grows. */
const PARTS = {
  text: {
    part: (text: string): Json => ({ type: "output_text", text, annotations: [], logprobs: [] }),
    event: "response.output_text",
    member: "text",
    extra: { logprobs: [] },
  },
  refusal: { part: (refusal: string): Json => ({ type: "refusal", refusal }), event: "response.refusal", member: "refusal", extra: {} },
} as const;

interface Item {
  /** As it is when it is whole. */
  readonly item: Json;
  /** As it is announced. */
  readonly begun: Json;
  readonly segments: readonly FakeSegment[];
}

/** The segments of one message are its parts; every other segment is an item of its own. */
function itemsOf(segments: readonly FakeSegment[], serial: number, signature: string | undefined, isCut: boolean): readonly Item[] {
  const grouped: FakeSegment[][] = [];
  for (const segment of segments) {
    const before = grouped.at(-1);
    if (segment.kind === "refusal" && before?.[0]?.kind === "text") before.push(segment);
    else grouped.push([segment]);
  }
  return grouped.map((group, index) => {
    const [first] = group as [FakeSegment];
    const status = isCut && index === grouped.length - 1 ? "incomplete" : "completed";
    const said = first.pieces.join("");
    const place = index === 0 ? "" : `_${index}`;
    switch (first.kind) {
      case "thoughts": {
        const begun = { id: `rs_fake${serial}${place}`, type: "reasoning", summary: [] };
        const sealed = signature === undefined ? {} : { encrypted_content: signature };
        const summary = first.pieces.length > 0 ? [{ type: "summary_text", text: said }] : [];
        return { begun, item: { ...begun, summary, ...sealed }, segments: group };
      }
      case "text":
      case "refusal": {
        const begun = { id: `msg_fake${serial}${place}`, type: "message", status: "in_progress", role: "assistant", content: [] };
        const content = group.map(({ kind, pieces }) => PARTS[kind as "text" | "refusal"].part(pieces.join("")));
        return { begun, item: { ...begun, status, content }, segments: group };
      }
      case "image": {
        const begun = { id: `ig_fake${serial}${place}`, type: "image_generation_call", status: "in_progress", result: null };
        const format = first.image.mediaType.replace(/^image\//, "");
        return { begun, item: { ...begun, status, result: first.image.data, output_format: format }, segments: group };
      }
      case "call": {
        const { name, isCustom, id = `call_fake${serial}_${first.at}` } = first.call;
        const shown = { id: `${isCustom ? "ctc" : "fc"}_fake${serial}${place}`, type: isCustom ? "custom_tool_call" : "function_call" };
        const member = isCustom ? "input" : "arguments";
        const begun = { ...shown, status: "in_progress", call_id: id, name, [member]: "" };
        return { begun, item: { ...begun, status, [member]: said }, segments: group };
      }
    }
  });
}

function compose({ body, answer, serial, createdS, model = "unknown" }: FakeQuery): Composed {
  const last = Array.isArray(body.input) ? (body.input as readonly unknown[]).at(-1) : body.input;
  const plan = planOf({ body, last, tool: toolIn(body), maxOutputTokens: countOf(body.max_output_tokens) }, answer);
  const { count } = plan;
  const usage = answer.usage ?? "as-asked";
  const usual = plan.stop === "length" ? "max_output_tokens" : "completed";
  const finish = answer.finishReason === undefined ? usual : answer.finishReason;
  const items = itemsOf(plan.segments, serial, answer.signature, plan.stop === "length");
  const response = {
    id: `resp_fake${serial}`,
    object: "response",
    created_at: createdS,
    status: "in_progress",
    error: null as Json | null,
    incomplete_details: null as Json | null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    model,
    output: [] as readonly Json[],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: body.previous_response_id ?? null,
    reasoning: body.reasoning ?? { effort: null, summary: null },
    store: body.store ?? true,
    temperature: body.temperature ?? 1,
    text: body.text ?? { format: { type: "text" } },
    tool_choice: body.tool_choice ?? "auto",
    tools: body.tools ?? [],
    top_p: body.top_p ?? 1,
    truncation: body.truncation ?? "disabled",
    metadata: body.metadata ?? {},
  };

  function ended(): Record<string, unknown> {
    const output = items.map(({ item }) => item);
    const said = usageTold(usage, figures, count);
    const end = said === undefined ? { ...response, output } : { ...response, output, usage: said };
    if (finish === null || finish === "completed") return { ...end, status: finish ?? "in_progress" };
    if (finish === "failed") return { ...end, status: "failed", error: { code: "server_error", message: `scripted failure of request ${serial}` } };
    return { ...end, status: "incomplete", incomplete_details: { reason: finish } };
  }

  function events(): FakeEvent[] {
    const list: FakeEvent[] = [];
    const push = (type: string, said: Json, outputTokens = 0): void => {
      list.push({ event: type, data: JSON.stringify({ type, sequence_number: list.length, ...said }), outputTokens });
    };
    // Nothing is told before the end, unless a script wants it.
    const early = usage === "cumulative" ? figures({ ...NOTHING, inputTokens: count.inputTokens }) : null;
    push("response.created", { response: { ...response, usage: early } });
    push("response.in_progress", { response: { ...response, usage: early } });
    for (const [index, { item, begun, segments }] of items.entries()) {
      const at = { output_index: index, item_id: begun.id };
      push("response.output_item.added", { output_index: index, item: begun });
      for (const [part, segment] of segments.entries()) segmentEvents(segment, { ...at, part, push, tokensOf: plan.tokensOf });
      push("response.output_item.done", { output_index: index, item });
    }
    const status = finish === "completed" || finish === "failed" ? finish : "incomplete";
    if (finish !== null && (answer.done ?? true)) push(`response.${status}`, { response: ended() });
    return list;
  }

  return { whole: ended, events, inputTokens: count.inputTokens, outputTokens: count.outputTokens };
}

interface Place {
  readonly output_index: number;
  readonly item_id: unknown;
  readonly part: number;
  readonly push: (type: string, said: Json, outputTokens?: number) => void;
  readonly tokensOf: (piece: string) => number;
}

function segmentEvents(segment: FakeSegment, { part, push, tokensOf, ...at }: Place): void {
  const said = segment.pieces.join("");
  switch (segment.kind) {
    case "thoughts": {
      if (segment.pieces.length === 0) return;
      const here = { ...at, summary_index: 0 };
      push("response.reasoning_summary_part.added", { ...here, part: { type: "summary_text", text: "" } });
      for (const piece of segment.pieces) push("response.reasoning_summary_text.delta", { ...here, delta: piece }, tokensOf(piece));
      push("response.reasoning_summary_text.done", { ...here, text: said });
      return push("response.reasoning_summary_part.done", { ...here, part: { type: "summary_text", text: said } });
    }
    case "text":
    case "refusal": {
      const { part: shown, event, member, extra } = PARTS[segment.kind];
      const here = { ...at, content_index: part };
      push("response.content_part.added", { ...here, part: shown("") });
      for (const piece of segment.pieces) push(`${event}.delta`, { ...here, delta: piece, ...extra }, tokensOf(piece));
      push(`${event}.done`, { ...here, [member]: said, ...extra });
      return push("response.content_part.done", { ...here, part: shown(said) });
    }
    case "image":
      push("response.image_generation_call.in_progress", at);
      push("response.image_generation_call.generating", at);
      return push("response.image_generation_call.completed", at, segment.pieces.length * IMAGE_TOKENS);
    case "call": {
      const [event, member] = segment.call.isCustom
        ? ["response.custom_tool_call_input", "input"]
        : ["response.function_call_arguments", "arguments"];
      for (const piece of segment.pieces) push(`${event}.delta`, { ...at, delta: piece }, tokensOf(piece));
      const name = segment.call.isCustom ? {} : { name: segment.call.name };
      return push(`${event}.done`, { ...at, ...name, [member]: said });
    }
  }
}

function complaint(body: Json): string | null {
  if (typeof body.model !== "string") return "you must provide a model parameter";
  if (body.input === undefined && body.prompt === undefined && body.previous_response_id === undefined)
    return 'One of "input" or "previous_response_id" or \'prompt\' must be provided.';
  const ids = new Set<unknown>();
  for (const { type, call_id: id } of recordsOf(body.input)) {
    if (type === "function_call" || type === "custom_tool_call") ids.add(id);
    else if ((type === "function_call_output" || type === "custom_tool_call_output") && !ids.has(id) && body.previous_response_id === undefined)
      return `No tool call found for function call output with call_id ${String(id)}.`;
  }
  return null;
}

export const fakeResponses: FakeDialect = {
  routes: [{ path: /\/responses$/, compose, complaint, isStream: ({ stream }) => stream === true }],
  error: openaiError,
  errorEvent: (message, _serial, position) => ({
    event: "error",
    data: JSON.stringify({ type: "error", code: "server_error", message, param: null, sequence_number: position }),
  }),
  models: OPENAI_MODELS,
  headers: openaiHeaders,
  teller: () => told,
};
