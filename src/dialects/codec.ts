import type { Family } from "../core/call.ts";
import type { Usage } from "../core/usage.ts";
import type { Losses } from "./losses.ts";
import type { ChatAnswer, ChatEvent, ChatRequest, JsonObject } from "./message.ts";

/** What the other side asks beyond its dialect. */
export interface EncodeOptions {
  readonly losses: Losses;
  /** The family of the models that will read it: signatures of others are dropped, never forged. */
  readonly family: Family;
  /** The cap that must be sent, tokens, where the caller named none or a larger one. */
  readonly outputCap?: number;
  /** OpenAI only: past thoughts go along as `reasoning_content`, because this provider wants them back. */
  readonly keepsThoughts?: boolean;
  /** OpenAI only: the field that carries the cap. */
  readonly capField?: "max_tokens" | "max_completion_tokens";
}

/** A request as it is sent, and how its answers are read back. */
export interface EncodedRequest {
  readonly body: JsonObject;
  /** The name that the caller knows a tool by; names may have been shortened to what the provider takes. */
  readonly toolName: (sent: string) => string;
}

/** What an answer needs beside itself. */
export interface AnswerOptions {
  /** What the caller asked for: some dialects repeat parts of it. */
  readonly request: ChatRequest;
  /** As the caller is told. */
  readonly model: string;
  /** For ids that the provider did not give. Unique in this process; the dialect puts its own prefix before it. */
  readonly nextId: () => string;
  /** Wall clock, seconds. */
  readonly created: number;
  /** Whether the caller asked for usage at the end of a stream, where its dialect lets it choose. */
  readonly wantsUsage: boolean;
}

export interface DecodeOptions {
  readonly toolName: (sent: string) => string;
  /** Takes an event's data out of what the provider puts around it. */
  readonly unwrap: ((body: JsonObject) => JsonObject) | undefined;
}

/** Turns one provider stream into neutral events. Bounded memory: throws `upstream_protocol` when an event, or what must be held back, grows without end. */
export interface StreamDecoder {
  push(chunk: Buffer): readonly ChatEvent[];
  /** The body is over. `end` comes only if the stream came to its proper end; an incomplete last event is dropped. */
  end(): readonly ChatEvent[];
}

/** Writes neutral events for a caller, block by block in order. */
export interface StreamEncoder {
  /** What to send for these events; empty = nothing now. */
  push(events: readonly ChatEvent[]): string;
}

/** A provider's half of a translation; the neutral form is the other. Pure functions, no I/O. */
export interface ProviderCodec {
  encodeRequest(request: ChatRequest, options: EncodeOptions): EncodedRequest;
  /** Null = it is no answer of this dialect. The body is unwrapped already. */
  decodeAnswer(body: JsonObject, toolName: (sent: string) => string): ChatAnswer | null;
  decoder(options: DecodeOptions): StreamDecoder;
  /** What an error body of this dialect says; null = it is none. Also the inner one of an error that is wrapped twice. */
  decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null;
}

/** Both halves, of a dialect that callers speak as well. */
export interface Codec extends ProviderCodec {
  /** Reads a caller's request. What the neutral form has no place for goes to `losses`. Throws `body_invalid` that names the field. */
  decodeRequest(body: JsonObject, about: { readonly model: string; readonly stream: boolean }, losses: Losses): ChatRequest;
  encodeAnswer(answer: ChatAnswer, options: AnswerOptions): JsonObject;
  encoder(options: AnswerOptions): StreamEncoder;
  /** The usage as this dialect's callers read it. */
  encodeUsage(usage: Usage): JsonObject;
}
