/** What is known to be left of accounts' quotas: the newest word on each, shared by all processes. */
import type { Logger } from "../core/logger.ts";
import { QUOTA_SOURCES, QUOTA_UNITS, type QuotaFact } from "../core/quota-fact.ts";
import type { RecordStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { matchesAny } from "./patterns.ts";
import { recordMirror } from "./record-mirror.ts";

/** No account has as many quotas; the one that was seen longest ago makes room. */
const MAX_GROUPS = 32;
const MAX_CREDENTIALS = 10_000;

/** Where nobody knows when a quota is whole again, what was seen a day ago says nothing. */
const UNDATED_MS = 24 * 60 * 60_000;
/** A quota that is whole again later than this was misread. */
const MOST_AHEAD_MS = 400 * 24 * 60 * 60_000;

export interface QuotaFactsOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface QuotaFacts {
  /** Nothing is known of anybody. */
  readonly isEmpty: boolean;
  /** Takes a fact over unless a newer one of its group is known, or its time has passed. */
  report(fact: QuotaFact): void;
  /** What still holds, in the order of arrival. */
  of(credential: string): readonly QuotaFact[];
  /** What is left of the scarcest quota; null = nobody knows. */
  remainingRatio(credential: string): number | null;
  /** Takes over what is stored, and from then on what other processes store. Never rejects. */
  load(): Promise<void>;
  close(): void;
}

export function quotaFacts({ records, clock, logger }: QuotaFactsOptions): QuotaFacts {
  const known = new Map<string, Map<string, QuotaFact>>();
  const mirror = recordMirror({ records, prefix: "quota/", clock, logger, standing, heard });

  const endOf = ({ resetsAt, observedAt }: QuotaFact): number => resetsAt ?? observedAt + UNDATED_MS;
  const isOver = (fact: QuotaFact, now: number): boolean => endOf(fact) <= now;

  function live(credential: string, group: string, now: number): QuotaFact | undefined {
    const groups = known.get(credential);
    const fact = groups?.get(group);
    if (!groups || !fact || !isOver(fact, now)) return fact;
    // The store's record ends by itself at the same time.
    drop(credential, groups, group);
    return undefined;
  }

  function drop(credential: string, groups: Map<string, QuotaFact>, group: string): void {
    groups.delete(group);
    if (groups.size === 0) known.delete(credential);
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
    const groups = known.get(credential);
    if (value === undefined) {
      if (groups) drop(credential, groups, group);
      return;
    }
    const now = clock.now();
    const fact = factOf(credential, group, value);
    if (!fact || isOver(fact, now)) return;
    const before = live(credential, group, now);
    // Two processes wrote at the same time, and the older word came last.
    if (before && isNewer(before, fact)) mirror.write(key);
    else put(fact);
  }

  function put(fact: QuotaFact): void {
    const { credential, group } = fact;
    let groups = known.get(credential);
    if (!groups) {
      if (known.size >= MAX_CREDENTIALS) return;
      known.set(credential, (groups = new Map<string, QuotaFact>()));
    }
    groups.set(group, fact);
    if (groups.size <= MAX_GROUPS) return;
    const oldest = [...groups.values()].reduce((a, b) => (b.observedAt < a.observedAt ? b : a));
    groups.delete(oldest.group);
    mirror.write(keyOf(oldest));
  }

  function of(credential: string): readonly QuotaFact[] {
    const groups = known.get(credential);
    if (!groups) return NONE;
    const now = clock.now();
    return [...groups.keys()].flatMap((group) => live(credential, group, now) ?? []);
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
      if (isOver(seen, now)) return;
      const before = live(seen.credential, seen.group, now);
      if (before && !isNewer(seen, before)) return;
      put(seen);
      mirror.write(keyOf(seen));
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

/** Whether a model counts in the quota, by the provider's name for it. */
export const countsIn = ({ models }: Pick<QuotaFact, "models">, providerModel: string): boolean =>
  models === undefined || matchesAny(models, providerModel);

const USUAL_CONFIDENCE = { headers: 1, error: 1, poll: 0.9, estimate: 0.2 } as const satisfies Record<QuotaFact["source"], number>;
const HALF_LIFE_MS = 60 * 60_000;

/** How sure a fact is now, 0 to 1: it fades with its age. */
export const confidenceOf = ({ source, confidence, observedAt }: QuotaFact, now: number): number =>
  (confidence ?? USUAL_CONFIDENCE[source]) * 0.5 ** (Math.max(0, now - observedAt) / HALF_LIFE_MS);

/** Of two that were seen at the same time the one with less to give counts, in every process. */
const isNewer = (one: QuotaFact, other: QuotaFact): boolean =>
  one.observedAt === other.observedAt ? one.remainingRatio < other.remainingRatio : one.observedAt > other.observedAt;

/** No credential's name has a slash. */
const keyOf = ({ credential, group }: QuotaFact): string => `${credential}/${group}`;

function partsOf(key: string): readonly [credential: string, group: string] {
  const slash = key.indexOf("/");
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function factOf(credential: string, group: string, value: unknown): QuotaFact | null {
  if (typeof value !== "object" || value === null || credential === "") return null;
  const { remainingRatio, resetsAt, observedAt, source, models, windowMs, limit, unit, confidence } = value as Partial<
    Record<keyof QuotaFact, unknown>
  >;
  const isWhole =
    isRatio(remainingRatio) &&
    (resetsAt === null || Number.isFinite(resetsAt)) &&
    Number.isFinite(observedAt) &&
    isOneOf(QUOTA_SOURCES, source) &&
    isAbsentOr(models, isTexts) &&
    isAbsentOr(windowMs, Number.isFinite) &&
    isAbsentOr(limit, Number.isFinite) &&
    isAbsentOr(unit, (given) => isOneOf(QUOTA_UNITS, given)) &&
    isAbsentOr(confidence, isRatio);
  return isWhole ? Object.freeze({ ...(value as Omit<QuotaFact, "credential" | "group">), credential, group }) : null;
}

const isRatio = (value: unknown): boolean => typeof value === "number" && value >= 0 && value <= 1;
const isTexts = (value: unknown): boolean => Array.isArray(value) && value.every((each) => typeof each === "string");
const isOneOf = (known: readonly string[], value: unknown): boolean => typeof value === "string" && known.includes(value);
const isAbsentOr = (value: unknown, fits: (value: unknown) => boolean): boolean => value === undefined || fits(value);
