import type { Clock, Timer } from "../../core/time.ts";
import { openSession, type RedisClient, type Session } from "./session.ts";
import { plainError, troubleOf } from "./trouble.ts";

/** From the dialling to the server's first answer. A frozen server is connected to by its kernel, so connecting alone proves nothing. */
const PATIENCE_MS = 2000;
/** How often a server that loads its data is asked. */
const WAKING_MS = 100;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;
/** A session that served shorter than this does not shorten the pauses: a server that drops everybody is not stormed. */
const STEADY_MS = 1000;

export interface LifelineOptions {
  readonly dial: () => RedisClient;
  readonly clock: Clock;
  /** From 0 to below 1. */
  readonly random: () => number;
  /** Asks whether the server serves; a rejection says why not. */
  check(session: Session): Promise<unknown>;
  onUp(session: Session): void;
  /** A session was lost, or one could not be had. */
  onDown(error: Error): void;
}

/** Keeps one session that serves: dials, asks, and dials anew for ever, without anybody's help, until it is stopped. */
export class Lifeline {
  readonly #options: LifelineOptions;
  /** Dialled, perhaps not serving yet. */
  #session: Session | undefined;
  #isUp = false;
  #upSinceMs = 0;
  #attempts = 0;
  #timer: Timer | undefined;

  constructor(options: LifelineOptions) {
    this.#options = options;
  }

  /** The session that serves now. */
  get session(): Session | undefined {
    return this.#isUp ? this.#session : undefined;
  }

  start(): void {
    this.#dial();
  }

  /** Gives a session up and dials anew. Nothing happens when it is another one's turn already. */
  lose(session: Session, error: unknown): void {
    if (session !== this.#session) return;
    const { clock, random, onDown } = this.#options;
    if (this.#isUp && clock.monotonic() - this.#upSinceMs >= STEADY_MS) this.#attempts = 0;
    this.#end();
    const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#attempts) * (0.5 + random() / 2);
    this.#attempts += 1;
    this.#timer = clock.timer(pauseMs, () => this.#dial());
    onDown(plainError(error));
  }

  stop(): void {
    this.#end();
    this.#attempts = 0;
  }

  #end(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#isUp = false;
    this.#session?.drop();
    this.#session = undefined;
  }

  #dial(): void {
    const { dial, clock } = this.#options;
    const session = openSession(dial, { onOpen: () => this.#check(session), onEnd: (error) => this.lose(session, error) });
    this.#session = session;
    this.#timer = clock.timer(PATIENCE_MS, () => this.lose(session, new Error(`no answer within ${PATIENCE_MS} ms`)));
  }

  #check(session: Session): void {
    this.#options.check(session).then(
      () => this.#serve(session),
      (error: unknown) => {
        if (session !== this.#session) return;
        const { kind } = troubleOf(error);
        // It answers. What it does not permit is told by the calls that need it.
        if (kind === "refused" || kind === "unknown") return this.#serve(session);
        if (kind !== "waking") return this.lose(session, error);
        this.#timer?.cancel();
        this.#timer = this.#options.clock.timer(WAKING_MS, () => this.#askAgain(session));
        this.#options.onDown(plainError(error));
      },
    );
  }

  #askAgain(session: Session): void {
    this.#timer = this.#options.clock.timer(PATIENCE_MS, () => this.lose(session, new Error(`no answer within ${PATIENCE_MS} ms`)));
    this.#check(session);
  }

  #serve(session: Session): void {
    if (session !== this.#session) return;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#isUp = true;
    this.#upSinceMs = this.#options.clock.monotonic();
    this.#options.onUp(session);
  }
}
