import type { AnswerOptions } from "../codec.ts";
import type { JsonObject, StopReason } from "../message.ts";
import { formatItem } from "./encode-request.ts";
import { toolItems } from "./tools.ts";

export const responseId = (id: string | null, { nextId }: AnswerOptions): string => (id === null || id === "" ? `resp_${nextId()}` : id);

export interface ResponseState {
  /** Null = it goes on. */
  readonly stop: StopReason | null;
  readonly output: readonly JsonObject[];
  readonly usage: JsonObject | null;
}

const REASONS: Readonly<Partial<Record<StopReason, string>>> = { length: "max_output_tokens", content_filter: "content_filter" };

/** Whether an answer that stopped so was cut. */
export const isCut = (stop: StopReason): boolean => REASONS[stop] !== undefined;

/** The `response` object: what the caller asked for, repeated as OpenAI does, and what came of it so far. */
export function responseBody(id: string, { request, model, created }: AnswerOptions): (state: ResponseState) => JsonObject {
  const { toolChoice, reasoning } = request;
  const isCustom = toolChoice?.kind === "tool" && request.tools.some((tool) => tool.kind === "custom" && tool.name === toolChoice.name);
  const head = { id, object: "response", created_at: created };
  const asked = {
    instructions: request.system.length > 0 ? request.system.map(({ text }) => text).join("\n\n") : null,
    max_output_tokens: request.maxOutputTokens,
    model,
    parallel_tool_calls: request.parallelToolCalls ?? true,
    previous_response_id: null,
    prompt_cache_key: request.promptCacheKey,
    reasoning: {
      effort: reasoning && reasoning.level !== "auto" ? reasoning.level : null,
      summary: reasoning?.wantsThoughts === true ? "auto" : null,
    },
    safety_identifier: request.user,
    store: false,
    temperature: request.temperature,
    text: { format: request.format ? formatItem(request.format) : { type: "text" } },
    tool_choice: toolChoice?.kind === "tool" ? { type: isCustom ? "custom" : "function", name: toolChoice.name } : (toolChoice?.kind ?? "auto"),
    tools: toolItems(request.tools),
    top_logprobs: 0,
    top_p: request.topP,
    truncation: "disabled",
    metadata: {},
  };
  return ({ stop, output, usage }) => {
    const reason = stop && REASONS[stop];
    const status = stop === null ? "in_progress" : reason ? "incomplete" : "completed";
    return {
      ...head,
      status,
      background: false,
      error: null,
      incomplete_details: reason ? { reason } : null,
      ...asked,
      output,
      usage,
    };
  };
}
