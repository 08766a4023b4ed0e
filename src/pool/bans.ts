/** fail2ban for credentials: too many refusals of one kind within a window ban the credential for that model. */
import type { Events } from "../core/events.ts";
import type { Logger } from "../core/logger.ts";
import type { RecordStore, StrikeStore } from "../core/store.ts";
import { andThen, isPromise, type Clock, type MaybePromise } from "../core/time.ts";
import { blockTable, placeOf, type BlockTable } from "./block-table.ts";
import type { Candidate } from "./candidate.ts";

export interface BanRule {
  readonly code: number;
  /** Strikes within the window that end in a ban. */
  readonly maxAttempts: number;
  /** Null = until a person lifts it. */
  readonly banMs: number | null;
}

export interface BanRules {
  readonly maxAttempts: number;
  /** From the first strike on. */
  readonly windowMs: number;
  readonly banMs: number | null;
  /** Statuses that count. */
  readonly codes: readonly number[];
  /** Statuses that count by numbers of their own, whether `codes` names them or not. */
  readonly rules: readonly BanRule[];
}

export interface BansOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly records: RecordStore;
  readonly strikes: StrikeStore;
  readonly events: Events;
  /** Null = nobody is banned, not by what is stored from before either. */
  readonly rules: BanRules | null;
  /** A ban began in this process, or one of these ended by time, or a person lifted one here. Never throw. */
  readonly onBan?: ((credential: string) => void) | undefined;
  readonly onLift?: ((credential: string) => void) | undefined;
}

export interface Bans extends Pick<BlockTable, "isEmpty" | "blockOf" | "blocks" | "lift" | "load" | "close"> {
  /** A refusal by the provider, or 502 and 504 where it did not answer. While a ban stands, nothing counts. */
  failed(candidate: Candidate, code: number): void;
  /** Forgets the candidate's strikes. */
  served(candidate: Candidate): void;
}

/** Pairs whose strikes this process knows of. Beyond it the oldest is forgotten: its strikes then stand until their window is over. */
const MAX_STRUCK = 10_000;

export function bans({ clock, logger, records, strikes, events, rules, onBan, onLift }: BansOptions): Bans {
  const credentialOf = (place: string): string => place.split("/", 1)[0] as string;
  const table = blockTable({ reason: "banned", records, prefix: "ban/", clock, logger, ended: (place) => onLift?.(credentialOf(place)) });
  const windowMs = rules?.windowMs ?? 0;
  const ruleOf = new Map(rules ? rulesByCode(rules) : []);
  /** Codes that were struck, by pair: a success asks the store only when there is something to forget. */
  const struck = new Map<string, Set<number>>();
  let isCounting = true;

  function note(place: string, code: number): void {
    const codes = struck.get(place);
    if (codes) return void codes.add(code);
    for (const oldest of struck.keys()) {
      if (struck.size < MAX_STRUCK) break;
      struck.delete(oldest);
    }
    struck.set(place, new Set([code]));
  }

  /** What a store that cannot count costs: a ban less. */
  function counted(work: () => MaybePromise<void>): void {
    try {
      const done = work();
      if (isPromise(done)) done.then(counts, lost);
      else counts();
    } catch (error) {
      lost(error);
    }
  }

  function counts(): void {
    if (!isCounting) logger.info({}, "refusals of credentials are counted again");
    isCounting = true;
  }

  function lost(error: unknown): void {
    if (isCounting) logger.warn({ err: error }, "refusals of credentials cannot be counted now; known bans hold");
    isCounting = false;
  }

  function forget(place: string, codes: Iterable<number>): void {
    struck.delete(place);
    for (const code of codes) counted(() => strikes.clear(strikeKey(place, code)));
  }

  function judge(candidate: Candidate, { code, maxAttempts, banMs }: BanRule, count: number): void {
    if (count < maxAttempts) return;
    const { credential, name } = candidate;
    const place = placeOf(candidate);
    const since = clock.now();
    const until = banMs === null ? null : since + banMs;
    // Whoever comes back begins anew. Of requests that were under way together each one forgets, and the first one bans.
    forget(place, ruleOf.keys());
    if (table.get(place, since) || !table.set(place, { code, since, until })) return;
    const model = name === "" ? null : name;
    logger.warn({ credential: credential.name, model, code, until }, "a credential is banned");
    events.emit("ban", { credential: credential.name, model, client: null, code, until });
    onBan?.(credential.name);
  }

  return {
    get isEmpty() {
      return table.isEmpty;
    },
    blockOf: table.blockOf,
    blocks: table.blocks,
    load: async () => (rules ? table.load() : undefined),
    close: table.close,

    failed(candidate, code) {
      const rule = ruleOf.get(code);
      if (!rule) return;
      const place = placeOf(candidate);
      if (table.get(place, clock.now())) return;
      note(place, code);
      counted(() => andThen(strikes.strike(strikeKey(place, code), windowMs), (count) => judge(candidate, rule, count)));
    },

    served(candidate) {
      // Nearly always: nobody has struck.
      if (struck.size === 0) return;
      const place = placeOf(candidate);
      const codes = struck.get(place);
      if (codes) forget(place, codes);
    },

    lift(credential, model) {
      const lifted = table.lift(credential, model);
      for (let i = 0; i < lifted; i += 1) onLift?.(credential);
      if (lifted > 0) logger.warn({ credential, model, lifted }, "bans of a credential were lifted");
      return lifted;
    },
  };
}

function rulesByCode({ maxAttempts, banMs, codes, rules }: BanRules): (readonly [code: number, rule: BanRule])[] {
  return [...codes.map((code) => ({ code, maxAttempts, banMs })), ...rules].map((rule) => [rule.code, rule] as const);
}

const strikeKey = (place: string, code: number): string => `credential/${place}/${code}`;
