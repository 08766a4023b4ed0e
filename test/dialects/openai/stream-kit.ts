import type { Usage } from "../../../src/core/usage.ts";
import { openaiObserver } from "../../../src/dialects/openai/stream.ts";

export interface Seen {
  readonly forwarded: string;
  readonly complete: boolean;
  readonly usage: Usage | null;
  readonly delivered: number;
}

/** A token is a character here: what is counted can be read off the test. */
const perCharacter = (text: string): number => text.length;

/** Sends the parts through an observer. */
export function observe(parts: readonly Buffer[], hideUsage: boolean): Seen {
  const observer = openaiObserver({ hideUsage, countTokens: perCharacter });
  const out: Buffer[] = [];
  for (const part of parts) {
    const bytes = observer.push(part);
    if (bytes) out.push(Buffer.from(bytes));
  }
  const { rest, complete } = observer.end();
  if (rest) out.push(rest);
  return { forwarded: Buffer.concat(out).toString(), complete, usage: observer.usage(), delivered: observer.deliveredTokens() };
}

/** The same stream whole, cut in two at every byte, and byte by byte. */
export function* cuts(text: string): Generator<readonly Buffer[]> {
  const whole = Buffer.from(text);
  yield [whole];
  for (let cut = 1; cut < whole.length; cut += 1) yield [whole.subarray(0, cut), whole.subarray(cut)];
  yield Array.from(whole, (byte) => Buffer.from([byte]));
}

export const event = (body: object | string, end = "\n"): string => `data: ${typeof body === "string" ? body : JSON.stringify(body)}${end}${end}`;

export function chunk(delta: object, more: object = {}): object {
  const { finish_reason: reason = null, ...rest } = more as { finish_reason?: string | null };
  return { id: "chatcmpl-1", object: "chat.completion.chunk", model: "gpt-4o", choices: [{ index: 0, delta, finish_reason: reason }], ...rest };
}

export const usageChunk = (usage: object): object => ({ id: "chatcmpl-1", object: "chat.completion.chunk", choices: [], usage });

export const FIVE_SIX = { prompt_tokens: 5, completion_tokens: 6, total_tokens: 11 };
export const FIVE_SIX_USAGE: Usage = {
  inputTokens: 5,
  cacheReadTokens: 0,
  cacheWriteTokens: 0,
  outputTokens: 6,
  reasoningTokens: 0,
  raw: [FIVE_SIX],
};
