/**
 * A client of this dialect has one place for what a provider signed: `encrypted_content`, which it sends back unread. What OpenAI encrypted stands there as it is;
 * what others signed is marked with whose it is, so that it finds its way back to them and nobody else.
 */
import type { Family } from "../../core/call.ts";
import type { Signature } from "../message.ts";

/** What was signed: thoughts that are shown, thoughts that are not, or the call that follows. */
export type SealKind = "thinking" | "redacted" | "call";

const MARK = "quotaguard:";
const SEAL = /^quotaguard:(anthropic|gemini):(thinking|redacted|call):/;

export const sealed = ({ family, value }: Signature, kind: SealKind): string => (family === "openai" ? value : `${MARK}${family}:${kind}:${value}`);

export function unsealed(content: string): { readonly kind: SealKind; readonly signature: Signature } {
  const [mark, family, kind] = SEAL.exec(content) ?? [];
  if (mark === undefined) return { kind: "thinking", signature: { family: "openai", value: content } };
  return { kind: kind as SealKind, signature: { family: family as Family, value: content.slice(mark.length) } };
}

/** Whether a text is one that OpenAI cannot read. */
export const isForeignSeal = (content: unknown): boolean => typeof content === "string" && SEAL.test(content);

/** Bytes that hold no such text need not be looked through. */
export const mayHoldForeignSeal = (bytes: Buffer): boolean => bytes.includes(MARK);
