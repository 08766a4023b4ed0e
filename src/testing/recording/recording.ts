/** The format of a recording: JSON lines, one head and then one exchange a line, to be read and edited by people. */

/** Of the format. Another version is refused. */
export const RECORDING_VERSION = 1;

export interface RecordingHead {
  readonly quotaguardRecording: number;
  /** Where it was recorded, without credentials. */
  readonly target: string;
}

/** A piece of a body as it arrived. Text where the piece is text by itself, else base64. */
export interface RecordedChunk {
  /** Since the head of the answer, ms. */
  readonly afterMs: number;
  readonly text?: string;
  readonly base64?: string;
}

export interface RecordedRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The JSON value where the body is JSON, else its text; null = there was none. */
  readonly body: unknown;
}

export interface RecordedAnswer {
  readonly status: number;
  /** Names as they came, in lower case. Several values of one name are joined by a comma. */
  readonly headers: Readonly<Record<string, string>>;
  readonly chunks: readonly RecordedChunk[];
  /** `broken` = the connection broke before the answer was complete. */
  readonly end: "done" | "broken";
}

export interface RecordedExchange {
  readonly request: RecordedRequest;
  readonly answer: RecordedAnswer;
}

export interface Recording {
  readonly head: RecordingHead;
  readonly exchanges: readonly RecordedExchange[];
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === "object" && value !== null && !Array.isArray(value);

function parsed(line: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new Error(`line ${number} of the recording is no JSON; each line is one exchange, written by recordUpstream()`);
  }
}

/** Reads a recording. Throws an Error that names the line at fault. */
export function parseRecording(text: string): Recording {
  const [first, ...rest] = text.split("\n").map((line) => line.trim());
  const head = first ? parsed(first, 1) : null;
  if (!isRecord(head) || typeof head.quotaguardRecording !== "number")
    throw new Error("this is no recording: its first line must say quotaguardRecording; record one with recordUpstream()");
  if (head.quotaguardRecording !== RECORDING_VERSION)
    throw new Error(`the recording has format ${head.quotaguardRecording} and this version reads ${RECORDING_VERSION}: record it anew`);
  const exchanges = rest.flatMap((line, index) => {
    if (line === "") return [];
    const exchange = parsed(line, index + 2);
    if (!isRecord(exchange) || !isRecord(exchange.request) || !isRecord(exchange.answer) || !Array.isArray(exchange.answer.chunks))
      throw new Error(`line ${index + 2} of the recording is no exchange: it needs request and answer, with chunks`);
    return [exchange as unknown as RecordedExchange];
  });
  return { head: head as unknown as RecordingHead, exchanges };
}

/** The bytes as text if they are valid UTF-8 by themselves, so that nothing is lost at a boundary inside a character. */
export function chunkOf(bytes: Buffer, afterMs: number): RecordedChunk {
  const text = bytes.toString();
  return Buffer.from(text).equals(bytes) ? { afterMs, text } : { afterMs, base64: bytes.toString("base64") };
}

export const bytesOf = ({ text, base64 }: RecordedChunk): Buffer => (base64 === undefined ? Buffer.from(text ?? "") : Buffer.from(base64, "base64"));

/** The same text for the same JSON value, whatever the order of its keys. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (!isRecord(value)) return JSON.stringify(value) ?? "null";
  const members = Object.keys(value)
    .toSorted()
    .map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join(",")}}`;
}

/** A request body as recordings have it. */
export function bodyOf(bytes: Buffer): unknown {
  if (bytes.length === 0) return null;
  const text = bytes.toString();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The members that differ, as paths: `messages[0].content`. At most `most`. */
export function differences(a: unknown, b: unknown, most: number, path = "body"): string[] {
  if (canonical(a) === canonical(b)) return [];
  const keys = isRecord(a) && isRecord(b) ? [...new Set([...Object.keys(a), ...Object.keys(b)])] : null;
  const places = Array.isArray(a) && Array.isArray(b) ? Array.from({ length: Math.max(a.length, b.length) }, (_, i) => i) : null;
  const found: string[] = [];
  for (const key of keys ?? []) {
    if (found.length < most) found.push(...differences((a as never)[key], (b as never)[key], most - found.length, `${path}.${key}`));
  }
  for (const place of places ?? []) {
    if (found.length < most) found.push(...differences((a as never)[place], (b as never)[place], most - found.length, `${path}[${place}]`));
  }
  if (keys || places) return found;
  return [`${path} is ${shown(a)}, recorded ${shown(b)}`];
}

const MOST_SHOWN = 80;

function shown(value: unknown): string {
  if (value === undefined) return "absent";
  const text = JSON.stringify(value);
  return text.length <= MOST_SHOWN ? text : `${text.slice(0, MOST_SHOWN)}…`;
}
