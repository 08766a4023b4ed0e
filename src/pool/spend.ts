/**
 * Virtual spend: what was lent since an account's quotas were last seen. A provider's word knows nothing of attempts that are under way, or that ended after
 * it; a new word takes back neither, only what ended before it was said.
 */
import type { Credential } from "../core/credential.ts";
import type { QuotaFact } from "../core/quota-fact.ts";
import type { Clock } from "../core/time.ts";
import { amountOf, COUNTED, type Amount } from "./amount.ts";
import type { Candidate } from "./candidate.ts";
import type { CredentialSet } from "./credential-set.ts";
import { countsIn, type QuotaFacts } from "./quota-facts.ts";
import { quotaRates, type QuotaPlace } from "./quota-rates.ts";

export { amountOf, isCounted, type Amount } from "./amount.ts";

/** Of one credential. The oldest beyond it counts as spent at once, as if nobody had ever given it back. */
const MAX_OPEN = 10_000;
/** What ended is summed up by model and moment; older sums beyond these are put together. */
const MAX_SUMS = 128;
const SUM_MS = 2_000;
/** A word may be as old as this when it is told: until then what ended is kept apart. */
const LATE_MS = 60_000;
/** Of one credential, also those whose quotas are gone by now: as many as facts are kept. */
const MAX_GROUPS = 64;

/** One attempt that counts. */
export interface OpenSpend {
  /** What was used in the end, input and output together; null = nothing reached the provider. Only the first call counts. */
  end(tokens: number | null): void;
}

/** Parts of a quota, at least 0; more than 1 when more was spent than there is. */
export interface SpentParts {
  /** Of attempts that are under way. */
  readonly open: number;
  /** Of those that ended since the fact was seen. */
  readonly ended: number;
}

/** What counts of one credential now, whatever its quotas. */
export interface SpendView {
  readonly attempts: number;
  /** What they will probably use. */
  readonly openTokens: number;
  /** Used since the oldest of its quotas was seen. */
  readonly spentTokens: number;
  /** When the oldest attempt began, wall clock, ms; null = there is none. */
  readonly since: number | null;
}

export interface Spend {
  /** True until the first attempt on an account whose quotas are known. */
  readonly isEmpty: boolean;
  /** An attempt begins. Null = nothing was ever known of the account's quotas, so nothing is counted. */
  open(candidate: Candidate, demand: { amount(): Amount }): OpenSpend | null;
  /** How much of the fact's quota is gone that the fact does not know of. */
  since(credential: Credential, fact: QuotaFact): SpentParts;
  /** The part of the fact's quota that so much would take, at least 0. */
  shareOf(credential: Credential, fact: QuotaFact, amount: Amount): number;
  of(credential: string): SpendView;
}

export interface SpendOptions {
  readonly facts: Pick<QuotaFacts, "of">;
  readonly credentials: Pick<CredentialSet, "onChange">;
  readonly clock: Clock;
  /** Attempts that nobody gave back by then count as spent, ms. */
  readonly ttlMs: number;
}

/** What ended, of one model (null = of several) within one moment. */
interface Sum {
  readonly model: string | null;
  /** Wall clock, ms: of its last attempt, so nothing in it is forgotten too early. */
  endedAt: number;
  readonly beganAt: number;
  /** How many words had been heard by then: none stands between two attempts of one sum. */
  readonly heard: number;
  requests: number;
  tokens: number;
  inputTokens: number;
  outputTokens: number;
  /** Where it went when older sums were put together. */
  into?: Sum;
}

interface Group {
  /** The newest word. */
  fact: QuotaFact;
  /** The word that the next lesson begins with, and what was settled since. */
  base: QuotaFact;
  settledTokens: number;
  /** Sums for `fact`, as of `version`. */
  version: number;
  open: Amount;
  ended: Amount;
}

interface Account {
  readonly name: string;
  readonly provider: string;
  /** In the order of their beginning. */
  readonly open: Set<OpenAttempt>;
  sums: Sum[];
  readonly groups: Map<string, Group>;
  heard: number;
  /** Grows with each change of what counts. */
  version: number;
}

const NOTHING: Amount = { requests: 0, tokens: 0, inputTokens: 0, outputTokens: 0 };
const NO_PARTS: SpentParts = { open: 0, ended: 0 };

export function spend({ facts, credentials, clock, ttlMs }: SpendOptions): Spend {
  const accounts = new Map<string, Account>();
  const rates = quotaRates();
  // Another account may come under the same name; attempts of the old one end for themselves.
  credentials.onChange((name, before, now) => {
    if (!now || now.provider !== before?.provider) accounts.delete(name);
  });

  /** An attempt's end, or the end of its time. */
  function settle(account: Account, attempt: OpenAttempt, amount: Amount, endedAt: number): Sum {
    account.open.delete(attempt);
    account.version += 1;
    let sum: Sum | undefined;
    for (let i = account.sums.length - 1; i >= 0 && !sum; i -= 1) {
      const last = account.sums[i] as Sum;
      if (last.heard !== account.heard || endedAt - last.beganAt >= SUM_MS || endedAt < last.beganAt) break;
      if (last.model === attempt.model) sum = last;
    }
    if (!sum) {
      sum = { ...NOTHING, model: attempt.model, endedAt, beganAt: endedAt, heard: account.heard };
      account.sums.push(sum);
      if (account.sums.length > MAX_SUMS) account.sums = fewer(account.sums);
    }
    add(sum, amount);
    sum.endedAt = Math.max(sum.endedAt, endedAt);
    return sum;
  }

  function expire(account: Account, attempt: OpenAttempt, endedAt: number): void {
    attempt.sum = settle(account, attempt, attempt.amount, endedAt);
  }

  function end(attempt: OpenAttempt, tokens: number | null): void {
    const { account, sum, amount } = attempt;
    hear(account);
    account.open.delete(attempt);
    account.version += 1;
    if (sum) take(latest(sum), amount);
    if (tokens !== null) settle(account, attempt, actual(amount, tokens), clock.now());
  }

  function sweep(account: Account): void {
    const now = clock.monotonic();
    for (const attempt of account.open) {
      const overdueMs = now - attempt.beganAt - ttlMs;
      if (overdueMs < 0 && account.open.size <= MAX_OPEN) return;
      expire(account, attempt, clock.now() - Math.max(0, overdueMs));
    }
  }

  /** Takes new words over, learns from them, and drops what no word will ask for any more. */
  function hear(account: Account): void {
    const all = facts.of(account.name);
    let hasNew = false;
    let oldest = clock.now() - LATE_MS;
    for (const fact of all) {
      oldest = Math.min(oldest, fact.observedAt);
      const group = account.groups.get(fact.group);
      if (group && isSame(group.fact, fact)) continue;
      hasNew = true;
      if (!group) begin(account, fact);
      else renew(account, group, fact);
    }
    if (!hasNew) return;
    account.heard += 1;
    account.sums = account.sums.filter(({ endedAt }) => endedAt >= oldest);
    account.version += 1;
  }

  function begin(account: Account, fact: QuotaFact): void {
    for (const first of account.groups.keys()) {
      if (account.groups.size < MAX_GROUPS) break;
      account.groups.delete(first);
    }
    account.groups.set(fact.group, groupOf(fact));
  }

  function renew(account: Account, group: Group, fact: QuotaFact): void {
    const { base, fact: last } = group;
    const isLater = fact.observedAt > last.observedAt;
    group.fact = fact;
    group.version = -1;
    if (isLater) {
      for (const sum of account.sums) {
        if (sum.endedAt >= last.observedAt && sum.endedAt < fact.observedAt && isIn(fact, sum.model)) group.settledTokens += sum.tokens;
      }
    }
    const taken = base.remainingRatio - fact.remainingRatio;
    const isSameWindow = taken >= 0 && (base.resetsAt === null || fact.observedAt < base.resetsAt);
    // Where the figure is rounded it stands still for a while: what is settled meanwhile belongs to its next step.
    if (isSameWindow && taken === 0 && isMeasured(fact)) return;
    if (isSameWindow && isMeasured(base) && isMeasured(fact) && group.settledTokens > 0) {
      rates.learn(placeOf(account, fact), taken, group.settledTokens);
    }
    group.base = fact;
    group.settledTokens = 0;
  }

  function tally(account: Account, fact: QuotaFact): Group {
    hear(account);
    const group = account.groups.get(fact.group);
    // Somebody asks for a word that does not stand any more.
    if (!group || !isSame(group.fact, fact)) return counted(account, groupOf(fact));
    return group.version === account.version ? group : counted(account, group);
  }

  function counted(account: Account, group: Group): Group {
    const { fact } = group;
    const open = { ...NOTHING };
    const ended = { ...NOTHING };
    for (const { model, amount } of account.open) if (isIn(fact, model)) add(open, amount);
    for (const sum of account.sums) if (isSince(sum, fact.observedAt) && isIn(fact, sum.model)) add(ended, sum);
    group.open = open;
    group.ended = ended;
    group.version = account.version;
    return group;
  }

  function shareOf(place: QuotaPlace, { limit, unit = "share" }: QuotaFact, amount: Amount): number {
    const counts = COUNTED[unit];
    if (counts !== undefined && limit !== undefined && limit > 0) return amount[counts] / limit;
    return amount.tokens === 0 ? 0 : amount.tokens * rates.perToken(place);
  }

  return {
    get isEmpty() {
      return accounts.size === 0;
    },

    open({ credential: { name, provider }, model }, demand) {
      let account = accounts.get(name);
      if (!account) {
        if (facts.of(name).length === 0) return null;
        accounts.set(name, (account = { name, provider, open: new Set(), sums: [], groups: new Map(), heard: 0, version: 0 }));
      }
      hear(account);
      const attempt = new OpenAttempt(end, account, model, demand.amount(), clock.monotonic(), clock.now());
      account.open.add(attempt);
      account.version += 1;
      sweep(account);
      return attempt;
    },

    since(credential, fact) {
      const account = accounts.get(credential.name);
      if (!account) return NO_PARTS;
      sweep(account);
      const { open, ended } = tally(account, fact);
      if (open.requests === 0 && ended.requests === 0) return NO_PARTS;
      const place = placeOf(account, fact);
      return { open: shareOf(place, fact, open), ended: shareOf(place, fact, ended) };
    },

    shareOf: ({ name, provider }, fact, amount) => shareOf({ credential: name, provider, group: fact.group }, fact, amount),

    of(name) {
      const account = accounts.get(name);
      if (!account) return { attempts: 0, openTokens: 0, spentTokens: 0, since: null };
      sweep(account);
      hear(account);
      const seen = facts.of(name).map(({ observedAt }) => observedAt);
      const oldest = seen.length === 0 ? -Infinity : Math.min(...seen);
      let openTokens = 0;
      let spentTokens = 0;
      for (const { amount } of account.open) openTokens += amount.tokens;
      for (const sum of account.sums) if (isSince(sum, oldest)) spentTokens += sum.tokens;
      const [first] = account.open;
      return { attempts: account.open.size, openTokens, spentTokens, since: first?.since ?? null };
    },
  };
}

type OnEnd = (attempt: OpenAttempt, tokens: number | null) => void;

class OpenAttempt implements OpenSpend {
  readonly account: Account;
  readonly model: string;
  readonly amount: Amount;
  /** Monotonic, ms. */
  readonly beganAt: number;
  /** Wall clock, ms. */
  readonly since: number;
  /** Where its estimate stands, once its time is over. */
  sum: Sum | undefined;
  #ended: OnEnd | undefined;

  constructor(ended: OnEnd, account: Account, model: string, amount: Amount, beganAt: number, since: number) {
    this.account = account;
    this.model = model;
    this.amount = amount;
    this.beganAt = beganAt;
    this.since = since;
    this.#ended = ended;
  }

  end(tokens: number | null): void {
    const ended = this.#ended;
    this.#ended = undefined;
    ended?.(this, tokens);
  }
}

const groupOf = (fact: QuotaFact): Group => ({ fact, base: fact, settledTokens: 0, version: -1, open: NOTHING, ended: NOTHING });

/** Who tells facts may make the objects anew. */
const isSame = (one: QuotaFact, other: QuotaFact): boolean =>
  one === other ||
  (one.observedAt === other.observedAt &&
    one.remainingRatio === other.remainingRatio &&
    one.resetsAt === other.resetsAt &&
    one.source === other.source);

/** Only what somebody measured teaches: a refusal says that there is none, not how much was used. */
const isMeasured = ({ source }: QuotaFact): boolean => source === "headers" || source === "poll";

/** What was put together from several models counts everywhere: rather too much than too little. */
const isIn = (fact: QuotaFact, model: string | null): boolean => model === null || countsIn(fact, model);

const placeOf = ({ provider }: Account, { credential, group }: QuotaFact): QuotaPlace => ({ credential, provider, group });

/** Within one millisecond nobody knows what was first: rather too much than too little. */
const isSince = ({ endedAt }: Sum, observedAt: number): boolean => endedAt >= observedAt;

/** Input is known well before; what differs in the end is what the model wrote. */
function actual({ inputTokens, tokens: expected, outputTokens: expectedOutput }: Amount, tokens: number): Amount {
  // Nobody could tell them apart before, so nobody can now.
  if (inputTokens + expectedOutput > expected) return amountOf(tokens);
  return amountOf(tokens, Math.max(0, tokens - inputTokens));
}

function add(to: { -readonly [K in keyof Amount]: number }, more: Amount): void {
  to.requests += more.requests;
  to.tokens += more.tokens;
  to.inputTokens += more.inputTokens;
  to.outputTokens += more.outputTokens;
}

function take(from: Sum, less: Amount): void {
  from.requests = Math.max(0, from.requests - less.requests);
  from.tokens = Math.max(0, from.tokens - less.tokens);
  from.inputTokens = Math.max(0, from.inputTokens - less.inputTokens);
  from.outputTokens = Math.max(0, from.outputTokens - less.outputTokens);
}

function latest(sum: Sum): Sum {
  let last = sum;
  while (last.into) last = last.into;
  return last;
}

/** Puts the older half together, by model or, if there are too many, as one that counts everywhere. It all counts until the last of it would not. */
function fewer(sums: readonly Sum[]): Sum[] {
  const byAge = sums.toSorted((a, b) => a.endedAt - b.endedAt);
  const old = byAge.slice(0, Math.ceil(byAge.length / 2));
  const isMixed = new Set(old.map(({ model }) => model)).size > MAX_SUMS / 4;
  const merged = new Map<string | null, Sum>();
  for (const sum of old) {
    const model = isMixed ? null : sum.model;
    let into = merged.get(model);
    if (!into) merged.set(model, (into = { ...NOTHING, model, endedAt: sum.endedAt, beganAt: sum.beganAt, heard: -1 }));
    add(into, sum);
    into.endedAt = Math.max(into.endedAt, sum.endedAt);
    sum.into = into;
  }
  return [...merged.values(), ...byAge.slice(old.length)];
}
