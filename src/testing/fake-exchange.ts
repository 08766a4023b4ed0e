import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Clock, MaybePromise } from "../core/time.ts";
import type { Composed, FakeAnswer } from "./fake-answers.ts";
import type { Pacer } from "./pacer.ts";
import type { TruthEntry } from "./truth-log.ts";

export interface FakeFault {
  /** Before anything · after the head · after so many writes of a stream, or bytes of a whole answer · instead of the end. */
  readonly at: "start" | "headers" | "end" | number;
  /** Say nothing more · TCP reset · close politely. */
  readonly how: "hang" | "reset" | "close";
}

/** One scripted answer. Without any field it is the default answer to the request. */
export interface FakeReply extends FakeAnswer {
  /** Default 200. From 400 on the body is an OpenAI error, unless `body` says otherwise. */
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
  readonly fault?: FakeFault;
}

export interface ExchangeParts {
  readonly reply: FakeReply;
  readonly entry: TruthEntry;
  readonly response: ServerResponse;
  readonly clock: Clock;
  readonly stream: boolean;
  readonly composed: Composed | null;
  /** Sent for a whole answer when the reply has no body. */
  readonly plain: Readonly<Record<string, unknown>> | null;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
}

interface Write {
  readonly bytes: Buffer;
  readonly outputTokens: number;
}

const bytesOf = (value: string | Buffer): Buffer => (typeof value === "string" ? Buffer.from(value) : value);

/** Plays one reply. Resolves when nothing more will be written. */
export async function playReply(parts: ExchangeParts): Promise<void> {
  const { reply, entry, response } = parts;
  const { fault } = reply;
  const socket = response.socket as Socket;
  if (reply.hold && !(await before(entry, reply.hold))) return;
  if (fault?.at === "start") return breakOff(parts, socket, fault.how);
  if (reply.raw) return playRaw(parts, socket, reply.raw);

  const streaming =
    parts.stream && reply.body === undefined && (reply.status ?? 200) < 300 && (parts.composed !== null || reply.events !== undefined);
  const head: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries({ ...parts.headers, ...reply.headers })) head[name] = typeof value === "string" ? value : [...value];
  head["content-type"] ??= streaming ? "text/event-stream; charset=utf-8" : "application/json";
  const writes = split(
    streaming ? streamWrites(parts) : wholeWrites(parts),
    reply.splitAt,
    typeof fault?.at === "number" && !streaming ? fault.at : undefined,
  );
  entry.status = reply.status ?? 200;
  if (entry.status < 300 && parts.composed) entry.billed.inputTokens = parts.composed.inputTokens;
  const cut = typeof fault?.at === "number" ? (streaming ? fault.at : 1) : -1;
  if (!streaming && fault === undefined) head["content-length"] ??= String(writes.reduce((sum, write) => sum + write.bytes.length, 0));
  response.writeHead(entry.status, head);
  if (streaming || fault) response.flushHeaders();
  if (fault?.at === "headers") return breakOff(parts, socket, fault.how);

  for (const [index, write] of writes.entries()) {
    if (index === cut && fault) return breakOff(parts, socket, fault.how);
    const turn = reply.pacer?.pass() ?? null;
    if (turn && !(await before(entry, turn.ready))) return turn.cancel();
    if (reply.delayMs !== undefined && index > 0 && !(await delayed(parts, reply.delayMs))) return;
    if (entry.end !== null || response.destroyed) return;
    const room = response.write(write.bytes);
    entry.chunks += 1;
    entry.billed.outputTokens += write.outputTokens;
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

function streamWrites({ reply, composed }: ExchangeParts): Write[] {
  if (reply.events) return reply.events.map((event) => ({ bytes: bytesOf(event), outputTokens: 0 }));
  const newline = reply.newline ?? "\n";
  const comment = reply.comments ? `: keep-alive${newline}` : "";
  const events = composed?.events() ?? [];
  return events.map(({ data, outputTokens }) => ({ bytes: Buffer.from(`${comment}data: ${data}${newline}${newline}`), outputTokens }));
}

function wholeWrites({ reply, composed, plain, entry }: ExchangeParts): Write[] {
  const served = (reply.status ?? 200) < 300;
  if (reply.body !== undefined) {
    const { body } = reply;
    return [{ bytes: typeof body === "string" || Buffer.isBuffer(body) ? bytesOf(body) : Buffer.from(JSON.stringify(body)), outputTokens: 0 }];
  }
  if (!served) return [{ bytes: Buffer.from(JSON.stringify(errorBody(reply.status ?? 500, entry.id))), outputTokens: 0 }];
  const json = plain ?? composed?.whole() ?? {};
  return [{ bytes: Buffer.from(JSON.stringify(json)), outputTokens: composed?.outputTokens ?? 0 }];
}

/** Cuts writes at byte positions of the whole body; a piece carries the tokens of the writes that end in it. */
function split(writes: Write[], splitAt: readonly number[] | undefined, cutAt: number | undefined): Write[] {
  const positions = [...(splitAt ?? []), ...(cutAt === undefined ? [] : [cutAt])];
  if (positions.length === 0) return writes;
  const whole = Buffer.concat(writes.map((write) => write.bytes));
  const ends: { at: number; outputTokens: number }[] = [];
  for (const write of writes) ends.push({ at: (ends.at(-1)?.at ?? 0) + write.bytes.length, outputTokens: write.outputTokens });
  const bounds = [0, ...new Set(positions.filter((at) => at > 0 && at < whole.length).toSorted((a, b) => a - b)), whole.length];
  return bounds.slice(1).map((to, index) => {
    const from = bounds[index] ?? 0;
    const outputTokens = ends.filter((end) => end.at > from && end.at <= to).reduce((sum, end) => sum + end.outputTokens, 0);
    return { bytes: whole.subarray(from, to), outputTokens };
  });
}

function breakOff({ entry, response }: ExchangeParts, socket: Socket, how: FakeFault["how"]): void | Promise<void> {
  if (how === "hang") return entry.ended;
  brokenOff.add(response);
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

const ERROR_TYPES: Readonly<Record<number, readonly [type: string, code: string | null]>> = {
  400: ["invalid_request_error", null],
  401: ["invalid_request_error", "invalid_api_key"],
  403: ["invalid_request_error", "unsupported_country_region_territory"],
  404: ["invalid_request_error", "model_not_found"],
  413: ["invalid_request_error", null],
  429: ["requests", "rate_limit_exceeded"],
};

export function errorBody(status: number, serial: number, message = `scripted answer ${status} to request ${serial}`): Record<string, unknown> {
  const [type, code] = ERROR_TYPES[status] ?? ["server_error", null];
  return { error: { message, type, param: null, code } };
}
