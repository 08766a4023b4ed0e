import type { GuardError } from "../../core/errors.ts";
import type { Usage } from "../../core/usage.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";

const string = (value: unknown): string => (typeof value === "string" ? value : "");

/** Providers know two names for it, and some say the same under both. */
function thoughtOf(part: Readonly<Record<string, unknown>>): string {
  const [one, other] = [string(part.reasoning_content), string(part.reasoning)];
  return one === other ? one : one + other;
}

/** Everything that a choice of a response or chunk generated: text, reasoning, refusal, tool names and arguments. */
export function choiceText(choice: Readonly<Record<string, unknown>>): string {
  const part = fieldsOf(choice.delta) ?? fieldsOf(choice.message);
  if (!part) return string(choice.text);
  let text = string(part.content) + thoughtOf(part) + string(part.refusal);
  const legacy = fieldsOf(part.function_call);
  if (legacy) text += string(legacy.name) + string(legacy.arguments);
  if (!Array.isArray(part.tool_calls)) return text;
  for (const call of part.tool_calls) {
    const fn = fieldsOf(fieldsOf(call)?.function);
    if (fn) text += string(fn.name) + string(fn.arguments);
  }
  return text;
}

const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const USAGE = Buffer.from('"usage":');

/**
 * The usage at an answer's end, without parsing the answer: it is forwarded as it came, so all that is needed are a few numbers. A quote inside
 * a string is escaped, so `"usage":` cannot come from generated text. Null = not found this way.
 */
function usageAtEnd(bytes: Buffer): Usage | null {
  if (bytes[0] !== OPEN_BRACE) return null;
  const at = bytes.lastIndexOf(USAGE);
  if (at < 0) return null;
  let start = at + USAGE.length;
  while (bytes[start] === 0x20) start += 1;
  if (bytes[start] !== OPEN_BRACE) return null;
  let depth = 0;
  for (let i = start; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte === OPEN_BRACE) depth += 1;
    else if (byte === CLOSE_BRACE && (depth -= 1) === 0)
      return isLastLevel(bytes, i + 1) ? openaiUsage(parse(bytes.toString("utf8", start, i + 1))) : null;
  }
  return null;
}

/** Whether what follows closes exactly one level, the answer's own: else the usage found belongs to something inside it. */
function isLastLevel(bytes: Buffer, from: number): boolean {
  let depth = 1;
  for (let i = from; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth += 1;
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) depth -= 1;
    // A string may hold anything: the whole answer has to be parsed then.
    else if (byte === QUOTE) {
      i = bytes.indexOf(QUOTE, i + 1);
      if (i < 0 || bytes[i - 1] === BACKSLASH) return false;
    }
    if (depth < 0) return false;
  }
  return depth === 0;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What a whole response used, or its text when it does not say. Null = no JSON object. */
export function readResponse(bytes: Buffer): { readonly usage: Usage } | { readonly text: string } | null {
  const atEnd = usageAtEnd(bytes);
  if (atEnd) return { usage: atEnd };
  const body = fieldsOf(parse(bytes.toString()));
  if (!body) return null;
  const usage = openaiUsage(body.usage);
  if (usage) return { usage };
  const { choices } = body;
  return { text: Array.isArray(choices) ? choices.map((choice) => choiceText(fieldsOf(choice) ?? {})).join("") : "" };
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
