import type { AttemptOutcome, Credential, Fault } from "../core/credential.ts";
import type { GuardError } from "../core/errors.ts";
import type { Events } from "../core/events.ts";
import type { Logger } from "../core/logger.ts";
import type { RecordStore, StrikeStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { bans, type BanRules } from "./bans.ts";
import { longer, type Block } from "./block-table.ts";
import { breakers, type BreakerOptions, type BreakerState, type Pass } from "./breaker.ts";
import type { Candidate } from "./candidate.ts";
import { cooling, type Cooling } from "./cooling.ts";
import type { Expiry } from "./expiry.ts";
import { pauses, type Pauses } from "./pauses.ts";

export type { Block } from "./block-table.ts";
export type { Pass } from "./breaker.ts";

/** Which candidates may be used now, learnt from how their attempts end. */
export interface Health {
  /** True while nothing is kept out anywhere: the hot path asks no further. */
  readonly isQuiet: boolean;
  /** What keeps a candidate out now, the block that lasts longest; null = it may be used. */
  blockOf(candidate: Candidate): Block | null;
  /** A request is about to be sent. Null = not now: the breaker's only probe is already under way. */
  enter(candidate: Candidate): Pass | null;
  /** Whether {@link Health.enter} would let a request through. Changes nothing. */
  mayEnter(candidate: Candidate): boolean;
  /** Each attempt that entered ends here, once. `hasOthers` tells whether another candidate could serve the model now. */
  leave(candidate: Candidate, pass: Pass, outcome: AttemptOutcome, hasOthers: () => boolean): void;
  /** Everything that bans, cooldowns and breakers keep out now. */
  blocks(): readonly Block[];
  /** Lifts bans or ends cooldowns of a credential (and model; null = all of them, and an open breaker). Returns how many there were. */
  lift(reason: "banned" | "cooling", credential: string, model: string | null): number;
}

export interface HealthOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Bans and cooldowns outlive a restart here, and other processes that share it see them. */
  readonly records: RecordStore;
  readonly strikes: StrikeStore;
  readonly events: Events;
  /** Null = off. */
  readonly fail2ban: BanRules | null;
  /** Null = off. */
  readonly breaker: BreakerOptions | null;
  /** A ban began in this process. Never throws. */
  readonly onBan?: (credential: string) => void;
  /** Such a ban ended by time, seen at the next look; or a person lifted one here. Never throws. */
  readonly onLift?: (credential: string) => void;
  /** Absent = tokens do not expire. */
  readonly expiry?: Expiry;
  /** Whether it is still the one that its name stands for, by key and address. Default: always. */
  readonly isCurrent?: (credential: Credential) => boolean;
  /** A provider no longer takes its token. Never throws. */
  readonly onUnauthorized?: (credential: Credential) => void;
}

export interface CredentialHealth extends Health {
  /** Takes over what is stored, and from then on what other processes store. Never rejects. */
  load(): Promise<void>;
  close(): void;
  /** Those that are not named are closed. */
  breakers(): readonly { readonly credential: string; readonly state: BreakerState }[];
  readonly pauses: Pick<Pauses, "get" | "set" | "end">;
  /** Something new is known of an account's quotas: ends the cooldowns of those that have room again. */
  readonly quotaSeen: Cooling["quotaSeen"];
  /** The credential is gone: what only this process counts of it is dropped. What is stored stays, it may come back or be another process's too. */
  forget(credential: string): void;
}

/** Other errors say nothing about the provider: a plan of ours that failed, a host's callback, a client. */
const isProvidersDoing = ({ code }: GuardError): boolean =>
  code === "upstream_unreachable" || code === "upstream_timeout" || code === "upstream_protocol";

/** Cooldowns, bans and circuit breakers of credentials, fed by the same outcomes. */
export function credentialHealth(options: HealthOptions): CredentialHealth {
  const { clock, logger, records, strikes, events, fail2ban, breaker, onBan, onLift, expiry, isCurrent, onUnauthorized } = options;
  const cooled = cooling({ records, clock, logger });
  const banned = bans({ records, clock, logger, strikes, events, rules: fail2ban, onBan, onLift });
  const broken = breakers({ clock, logger, options: breaker });
  const paused = pauses({ records, clock, logger });

  /** What came back for a key that was replaced meanwhile says nothing about the new one. */
  const isOutdated = ({ credential }: Candidate, fault: Fault): boolean => fault === "credential" && isCurrent?.(credential) === false;

  return {
    get isQuiet() {
      return broken.isQuiet && cooled.isEmpty && banned.isEmpty && paused.isEmpty && (expiry?.isQuiet ?? true);
    },

    blockOf(candidate) {
      // Somebody's word goes before all that was learnt.
      const pause = paused.isEmpty ? null : paused.blockOf(candidate.credential.name);
      if (pause) return pause;
      const now = clock.now();
      const expired = expiry?.blockOf(candidate.credential) ?? null;
      if (expired) return expired;
      return longer(longer(banned.blockOf(candidate, now), cooled.blockOf(candidate, now)), broken.blockOf(candidate));
    },

    enter(candidate) {
      const pass = broken.enter(candidate);
      if (pass) cooled.entered(candidate);
      return pass;
    },
    mayEnter: broken.mayEnter,

    leave(candidate, pass, outcome, hasOthers) {
      switch (outcome.kind) {
        case "served":
          broken.leave(candidate, pass, "answered", outcome.status);
          cooled.served(candidate);
          banned.served(candidate);
          return;
        case "abandoned":
          broken.leave(candidate, pass, "nothing", 0);
          return;
        case "refused": {
          const { status, fault } = outcome;
          if (status === 401 || outcome.isTokenStale) onUnauthorized?.(candidate.credential);
          if (outcome.isAside || isOutdated(candidate, fault)) {
            broken.leave(candidate, pass, "nothing", 0);
            return;
          }
          if (fault === "request") {
            broken.leave(candidate, pass, "answered", status);
            // A model that is gone there: the one fault of a request that an operator may want to ban a pair for.
            if (status === 404) banned.failed(candidate, status);
            return;
          }
          broken.leave(candidate, pass, status >= 500 ? "failed" : "nothing", status);
          // A 403 that is not about the credential: something in front of the provider took us for a robot, as the right prompt makes it do.
          if (status !== 403 || fault === "credential") banned.failed(candidate, status);
          cooled.failed(candidate, { ...outcome, fault }, hasOthers);
          return;
        }
        case "failed": {
          const { error } = outcome;
          if (!isProvidersDoing(error)) {
            broken.leave(candidate, pass, "nothing", 0);
            return;
          }
          broken.leave(candidate, pass, "failed", error.status);
          banned.failed(candidate, error.status);
          cooled.failed(candidate, { fault: "capacity", status: error.status, isAccountWide: false, waitMs: null }, hasOthers);
        }
      }
    },

    blocks: () => {
      const now = clock.now();
      return [...banned.blocks(now), ...cooled.blocks(now), ...broken.blocks()];
    },

    lift(reason, credential, model) {
      if (reason === "banned") return banned.lift(credential, model);
      const wasOpen = model === null && broken.close(credential);
      return cooled.lift(credential, model) + (wasOpen ? 1 : 0);
    },

    async load() {
      await Promise.all([banned.load(), cooled.load(), paused.load()]);
    },

    close() {
      banned.close();
      cooled.close();
      paused.close();
    },

    pauses: paused,
    quotaSeen: cooled.quotaSeen,
    forget: (credential) => broken.forget(credential),

    breakers: broken.states,
  };
}
