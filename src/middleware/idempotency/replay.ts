/** A kept answer, told again. */
import type { Answer, Sink, Source } from "../../core/answer.ts";
import type { KeptAnswer } from "./claims.ts";

export function replay({ status, headers, body }: KeptAnswer): Answer {
  return {
    status,
    headers: [...headers, "idempotency-replayed", "true"],
    body: typeof body === "string" ? Buffer.from(body, "base64") : new Replay(body),
  };
}

/** A stream with the chunks that it had, as fast as it is read. One at a time: what is written within one tick leaves as one. */
class Replay implements Source {
  readonly #chunks: readonly string[];
  #next = 0;
  #sink: Sink | undefined;
  #isWaiting = false;

  constructor(chunks: readonly string[]) {
    this.#chunks = chunks;
  }

  start(sink: Sink): void {
    this.#sink = sink;
    this.#give();
  }

  resume(): void {
    if (!this.#isWaiting) return;
    this.#isWaiting = false;
    this.#give();
  }

  cancel(): void {
    this.#sink = undefined;
  }

  readonly #give = (): void => {
    const sink = this.#sink;
    if (!sink) return;
    const chunk = this.#chunks[this.#next];
    if (chunk === undefined) {
      this.#sink = undefined;
      sink.end();
      return;
    }
    this.#next += 1;
    // A full reader says so, and asks for more.
    if (sink.chunk(Buffer.from(chunk, "base64"))) setImmediate(this.#give);
    else this.#isWaiting = true;
  };
}
