/** An answer that is remembered while it passes. */
import { isSource, type Answer, type Sink, type Source } from "../../core/answer.ts";
import type { GuardError } from "../../core/errors.ts";
import type { KeptAnswer } from "./claims.ts";

/**
 * What may be told again: facts about the answer. Not in it are cookies, whatever belongs to one connection, and rate limits, which were those of the first
 * request.
 */
const TOLD_AGAIN = /^(?:content-type|cache-control|x-accel-buffering|x-upstream-request-id|openai-processing-ms|openai-version|x-quotaguard-.*)$/;

/** `partial`: it did not come to its end · `too_large`: it did, and is more than is kept. */
export type Recorded = KeptAnswer | "partial" | "too_large";

/** Passes an answer on as it is, at the pace of whoever reads it, and keeps at most `maxBytes` of its body. */
export class Recording implements Source, Sink {
  readonly #maxBytes: number;
  #status = 0;
  #headers: readonly string[] = [];
  #body: Buffer[] = [];
  /** What came within this tick: it is one write at the edge, so it is one chunk. */
  #tick: Buffer[] = [];
  #bytes = 0;
  #isStream = false;
  #isWhole = false;
  #source: Source | undefined;
  #sink: Sink | undefined;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  readonly answer = (answer: Answer): Answer => {
    const { body, status, headers } = answer;
    this.#status = status;
    this.#headers = toldAgain(headers);
    if (!isSource(body)) {
      this.#keep(body ?? NO_BYTES);
      this.#isWhole = true;
      return answer;
    }
    this.#isStream = true;
    this.#source = body;
    return { ...answer, body: this };
  };

  recorded(): Recorded {
    if (!this.#isWhole) return "partial";
    if (this.#bytes > this.#maxBytes) return "too_large";
    this.#endTick();
    const chunks = this.#body.map((chunk) => chunk.toString("base64"));
    return { status: this.#status, headers: this.#headers, body: this.#isStream ? chunks : (chunks[0] ?? "") };
  }

  start(sink: Sink): void {
    this.#sink = sink;
    this.#source?.start(this);
  }

  resume(): void {
    this.#source?.resume();
  }

  cancel(): void {
    this.#source?.cancel();
  }

  chunk(bytes: Buffer): boolean {
    this.#keep(bytes);
    return this.#sink?.chunk(bytes) ?? true;
  }

  end(): void {
    this.#isWhole = true;
    this.#sink?.end();
  }

  error(error: GuardError): void {
    this.#sink?.error(error);
  }

  #keep(bytes: Buffer): void {
    this.#bytes += bytes.length;
    if (this.#bytes > this.#maxBytes) {
      this.#body = [];
      this.#tick = [];
      return;
    }
    this.#tick.push(bytes);
    if (this.#tick.length === 1) process.nextTick(() => this.#endTick());
  }

  #endTick(): void {
    const tick = this.#tick;
    if (tick.length === 0) return;
    this.#tick = [];
    this.#body.push(tick.length === 1 ? (tick[0] as Buffer) : Buffer.concat(tick));
  }
}

const NO_BYTES = Buffer.alloc(0);

function toldAgain(headers: readonly string[]): readonly string[] {
  const told: string[] = [];
  for (let i = 0; i < headers.length; i += 2) if (TOLD_AGAIN.test(headers[i] as string)) told.push(headers[i] as string, headers[i + 1] as string);
  return told;
}
