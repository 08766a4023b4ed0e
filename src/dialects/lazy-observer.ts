import { GuardError } from "../core/errors.ts";
import type { Usage } from "../core/usage.ts";
import type { StreamDecoder } from "./codec.ts";
import type { ObserverOptions, StreamObserver } from "./dialect.ts";
import { lastBoundary, MAX_EVENT_BYTES } from "./sse.ts";

/** Bytes kept before they are parsed. Most streams end within it and are then parsed only where they tell their usage. */
const KEPT_BYTES = 64 * 1024;
/** Text kept before its tokens are counted. */
const KEPT_TEXT = 16 * 1024;
/** How much of a finished stream's two ends is looked at. */
const HEAD_BYTES = 4 * 1024;
const TAIL_BYTES = 4 * 1024;

/** What the two ends of a stream tell; null = it has to be read in full. */
export type EndsReader = (head: string, tail: string) => { readonly usage: Usage } | null;

export interface LazyObserverParts {
  readonly options: ObserverOptions;
  /** Reads the dialect's streams in full: the slow way. */
  readonly decoder: () => StreamDecoder;
  /** Only for streams that came to their proper end. */
  readonly ends: EndsReader;
}

/** Refuses an event that grows without end. Looks only at where chunks end. */
export function openEventGuard(): (chunk: Buffer) => void {
  let openBytes = 0;
  /** The last three bytes of the chunk before: an empty line may lie across two. */
  let edge: Buffer = Buffer.alloc(0);
  return (chunk) => {
    let boundary = lastBoundary(chunk);
    if (boundary === 0 && lastBoundary(Buffer.concat([edge, chunk.subarray(0, 3)])) > 0) boundary = Math.min(3, chunk.length);
    edge = chunk.length >= 3 ? Buffer.from(chunk.subarray(-3)) : Buffer.concat([edge, chunk]).subarray(-3);
    openBytes = boundary > 0 ? chunk.length - boundary : openBytes + chunk.length;
    if (openBytes > MAX_EVENT_BYTES) throw new GuardError("upstream_protocol", "the upstream sent an event of more than 1 MiB");
  };
}

/**
 * Watches a stream whose bytes pass untouched. Chunks are forwarded as they came and kept for a while; parsing is put off to the end, where it is seldom needed, so
 * that a stream costs next to nothing per chunk.
 */
export function lazyObserver({ options, decoder, ends }: LazyObserverParts): StreamObserver {
  const guard = openEventGuard();
  let kept: Buffer[] = [];
  let keptBytes = 0;
  let reader: FullReader | undefined;
  let quick: { readonly usage: Usage } | null = null;

  function parseKept(): FullReader {
    reader ??= new FullReader(decoder(), options.countTokens);
    // Each is read once, also one that cannot be.
    const unread = kept;
    kept = [];
    keptBytes = 0;
    for (const chunk of unread) reader.feed(chunk);
    return reader;
  }

  return {
    push(chunk) {
      guard(chunk);
      kept.push(chunk);
      keptBytes += chunk.length;
      if (keptBytes > KEPT_BYTES) parseKept();
      return chunk;
    },
    end() {
      if (!reader && kept.length > 0) {
        const bytes = kept.length === 1 ? (kept[0] as Buffer) : Buffer.concat(kept, keptBytes);
        quick = ends(bytes.toString("utf8", 0, HEAD_BYTES), bytes.toString("utf8", Math.max(0, bytes.length - TAIL_BYTES)));
        if (quick) return { rest: null, complete: true };
      }
      const full = parseKept();
      full.end();
      return full.fault
        ? { rest: null, complete: false, fault: full.fault, isTold: true }
        : { rest: null, complete: full.complete, isPartial: full.isPartial };
    },
    usage: () => (quick ?? parseKept()).usage,
    deliveredTokens: () => parseKept().tokens(),
  };
}

class FullReader {
  usage: Usage | null = null;
  complete = false;
  /** Whether the output was never told. */
  isPartial = false;
  /** The provider said in mid-stream that it failed. */
  fault: GuardError | null = null;
  readonly #decoder: StreamDecoder;
  readonly #count: (text: string) => number;
  #text = "";
  #tokens = 0;
  /** Pieces of text. Each is at least one token, however our own counting sees it. */
  #deltas = 0;

  constructor(decoder: StreamDecoder, count: (text: string) => number) {
    this.#decoder = decoder;
    this.#count = count;
  }

  feed(chunk: Buffer): void {
    this.#take(this.#decoder.push(chunk));
  }

  end(): void {
    this.#take(this.#decoder.end());
  }

  tokens(): number {
    return Math.max(this.#tokens + (this.#text === "" ? 0 : this.#count(this.#text)), this.#deltas);
  }

  #take(events: ReturnType<StreamDecoder["push"]>): void {
    for (const event of events) {
      if (event.type === "usage") {
        this.usage = event.usage;
        this.isPartial = event.isBeginning === true;
      } else if (event.type === "end") this.complete = true;
      else if (event.type === "error") this.fault ??= new GuardError("upstream_refused", event.message, { status: 502 });
      else if (event.type === "delta" && event.text !== "") this.#add(event.text);
      else if (event.type === "open" && event.block.type === "tool_call") this.#add(event.block.name);
    }
  }

  #add(text: string): void {
    this.#deltas += 1;
    this.#text += text;
    if (this.#text.length <= KEPT_TEXT) return;
    this.#tokens += this.#count(this.#text);
    this.#text = "";
  }
}
