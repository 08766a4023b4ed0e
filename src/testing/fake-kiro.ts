/** Kiro's event streams, as a provider writes them. It answers nothing whole. */
import { frameCodec } from "../dialects/kiro/frames.ts";
import {
  countOf,
  isRecord,
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
import { OPENAI_MODELS } from "./fake-models.ts";
import { tokenCount } from "./fake-openai.ts";
import type { TokenCount } from "./truth-log.ts";

const EXCEPTIONS: Readonly<Record<number, string>> = {
  400: "ValidationException",
  401: "UnauthorizedException",
  402: "ServiceQuotaExceededException",
  403: "AccessDeniedException",
  404: "ResourceNotFoundException",
  429: "ThrottlingException",
};
const FAILURE = "InternalServerException";

/** One frame. An event whose name is an exception's is written as one. */
export function kiroFrame({ event = "", data }: Pick<FakeEvent, "event" | "data">): Buffer {
  const kind = event.endsWith("Exception") ? "exception" : "event";
  const texts = { [`:${kind}-type`]: event, ":content-type": "application/json", ":message-type": kind };
  const headers = Object.fromEntries(Object.entries(texts).map(([name, value]) => [name, { type: "string", value } as const]));
  const { buffer, byteOffset, byteLength } = frameCodec().encode({ headers, body: Buffer.from(data) });
  return Buffer.from(buffer, byteOffset, byteLength);
}

const error = (status: number, message: string): Json => ({ __type: EXCEPTIONS[status] ?? FAILURE, message });

const tokenUsage = ({ inputTokens, cacheReadTokens, cacheWriteTokens, outputTokens }: FakeCount): Json => ({
  uncachedInputTokens: inputTokens - cacheReadTokens - cacheWriteTokens,
  cacheReadInputTokens: cacheReadTokens,
  cacheWriteInputTokens: cacheWriteTokens,
  outputTokens,
  totalTokens: inputTokens + outputTokens,
});

function told({ tokenUsage: usage }: Json): TokenCount | null {
  if (!isRecord(usage)) return null;
  const { uncachedInputTokens, cacheReadInputTokens, cacheWriteInputTokens, outputTokens } = usage;
  return tokenCount(Number(uncachedInputTokens) + Number(cacheReadInputTokens ?? 0) + Number(cacheWriteInputTokens ?? 0), outputTokens);
}

const recordOf = (value: unknown): Json => (isRecord(value) ? value : {});
const contextOf = (message: Json): Json => recordOf(message.userInputMessageContext);
const currentOf = (body: Json): Json => recordOf(recordOf(recordOf(body.conversationState).currentMessage).userInputMessage);
const historyOf = (body: Json): readonly Json[] => recordsOf(recordOf(body.conversationState).history);
const specificationsOf = (message: Json): readonly Json[] => recordsOf(contextOf(message).tools).map((tool) => recordOf(tool.toolSpecification));

/** A user's words, or an assistant's, and the results that a user brings. */
const wordsOf = (message: Json): readonly unknown[] => [message.content, ...recordsOf(contextOf(message).toolResults).map(({ content }) => content)];

function questionOf(body: Json) {
  const current = currentOf(body);
  const results = recordsOf(contextOf(current).toolResults);
  const [tool] = results.length > 0 ? [] : specificationsOf(current).map(({ name }) => name);
  const history = historyOf(body).map((each) => recordOf(each.userInputMessage ?? each.assistantResponseMessage));
  return {
    // As the fake counts input.
    body: { messages: [...history, current].map((message) => ({ content: wordsOf(message) })) },
    // The first message begins with what the system said.
    last: results.length > 0 ? results.map(({ content }) => content) : String(current.content).split("\n\n").at(-1),
    tool: typeof tool === "string" ? tool : null,
    maxOutputTokens: countOf(recordOf(body.inferenceConfig).maxTokens),
  };
}

const STOP_REASONS: Readonly<Record<FakePlan["stop"], string>> = {
  stop: "END_TURN",
  length: "MAX_TOKENS",
  tool_calls: "TOOL_USE",
  refusal: "REFUSAL",
};

function eventsOf(segment: FakeSegment, serial: number, { signature }: FakeAnswer, tokensOf: FakePlan["tokensOf"]): readonly FakeEvent[] {
  const one = (event: string, said: Json, outputTokens = 0): FakeEvent => ({ event, data: JSON.stringify(said), outputTokens });
  switch (segment.kind) {
    case "thoughts": {
      const signed = signature === undefined ? [] : [one("reasoningContentEvent", { signature })];
      return [...segment.pieces.map((text) => one("reasoningContentEvent", { text }, tokensOf(text))), ...signed];
    }
    case "text":
    case "refusal":
      return segment.pieces.map((content) => one("assistantResponseEvent", { content }, tokensOf(content)));
    case "image":
      throw new Error("an answer of Kiro's holds no images");
    case "call": {
      const { name, isCustom, id: toolUseId = `tooluse_fake${serial}_${segment.at}` } = segment.call;
      if (isCustom) throw new Error("Kiro has no custom tools whose input is text");
      const pieces = segment.pieces.map((input) => one("toolUseEvent", { toolUseId, name, input }, tokensOf(input)));
      return [...pieces, one("toolUseEvent", { toolUseId, name, stop: true })];
    }
  }
}

function compose({ body, answer, serial }: FakeQuery): Composed {
  const plan = planOf(questionOf(body), answer);
  const { count } = plan;
  const usage = answer.usage ?? "as-asked";
  if (usage === "in-finish" || usage === "cumulative") throw new Error("Kiro tells its usage once, in an event of its own");
  const stopReason = answer.finishReason === undefined ? STOP_REASONS[plan.stop] : answer.finishReason;
  const { redactedReasoning } = answer;

  function events(): FakeEvent[] {
    const list: FakeEvent[] = [];
    const push = (event: string, said: Json): void => void list.push({ event, data: JSON.stringify(said), outputTokens: 0 });
    if (redactedReasoning !== undefined) push("reasoningContentEvent", { redactedContent: redactedReasoning });
    for (const segment of plan.segments) list.push(...eventsOf(segment, serial, answer, plan.tokensOf));
    // What comes behind an answer shows that it was all of it.
    if (answer.done === false) return list;
    if (stopReason !== null) push("messageStopEvent", { stopReason });
    const figures = usageTold(usage, tokenUsage, count);
    if (figures !== undefined) push("metadataEvent", { tokenUsage: figures });
    push("contextUsageEvent", { contextUsagePercentage: 0.5 });
    push("meteringEvent", { unit: "credit", unitPlural: "credits", usage: 0.01 });
    return list;
  }

  return { whole: () => ({}), events, framing: "aws", inputTokens: count.inputTokens, outputTokens: count.outputTokens };
}

/** What the provider checks first, and a translation gets wrong most easily. It says so in few words. */
function complaint(body: Json): string | null {
  const state = recordOf(body.conversationState);
  const isNamed = typeof state.conversationId === "string" && state.conversationId !== "" && state.chatTriggerType === "MANUAL";
  const messages = [...historyOf(body), recordOf(state.currentMessage)];
  const tools = specificationsOf(currentOf(body));
  const isKnown = (name: unknown): boolean => tools.some((tool) => tool.name === name);
  const isDescribed = tools.every(({ name, description, inputSchema }) => name && description && recordOf(inputSchema).json);
  let asked: readonly unknown[] = [];
  const isInTurn = messages.every((each, i) => {
    const message = recordOf(i % 2 === 0 ? each.userInputMessage : each.assistantResponseMessage);
    if (typeof message.content !== "string" || message.content === "") return false;
    const uses = recordsOf(message.toolUses);
    const answered = recordsOf(contextOf(message).toolResults).map(({ toolUseId }) => toolUseId);
    const isAnswered = i % 2 === 1 || (answered.length === asked.length && asked.every((id) => answered.includes(id)));
    asked = uses.map(({ toolUseId }) => toolUseId);
    return isAnswered && uses.every(({ name, input }) => isKnown(name) && isRecord(input)) && (i % 2 === 1 || typeof message.modelId === "string");
  });
  return isNamed && isDescribed && isInTurn && messages.length % 2 === 1 ? null : "Improperly formed request.";
}

export const fakeKiro: FakeDialect = {
  routes: [
    {
      path: /\/generateAssistantResponse$/,
      compose,
      complaint,
      isStream: () => true,
      modelOf: (body) => currentOf(body).modelId,
    },
  ],
  error,
  errorEvent: (message) => ({ event: FAILURE, data: JSON.stringify({ message }) }),
  models: OPENAI_MODELS,
  headers: (serial) => ({ "x-amzn-requestid": `00000000-0000-4000-8000-${String(serial).padStart(12, "0")}` }),
  teller: () => told,
};
