/**
 * Finds the end of HTTP/1.1 messages in a byte stream, for the load generator (answers) and the scripted upstream (requests).
 *
 * It reads just enough to count exactly what arrived: the head is looked at once, payload bytes are skipped, not copied. A general parser would cost
 * more than the gateways under test and the bench would measure itself.
 */
const MAX_HEAD_BYTES = 64 * 1024;
const HEAD_END = Buffer.from("\r\n\r\n");
const CONTENT_LENGTH = /\r\ncontent-length:[ \t]*(\d+)/i;
const CHUNKED = /\r\ntransfer-encoding:[ \t]*(?:.*,[ \t]*)?chunked[ \t]*\r\n/i;
const CLOSE = /\r\nconnection:[ \t]*close[ \t]*\r\n/i;

const LF = 10;
const CR = 13;
const SEMICOLON = 59;

type Phase = "head" | "length" | "chunked";

export class MessageScanner {
  /** The start line and headers of the latest message, with the empty line. */
  head = "";
  /** Payload bytes of the latest message, without its framing. */
  bodyBytes = 0;
  /** The sender closes the connection after this message. */
  closes = false;
  /** Why the stream cannot be understood; nothing more is read then. */
  fault: string | null = null;
  /** Set to a list to receive the payload (copies); null = only counted. */
  keep: Buffer[] | null = null;

  readonly #bodyNeedsFraming: boolean;
  #phase: Phase = "head";
  /** The beginning of a head that came in several pieces. */
  #partialHead: Buffer | null = null;
  /** Payload bytes still to come: of the body, or of the current chunk. */
  #left = 0;
  /** The bytes of the line end behind a chunk. */
  #lineEnd = 0;
  #chunkSize = 0;
  #sizeDigits = 0;
  #inExtension = false;
  #inTrailer = false;
  #trailerLine = 0;

  /** `answers`: a message without content-length or chunks is a fault, because only the end of the connection would end it. */
  constructor(direction: "requests" | "answers") {
    this.#bodyNeedsFraming = direction === "answers";
  }

  /** Reads from `at` up to `end`; the index after the message when it is complete, -1 when more is needed (or `fault` is set). */
  scan(bytes: Buffer, at: number, end: number): number {
    if (this.fault !== null) return -1;
    let from = at;
    if (this.#phase === "head") {
      from = this.#scanHead(bytes, at, end);
      if (from === -1) return -1;
    }
    return this.#phase === "length" ? this.#scanLength(bytes, from, end) : this.#scanChunks(bytes, from, end);
  }

  #scanHead(bytes: Buffer, at: number, end: number): number {
    const before = this.#partialHead;
    const piece = bytes.subarray(at, end);
    const whole = before === null ? piece : Buffer.concat([before, piece]);
    const stop = whole.indexOf(HEAD_END);
    if (stop === -1) {
      if (whole.length > MAX_HEAD_BYTES) return this.#fail("a head of more than 64 KiB");
      this.#partialHead = before === null ? Buffer.from(whole) : whole;
      return -1;
    }
    this.#partialHead = null;
    const headBytes = stop + HEAD_END.length;
    this.head = whole.toString("latin1", 0, headBytes);
    this.bodyBytes = 0;
    this.closes = CLOSE.test(this.head);
    const length = CONTENT_LENGTH.exec(this.head);
    if (length !== null) {
      this.#phase = "length";
      this.#left = Number(length[1]);
    } else if (CHUNKED.test(this.head)) {
      this.#phase = "chunked";
      this.#left = 0;
      this.#lineEnd = 0;
      this.#chunkSize = 0;
      this.#sizeDigits = 0;
      this.#inExtension = false;
      this.#inTrailer = false;
    } else if (this.#bodyNeedsFraming) {
      return this.#fail("an answer with neither content-length nor chunks");
    } else {
      this.#phase = "length";
      this.#left = 0;
    }
    return at + headBytes - (before?.length ?? 0);
  }

  #scanLength(bytes: Buffer, at: number, end: number): number {
    const next = this.#payload(bytes, at, end);
    if (this.#left > 0) return -1;
    this.#phase = "head";
    return next;
  }

  #scanChunks(bytes: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      if (this.#left > 0) {
        at = this.#payload(bytes, at, end);
        if (this.#left === 0) this.#lineEnd = 2;
      } else if (this.#lineEnd > 0) {
        if (bytes[at] !== (this.#lineEnd === 2 ? CR : LF)) return this.#fail("a chunk longer than its size");
        this.#lineEnd -= 1;
        at += 1;
      } else if (this.#inTrailer) {
        const byte = bytes[at++];
        if (byte === LF && this.#trailerLine === 0) {
          this.#phase = "head";
          return at;
        }
        if (byte === LF) this.#trailerLine = 0;
        else if (byte !== CR) this.#trailerLine += 1;
      } else {
        this.#sizeByte(bytes[at++] ?? 0);
        if (this.fault !== null) return -1;
      }
    }
    return -1;
  }

  #sizeByte(byte: number): void {
    if (byte === LF) {
      if (this.#sizeDigits === 0) return void this.#fail("a chunk without a size");
      this.#left = this.#chunkSize;
      this.#inTrailer = this.#chunkSize === 0;
      this.#trailerLine = 0;
      this.#chunkSize = 0;
      this.#sizeDigits = 0;
      this.#inExtension = false;
    } else if (byte === SEMICOLON) {
      this.#inExtension = true;
    } else if (byte !== CR && !this.#inExtension) {
      const digit = hexDigit(byte);
      if (digit === -1 || this.#sizeDigits === 8) return void this.#fail("a chunk size that is not a number");
      this.#chunkSize = this.#chunkSize * 16 + digit;
      this.#sizeDigits += 1;
    }
  }

  #payload(bytes: Buffer, at: number, end: number): number {
    const next = Math.min(end, at + this.#left);
    this.keep?.push(Buffer.from(bytes.subarray(at, next)));
    this.#left -= next - at;
    this.bodyBytes += next - at;
    return next;
  }

  #fail(what: string): -1 {
    this.fault = what;
    return -1;
  }
}

function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const lower = byte | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}
