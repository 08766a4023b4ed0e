/** Circuit breakers: a credential whose provider fails again and again is left alone for a while, then tried with a few requests. */
import type { Logger } from "../core/logger.ts";
import type { Clock } from "../core/time.ts";
import type { Block } from "./block-table.ts";
import type { Candidate } from "./candidate.ts";

export interface BreakerOptions {
  /** Failures in a row that open it. */
  readonly failureThreshold: number;
  readonly openForMs: number;
  /** Requests that may try it at one time afterwards. */
  readonly halfOpen: number;
}

export type BreakerState = "closed" | "half-open" | "open";

/** What an attempt says about the provider: `answered`, if only that the request is wrong · `failed` · `nothing`. */
export type ProviderSign = "answered" | "failed" | "nothing";

/** Leave to send one request. Those that try an open breaker are told apart from those that were sent before it opened. */
export interface Pass {
  /** Monotonic, ms: until when it keeps others from trying, too. Nobody waits for the end of a long stream to learn that its provider is back. */
  readonly aloneUntil: number;
}

/** One breaker for each credential; nothing is kept about those that are well. */
export interface Breakers {
  /** None is open or half-open. */
  readonly isQuiet: boolean;
  blockOf(candidate: Candidate): Block | null;
  /** Null = not now. */
  enter(candidate: Candidate): Pass | null;
  /** Whether it would let a request through, without letting one. */
  mayEnter(candidate: Candidate): boolean;
  /** `code` is the status that a failure goes by. */
  leave(candidate: Candidate, pass: Pass, sign: ProviderSign, code: number): void;
  blocks(): readonly Block[];
  /** Closes one that is open or half-open; false = it is not. */
  close(credential: string): boolean;
  /** Drops what is known of a credential that is gone. */
  forget(credential: string): void;
  states(): readonly { readonly credential: string; readonly state: BreakerState }[];
}

/** How soon to ask again while the probes are under way, ms: nobody knows how long they take. */
const PROBE_WAIT_MS = 1_000;

/** Credentials that failed last. Beyond it the oldest begins anew. */
const MAX_BREAKERS = 20_000;

/** Of every request that tries nothing. */
const FREE: Pass = { aloneUntil: 0 };

interface Breaker {
  /** In a row. */
  failures: number;
  /** Monotonic, ms; null = closed. */
  openUntil: number | null;
  /** Those that try it now. */
  readonly probes: Set<Pass>;
  /** Of the failure that opened it. */
  code: number;
  since: number;
}

export function breakers({
  clock,
  logger,
  options,
}: {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly options: BreakerOptions | null;
}): Breakers {
  const known = new Map<string, Breaker>();
  /** How many are open or half-open. */
  let opened = 0;
  const { failureThreshold, openForMs, halfOpen } = options ?? { failureThreshold: Infinity, openForMs: 0, halfOpen: 0 };

  function stateOf({ openUntil }: Breaker): BreakerState {
    if (openUntil === null) return "closed";
    return clock.monotonic() < openUntil ? "open" : "half-open";
  }

  function isTried({ probes }: Breaker, now: number): boolean {
    let alone = 0;
    for (const { aloneUntil } of probes) if (aloneUntil > now) alone += 1;
    return alone >= halfOpen;
  }

  function blockOf(credential: string, breaker: Breaker): Block | null {
    const { openUntil, code, since } = breaker;
    if (openUntil === null) return null;
    const now = clock.monotonic();
    const leftMs = openUntil - now;
    if (leftMs <= 0 && !isTried(breaker, now)) return null;
    // Durations are the monotonic clock's; people and Retry-After read the wall clock.
    return { reason: "breaker", credential, model: null, code, since, until: clock.now() + Math.ceil(leftMs > 0 ? leftMs : PROBE_WAIT_MS) };
  }

  function open(credential: string, breaker: Breaker, code: number): void {
    if (breaker.openUntil === null) opened += 1;
    breaker.openUntil = clock.monotonic() + openForMs;
    breaker.since = clock.now();
    breaker.code = code;
    // The others of this round have lost: what comes of them is older than the failure.
    breaker.probes.clear();
    logger.warn(
      { credential, code, failures: breaker.failures, openForMs },
      "a credential's provider fails again and again: its circuit breaker is open",
    );
  }

  /** False = it was not open. */
  function forget(credential: string): boolean {
    const breaker = known.get(credential);
    known.delete(credential);
    if (!breaker || breaker.openUntil === null) return false;
    opened -= 1;
    return true;
  }

  function close(credential: string): boolean {
    if (!forget(credential)) return false;
    logger.info({ credential }, "a credential's circuit breaker is closed");
    return true;
  }

  function fail(credential: string, code: number): void {
    let breaker = known.get(credential);
    if (!breaker) {
      for (const oldest of known.keys()) {
        if (known.size < MAX_BREAKERS) break;
        forget(oldest);
      }
      known.set(credential, (breaker = { failures: 0, openUntil: null, probes: new Set(), code, since: 0 }));
    }
    breaker.failures += 1;
    if (breaker.failures >= failureThreshold) open(credential, breaker, code);
  }

  function blockOfCandidate({ credential: { name } }: Candidate): Block | null {
    const breaker = opened > 0 ? known.get(name) : undefined;
    return breaker ? blockOf(name, breaker) : null;
  }

  return {
    get isQuiet() {
      return opened === 0;
    },

    blockOf: blockOfCandidate,
    mayEnter: (candidate) => blockOfCandidate(candidate) === null,

    enter({ credential: { name } }) {
      const breaker = opened > 0 ? known.get(name) : undefined;
      if (!breaker || breaker.openUntil === null) return FREE;
      if (blockOf(name, breaker)) return null;
      const pass: Pass = { aloneUntil: clock.monotonic() + openForMs };
      breaker.probes.add(pass);
      return pass;
    },

    leave({ credential: { name } }, pass, sign, code) {
      if (known.size === 0 && (sign !== "failed" || !options)) return;
      const breaker = known.get(name);
      // Sent before it opened, so it tells nothing new.
      if (breaker && breaker.openUntil !== null && !breaker.probes.delete(pass)) return;
      if (sign === "answered") close(name);
      else if (sign === "failed" && options) fail(name, code);
    },

    blocks: () => [...known].map(([credential, breaker]) => blockOf(credential, breaker)).filter((block) => block !== null),
    close,
    forget: (credential) => void forget(credential),
    states: () => [...known].map(([credential, breaker]) => ({ credential, state: stateOf(breaker) })),
  };
}
