/** Finds the usage in an answer that streams by, whatever else is in it: images in base64 may be megabytes, and the usage stands behind them. */
import { fieldsOf, findUsage, type FoundUsage } from "../../dialects/usage.ts";

/** How much of the end is kept. */
const TAIL_BYTES = 64 * 1024;

const USAGE = /"usage"\s*:\s*\{/g;

export interface UsageTail {
  push(chunk: Buffer): void;
  /** Once the answer is over; null = it does not say. */
  found(): FoundUsage | null;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Where the last usage object is named; -1 = nowhere. A quote inside a string is escaped, so generated text cannot name one. */
function lastUsage(text: string): number {
  let last = -1;
  for (const match of text.matchAll(USAGE)) last = match.index;
  return last;
}

/**
 * The usage of a JSON object whose start may be missing. What follows from a member of the outermost level is, with an opening brace before it, an object
 * again; behind a member of a deeper level too many braces are closed, and that is no JSON.
 */
function inObject(text: string): FoundUsage | null {
  const whole = fieldsOf(parse(text));
  if (whole) return findUsage(whole);
  const at = lastUsage(text);
  return at < 0 ? null : findUsage(parse(`{${text.slice(at)}`));
}

/** The usage of the last event that has one: each event's data is one line. */
function inEvents(text: string): FoundUsage | null {
  const at = lastUsage(text);
  if (at < 0) return null;
  const start = Math.max(text.lastIndexOf("\n", at), text.lastIndexOf("\r", at)) + 1;
  const end = text.slice(at).search(/[\r\n]/);
  return inObject(text.slice(start, end < 0 ? text.length : at + end).replace(/^data: ?/, ""));
}

/** `events`: server-sent events; else the answer is one JSON object. Keeps the last 64 KiB, a little more for whole chunks. */
export function usageTail(events: boolean): UsageTail {
  const chunks: Buffer[] = [];
  let kept = 0;
  return {
    push(chunk) {
      chunks.push(chunk);
      kept += chunk.length;
      for (let first = chunks[0]; first && kept - first.length >= TAIL_BYTES; first = chunks[0]) {
        kept -= first.length;
        chunks.shift();
      }
    },
    found() {
      const text = Buffer.concat(chunks, kept).toString("utf8");
      return events ? inEvents(text) : inObject(text);
    },
  };
}
