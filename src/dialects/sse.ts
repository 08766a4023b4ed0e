/** Server-sent events as bytes: where events end. What is inside an event is parsed by eventsource-parser, and only when somebody needs to know. */

/** An event larger than this is an attack or a fault, not a token. */
export const MAX_EVENT_BYTES = 1024 * 1024;

const LF = 0x0a;
const CR = 0x0d;

/**
 * Index just behind the last complete event in `bytes` (0 = none is complete). Events end with an empty line; lines end with LF, CRLF or CR.
 * A CR as the very last byte may be half of a CRLF, so it does not end anything yet.
 */
export function lastBoundary(bytes: Buffer): number {
  const length = bytes.length;
  // By far the most common: the buffer ends exactly with an event.
  if (length >= 2 && bytes[length - 1] === LF && (bytes[length - 2] === LF || (bytes[length - 2] === CR && endsLine(bytes, length - 2))))
    return length;
  for (let i = length - 1; i > 0; i -= 1) {
    const byte = bytes[i];
    if (byte === LF) {
      const line = bytes[i - 1] === CR ? i - 1 : i;
      if (endsLine(bytes, line)) return i + 1;
    } else if (byte === CR && i < length - 1 && bytes[i + 1] !== LF && endsLine(bytes, i)) return i + 1;
  }
  return 0;
}

/** Whether the byte before `at` ends a line, so that a line end at `at` makes an empty line. */
const endsLine = (bytes: Buffer, at: number): boolean => at > 0 && (bytes[at - 1] === LF || bytes[at - 1] === CR);

/** Index just behind the first event that ends after `from`; the length when none does. */
export function nextBoundary(bytes: Buffer, from: number): number {
  for (let i = from; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte !== LF && byte !== CR) continue;
    if (!endsLine(bytes, i) || (byte === LF && bytes[i - 1] === CR && !endsLine(bytes, i - 1))) continue;
    return byte === CR && bytes[i + 1] === LF ? i + 2 : i + 1;
  }
  return bytes.length;
}

/** Splits bytes that end with a boundary into their events, each with its own trailing empty line. */
export function* eventsOf(bytes: Buffer): Generator<Buffer> {
  let start = 0;
  for (let i = 0; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte !== LF && byte !== CR) continue;
    let after = byte === CR && bytes[i + 1] === LF ? i + 2 : i + 1;
    if (bytes[after] === LF || bytes[after] === CR) {
      after += bytes[after] === CR && bytes[after + 1] === LF ? 2 : 1;
      yield bytes.subarray(start, after);
      start = after;
    }
    i = after - 1;
  }
  if (start < bytes.length) yield bytes.subarray(start);
}
