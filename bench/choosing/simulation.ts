/** A day of traffic over accounts whose quotas end and begin anew, without a clock and without chance: what each strategy makes of it. */
import type { QuotaFact } from "../../src/core/quota-fact.ts";
import { Secret } from "../../src/core/secret.ts";
import type { Allowance, Standing } from "../../src/pool/allowance.ts";
import type { Candidate, Strategy, StrategyRequest, Tier } from "../../src/pool/candidate.ts";
import { DEFAULT_POLICY } from "../../src/pool/choosing-policy.ts";
import { choosingSettings, type ChoosingSettings } from "../../src/pool/choosing-settings.ts";
import { DEFAULT_THRESHOLDS } from "../../src/pool/quota-level.ts";
import type { StrategyParts } from "../../src/pool/strategies/strategy-parts.ts";

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

const ACCOUNTS = 10;
/** Quotas are whole again every five hours, each account's half an hour after the one before. */
const WINDOW_MS = 5 * HOUR_MS;
const STAGGER_MS = WINDOW_MS / ACCOUNTS;
/** Requests that one quota is good for: 800 an hour in all. */
const QUOTA = 400;
/**
 * Requests an hour, hour by hour: a night that leaves quota over, and office hours that ask for almost half as much again as comes in. Who knew
 * everything could just serve them.
 */
const DEMAND = [
  150, 100, 100, 100, 100, 150, 300, 600, 850, 1_050, 1_150, 1_100, 850, 1_000, 1_150, 1_150, 1_050, 850, 700, 600, 500, 400, 300, 200,
] as const;
/** Each account is looked at once a minute, and what is seen is up to so much too high or too low. */
const POLL_MS = MINUTE_MS;
const FLAPPING = 0.03;
const MAX_RETRIES = 2;

export interface Day {
  readonly seed: number;
  /** How much more than usual is asked. */
  readonly load?: number;
}

export interface Outcome {
  readonly asked: number;
  readonly served: number;
  /** Requests sent to accounts that had nothing left. */
  readonly overspent: number;
  readonly switchesPerHour: number;
  /** Part of all quota that was used. */
  readonly utilisation: number;
  /** Part of the quota that this demand could have used before it ended, and that was not. */
  readonly waste: number;
}

export type Contender = (parts: StrategyParts) => Strategy;

/** The same chances for everybody: mulberry32. */
function chances(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** When requests come: at random, as many as the hour asks for. */
function arrivals({ seed, load = 1 }: Day): readonly number[] {
  const chance = chances(seed);
  const times: number[] = [];
  for (let at = 0; ;) {
    at += (-Math.log(1 - chance()) * HOUR_MS) / ((DEMAND[Math.floor(at / HOUR_MS)] as number) * load);
    if (at >= DAY_MS) return times;
    times.push(at);
  }
}

const resetAfter = (place: number, now: number): number => {
  const offset = place * STAGGER_MS;
  return offset + (Math.floor((now - offset) / WINDOW_MS) + 1) * WINDOW_MS;
};

/** What anybody could have served who knew everything: always from the quota that ends first. */
function mostServed(times: readonly number[]): number {
  const left = Array.from({ length: ACCOUNTS }, (_, place) => ({ left: QUOTA, resetsAt: resetAfter(place, 0) }));
  let served = 0;
  for (const now of times) {
    for (const each of left) {
      if (now < each.resetsAt) continue;
      each.left = QUOTA;
      each.resetsAt += WINDOW_MS;
    }
    const first = left.filter((each) => each.left > 0).toSorted((a, b) => a.resetsAt - b.resetsAt)[0];
    if (!first) continue;
    first.left -= 1;
    served += 1;
  }
  return served;
}

/** One account, as it is and as it is seen. */
class Account {
  readonly candidate: Candidate;
  readonly #chance: () => number;
  #left = QUOTA;
  #resetsAt: number;
  #seen: QuotaFact | null = null;
  #spentSince = 0;
  #looksAt: number;
  #refusedUntil = 0;

  constructor(place: number, chance: () => number) {
    const name = `account-${place}`;
    this.candidate = { credential: credential(name), model: "m", name: "m", key: `${name}/m` };
    this.#chance = chance;
    this.#resetsAt = resetAfter(place, 0);
    this.#looksAt = chance() * POLL_MS;
  }

  /** Lets time pass. */
  pass(now: number): void {
    if (now >= this.#resetsAt) {
      this.#left = QUOTA;
      this.#resetsAt += WINDOW_MS;
      this.#seen = null;
    }
    if (now < this.#looksAt) return;
    this.#looksAt += POLL_MS;
    const ratio = this.#left / QUOTA + (this.#chance() * 2 - 1) * FLAPPING;
    this.#spentSince = 0;
    this.#seen = {
      credential: this.candidate.credential.name,
      group: "5h",
      remainingRatio: Math.min(1, Math.max(0, ratio)),
      resetsAt: this.#resetsAt,
      observedAt: now,
      source: "poll",
      windowMs: WINDOW_MS,
    };
  }

  get standing(): Standing | null {
    if (!this.#seen) return null;
    const spentRatio = this.#spentSince / QUOTA;
    return { remainingRatio: Math.max(0, this.#seen.remainingRatio - spentRatio), fact: this.#seen, confidence: 1, spentRatio };
  }

  /** Whether it may be lent: the provider has not refused it, and something seems to be left. */
  isOpen(now: number): boolean {
    return now >= this.#refusedUntil && this.standing?.remainingRatio !== 0;
  }

  /** False = refused, with a time to come back at. */
  serve(): boolean {
    if (this.#left === 0) {
      this.#refusedUntil = this.#resetsAt;
      return false;
    }
    this.#left -= 1;
    this.#spentSince += 1;
    return true;
  }
}

export function simulate(contender: Contender, day: Day): Outcome {
  const chance = chances(day.seed + 1);
  const accounts = Array.from({ length: ACCOUNTS }, (_, place) => new Account(place, chance));
  const byKey = new Map(accounts.map((account) => [account.candidate.key, account]));
  const tier: Tier = accounts.map(({ candidate }) => candidate);
  let now = 0;
  const strategy = contender({
    allowance: allowanceOf(byKey),
    settings: settings(),
    clock: { now: () => now, monotonic: () => now },
    costUsd: () => null,
    preferred: () => [],
  });

  const times = arrivals(day);
  let served = 0;
  let overspent = 0;
  let switches = 0;
  let before: Candidate | undefined;
  for (now of times) {
    for (const account of accounts) account.pass(now);
    const tried: Candidate[] = [];
    for (let attempt = 0; attempt <= MAX_RETRIES; attempt += 1) {
      const open = accounts.filter((account) => account.isOpen(now) && !tried.includes(account.candidate)).map(({ candidate }) => candidate);
      if (open.length === 0) break;
      const picked = strategy.pick(
        tier,
        open,
        request((candidate) => tried.includes(candidate)),
        null,
      );
      tried.push(picked);
      if (before && before !== picked) switches += 1;
      before = picked;
      if (byKey.get(picked.key)?.serve()) {
        served += 1;
        break;
      }
      overspent += 1;
    }
  }
  const most = mostServed(times);
  return {
    asked: times.length,
    served,
    overspent,
    switchesPerHour: switches / (DAY_MS / HOUR_MS),
    utilisation: served / ((ACCOUNTS * QUOTA * DAY_MS) / WINDOW_MS),
    waste: (most - served) / most,
  };
}

const request = (wasTried: StrategyRequest["wasTried"]): StrategyRequest => ({
  model: "m",
  scopes: undefined,
  session: null,
  usage: () => null,
  wasTried,
});

const allowanceOf = (accounts: ReadonlyMap<string, Account>): Allowance => ({
  isQuiet: false,
  of: ({ key }) => accounts.get(key)?.standing ?? null,
  shareOf: () => null,
});

const settings = (): ChoosingSettings =>
  choosingSettings({
    thresholds: DEFAULT_THRESHOLDS,
    antiFlapping: { minDwellTimeMs: 5 * MINUTE_MS, cooldownAfterSwitchMs: 3 * MINUTE_MS, hysteresisMargin: 5 },
    policy: DEFAULT_POLICY,
    policies: [],
    ignoreEstimated: true,
  });

const credential = (name: string): Candidate["credential"] => ({
  name,
  provider: "anthropic",
  apiKey: new Secret("sk"),
  origin: "https://api.example",
  basePath: "",
  models: null,
  isFallback: false,
  priority: 0,
  weight: 1,
  tier: null,
  rpm: -1,
  tpm: -1,
  maxConcurrent: -1,
  headers: {},
  allowPrivate: false,
  proxyUrl: null,
});
