import type { GuardError } from "./errors.ts";

/**
 * A pushed body. `start` is called once; then the source calls `sink.chunk` any number of times and exactly one of `end` or `error`.
 * Pushing instead of async iteration keeps one promise per chunk off the hot path.
 */
export interface Source {
  start(sink: Sink): void;
  /** The sink can take more, after a `chunk` that returned false. */
  resume(): void;
  /** Nobody reads any more. Idempotent; nothing follows it. */
  cancel(): void;
}

export interface Sink {
  /** Returns false when the reader is full: the source stops until `resume()`. The sink may keep the buffer. */
  chunk(bytes: Buffer): boolean;
  end(): void;
  error(error: GuardError): void;
}

/** What ends a request: a status, headers as name/value pairs, and a body. */
export interface Answer {
  readonly status: number;
  /** Alternating names and values, lower-case names, as `writeHead` takes them. No content-length: the edge adds it. */
  readonly headers: string[];
  readonly body: Buffer | Source | null;
}

/** An answer that carries `value` as JSON. Default status: 200. */
export function jsonAnswer(value: unknown, status = 200): Answer {
  return { status, headers: ["content-type", "application/json; charset=utf-8"], body: Buffer.from(JSON.stringify(value ?? null)) };
}

export function isSource(body: Answer["body"]): body is Source {
  return body !== null && !Buffer.isBuffer(body);
}
