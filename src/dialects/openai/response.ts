import type { GuardError } from "../../core/errors.ts";
import { fieldsOf } from "../usage.ts";

const string = (value: unknown): string => (typeof value === "string" ? value : "");

/** Everything that a choice of a response or chunk generated: text, reasoning, refusal, tool names and arguments. */
export function choiceText(choice: Readonly<Record<string, unknown>>): string {
  const part = fieldsOf(choice.delta) ?? fieldsOf(choice.message);
  if (!part) return string(choice.text);
  let text = string(part.content) + string(part.reasoning_content) + string(part.reasoning) + string(part.refusal);
  const legacy = fieldsOf(part.function_call);
  if (legacy) text += string(legacy.name) + string(legacy.arguments);
  if (!Array.isArray(part.tool_calls)) return text;
  for (const call of part.tool_calls) {
    const fn = fieldsOf(fieldsOf(call)?.function);
    if (fn) text += string(fn.name) + string(fn.arguments);
  }
  return text;
}

/** The text of all choices of a whole response. */
export function outputText(body: unknown): string {
  const choices = fieldsOf(body)?.choices;
  if (!Array.isArray(choices)) return "";
  return choices.map((choice) => choiceText(fieldsOf(choice) ?? {})).join("");
}

const TYPES: Readonly<Record<number, string>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  429: "rate_limit_error",
};

/** OpenAI's envelope; the extra members are ours. */
export function errorBody(error: GuardError): Record<string, unknown> {
  const type = TYPES[error.status] ?? (error.status >= 500 ? "api_error" : "invalid_request_error");
  return {
    error: {
      message: error.message,
      type,
      param: error.param ?? null,
      code: error.code,
      limit: error.limit,
      scope: error.scope,
      needed: error.needed,
      available: error.available,
      retry_after_ms: error.retryAfterMs,
      request_id: error.requestId,
    },
  };
}
