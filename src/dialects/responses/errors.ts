import type { GuardError } from "../../core/errors.ts";
import type { JsonObject } from "../message.ts";
import { decodeError as decodeEnvelope } from "../openai/answer.ts";
import { errorBody } from "../openai/response.ts";
import { fieldsOf } from "../usage.ts";

/** Behind all other events of its stream, whose own count ends far below; clients keep it in 32 bits. */
const LAST = 2 ** 31 - 1;

/** Clients read an error's members at the event's top, or inside `error`: they are in both places. */
export function errorEvent(error: GuardError): Buffer {
  const inner = errorBody(error).error as JsonObject;
  const { code, message, param } = inner;
  const event = { type: "error", sequence_number: LAST, code, message, param, error: inner };
  return Buffer.from(`event: error\ndata: ${JSON.stringify(event)}\n\n`);
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** What an error body, an `error` event, or a response that failed says; null = it is none of these. */
export function decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null {
  const response = fieldsOf(body.response);
  const envelope = decodeEnvelope(response?.error ? response : body);
  if (envelope) return envelope;
  if (body.type === "error") return { message: text(body.message), kind: text(body.code) || null };
  if (body.type === "response.failed" || body.status === "failed") return { message: "the provider said that it failed, and not why", kind: null };
  return null;
}
