import type { AuditOptions, AuditReport } from "./audit.ts";
import type { Explain } from "./explain.ts";
import type { KeyAdmin } from "./key-admin.ts";
import type { LimitAdmin } from "./limit-admin.ts";
import type { OrgAdmin } from "./org-admin.ts";
import type { QuotaFact } from "./quota-fact.ts";
import type { ShownLevel } from "./strategy.ts";
import type { UsageQuery, UsageRow } from "./usage-report.ts";

/** A token bucket as operators see it: `tokens` is what is left net of open reservations; negative = debt. */
export interface BucketView {
  readonly tokens: number;
  readonly capacity: number;
  readonly refillPerSec: number;
}

export interface BucketAddress {
  readonly scope: string;
  /** Absent for `global`. */
  readonly id?: string | undefined;
  readonly org?: string | undefined;
}

/** What went out within the last minute from this process, and what may; -1 = unlimited. */
export interface RateView {
  readonly used: number;
  readonly limit: number;
}

/**
 * `ready`: may be chosen, if not for every model · `limited`: its own limits have no room now, or one of its quotas is used up · `cooling`: after a failure, or its token has expired ·
 * `banned`: by fail2ban · `failing`: its circuit breaker is open · `paused`: by a person or a plugin.
 */
export type CredentialState = "ready" | "limited" | "cooling" | "banned" | "failing" | "paused";

/** What is known to be left of one of an account's quotas, and what that is worth by now. */
export interface QuotaView extends QuotaFact {
  /** Since it was seen. */
  readonly ageMs: number;
  /** How sure it is by now, 0 to 1: it falls with the age. */
  readonly confidence: number;
  /** 0 to 1: `remainingRatio` less what requests of this process have used since, and what those under way will probably use. */
  readonly remaining: number;
}

/** What this process has lent of an account since its quotas were seen. Times are wall clock, ms. */
export interface ReservationView {
  readonly credential: string;
  /** Under way. Of accounts whose quotas nobody knows none are counted. */
  readonly attempts: number;
  /** When the oldest of these began; null = there is none. */
  readonly since: number | null;
  /** What these will probably use, input and output together. */
  readonly openTokens: number;
  /** Used by those that ended since the oldest of its quotas was seen. */
  readonly spentTokens: number;
  readonly quotas: readonly ReservedQuota[];
}

/** Parts of one quota, 0 to 1. */
export interface ReservedQuota {
  readonly group: string;
  /** As it was seen at `observedAt`. */
  readonly remainingRatio: number;
  readonly observedAt: number;
  /** Of requests under way. */
  readonly openRatio: number;
  /** Of those that ended since. */
  readonly spentRatio: number;
  /** What is left after both. */
  readonly remaining: number;
}

export interface CredentialView {
  readonly name: string;
  readonly provider: string;
  readonly isFallback: boolean;
  readonly priority: number;
  readonly inFlight: number;
  readonly state: CredentialState;
  /** When the state ends by itself, wall clock in ms; null = it is ready, or nobody knows. */
  readonly until: number | null;
  /** Why it is kept out, for people; null = it is not. */
  readonly reason: string | null;
  /** What is known to be left of the account's quotas. */
  readonly quotas: readonly QuotaView[];
  /** How near the scarcest of them is to its end, by `router.thresholds`; null = nobody knows. */
  readonly level: ShownLevel | null;
  readonly rpm: RateView;
  readonly tpm: RateView;
  /** The models that the configuration names for it. */
  readonly models: readonly CredentialModelView[];
}

export interface CredentialModelView {
  readonly name: string;
  readonly state: CredentialState;
  readonly until: number | null;
  readonly rpm: RateView;
  readonly tpm: RateView;
}

/** One of an account's quotas, as it was seen last. */
export interface QuotaGroupView extends Omit<QuotaView, "credential"> {
  /** How near it is to its end. */
  readonly level: ShownLevel;
}

/** What is known to be left of an account. */
export interface AccountQuotas {
  readonly credential: string;
  readonly provider: string;
  readonly state: CredentialState;
  /** The scarcest first; empty = nobody has said anything yet. */
  readonly quotas: readonly QuotaGroupView[];
}

/** Something that is kept out. Times are wall clock, ms. */
export interface BlockView {
  readonly credential: string;
  /** Null = all its models. */
  readonly model: string | null;
  /** The status that caused it. */
  readonly code: number;
  /** For people. */
  readonly reason: string;
  readonly since: number;
  /** Null = until a person lifts it. */
  readonly until: number | null;
}

/** A banned client: `ip:<address>` or `key:<name>`. */
export interface ClientBanView {
  readonly client: string;
  readonly code: number;
  readonly since: number;
  readonly until: number | null;
}

/**
 * `degraded`: the store or the ledger cannot be used, and each limit's own policy decides · `rebuilding`: the store has lost its counters, and limits that
 * must not be guessed refuse until they are back.
 */
export interface StoreState {
  readonly state: "ok" | "degraded" | "rebuilding";
  /** Wall clock, ms; null = it is ok. */
  readonly since: number | null;
  /** For people; without addresses. Null = it is ok. */
  readonly reason: string | null;
}

export interface HealthView {
  /** `unavailable`: nothing can be served. */
  readonly status: "ok" | "starting" | "closing" | "unavailable";
  readonly store: string;
  /** Absent before the start is over. */
  readonly storeState?: StoreState;
  readonly uptimeSeconds: number;
  readonly openRequests: number;
  /** Settlements that wait for the store. */
  readonly waitingSettlements: number;
  readonly credentials: readonly CredentialView[];
}

export interface PauseOptions {
  /** For people: it is shown wherever the credential is. 1 to 200 characters. */
  readonly reason: string;
  /** When it ends by itself, wall clock, ms; null or absent = when somebody resumes it. */
  readonly until?: number | null;
}

/** The outcome of reading a provider's rate-limit headers into the global bucket. */
export interface LimitSync {
  readonly status: "success" | "skipped";
  readonly message: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly bucket: BucketView | null;
}

/** What operators can do. Management routes, CLI and bots are only faces of it, so a thing that one can do all can do. Money in USD. */
export interface Admin {
  health(): HealthView;
  readonly keys: KeyAdmin;
  readonly orgs: OrgAdmin;
  readonly limits: LimitAdmin;
  bucket(address: BucketAddress): Promise<BucketView>;
  /** Sets capacity or refill of one bucket at run time; creates `budget-<scope>` when the scope has no tokens bucket. */
  setBucket(address: BucketAddress, numbers: { readonly capacity?: number; readonly refillPerSec?: number }): Promise<BucketView>;
  syncLimits(): Promise<LimitSync>;
  /** Asks every provider what it offers, each within a few seconds. Returns the names that the configuration does not have. */
  discoverModels(): Promise<readonly string[]>;
  credentials(): readonly CredentialView[];
  /** What is lent of accounts whose quotas are known, by credential. */
  reservations(): readonly ReservationView[];
  /**
   * Lends the credential to nobody, whatever the strategy and whoever else is left: in all processes, and after a restart. A later pause replaces an
   * earlier one. Requests that run go on. Rejects with `not_found` for a name that nobody has, and `body_invalid` for a reason or a time that cannot be.
   */
  pause(credential: string, options: PauseOptions): Promise<void>;
  /** Ends a pause. False = there was none. */
  resume(credential: string): Promise<boolean>;
  bans(): readonly BlockView[];
  /** Lifts the bans of a credential (of one model on it; null = all). Returns how many there were. */
  liftBans(credential: string, model: string | null): number;
  /** Cooldowns and open circuit breakers. */
  cooldowns(): readonly BlockView[];
  clearCooldowns(credential: string, model: string | null): number;
  clientBans(): readonly ClientBanView[];
  liftClientBan(client: string): boolean;
  /**
   * Opens the limits that are closed because the store lost their counters, with what the ledger knows, although it does not know everything. False = none
   * were closed.
   */
  openCounters(): Promise<boolean>;
  /**
   * What was used and what it cost, by the ledger, in the order of the groups. Rejects with `body_invalid` or `scope_invalid` for what cannot be asked, and with
   * `store_unavailable` while the ledger cannot tell.
   */
  usage(query?: UsageQuery): Promise<readonly UsageRow[]>;
  /**
   * Goes through the ledger and recomputes what must hold: each row is what was written, balances, and costs what its prices say. At most two seconds long:
   * `next` says where to go on. Changes nothing. Rejects with `store_unavailable` when the ledger cannot be read.
   */
  audit(options?: AuditOptions): Promise<AuditReport>;
  /**
   * Why a past request was decided as it was, or what would become of a call now: who asks, each limit before and after, every candidate in order with its score or the
   * reason why not, the price, and what the client would be told. Changes nothing. Rejects with `not_found` for an id that the ledger does not have, and `body_invalid` or
   * `scope_invalid` for what cannot be asked.
   */
  readonly explain: Explain;
  /** What is known to be left of each account's quotas: whoever is nearest to the end first. */
  quotas(): readonly AccountQuotas[];
}
