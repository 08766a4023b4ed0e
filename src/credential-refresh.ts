/** New tokens for credentials whose tokens end: before that, and once when a provider refuses one. */
import type { Credential } from "./core/credential.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { PluginLock, RefreshedToken } from "./core/plugin.ts";
import type { Clock, Timer } from "./core/time.ts";
import type { CredentialSet } from "./pool/credential-set.ts";
import type { Renewal } from "./pool/expiry.ts";
import type { RecordLock } from "./record-lock.ts";

/** How long before its end a token is replaced; of a short life, half of what is left. */
const AHEAD_MS = 5 * 60_000;
/** What is asked may take so long. */
const DEADLINE_MS = 30_000;
/** Longer than the deadline: who holds it is still asking. */
const LOCK_MS = 60_000;
/** Another process asks: look again soon whether it is over. */
const BUSY_MS = 1_000;
const FIRST_BACKOFF_MS = 1_000;
const MOST_BACKOFF_MS = 5 * 60_000;
/** A token that was accepted for so long says that those before it were refused for another reason. */
const TRUSTED_MS = 2 * MOST_BACKOFF_MS;
/** By how much the two clocks may differ. */
const DRIFT_MS = 1_000;
/** A timer's delay is a 32-bit number of ms. */
const MOST_TIMER_MS = 24 * 60 * 60_000;

export type RefreshFunction = (credential: Credential) => Promise<RefreshedToken>;

export interface CredentialRefreshParts {
  readonly credentials: CredentialSet;
  readonly lock: RecordLock;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether a credential may be given another token: the configuration's may not. */
  readonly isOurs: (name: string) => boolean;
  /** Puts the token in the place of the credential's old one. Throws ConfigError when it is none. */
  readonly replace: (credential: Credential, token: RefreshedToken) => void;
  /** Who gets new tokens is somebody else now. */
  readonly changed: () => void;
}

export interface CredentialRefresh extends Renewal {
  /** The last one of a provider counts. Returns a function that takes it out. */
  add(provider: string, fn: RefreshFunction): () => void;
  /** A provider has refused the credential's token. */
  unauthorized(credential: Credential): void;
  close(): void;
}

/** New tokens in place of refused ones, in a row. */
interface Renewals {
  readonly count: number;
  /** Monotonic, ms: when the last one came. */
  readonly at: number;
}

/** What is going on about one credential. */
interface Job {
  timer: Timer | undefined;
  /** Wall clock, ms: when it is tried next; null = it is being tried. */
  nextAt: number | null;
  /** In a row. */
  failures: number;
  isAsking: boolean;
  /** Its provider has refused the token, so it is to be replaced whatever its end. */
  isRefused: boolean;
}

export function credentialRefresh(parts: CredentialRefreshParts): CredentialRefresh {
  const { credentials, lock, clock, logger, isOurs, replace, changed } = parts;
  const refreshers = new Map<string, RefreshFunction[]>();
  const jobs = new Map<string, Job>();
  /** Tokens that were refused once: each is asked about once. */
  const refused = new WeakSet<Credential>();
  const renewals = new Map<string, Renewals>();
  let isClosed = false;

  const refresherOf = ({ provider }: Credential): RefreshFunction | undefined => refreshers.get(provider)?.at(-1);
  const renews = (credential: Credential): boolean => isOurs(credential.name) && refresherOf(credential) !== undefined;

  function drop(name: string): void {
    jobs.get(name)?.timer?.cancel();
    jobs.delete(name);
  }

  /** Looks anew at what is to be done about a credential, and when. */
  function plan(name: string, now: Credential | undefined, leastMs = 0): void {
    const { expiresAt = null } = now ?? {};
    const before = jobs.get(name);
    if (isClosed || !now || !renews(now) || (expiresAt === null && !before?.isRefused)) return drop(name);
    // It goes on from where it is.
    if (before?.isAsking) return;
    const wall = clock.now();
    wait(name, expiresAt === null ? leastMs : Math.max(leastMs, expiresAt - wall - Math.min(AHEAD_MS, (expiresAt - wall) / 2)));
  }

  function wait(name: string, delayMs: number): void {
    let job = jobs.get(name);
    if (!job) jobs.set(name, (job = { timer: undefined, nextAt: null, failures: 0, isAsking: false, isRefused: false }));
    job.timer?.cancel();
    job.nextAt = Math.ceil(clock.now() + delayMs);
    job.timer = clock.timer(Math.min(delayMs, MOST_TIMER_MS), () => due(name));
  }

  function due(name: string): void {
    const job = jobs.get(name);
    if (!job || job.isAsking || isClosed) return;
    const leftMs = (job.nextAt ?? 0) - clock.now();
    // It was too long for one timer, or the wall clock was put back.
    if (leftMs > DRIFT_MS) return wait(name, leftMs);
    job.isAsking = true;
    job.nextAt = null;
    void ask(name).then((outcome) => after(name, job, outcome));
  }

  function renewalsOf(name: string): number {
    const { count = 0, at = 0 } = renewals.get(name) ?? {};
    return clock.monotonic() - at < TRUSTED_MS ? count : 0;
  }

  /** A provider that refuses each new token would be asked without end, by every request, and its ban lifted each time. */
  function pauseOf(name: string): number {
    const count = renewalsOf(name);
    return count === 0 ? 0 : Math.min(FIRST_BACKOFF_MS * 2 ** (count - 1), MOST_BACKOFF_MS);
  }

  type Outcome = "done" | "busy" | "failed";

  async function ask(name: string): Promise<Outcome> {
    let held: PluginLock | null = null;
    let asking: Promise<void> | undefined;
    try {
      held = await lock.take(`refresh/${name}`, LOCK_MS);
      const credential = credentials.find(name);
      const fn = credential && refresherOf(credential);
      if (!credential || !fn || isClosed) return "done";
      if (!held) return "busy";
      const take = (token: RefreshedToken): void => {
        // Whoever has replaced it meanwhile knows better.
        if (!isClosed && credentials.find(name) === credential) replace(credential, token);
      };
      asking = Promise.resolve(credential).then(fn).then(take);
      await answered(asking, credential);
      return "done";
    } catch (error) {
      logger.warn({ err: withoutSecrets(error), credential: name }, "a credential's token could not be replaced; it is tried again");
      return "failed";
    } finally {
      // Who is late is still asking: a second one with the same refresh token would make the provider end both. The lock's own end is the last word.
      if (held)
        void Promise.allSettled([asking])
          .then(held.release)
          .catch(() => undefined);
    }
  }

  /** Nobody waits longer than the deadline for somebody else's function; what comes late is taken all the same. */
  function answered(asking: Promise<void>, credential: Credential): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = (): void =>
        reject(new GuardError("plugin_failed", `the refresher of ${credential.provider} did not answer within ${DEADLINE_MS} ms`));
      const timer = clock.timer(DEADLINE_MS, late);
      asking.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  function after(name: string, job: Job, outcome: Outcome): void {
    if (jobs.get(name) !== job) return;
    job.isAsking = false;
    if (outcome === "busy") return wait(name, BUSY_MS);
    if (outcome === "failed") {
      job.failures += 1;
      return wait(name, Math.min(FIRST_BACKOFF_MS * 2 ** (job.failures - 1), MOST_BACKOFF_MS));
    }
    job.failures = 0;
    if (job.isRefused) renewals.set(name, { count: renewalsOf(name) + 1, at: clock.monotonic() });
    job.isRefused = false;
    // Whatever it was given, nobody is asked without a pause.
    plan(name, credentials.find(name), FIRST_BACKOFF_MS);
  }

  const unwatch = credentials.onChange((name, _before, now) => {
    if (!now) renewals.delete(name);
    plan(name, now);
  });

  return {
    renews,
    nextAt: (name) => jobs.get(name)?.nextAt ?? null,

    add(provider, fn) {
      const list = refreshers.get(provider) ?? [];
      refreshers.set(provider, list);
      list.push(fn);
      const look = (): void => {
        changed();
        for (const credential of credentials) if (credential.provider === provider) plan(credential.name, credential);
      };
      look();
      return () => {
        const at = list.indexOf(fn);
        if (at < 0) return;
        list.splice(at, 1);
        if (list.length === 0 && refreshers.get(provider) === list) refreshers.delete(provider);
        look();
      };
    },

    unauthorized(credential) {
      if (credentials.find(credential.name) !== credential || refused.has(credential) || !renews(credential)) return;
      refused.add(credential);
      const job = jobs.get(credential.name);
      if (job?.isAsking) return;
      const plannedMs = (job?.nextAt ?? Infinity) - clock.now();
      wait(credential.name, Math.max(0, Math.min(plannedMs, pauseOf(credential.name))));
      (jobs.get(credential.name) as Job).isRefused = true;
    },

    close() {
      isClosed = true;
      unwatch();
      for (const name of [...jobs.keys()]) drop(name);
    },
  };
}

/** An error of somebody else's may quote the answer that it could not read, token and all: only its name and code are told. Ours quote nothing. */
function withoutSecrets(error: unknown): { readonly name: string; readonly code?: string; readonly message?: string } {
  if (GuardError.is(error) || error instanceof ConfigError) return error;
  const { name, code } = (typeof error === "object" && error !== null ? error : {}) as { readonly name?: unknown; readonly code?: unknown };
  return { name: typeof name === "string" ? name : "Error", ...(typeof code === "string" ? { code } : {}) };
}
