/** From a caller's dialect to a provider's and back, by way of the neutral form. Same dialect in and out never comes here: its bytes pass untouched. */
import { GuardError } from "../core/errors.ts";
import type { Usage } from "../core/usage.ts";
import type { AnswerOptions, Codec, EncodeOptions, ProviderCodec, StreamDecoder } from "./codec.ts";
import { collectedAnswer } from "./collected-answer.ts";
import type { ObserverOptions, StreamObserver } from "./dialect.ts";
import type { ChatAnswer, ChatEvent, ChatRequest, JsonObject } from "./message.ts";
import { parsedObject } from "./parsed-object.ts";

/** Text kept before its tokens are counted. */
const KEPT_TEXT = 16 * 1024;
const KEEP_ALIVE = Buffer.from(": keep-alive\n\n");

export interface TranslationParts {
  readonly from: Codec;
  readonly to: ProviderCodec;
  readonly request: ChatRequest;
  readonly encoding: EncodeOptions;
  readonly answering: Omit<AnswerOptions, "request">;
  /** Takes an answer, or an event, out of what the provider puts around it. */
  readonly unwrap: ((body: JsonObject) => JsonObject) | undefined;
}

/** What a whole answer of the provider's is worth, and what the caller gets for it. */
export interface TranslatedAnswer {
  readonly bytes: Buffer;
  readonly usage: Usage | null;
  /** All that was written, for counting where the provider says no usage. */
  readonly text: string;
}

/** One attempt's translation. */
export interface Translation {
  readonly body: JsonObject;
  /** Null = it is no answer of the provider's dialect. */
  answer(bytes: Buffer): TranslatedAnswer | null;
  /** The caller's stream out of the provider's. */
  observer(options: ObserverOptions): StreamObserver;
  /** A whole answer out of a provider's stream, for providers that only stream: nothing is forwarded before its end. */
  collector(options: ObserverOptions): StreamObserver & { answer(): TranslatedAnswer | null };
}

/** Throws `untranslatable` that names the field which cannot be expressed. */
export function translation({ from, to, request, encoding, answering, unwrap }: TranslationParts): Translation {
  const { body, toolName } = to.encodeRequest(request, encoding);
  const options: AnswerOptions = { ...answering, request };

  const written = (answer: ChatAnswer): TranslatedAnswer => ({
    bytes: Buffer.from(JSON.stringify(from.encodeAnswer(answer, options))),
    usage: answer.usage,
    text: answer.choices.map(({ blocks }) => blocks.map(textOf).join("")).join(""),
  });

  return {
    body,
    answer(bytes) {
      const parsed = parsedObject(bytes.toString());
      const answer = parsed && to.decodeAnswer(unwrap ? unwrap(parsed) : parsed, toolName);
      return answer && written(answer);
    },
    observer(observing) {
      const encoder = from.encoder(options);
      return new Translated(to.decoder({ toolName, unwrap }), observing, (events) => encoder.push(events));
    },
    collector(observing) {
      const collected = collectedAnswer();
      const translated = new Translated(to.decoder({ toolName, unwrap }), observing, (events) => {
        collected.push(events);
        return "";
      });
      return Object.assign(translated, {
        answer() {
          const answer = collected.answer();
          return answer && written(answer);
        },
      });
    },
  };
}

function textOf(block: ChatAnswer["choices"][number]["blocks"][number]): string {
  switch (block.type) {
    case "text":
    case "thinking":
      return block.text;
    case "tool_call":
      return block.name + block.input;
    default:
      return "";
  }
}

/** Is shown a provider's stream and forwards the caller's. One object per attempt. */
class Translated implements StreamObserver {
  readonly #decoder: StreamDecoder;
  readonly #countTokens: (text: string) => number;
  readonly #write: (events: readonly ChatEvent[]) => string;
  #usage: Usage | null = null;
  /** Whether the output was never told. */
  #isPartial = false;
  #complete = false;
  /** Whether the provider has written since the caller was last sent something. */
  #isWriting = false;
  #fault: GuardError | undefined;
  #text = "";
  #tokens = 0;
  /** The stream's beginning, until there is something behind it: a stream that begins with its failure has said nothing. */
  #held: ChatEvent[] | null = [];
  /** Events that carried text. Each is at least one token, however our own counting sees it. */
  #deltas = 0;

  constructor(decoder: StreamDecoder, { countTokens }: ObserverOptions, write: (events: readonly ChatEvent[]) => string) {
    this.#decoder = decoder;
    this.#countTokens = countTokens;
    this.#write = write;
  }

  push(chunk: Buffer): Buffer | null {
    if (this.#fault) throw this.#fault;
    this.#isWriting = false;
    const text = this.#take(this.#decoder.push(chunk));
    if (text !== "") return Buffer.from(text);
    const fault = this.#fault as GuardError | undefined;
    if (fault) throw fault;
    // What is written whole at its end may take minutes: nobody should take that for silence.
    return this.#isWriting ? KEEP_ALIVE : null;
  }

  end(): { readonly rest: Buffer | null; readonly complete: boolean; readonly isPartial: boolean; readonly fault?: GuardError } {
    const text = this.#fault ? "" : this.#take(this.#decoder.end());
    const rest = text === "" ? null : Buffer.from(text);
    return { rest, complete: this.#complete, isPartial: this.#isPartial, ...(this.#fault ? { fault: this.#fault } : {}) };
  }

  usage(): Usage | null {
    return this.#usage;
  }

  deliveredTokens(): number {
    return Math.max(this.#tokens + (this.#text === "" ? 0 : this.#countTokens(this.#text)), this.#deltas);
  }

  #take(events: readonly ChatEvent[]): string {
    let shown = events;
    for (const [i, event] of events.entries()) {
      if (event.type === "open" || event.type === "delta") this.#isWriting = true;
      if (event.type === "usage") {
        this.#usage = event.usage;
        this.#isPartial = event.isBeginning === true;
      } else if (event.type === "delta") this.#count(event.text);
      else if (event.type === "open" && event.block.type === "tool_call") this.#count(event.block.name);
      else if (event.type === "end") this.#complete = true;
      else if (event.type === "error") {
        // What the caller is told is an error in its own dialect, never a forged end.
        this.#fault = new GuardError("upstream_refused", event.message, { status: 502 });
        shown = events.slice(0, i);
        break;
      }
    }
    if (this.#held) {
      this.#held.push(...shown);
      if (this.#held.every(({ type }) => type === "start" || type === "ping" || type === "usage")) return "";
      shown = this.#held;
      this.#held = null;
    }
    return shown.length === 0 ? "" : this.#write(shown);
  }

  #count(text: string): void {
    if (text === "") return;
    this.#deltas += 1;
    this.#text += text;
    if (this.#text.length <= KEPT_TEXT) return;
    this.#tokens += this.#countTokens(this.#text);
    this.#text = "";
  }
}
