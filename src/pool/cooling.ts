/** Leaves a credential alone after a refusal: until the provider's own time, or for as long as such a refusal usually lasts. */
import type { Fault } from "../core/credential.ts";
import type { Logger } from "../core/logger.ts";
import type { RecordStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { blockTable, isPlaceOf, type BlockTable } from "./block-table.ts";
import type { Candidate } from "./candidate.ts";
import type { Penalty } from "./penalties.ts";

const CREDENTIAL_MS = 30 * 60_000;
const CAPACITY_MS = 60_000;
const FIRST_BACKOFF_MS = 1_000;
const MOST_BACKOFF_MS = 30 * 60_000;

/** Providers give quotas back before the time that they named: once a day a single request looks. */
const PROBE_AFTER_MS = 24 * 60 * 60_000;
/** The next one goes when this one has not come back by then. */
const PROBE_MS = 60_000;

/** Pairs that were at their rate limit and have not been served since. Beyond it the oldest begins anew. */
const MAX_BACKOFFS = 10_000;

export interface CoolingOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What speaks against a candidate. */
export interface Trouble {
  /** Never `request`: such a fault is the call's own. */
  readonly fault: Exclude<Fault, "request">;
  readonly status: number;
  /** Whether it is about all models of the credential. */
  readonly isAccountWide: boolean;
  /** Ms until the provider says to come back; null = it did not say. */
  readonly waitMs: number | null;
}

export interface Cooling extends Pick<BlockTable, "isEmpty" | "blockOf" | "blocks" | "load" | "close"> {
  /** A request of the candidate's is about to be sent. If it is the one that looks whether a long cooldown is over, the others wait for it. */
  entered(candidate: Candidate): void;
  failed(candidate: Candidate, trouble: Trouble, hasOthers: () => boolean): void;
  served(candidate: Candidate): void;
  /**
   * Something new is known of an account's quotas: ends those cooldowns that are about one which has room again. `model` = as the provider calls it; null = of
   * all models of the account.
   */
  quotaSeen(credential: string, hasRoom: (model: string | null, sinceMs: number) => boolean): void;
  /** Ends those of a credential (for one model; null = all). Returns how many there were. */
  lift(credential: string, model: string | null): number;
}

export function cooling({ records, clock, logger }: CoolingOptions): Cooling {
  const table = blockTable({ reason: "cooling", records, prefix: "cooling/", clock, logger });
  /** How often the rate limit was still there after a wait that nobody had named. */
  const backoffs = new Map<string, number>();

  function backoffMs(place: string): number {
    const times = backoffs.get(place) ?? 0;
    backoffs.delete(place);
    for (const oldest of backoffs.keys()) {
      if (backoffs.size < MAX_BACKOFFS) break;
      backoffs.delete(oldest);
    }
    backoffs.set(place, times + 1);
    return Math.min(FIRST_BACKOFF_MS * 2 ** times, MOST_BACKOFF_MS);
  }

  /** The provider's own time, or as long as such a refusal usually lasts; 0 = nothing new. */
  function lengthMs({ fault, status }: Trouble, namedMs: number | null, place: string, now: number): number {
    // A time that comes with it is that of a rate limit, and mends no account.
    if (fault === "credential") return Math.max(CREDENTIAL_MS, namedMs ?? 0);
    if (namedMs !== null) return namedMs;
    if (status !== 429) return CAPACITY_MS;
    // While a cooldown runs, only what was sent before it comes back: it says no more than the first of them.
    return table.get(place, now) ? 0 : backoffMs(place);
  }

  return {
    get isEmpty() {
      return table.isEmpty;
    },
    blockOf: table.blockOf,
    blocks: table.blocks,
    load: table.load,
    close: table.close,

    entered({ key, credential }) {
      if (table.isEmpty) return;
      const now = clock.now();
      for (const place of [key, credential.name]) {
        const penalty = table.get(place, now);
        if (penalty && (penalty.probeAt ?? Infinity) <= now) table.set(place, { ...penalty, probeAt: now + PROBE_MS, isProbed: true });
      }
    },

    failed({ key, credential, name, model }, trouble, hasOthers) {
      const { status, waitMs } = trouble;
      // A refusal that says "now" names no time.
      const namedMs = waitMs !== null && waitMs > 0 ? Math.ceil(waitMs) : null;
      const isOnlyOne = !hasOthers();
      const isWhole = trouble.isAccountWide || name === "";
      const place = isWhole ? credential.name : key;
      const since = clock.now();
      const standing = table.get(place, since);
      if (standing?.isProbed && standing.code === status) {
        // It was the one that looked, and nothing has changed. The time that was named before still counts, unless there is another now.
        if (namedMs !== null) table.delete(place);
        else if (table.set(place, { ...standing, probeAt: since + PROBE_AFTER_MS, isProbed: false })) return;
      }
      // Better the provider's own refusal than one of ours on a guess.
      if (isOnlyOne && namedMs === null) return;
      const forMs = isOnlyOne && namedMs !== null ? namedMs : lengthMs(trouble, namedMs, place, since);
      const isLong = forMs > PROBE_AFTER_MS;
      const until = since + (isLong ? PROBE_AFTER_MS : forMs);
      const penalty: Penalty = {
        code: status,
        since,
        until: since + forMs,
        isFirm: forMs === namedMs,
        ...(isLong ? { probeAt: until } : {}),
        // An account without money has the same status, and room in all its limits.
        ...(status === 429 && trouble.fault === "capacity" ? { quotaOf: isWhole ? "" : model } : {}),
      };
      if (!table.set(place, penalty)) return;
      const told = { credential: credential.name, model: isWhole ? null : name, code: status, until };
      // A key that is refused mends itself for nobody: a person has to look.
      if (trouble.fault === "credential") logger.warn(told, "a credential is refused by its provider and cools down");
      else logger.info(told, "a credential cools down");
    },

    served({ key, credential }) {
      if (backoffs.size === 0 && table.isEmpty) return;
      const now = clock.now();
      backoffs.delete(key);
      if (!table.get(credential.name, now)) backoffs.delete(credential.name);
      // It was sent before the cooldown began, or it would not have been sent: that speaks against a guess of ours, not against the provider's word.
      if (table.get(key, now)?.isFirm === false) table.delete(key);
      // It looked, and was served.
      for (const place of [key, credential.name]) if (table.get(place, now)?.isProbed) table.delete(place);
    },

    quotaSeen(credential, hasRoom) {
      if (table.isEmpty) return;
      for (const [place, { quotaOf, since }] of table.of(credential, clock.now())) {
        if (quotaOf === undefined || !hasRoom(quotaOf === "" ? null : quotaOf, since)) continue;
        table.delete(place);
        backoffs.delete(place);
        logger.info({ credential, model: quotaOf === "" ? null : quotaOf }, "a cooldown is over: its quota has room again");
      }
    },

    lift(credential, model) {
      for (const place of backoffs.keys()) if (isPlaceOf(place, credential, model)) backoffs.delete(place);
      return table.lift(credential, model);
    },
  };
}
