import { GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { Clock, Timer } from "../../core/time.ts";
import { DeadlineQueue, type Due } from "./deadline-queue.ts";
import { Lifeline } from "./lifeline.ts";
import type { RedisArgument, RedisLink, RedisScript } from "./link.ts";
import type { RedisClient, Session } from "./session.ts";
import { alarms, plainError, startProblem, storeUnavailable, type Trouble, troubleOf } from "./trouble.ts";

/** Sent and unanswered at one time. A server that is this far behind is not asked for more. */
const MAX_UNANSWERED = 10_000;
/** Calls in a row that missed their deadline, with nothing answered between: the server is mute. */
const MUTE_AFTER = 3;
/** How long a mute connection is kept. A server that thaws answers what it was sent before: with the first late reply it is asked whether it serves. */
const MUTE_MS = 1000;
/** What a caller is told to wait while the server is away. */
const RETRY_AFTER_MS = 1000;
/** How long a start waits for a server that is down or loading. */
const START_WAIT_MS = 2000;

export interface ConnectionOptions {
  readonly dial: () => RedisClient;
  /** Its address, for log lines and errors: without a password. */
  readonly server: string;
  readonly prefix: string;
  readonly deadlineMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly serverTime?: (() => number) | undefined;
  /** Called each time when the server is back. */
  readonly onBack?: () => void;
  /** From 0 to below 1, for the pauses between attempts. Default `Math.random`. */
  readonly random?: () => number;
}

/** How a script is named: by its digest, by it once more (another call is just loading it), by its text. */
type Stage = "digest" | "again" | "text";

interface Call extends Due {
  readonly name: string;
  readonly words: readonly RedisArgument[];
  readonly script: RedisScript | undefined;
  stage: Stage;
  /** It may be sent once more. */
  canRepeat: boolean;
  /** A question: the server may say no, and nobody need do anything about it. */
  readonly isAsking: boolean;
  readonly resolve: (reply: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The connection that all calls of a store share. Each call ends with its reply or within the deadline, whatever the server does. */
export class RedisConnection implements RedisLink {
  readonly prefix: string;
  readonly testTime: (() => number) | undefined;
  readonly #options: ConnectionOptions;
  readonly #lifeline: Lifeline;
  readonly #calls: DeadlineQueue<Call>;
  readonly #alarm: (error: unknown, trouble: Trouble) => void;
  /** Wait for the next session, until their deadline. */
  #waiting: Call[] = [];
  #pending = 0;
  /** Digests of scripts whose text is under way. */
  readonly #loading = new Set<string>();
  #missed = 0;
  #mute: Timer | undefined;
  /** Mute, and asked whether it is so still. */
  #asked: Session | undefined;
  /** Monotonic ms; undefined = it serves. */
  #lostAtMs: number | undefined;
  #lastError: Error | undefined;
  #starting: { readonly resolve: () => void; readonly reject: (error: Error) => void } | undefined;
  #isStarted = false;
  #isClosed = false;
  #onDrained: (() => void) | undefined;

  constructor(options: ConnectionOptions) {
    const { dial, clock, logger, server, prefix, serverTime, random = Math.random } = options;
    this.#options = options;
    this.prefix = prefix;
    this.testTime = serverTime;
    this.#calls = new DeadlineQueue<Call>(clock, (calls) => this.#onDue(calls));
    this.#alarm = alarms(server, clock, logger);
    this.#lifeline = new Lifeline({
      dial,
      clock,
      random,
      check: (session) => this.#servesInTime(session),
      onUp: () => this.#onUp(),
      onDown: (error) => this.#onDown(error),
    });
  }

  /** Resolves when the server serves. Rejects with a ConfigError and stops dialling when it cannot, or does not within two seconds. */
  async start(): Promise<void> {
    const { clock, server } = this.#options;
    let timer: Timer | undefined;
    // The clock's timers let a process end that has nothing else to do. This one has: it waits for its store.
    const hold = setInterval(() => {}, START_WAIT_MS);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#starting = { resolve, reject };
        timer = clock.timer(START_WAIT_MS, () => reject(this.#lastError ?? new Error(`no answer within ${START_WAIT_MS} ms`)));
        this.#lifeline.start();
      });
      this.#isStarted = true;
    } catch (error) {
      this.#lifeline.stop();
      throw startProblem(error, server);
    } finally {
      this.#starting = undefined;
      timer?.cancel();
      clearInterval(hold);
    }
  }

  run(script: RedisScript, keys: readonly string[], args: readonly RedisArgument[], idempotent: boolean): Promise<unknown> {
    return this.#begin("EVALSHA", [script.digest, keys.length, ...keys, ...args], script, idempotent, false);
  }

  call(command: string, ...args: readonly RedisArgument[]): Promise<unknown> {
    return this.#begin(command, args, undefined, false, false);
  }

  /** Like {@link RedisConnection.call}, but undefined when the server does not know the command or does not permit it. */
  ask(command: string, ...args: readonly RedisArgument[]): Promise<unknown> {
    return this.#begin(command, args, undefined, true, true);
  }

  /** Ends a start that is under way or came to nothing, at once. It may be started again. */
  abandon(): void {
    this.#isStarted = false;
    this.#lifeline.stop();
    this.#starting?.reject(new Error("the store was closed meanwhile"));
  }

  /** Lets the calls under way end, each within its deadline, and hangs up. */
  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#pending > 0) await new Promise<void>((resolve) => (this.#onDrained = resolve));
    this.#unmute();
    this.#lifeline.stop();
  }

  #begin(name: string, words: readonly RedisArgument[], script: RedisScript | undefined, canRepeat: boolean, isAsking: boolean): Promise<unknown> {
    const refusal = this.#refusal();
    if (refusal !== undefined) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const endsAtMs = this.#options.clock.monotonic() + this.#options.deadlineMs;
      const call: Call = { name, words, script, stage: "digest", canRepeat, isAsking, endsAtMs, isOver: false, resolve, reject };
      this.#pending += 1;
      this.#calls.push(call);
      this.#send(call);
    });
  }

  #refusal(): GuardError | undefined {
    if (this.#isClosed) return new GuardError("store_unavailable", "the Redis store is closed");
    if (!this.#isStarted) return new GuardError("store_unavailable", "the Redis store is not ready: await store.ready() first");
    const { session } = this.#lifeline;
    if (session === undefined || this.#mute !== undefined) return storeUnavailable(this.#lastError, RETRY_AFTER_MS);
    if (session.unanswered < MAX_UNANSWERED) return undefined;
    return storeUnavailable(new Error(`${MAX_UNANSWERED} calls wait for an answer`), RETRY_AFTER_MS);
  }

  #send(call: Call): void {
    const { session } = this.#lifeline;
    if (session === undefined) return void this.#waiting.push(call);
    const isText = call.stage === "text";
    const words = isText ? [(call.script as RedisScript).text, ...call.words.slice(1)] : call.words;
    session.send(
      isText ? "EVAL" : call.name,
      words,
      (reply) => {
        this.#onAnswer(session, call);
        if (isText) this.#loading.delete((call.script as RedisScript).digest);
        if (!call.isOver) this.#finish(call).resolve(reply);
      },
      (error) => this.#onError(call, session, error),
    );
  }

  #onError(call: Call, session: Session, error: unknown): void {
    const trouble = troubleOf(error);
    if (trouble.kind === "connection" || trouble.kind === "moved") {
      this.#lifeline.lose(session, error);
      if (call.isOver) return;
      if (!call.canRepeat || this.#isClosed) return this.#finish(call).reject(storeUnavailable(error, RETRY_AFTER_MS));
      call.canRepeat = false;
      return this.#send(call);
    }
    this.#onAnswer(session, call);
    const { script, stage } = call;
    if (script !== undefined && stage === "text") this.#loading.delete(script.digest);
    if (call.isOver) return;
    if (trouble.kind === "noscript" && script !== undefined && stage !== "text") {
      // Commands of one connection are done in order: behind the text that another call sends just now, the digest is enough.
      call.stage = stage === "digest" && this.#loading.has(script.digest) ? "again" : "text";
      if (call.stage === "text") this.#loading.add(script.digest);
      return this.#send(call);
    }
    if (call.isAsking && (trouble.kind === "refused" || trouble.kind === "unknown")) return this.#finish(call).resolve(undefined);
    this.#alarm(error, trouble);
    this.#finish(call).reject(storeUnavailable(error, RETRY_AFTER_MS));
  }

  #finish(call: Call): Call {
    call.isOver = true;
    this.#pending -= 1;
    this.#calls.trim();
    if (this.#pending === 0) this.#onDrained?.();
    return call;
  }

  #onDue(calls: readonly Call[]): void {
    const { deadlineMs } = this.#options;
    for (const call of calls)
      this.#finish(call).reject(storeUnavailable(this.#lastError ?? new Error(`no reply within ${deadlineMs} ms`), RETRY_AFTER_MS));
    if (this.#waiting.length > 0) this.#waiting = this.#waiting.filter((call) => !call.isOver);
    const { session } = this.#lifeline;
    if (session === undefined || this.#mute !== undefined || this.#isClosed) return;
    this.#missed += calls.length;
    const silence = new Error(`the server does not answer within ${deadlineMs} ms`);
    if (this.#missed >= MUTE_AFTER) {
      this.#lost(silence);
      // Replies of what was sent before could meet nobody; the connection goes so that they do not pile up.
      this.#mute = this.#options.clock.timer(MUTE_MS, () => this.#lifeline.lose(session, silence));
    } else {
      // Who has little traffic learns as soon as who has much.
      this.call("DEL", `${this.prefix}probe`).catch(() => {});
    }
  }

  #onAnswer(session: Session, { isOver }: Call): void {
    // A late reply says that the server lives, not that it serves in time: one that always answers late would be lost and back all the time.
    if (isOver) return this.#askMute(session);
    this.#missed = 0;
    if (this.#mute === undefined || session !== this.#lifeline.session) return;
    this.#unmute();
    this.#back();
  }

  /** Asks a mute server that has begun to answer whether it does so in time again. */
  #askMute(session: Session): void {
    if (this.#mute === undefined || session !== this.#lifeline.session || this.#asked === session) return;
    this.#asked = session;
    const until = this.#options.clock.monotonic() + this.#options.deadlineMs;
    const over = (isAnswered: boolean): void => {
      this.#asked = undefined;
      if (this.#mute === undefined || session !== this.#lifeline.session || !isAnswered || this.#options.clock.monotonic() > until) return;
      this.#missed = 0;
      this.#unmute();
      this.#back();
    };
    probe(session, this.prefix).then(
      () => over(true),
      () => over(false),
    );
  }

  /** Asks until an answer comes in time; the lifeline's patience ends it. */
  async #servesInTime(session: Session): Promise<void> {
    const { clock, deadlineMs } = this.#options;
    for (let askedAtMs = -Infinity; clock.monotonic() - askedAtMs > deadlineMs;) {
      askedAtMs = clock.monotonic();
      await probe(session, this.prefix);
    }
  }

  #unmute(): void {
    this.#mute?.cancel();
    this.#mute = undefined;
  }

  #onUp(): void {
    this.#missed = 0;
    this.#starting?.resolve();
    this.#back();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const call of waiting) if (!call.isOver) this.#send(call);
  }

  #onDown(error: Error): void {
    this.#unmute();
    this.#loading.clear();
    if (this.#starting === undefined) return this.#lost(error);
    this.#lastError = error;
    // No waiting makes these right.
    if (troubleOf(error).kind === "setup" || /^READONLY\b/.test(error.message)) this.#starting.reject(error);
  }

  #lost(error: Error): void {
    this.#lastError = error;
    if (this.#lostAtMs !== undefined || this.#isClosed) return;
    const { clock, logger, server } = this.#options;
    this.#lostAtMs = clock.monotonic();
    logger.warn({ code: "QG_REDIS_LOST", server, err: plainError(error) }, "the Redis server is lost: what needs it is refused or decided locally");
  }

  #back(): void {
    this.#lastError = undefined;
    if (this.#lostAtMs === undefined) return;
    const { clock, logger, server, onBack } = this.#options;
    const seconds = Math.round((clock.monotonic() - this.#lostAtMs) / 100) / 10;
    this.#lostAtMs = undefined;
    logger.info({ code: "QG_REDIS_BACK", server, seconds }, `the Redis server is back after ${seconds} s`);
    onBack?.();
  }
}

/** A write that changes nothing: refused by a replica, a server without its primary, one that loads, and one that may not write. */
function probe(session: Session, prefix: string): Promise<unknown> {
  return new Promise((resolve, reject) => session.send("DEL", [`${prefix}probe`], resolve, reject));
}
