import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { gzipSync } from "node:zlib";
import type { Clock, MaybePromise } from "../core/time.ts";
import type { Composed, FakeAnswer, FakeEvent, Json } from "./fake-answers.ts";
import type { FakeDialect } from "./fake-dialect.ts";
import { kiroFrame } from "./fake-kiro.ts";
import type { Pacer } from "./pacer.ts";
import type { TokenCount, TruthEntry } from "./truth-log.ts";

export interface FakeFault {
  /** Before anything · after the head · after so many writes of a stream, or bytes of a whole answer · instead of the end. */
  readonly at: "start" | "headers" | "end" | number;
  /**
   * Say nothing more · TCP reset · close politely · `error`: a stream says an error event and ends as if all were well, a whole answer is an error with
   * status 200.
   */
  readonly how: "hang" | "reset" | "close" | "error";
}

/** One scripted answer. Without any field it is the default answer to the request. */
export interface FakeReply extends FakeAnswer {
  /** Default 200. From 400 on the body is an error in the dialect of the path, unless `body` says otherwise. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** Replaces the answer by these bytes (an object is sent as JSON). */
  readonly body?: string | Buffer | Readonly<Record<string, unknown>>;
  /** Replaces a stream's events by these texts, each written as it stands. */
  readonly events?: readonly (string | Buffer)[];
  /** Replaces the whole HTTP answer, head included, by these writes. */
  readonly raw?: readonly (string | Buffer)[];
  /** Nothing is answered before it resolves. */
  readonly hold?: Promise<unknown>;
  /** Holds each event of a stream until the test lets it go. */
  readonly pacer?: Pacer;
  /** Time between two events, for demonstrations. */
  readonly delayMs?: number;
  /** Line ends of a stream. Default `\n`. */
  readonly newline?: "\n" | "\r\n" | "\r";
  /** A comment line before each event of a stream. */
  readonly comments?: boolean;
  /** Byte positions of the body at which a new write begins, each flushed before the next. */
  readonly splitAt?: readonly number[];
  /** Compresses the body, each event of a stream for itself; `unsaid`: without a `content-encoding` that says so. */
  readonly gzip?: "said" | "unsaid";
  /** The last piece of text that goes out is repeated until the client leaves; nothing comes behind it. Of a whole answer its bytes. */
  readonly isEndless?: true;
  readonly fault?: FakeFault;
}

export interface ExchangeParts {
  readonly dialect: FakeDialect;
  readonly reply: FakeReply;
  readonly entry: TruthEntry;
  readonly response: ServerResponse;
  readonly clock: Clock;
  readonly stream: boolean;
  readonly composed: Composed | null;
  /** Sent for a whole answer when the reply has no body. */
  readonly plain: Json | null;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
}

interface Write {
  readonly bytes: Buffer;
  readonly outputTokens: number;
  readonly told: TokenCount | null;
}

const bytesOf = (value: string | Buffer): Buffer => (typeof value === "string" ? Buffer.from(value) : value);

/** Plays one reply. Resolves when nothing more will be written. */
export async function playReply(parts: ExchangeParts): Promise<void> {
  const { reply, entry, response } = parts;
  const { fault } = reply;
  const socket = response.socket as Socket;
  if (reply.hold && !(await before(entry, reply.hold))) return;
  if (fault?.at === "start" && fault.how !== "error") return breakOff(parts, socket, fault.how);
  if (reply.raw) return playRaw(parts, socket, reply.raw);

  const streaming =
    parts.stream && reply.body === undefined && (reply.status ?? 200) < 300 && (parts.composed !== null || reply.events !== undefined);
  if (fault?.how === "error" && !streaming) {
    const { fault: _, ...rest } = reply;
    return playReply({ ...parts, composed: null, reply: { ...rest, body: errorOf(parts, 500) } });
  }
  const head: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries({ ...parts.headers, ...reply.headers })) head[name] = typeof value === "string" ? value : [...value];
  head["content-type"] ??= streaming ? STREAM_TYPES[parts.composed?.framing ?? "sse"] : "application/json";
  if (reply.gzip === "said") head["content-encoding"] = "gzip";
  const composed = streaming ? streamWrites(parts) : wholeWrites(parts);
  const writes = split(
    reply.gzip === undefined ? composed : composed.map((write) => ({ ...write, bytes: gzipSync(write.bytes) })),
    reply.splitAt,
    typeof fault?.at === "number" && !streaming ? fault.at : undefined,
  );
  entry.status = reply.status ?? 200;
  if (entry.status < 300 && parts.composed) entry.billed.inputTokens = parts.composed.inputTokens;
  const cut = typeof fault?.at === "number" ? (streaming ? fault.at : 1) : -1;
  if (!streaming && fault === undefined && !reply.isEndless)
    head["content-length"] ??= String(writes.reduce((sum, write) => sum + write.bytes.length, 0));
  response.writeHead(entry.status, head);
  if (streaming || fault) response.flushHeaders();
  if (fault?.at === "headers" || fault?.at === "start") return breakOff(parts, socket, fault.how);

  let index = -1;
  for (const write of reply.isEndless ? endless(writes) : writes) {
    index += 1;
    if (index === cut && fault) return breakOff(parts, socket, fault.how);
    const turn = reply.pacer?.pass() ?? null;
    if (turn && !(await before(entry, turn.ready))) return turn.cancel();
    if (reply.delayMs !== undefined && index > 0 && !(await delayed(parts, reply.delayMs))) return;
    if (entry.end !== null || response.destroyed) return;
    const room = response.write(write.bytes);
    entry.chunks += 1;
    entry.billed.outputTokens += write.outputTokens;
    entry.told = write.told ?? entry.told;
    if (reply.splitAt) await flushed(response, entry);
    else if (!room && !(await before(entry, once(response, "drain")))) return;
  }
  if (fault) return breakOff(parts, socket, fault.how);
  response.end();
}

async function playRaw(parts: ExchangeParts, socket: Socket, raw: readonly (string | Buffer)[]): Promise<void> {
  for (const part of raw) {
    if (socket.destroyed) return;
    await before(parts.entry, new Promise((resolve) => void socket.write(bytesOf(part), resolve)));
    parts.entry.chunks += 1;
    await settled();
  }
  return breakOff(parts, socket, parts.reply.fault?.how ?? "close");
}

/** Up to the last write that delivers anything, and that one for ever. */
function* endless(writes: readonly Write[]): Iterable<Write> {
  const last = writes.findLastIndex(({ outputTokens }) => outputTokens > 0);
  if (last > 0) yield* writes.slice(0, last);
  const again = writes.slice(Math.max(last, 0)).slice(0, 1);
  for (;;) yield* again;
}

function streamWrites({ dialect, reply, composed }: ExchangeParts): Write[] {
  const tell = dialect.teller();
  if (reply.events) return reply.events.map((event) => ({ bytes: bytesOf(event), outputTokens: 0, told: toldIn(tell, event) }));
  const events = composed?.events() ?? [];
  return events.map((event, index) => {
    return { bytes: written(reply, composed, event, index, events.length), outputTokens: event.outputTokens, told: toldIn(tell, event.data) };
  });
}

const STREAM_TYPES: Readonly<Record<NonNullable<Composed["framing"]>, string>> = {
  sse: "text/event-stream; charset=utf-8",
  array: "application/json",
  aws: "application/vnd.amazon.eventstream",
};

/** One event as it stands among `length` of them. */
function written(reply: FakeReply, composed: Composed | null, event: Pick<FakeEvent, "event" | "data">, index: number, length: number): Buffer {
  if (composed?.framing === "aws") return kiroFrame(event);
  return Buffer.from(composed?.framing === "array" ? inArray(event.data, index, length) : framed(reply, event));
}

const inArray = (data: string, index: number, length: number): string => `${index === 0 ? "[" : ",\r\n"}${data}${index === length - 1 ? "]" : ""}`;

function framed({ newline = "\n", comments }: FakeReply, { event, data }: { readonly event?: string; readonly data: string }): string {
  const name = event === undefined ? "" : `event: ${event}${newline}`;
  return `${comments ? `: keep-alive${newline}` : ""}${name}data: ${data}${newline}${newline}`;
}

const wordsOf = (status: number, serial: number): string => `scripted answer ${status} to request ${serial}`;

const errorOf = ({ dialect, entry }: ExchangeParts, status: number): Json => dialect.error(status, wordsOf(status, entry.id), entry.id);

function wholeWrites(parts: ExchangeParts): Write[] {
  const { dialect, reply, composed, plain } = parts;
  const served = (reply.status ?? 200) < 300;
  const body = reply.body ?? (served ? (plain ?? composed?.whole() ?? {}) : errorOf(parts, reply.status ?? 500));
  const bytes = typeof body === "string" || Buffer.isBuffer(body) ? bytesOf(body) : Buffer.from(JSON.stringify(body));
  const outputTokens = served && reply.body === undefined && plain === null ? (composed?.outputTokens ?? 0) : 0;
  return [{ bytes, outputTokens, told: served ? (composed?.isFree ? FREE : toldIn(dialect.teller(), bytes)) : null }];
}

const FREE: TokenCount = { inputTokens: 0, outputTokens: 0 };

/** What bytes on their way out tell of usage: a JSON object, or the last event among several that tells any. */
function toldIn(tell: ReturnType<FakeDialect["teller"]>, bytes: string | Buffer): TokenCount | null {
  let told: TokenCount | null = null;
  for (const line of bytes.toString().split(/\r\n|\n|\r/)) {
    const text = line.replace(/^data: ?/, "");
    if (!text.startsWith("{") || !/usage/i.test(text)) continue;
    try {
      told = tell(JSON.parse(text) as Json) ?? told;
    } catch {
      // A script may say what is no JSON.
    }
  }
  return told;
}

/** Cuts writes at byte positions of the whole body; a piece carries the tokens of the writes that end in it. */
function split(writes: Write[], splitAt: readonly number[] | undefined, cutAt: number | undefined): Write[] {
  const positions = [...(splitAt ?? []), ...(cutAt === undefined ? [] : [cutAt])];
  if (positions.length === 0) return writes;
  const whole = Buffer.concat(writes.map((write) => write.bytes));
  const ends: { at: number; outputTokens: number; told: TokenCount | null }[] = [];
  for (const { bytes, ...worth } of writes) ends.push({ at: (ends.at(-1)?.at ?? 0) + bytes.length, ...worth });
  const bounds = [0, ...new Set(positions.filter((at) => at > 0 && at < whole.length).toSorted((a, b) => a - b)), whole.length];
  return bounds.slice(1).map((to, index) => {
    const from = bounds[index] ?? 0;
    const ended = ends.filter((end) => end.at > from && end.at <= to);
    const outputTokens = ended.reduce((sum, end) => sum + end.outputTokens, 0);
    return { bytes: whole.subarray(from, to), outputTokens, told: ended.findLast(({ told }) => told !== null)?.told ?? null };
  });
}

function breakOff({ dialect, reply, entry, response, composed }: ExchangeParts, socket: Socket, how: FakeFault["how"]): void | Promise<void> {
  if (how === "hang") return entry.ended;
  brokenOff.add(response);
  if (how === "error") {
    entry.chunks += 1;
    const event = dialect.errorEvent(wordsOf(500, entry.id), entry.id, entry.chunks - 1);
    response.end(written(reply, composed, event, entry.chunks - 1, entry.chunks));
    return undefined;
  }
  if (how === "reset") socket.resetAndDestroy();
  else socket.destroySoon();
}

/** Responses that the script itself broke off: their closing is not the client's doing. */
export const brokenOff = new WeakSet<ServerResponse>();

/** Waits; false = the exchange ended first. */
async function before(entry: TruthEntry, ready: Promise<unknown>): Promise<boolean> {
  await Promise.race([ready, entry.ended]);
  return entry.end === null;
}

function delayed({ clock, entry }: ExchangeParts, delayMs: number): Promise<boolean> {
  return before(entry, new Promise<void>((resolve) => void clock.timer(delayMs, resolve)));
}

const once = (response: ServerResponse, event: string): Promise<void> => new Promise((resolve) => void response.once(event, () => resolve()));

/** A turn of the event loop, so that the peer sees each write on its own. */
const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(() => setImmediate(resolve)));

async function flushed(response: ServerResponse, entry: TruthEntry): Promise<void> {
  const done: MaybePromise<boolean> =
    response.writableLength === 0 ? true : before(entry, new Promise<void>((resolve) => void response.write("", () => resolve())));
  await done;
  await settled();
}
