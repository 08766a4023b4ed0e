/** Google's generateContent, as a provider writes it. */
import {
  argumentsIn,
  countOf,
  fakeInputTokens,
  IMAGE_TOKENS,
  isRecord,
  listOf,
  planOf,
  recordsOf,
  usageTold,
  type Composed,
  type FakeAnswer,
  type FakeCount,
  type FakeEvent,
  type FakeImage,
  type FakePlan,
  type Json,
} from "./fake-answers.ts";
import type { FakeDialect, FakeQuery } from "./fake-dialect.ts";
import { GEMINI_MODELS } from "./fake-models.ts";
import { tokenCount } from "./fake-openai.ts";
import type { TokenCount } from "./truth-log.ts";

const STATUSES: Readonly<Record<number, string>> = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  429: "RESOURCE_EXHAUSTED",
  503: "UNAVAILABLE",
  504: "DEADLINE_EXCEEDED",
};

function error(status: number, message: string): Json {
  return { error: { code: status, message, status: STATUSES[status] ?? (status < 500 ? "INVALID_ARGUMENT" : "INTERNAL") } };
}

/** Thoughts stand beside the candidates; cached tokens are part of the prompt. */
const figures = ({ inputTokens, cacheReadTokens, outputTokens, reasoningTokens }: FakeCount): Json => ({
  promptTokenCount: inputTokens,
  candidatesTokenCount: outputTokens - reasoningTokens,
  totalTokenCount: inputTokens + outputTokens,
  ...(cacheReadTokens > 0 ? { cachedContentTokenCount: cacheReadTokens } : {}),
  ...(reasoningTokens > 0 ? { thoughtsTokenCount: reasoningTokens } : {}),
  promptTokensDetails: [{ modality: "TEXT", tokenCount: inputTokens }],
});

function told({ usageMetadata: usage }: Json): TokenCount | null {
  if (!isRecord(usage)) return null;
  return tokenCount(usage.promptTokenCount, Number(usage.candidatesTokenCount ?? 0) + Number(usage.thoughtsTokenCount ?? 0));
}

function toolIn(body: Json): string | null {
  const toolConfig = isRecord(body.toolConfig) ? body.toolConfig : {};
  const config = isRecord(toolConfig.functionCallingConfig) ? toolConfig.functionCallingConfig : {};
  const last = listOf(body.contents).at(-1);
  const isResult = isRecord(last) && recordsOf(last.parts).some(({ functionResponse }) => functionResponse !== undefined);
  if (config.mode === "NONE" || isResult) return null;
  const offered = recordsOf(body.tools).flatMap(({ functionDeclarations }) => recordsOf(functionDeclarations))[0]?.name;
  const name = listOf(config.allowedFunctionNames)[0] ?? offered;
  return typeof name === "string" ? name : null;
}

const FINISH: Readonly<Record<FakePlan["stop"], string>> = { stop: "STOP", length: "MAX_TOKENS", tool_calls: "STOP", refusal: "SAFETY" };

interface Part {
  readonly part: Json;
  readonly outputTokens: number;
  readonly isThought: boolean;
}

/** Texts come piece by piece, everything else in one. Of several calls the first is signed, of a text its end. */
function partsOf({ segments, tokensOf }: FakePlan, { signature }: FakeAnswer): readonly Part[] {
  const seal = signature === undefined ? {} : { thoughtSignature: signature };
  const hasCall = segments.some(({ kind }) => kind === "call");
  const parts = segments.flatMap((segment): Part[] => {
    const { pieces } = segment;
    switch (segment.kind) {
      case "thoughts":
        return pieces.map((text) => ({ part: { text, thought: true }, outputTokens: tokensOf(text), isThought: true }));
      case "text":
        return pieces.map((text) => ({ part: { text }, outputTokens: tokensOf(text), isThought: false }));
      case "refusal":
        return [];
      case "image":
        return pieces.map(() => ({ part: { inlineData: inline(segment.image) }, outputTokens: IMAGE_TOKENS, isThought: false }));
      case "call": {
        const { name, id, isCustom } = segment.call;
        if (isCustom) throw new Error("Google has no custom tools whose input is text");
        const functionCall = { ...(id === undefined ? {} : { id }), name, args: argumentsIn(pieces) };
        return [
          {
            part: { functionCall, ...(segment.at === 0 ? seal : {}) },
            outputTokens: pieces.reduce((sum, piece) => sum + tokensOf(piece), 0),
            isThought: false,
          },
        ];
      }
    }
  });
  if (hasCall || signature === undefined) return parts;
  return [...parts, { part: { text: "", ...seal }, outputTokens: 0, isThought: false }];
}

const inline = ({ mediaType, data }: FakeImage): Json => ({ mimeType: mediaType, data });

/** Whole answers have no seams inside a text. */
function joined(parts: readonly Part[]): readonly Json[] {
  const all: Record<string, unknown>[] = [];
  for (const { part } of parts) {
    const last = all.at(-1);
    if (typeof last?.text === "string" && typeof part.text === "string" && last.thought === part.thought)
      Object.assign(last, part, { text: last.text + part.text });
    else all.push({ ...part });
  }
  return all;
}

function compose({ body, answer, serial, model = "unknown", search }: FakeQuery, isStream: boolean): Composed {
  const last = listOf(body.contents).at(-1);
  const config = isRecord(body.generationConfig) ? body.generationConfig : {};
  const plan = planOf(
    { body, last, tool: toolIn(body), maxOutputTokens: countOf(config.maxOutputTokens), choices: countOf(config.candidateCount) ?? 1 },
    answer,
  );
  const usage = answer.usage ?? "as-asked";
  const finish = answer.finishReason === undefined ? FINISH[plan.stop] : answer.finishReason;
  const parts = partsOf(plan, answer);
  const outputTokens = parts.reduce((sum, part) => sum + part.outputTokens, 0) * plan.choices;
  const count = { ...plan.count, outputTokens };
  const indices = Array.from({ length: plan.choices }, (_, index) => index);
  const common = { modelVersion: model, responseId: `fake${serial}` };
  const candidate = (index: number, content: readonly Json[] | null, reason: string | null): Json => ({
    ...(content ? { content: { role: "model", parts: content } } : {}),
    ...(reason === null ? {} : { finishReason: reason }),
    index,
  });
  const response = (candidates: readonly Json[], said: Json | null | undefined): Record<string, unknown> => ({
    candidates,
    ...(said === undefined ? {} : { usageMetadata: said }),
    ...common,
  });

  const whole = (): Record<string, unknown> => {
    const shown = joined(parts);
    return response(
      indices.map((index) => candidate(index, shown.length > 0 ? shown : null, finish)),
      usageTold(usage, figures, count),
    );
  };

  function events(): FakeEvent[] {
    const list: FakeEvent[] = [];
    let delivered = 0;
    let reasoningTokens = 0;
    const push = (candidates: readonly Json[], tokens: number, isLast: boolean): void => {
      delivered += tokens;
      const tells = isLast || usage === "cumulative" || usage === "null" || usage === "zero";
      const said = tells ? usageTold(usage, figures, { ...count, outputTokens: delivered, reasoningTokens }) : undefined;
      list.push({ data: JSON.stringify(response(candidates, said)), outputTokens: tokens });
    };
    for (const { part, outputTokens: tokens, isThought } of parts) {
      for (const index of indices) {
        if (isThought) reasoningTokens += tokens;
        push([candidate(index, [part], null)], tokens, false);
      }
    }
    if (finish !== null)
      push(
        indices.map((index) => candidate(index, [{ text: "" }], finish)),
        0,
        true,
      );
    return list;
  }

  const framing = isStream && search.get("alt") !== "sse" ? "array" : "sse";
  return { whole, events, framing, inputTokens: count.inputTokens, outputTokens };
}

function complaint(body: Json): string | null {
  const contents = recordsOf(body.contents);
  if (contents.length === 0) return "* GenerateContentRequest.contents: contents is not specified";
  if (contents.some(({ parts }) => recordsOf(parts).length === 0))
    return "* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.";
  if (contents.some(({ role }) => role !== undefined && role !== "user" && role !== "model" && role !== "function"))
    return "Please use a valid role: user, model.";
  for (const [i, { parts }] of contents.entries()) {
    const calls = recordsOf(parts).filter(({ functionCall }) => functionCall !== undefined).length;
    const next = contents[i + 1];
    if (calls === 0 || !next) continue;
    const results = recordsOf(next.parts).filter(({ functionResponse }) => functionResponse !== undefined).length;
    if (results !== calls)
      return "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.";
  }
  return null;
}

const counted = ({ body, answer }: FakeQuery): Composed => {
  const inner = isRecord(body.generateContentRequest) ? body.generateContentRequest : body;
  const totalTokens = fakeInputTokens(inner, answer.countTokens);
  return {
    whole: () => ({ totalTokens, promptTokensDetails: [{ modality: "TEXT", tokenCount: totalTokens }] }),
    events: () => [],
    isFree: true,
    inputTokens: 0,
    outputTokens: 0,
  };
};

export const fakeGemini: FakeDialect = {
  routes: [
    { path: /\/models\/(.+):generateContent$/, compose: (query) => compose(query, false), complaint, isStream: () => false },
    { path: /\/models\/(.+):streamGenerateContent$/, compose: (query) => compose(query, true), complaint, isStream: () => true },
    { path: /\/models\/(.+):countTokens$/, compose: counted, isStream: () => false },
  ],
  error,
  errorEvent: (message) => ({ data: JSON.stringify(error(500, message)) }),
  models: GEMINI_MODELS,
  headers: () => ({ "server-timing": "gfet4t7; dur=1", "x-content-type-options": "nosniff", vary: "X-Origin, Referer" }),
  teller: () => told,
};
