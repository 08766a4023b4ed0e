import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { MessageScanner } from "./message-scanner.ts";
import type { Workload } from "./workloads.ts";

/** A closed loop on raw kept-alive sockets: every connection sends its next request as soon as the answer to the last one is whole. */
const RECONNECT_MS = 20;
const READ_BYTES = 256 * 1024;
const MAX_REASONS = 20;

export class Load {
  /** Whole answers with status 200 and the right number of bytes. */
  answered = 0;
  /** Reason to count: everything that went wrong on any connection, none of it in `answered`. */
  readonly failures = new Map<string, number>();

  readonly port: number;
  readonly workload: Workload;
  readonly #clients: readonly Client[];
  #stopping = false;
  #stopped: (() => void) | null = null;
  #open = 0;

  constructor(port: number, workload: Workload, connections: number) {
    this.port = port;
    this.workload = workload;
    // One read buffer for all: bytes are looked at inside the callback and not kept.
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
    this.#clients = Array.from({ length: connections }, (_, index) => new Client(this, requestOf(workload, index), buffer));
  }

  get stopping(): boolean {
    return this.#stopping;
  }

  start(): void {
    for (const client of this.#clients) client.open();
  }

  /** Sends no more and waits for the answers under way; those not there after `graceMs` are failures. All connections are closed then. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    for (const client of this.#clients) client.closeIfIdle();
    if (this.#open > 0) {
      const done = new Promise<void>((resolve) => (this.#stopped = resolve));
      const timer = new AbortController();
      await Promise.race([done, sleep(graceMs, undefined, { signal: timer.signal })]).finally(() => timer.abort());
    }
    for (const client of this.#clients) client.giveUp(`no answer within ${graceMs} ms after the end`);
  }

  fail(reason: string): void {
    const key = this.failures.has(reason) || this.failures.size < MAX_REASONS ? reason : "other";
    this.failures.set(key, (this.failures.get(key) ?? 0) + 1);
  }

  opened(): void {
    this.#open += 1;
  }

  closed(): void {
    this.#open -= 1;
    if (this.#open === 0) this.#stopped?.();
  }
}

class Client {
  readonly #load: Load;
  readonly #request: Buffer;
  readonly #buffer: Buffer;
  #socket: Socket | null = null;
  #scanner = new MessageScanner("answers");
  #waiting = false;

  constructor(load: Load, request: Buffer, buffer: Buffer) {
    this.#load = load;
    this.#request = request;
    this.#buffer = buffer;
  }

  open(): void {
    if (this.#load.stopping) return;
    const onread = { buffer: this.#buffer, callback: (length: number): boolean => this.#read(socket, length) };
    const socket = connect({ host: "127.0.0.1", port: this.#load.port, noDelay: true, onread });
    this.#socket = socket;
    this.#scanner = new MessageScanner("answers");
    this.#load.opened();
    socket.once("connect", () => this.#send(socket));
    socket.on("error", (error: NodeJS.ErrnoException) => this.#drop(socket, `connection failed: ${error.code ?? error.message}`));
    socket.on("end", () => this.#drop(socket, this.#waiting ? "connection closed before the answer was whole" : null));
    socket.on("close", () => this.#drop(socket, this.#waiting ? "connection closed before the answer was whole" : null));
  }

  closeIfIdle(): void {
    if (this.#socket !== null && !this.#waiting) this.#drop(this.#socket, null);
  }

  giveUp(reason: string): void {
    if (this.#socket !== null) this.#drop(this.#socket, reason);
  }

  #send(socket: Socket): void {
    if (this.#load.stopping) return this.#drop(socket, null);
    this.#waiting = true;
    socket.write(this.#request);
  }

  #read(socket: Socket, length: number): boolean {
    if (socket !== this.#socket) return true;
    if (!this.#waiting) {
      this.#drop(socket, "bytes that nobody asked for");
      return true;
    }
    const scanner = this.#scanner;
    const end = scanner.scan(this.#buffer, 0, length);
    if (end === -1) {
      if (scanner.fault !== null) this.#drop(socket, `not understood: ${scanner.fault}`);
      return true;
    }
    this.#waiting = false;
    this.#judge(scanner);
    if (end !== length) this.#drop(socket, "bytes behind the answer");
    else if (scanner.closes) this.#drop(socket, null);
    else this.#send(socket);
    return true;
  }

  #judge(scanner: MessageScanner): void {
    const wanted = this.#load.workload.answer.length;
    if (!scanner.head.startsWith("HTTP/1.1 200 ")) this.#load.fail(`status ${scanner.head.slice(9, 12)}`);
    else if (scanner.bodyBytes !== wanted) this.#load.fail(`${scanner.bodyBytes} bytes instead of ${wanted}`);
    else this.#load.answered += 1;
  }

  /** Ends this connection; a new one takes its place after a pause when it ended by a fault, so that a dead target is not hammered. */
  #drop(socket: Socket, failure: string | null): void {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.#waiting = false;
    socket.destroy();
    if (failure !== null) this.#load.fail(failure);
    this.#load.closed();
    if (this.#load.stopping) return;
    if (failure === null) setImmediate(() => this.open());
    else setTimeout(() => this.open(), RECONNECT_MS);
  }
}

export interface Probe {
  readonly status: string;
  readonly body: Buffer;
}

/** One request on a connection of its own, with the whole answer; rejects when it is not there in time. */
export function probe(port: number, workload: Workload, timeoutMs: number): Promise<Probe> {
  return new Promise((resolve, reject) => {
    const scanner = new MessageScanner("answers");
    const body: Buffer[] = [];
    scanner.keep = body;
    const socket = connect({ host: "127.0.0.1", port, noDelay: true });
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    socket.once("connect", () => socket.write(requestOf(workload, 0)));
    socket.on("error", reject);
    socket.on("close", () => {
      clearTimeout(timer);
      reject(new Error(scanner.fault ?? "the connection was closed before the answer was whole"));
    });
    socket.on("data", (bytes: Buffer) => {
      const end = scanner.scan(bytes, 0, bytes.length);
      if (end !== -1) resolve({ status: scanner.head.slice(9, 12), body: Buffer.concat(body) });
      if (end !== -1 || scanner.fault !== null) socket.destroy();
    });
  });
}

function requestOf(workload: Workload, index: number): Buffer {
  const request = workload.requests[index % workload.requests.length];
  if (request === undefined) throw new Error(`workload ${workload.id} has no requests`);
  return request;
}
