/** What is known to be left of accounts' quotas: the newest word on each, shared by all processes. */
import type { Logger } from "../core/logger.ts";
import { isQuotaFact, type QuotaFact } from "../core/quota-fact.ts";
import { MOST_AHEAD_MS } from "../core/reset-time.ts";
import type { RecordStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { matchesAny } from "./patterns.ts";
import { endOf, rolledOver } from "./quota-age.ts";
import { recordMirror } from "./record-mirror.ts";

export { confidenceOf, leftNow } from "./quota-age.ts";

/** Providers that count each model by itself tell two of each; the one that was seen longest ago makes room. */
const MAX_GROUPS = 64;
const MAX_CREDENTIALS = 10_000;

export interface QuotaFactsOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Something new is known of a credential, from here or elsewhere. Never throws. */
  readonly changed?: (credential: string) => void;
}

export interface QuotaFacts {
  /** True while nothing is known of anybody: the hot path asks no further. */
  readonly isEmpty: boolean;
  /** Takes a fact over unless a newer one of its group is known, or its time has passed. */
  report(fact: QuotaFact): void;
  /** What still holds, in the order of arrival. Once its time has come, a quota whose window is known is whole again, for one more window. */
  of(credential: string): readonly QuotaFact[];
  /** What is left of the scarcest quota; null = nobody knows. */
  remainingRatio(credential: string): number | null;
  /** Takes over what is stored, and from then on what other processes store. Never rejects. */
  load(): Promise<void>;
  close(): void;
}

/** What is known of one credential. */
interface Known {
  /** As they were seen, by group. */
  readonly seen: Map<string, QuotaFact>;
  /** As they hold until `holdsUntil`; asked by each request. */
  held: readonly QuotaFact[];
  /** Wall clock, ms: when the first of them ends, or its quota is whole again. */
  holdsUntil: number;
}

/** Whether a request for a model counts in the fact's quota. `model` = as the provider calls it. */
export const countsIn = ({ models }: QuotaFact, model: string): boolean => models === undefined || matchesAny(models, model);

/**
 * Whether a quota that had run out has room again: somebody has seen some of it since, and nobody knows of another that has none. What came with a refusal, or
 * was guessed, shows no room. `model` = as the provider calls it; null = of all models of the account.
 */
export function showsRoom(facts: readonly QuotaFact[], model: string | null, sinceMs: number): boolean {
  const meant = facts.filter((fact) => (model === null ? fact.models === undefined : countsIn(fact, model)));
  const isSeen = ({ source, observedAt }: QuotaFact): boolean => (source === "headers" || source === "poll") && observedAt > sinceMs;
  return meant.some(isSeen) && meant.every(({ remainingRatio }) => remainingRatio > 0);
}

export function quotaFacts({ records, clock, logger, changed = () => undefined }: QuotaFactsOptions): QuotaFacts {
  const known = new Map<string, Known>();
  const mirror = recordMirror({ records, prefix: "quota/", clock, logger, standing, heard });

  /** As it was seen. */
  function live(credential: string, group: string, now: number): QuotaFact | undefined {
    const fact = known.get(credential)?.seen.get(group);
    if (!fact || endOf(fact) > now) return fact;
    // The store's record ends by itself at the same time.
    drop(credential, group);
    return undefined;
  }

  function drop(credential: string, group: string): void {
    const entry = known.get(credential);
    if (!entry?.seen.delete(group)) return;
    entry.holdsUntil = -Infinity;
    if (entry.seen.size === 0) known.delete(credential);
  }

  function standing(key: string): { value: Omit<QuotaFact, "credential" | "group">; ttlMs: number } | undefined {
    const now = clock.now();
    const [credential, group] = partsOf(key);
    const fact = live(credential, group, now);
    if (!fact) return undefined;
    const { credential: _credential, group: _group, ...value } = fact;
    return { value, ttlMs: Math.max(1, Math.ceil(endOf(fact) - now)) };
  }

  function heard(key: string, value: unknown): void {
    const [credential, group] = partsOf(key);
    if (value === undefined) {
      drop(credential, group);
      return;
    }
    const now = clock.now();
    const fact = factOf(credential, group, value);
    if (!fact || endOf(fact) <= now) return;
    const before = live(credential, group, now);
    // Two processes wrote at the same time, and the older word came last.
    if (before && isNewer(before, fact)) mirror.write(key);
    else put(fact);
  }

  function put(fact: QuotaFact): void {
    const { credential, group } = fact;
    let entry = known.get(credential);
    if (!entry) {
      if (known.size >= MAX_CREDENTIALS) return;
      known.set(credential, (entry = { seen: new Map<string, QuotaFact>(), held: NONE, holdsUntil: -Infinity }));
    }
    entry.seen.set(group, fact);
    entry.holdsUntil = -Infinity;
    if (entry.seen.size > MAX_GROUPS) {
      const oldest = [...entry.seen.values()].reduce((a, b) => (b.observedAt < a.observedAt ? b : a));
      remove(oldest);
    }
    changed(credential);
  }

  /** Here and in the store. */
  function remove({ credential, group }: QuotaFact): void {
    drop(credential, group);
    mirror.write(keyOf(credential, group));
  }

  function of(credential: string): readonly QuotaFact[] {
    const found = known.get(credential);
    if (!found) return NONE;
    const now = clock.now();
    if (now < found.holdsUntil) return found.held;
    const held: QuotaFact[] = [];
    let holdsUntil = Infinity;
    for (const group of [...found.seen.keys()]) {
      const fact = live(credential, group, now);
      if (!fact) continue;
      const rolled = rolledOver(fact, now);
      held.push(rolled ?? fact);
      holdsUntil = Math.min(holdsUntil, rolled ? endOf(fact) : (fact.resetsAt ?? endOf(fact)));
    }
    found.held = held;
    found.holdsUntil = holdsUntil;
    return held;
  }

  return {
    get isEmpty() {
      return known.size === 0;
    },
    report(fact) {
      const now = clock.now();
      // A clock that is ahead must not outlast those that are right.
      const { resetsAt } = fact;
      const latest = now + MOST_AHEAD_MS;
      const seen: QuotaFact = Object.freeze({
        ...fact,
        observedAt: Math.min(fact.observedAt, now),
        resetsAt: resetsAt === null ? null : Math.min(resetsAt, latest),
      });
      const { credential, group } = seen;
      const before = live(credential, group, now);
      if (before && !isNewer(seen, before)) return;
      for (const other of known.get(credential)?.seen.values() ?? NONE) if (disproves(seen, other)) remove(other);
      if (endOf(seen) > now) {
        put(seen);
        mirror.write(keyOf(credential, group));
      } else if (before) remove(before);
    },
    of,
    remainingRatio(credential) {
      let scarcest: number | null = null;
      for (const { remainingRatio } of of(credential)) scarcest = scarcest === null ? remainingRatio : Math.min(scarcest, remainingRatio);
      return scarcest;
    },
    load: mirror.load,
    close: mirror.close,
  };
}

const NONE: readonly QuotaFact[] = [];

/** Of two that were seen at the same time the one with less to give counts, in every process. */
const isNewer = (one: QuotaFact, other: QuotaFact): boolean =>
  one.observedAt === other.observedAt ? one.remainingRatio < other.remainingRatio : one.observedAt > other.observedAt;

/**
 * A refusal that names none of the provider's windows speaks of the same quotas as those that are told with numbers, under a name of its own. It counts until
 * somebody sees room in all that its models count in: otherwise a quota that was given back early would stay at 0 until the time that the refusal named.
 */
function disproves(newer: QuotaFact, { source, windowMs, models, observedAt, group }: QuotaFact): boolean {
  if (source !== "error" || windowMs !== undefined || group === newer.group) return false;
  const isSeen = (newer.source === "headers" || newer.source === "poll") && newer.remainingRatio > 0 && newer.observedAt > observedAt;
  return isSeen && (newer.models === undefined || (models?.every((model) => countsIn(newer, model)) ?? false));
}

/** No credential's name has a slash. */
const keyOf = (credential: string, group: string): string => `${credential}/${group}`;

function partsOf(key: string): readonly [credential: string, group: string] {
  const slash = key.indexOf("/");
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function factOf(credential: string, group: string, value: unknown): QuotaFact | null {
  if (typeof value !== "object" || value === null || credential === "") return null;
  const fact = { ...value, group };
  return isQuotaFact(fact) ? Object.freeze({ ...fact, credential }) : null;
}
