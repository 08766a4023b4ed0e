import type { JsonObject } from "../message.ts";

const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** `com.amazon.x#ThrottlingException:http://…` is a ThrottlingException. */
export const exceptionName = (type: unknown): string => text(type).replace(/^.*#/s, "").replace(/:.*$/s, "");

/** What AWS says of a fault: a message, why in a word, and the exception's name. */
export function decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null {
  const message = text(body.message) || text(body.Message);
  const kind = text(body.reason) || exceptionName(body.__type);
  return message === "" && kind === "" ? null : { message, kind: kind === "" ? null : kind };
}
