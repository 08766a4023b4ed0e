import { createParser } from "eventsource-parser";
import { StringDecoder } from "node:string_decoder";
import { GuardError } from "../../core/errors.ts";
import type { Usage } from "../../core/usage.ts";
import type { ObserverOptions, StreamObserver } from "../dialect.ts";
import { openEventGuard } from "../lazy-observer.ts";
import { lastBoundary, MAX_EVENT_BYTES, nextBoundary } from "../sse.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { decodeError } from "./answer.ts";
import { choiceText } from "./response.ts";

/** Bytes kept before they are parsed. Most streams end within it and are then parsed only at their tail. */
const KEPT_BYTES = 64 * 1024;
/** Text kept before its tokens are counted. */
const KEPT_TEXT = 16 * 1024;
/** How far back the usage and `[DONE]` of a finished stream are looked for. */
const TAIL_BYTES = 4 * 1024;

const USAGE = Buffer.from('"usage"');
/** Only behind a line's end: where the kept tail begins may be in the middle of a text. */
const DONE = /[\r\n]data: ?\[DONE\]/;

/**
 * Watches an OpenAI stream. Chunks are forwarded as they came and kept for a while; parsing is put off to the end, where the last event
 * usually tells the usage, so that a stream costs next to nothing per chunk. Only when it tells nothing (client gone, upstream broken, usage missing) is
 * the kept text parsed and counted.
 */
export function openaiObserver(options: ObserverOptions): StreamObserver {
  let kept: Buffer[] = [];
  let keptBytes = 0;
  const guard = openEventGuard();
  /** The open event itself, held back only while the usage chunk must be hidden. */
  let carry: Buffer | null = null;
  let reader: EventReader | undefined;
  let tailUsage: Usage | null = null;

  function keep(chunk: Buffer): void {
    kept.push(chunk);
    keptBytes += chunk.length;
    if (keptBytes > KEPT_BYTES) parseKept();
  }

  function parseKept(): EventReader {
    reader ??= new EventReader(options.countTokens);
    // Each is read once, also one that cannot be.
    const unread = kept;
    kept = [];
    keptBytes = 0;
    for (const chunk of unread) reader.feed(chunk);
    return reader;
  }

  return {
    push(chunk) {
      keep(chunk);
      if (!options.hideUsage) {
        guard(chunk);
        return chunk;
      }
      const bytes: Buffer = carry ? Buffer.concat([carry, chunk]) : chunk;
      const boundary = lastBoundary(bytes);
      if (boundary === bytes.length) {
        carry = null;
        return withoutUsageChunk(bytes);
      }
      carry = bytes.subarray(boundary);
      if (carry.length > MAX_EVENT_BYTES) throw new GuardError("upstream_protocol", "the upstream sent an event of more than 1 MiB");
      return boundary === 0 ? null : withoutUsageChunk(bytes.subarray(0, boundary));
    },

    end() {
      const rest: Buffer | null = carry && !isUsageChunk(carry) ? carry : null;
      carry = null;
      const tail = tailOf(kept);
      tailUsage = usageInTail(tail);
      if (tailUsage && DONE.test(tail)) return { rest, complete: true };
      const read = parseKept();
      read.end();
      if (read.fault) return { rest, complete: false, fault: read.fault, isTold: true };
      return { rest, complete: read.done || read.finished };
    },

    usage: () => tailUsage ?? parseKept().usage,
    deliveredTokens: () => parseKept().tokens(),
  };
}

/** Takes the usage chunk out of complete events. Null = nothing else was there. Looks only at the events that may be it. */
function withoutUsageChunk(complete: Buffer): Buffer | null {
  let rest = complete;
  for (let at = usageOnlyAt(rest, 0); at >= 0; at = usageOnlyAt(rest, at)) {
    const start = lastBoundary(rest.subarray(0, at));
    const end = nextBoundary(rest, at);
    if (!isUsageChunk(rest.subarray(start, end))) {
      at = end;
      continue;
    }
    rest = start === 0 ? rest.subarray(end) : Buffer.concat([rest.subarray(0, start), rest.subarray(end)]);
    at = start;
  }
  return rest.length === 0 ? null : rest;
}

/** The next `"usage"` with an object behind it: most providers send `"usage":null` with every chunk. */
function usageOnlyAt(bytes: Buffer, from: number): number {
  for (let at = bytes.indexOf(USAGE, from); at >= 0; at = bytes.indexOf(USAGE, at + 1)) {
    let i = skipSpace(bytes, at + USAGE.length);
    if (bytes[i] === 0x3a) i = skipSpace(bytes, i + 1);
    if (bytes[i] === 0x7b) return at;
  }
  return -1;
}

function skipSpace(bytes: Buffer, at: number): number {
  let i = at;
  while (bytes[i] === 0x20 || bytes[i] === 0x09) i += 1;
  return i;
}

function tailOf(kept: readonly Buffer[]): string {
  let bytes = 0;
  let from = kept.length;
  while (from > 0 && bytes < TAIL_BYTES) bytes += (kept[(from -= 1)] as Buffer).length;
  const tail = from === kept.length - 1 ? (kept[from] as Buffer) : Buffer.concat(kept.slice(from));
  return tail.toString("utf8", Math.max(0, tail.length - TAIL_BYTES));
}

/** The usage in the last line that has one. A quote inside a string is escaped, so `"usage":` cannot come from generated text. */
function usageInTail(tail: string): Usage | null {
  const at = tail.lastIndexOf('"usage":');
  if (at < 0) return null;
  const start = tail.lastIndexOf("\ndata:", at);
  const end = tail.indexOf("\n", at);
  if (start < 0 || end < 0) return null;
  return openaiUsage(fieldsOf(parse(tail.slice(start + 6, end)))?.usage);
}

function parse(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}

function isUsageChunk(event: Buffer): boolean {
  if (event.indexOf('"usage"') < 0) return false;
  let hidden = false;
  const parser = createParser({
    onEvent(message) {
      const body = fieldsOf(parse(message.data));
      hidden = body !== null && Array.isArray(body.choices) && body.choices.length === 0 && fieldsOf(body.usage) !== null;
    },
  });
  parser.feed(`${event.toString()}\n\n`);
  return hidden;
}

/** Reads events in full: the slow way, for streams whose end did not tell the usage. */
class EventReader {
  done = false;
  finished = false;
  /** The provider said in mid-stream that it failed. */
  fault: GuardError | null = null;
  usage: Usage | null = null;
  readonly #count: (text: string) => number;
  readonly #decoder = new StringDecoder("utf8");
  readonly #parser = createParser({ onEvent: (event) => this.#event(event.data) });
  #text = "";
  #tokens = 0;
  /** Chunks that carried text. Each is at least one token, however our own counting sees it. */
  #deltas = 0;

  constructor(count: (text: string) => number) {
    this.#count = count;
  }

  feed(chunk: Buffer): void {
    this.#parser.feed(this.#decoder.write(chunk));
  }

  end(): void {
    this.#parser.feed(`${this.#decoder.end()}\n\n`);
  }

  tokens(): number {
    return Math.max(this.#tokens + (this.#text === "" ? 0 : this.#count(this.#text)), this.#deltas);
  }

  #event(data: string): void {
    if (data === "[DONE]") {
      this.done = true;
      return;
    }
    const body = fieldsOf(parse(data));
    if (!body) return;
    const failed = decodeError(body);
    if (failed) this.fault ??= new GuardError("upstream_refused", failed.message, { status: 502 });
    this.usage = openaiUsage(body.usage) ?? this.usage;
    if (!Array.isArray(body.choices)) return;
    for (const choice of body.choices) {
      const fields = fieldsOf(choice);
      if (!fields) continue;
      if (typeof fields.finish_reason === "string") this.finished = true;
      const text = choiceText(fields);
      if (text === "") continue;
      this.#deltas += 1;
      this.#text += text;
      if (this.#text.length > KEPT_TEXT) {
        this.#tokens += this.#count(this.#text);
        this.#text = "";
      }
    }
  }
}
