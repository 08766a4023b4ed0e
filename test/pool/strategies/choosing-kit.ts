import type { QuotaFact } from "../../../src/core/quota-fact.ts";
import type { Judgement } from "../../../src/core/strategy.ts";
import { NO_USAGE, type Usage } from "../../../src/core/usage.ts";
import { resolveOptions, type GuardOptions } from "../../../src/options.ts";
import type { Allowance } from "../../../src/pool/allowance.ts";
import type { Candidate, Strategy, StrategyRequest, Tier } from "../../../src/pool/candidate.ts";
import { choosingSettings, type ChoosingSettings } from "../../../src/pool/choosing-settings.ts";
import { strategyOf, type StrategyName } from "../../../src/pool/strategies/index.ts";
import type { StrategyParts } from "../../../src/pool/strategies/strategy-parts.ts";
import { testClock, type TestClock } from "../../../src/testing/clock.ts";
import { candidate } from "../pool-kit.ts";
import { nameOf, PLAIN } from "./strategy-kit.ts";

export const MINUTE_MS = 60_000;

/** An account as a test describes it. */
export interface Account {
  /** Percent; absent = nobody knows. */
  left?: number;
  confidence?: number;
  priority?: number;
  /** USD for a thousand tokens in, and for a thousand out; absent = no price. */
  usd?: readonly [input: number, output: number];
  /** How long a whole quota lasts, and when this one is whole again. */
  windowMs?: number;
  resetsAt?: number;
  /** What the whole is, in tokens. */
  limit?: number;
  /** Open or not, as health and the gate say. */
  closed?: boolean;
  isFallback?: boolean;
}

export type Accounts = Readonly<Record<string, Account>>;

export interface ChoosingKit {
  readonly accounts: Record<string, Account>;
  readonly clock: TestClock;
  readonly settings: ChoosingSettings;
  readonly parts: StrategyParts;
  readonly strategy: Strategy;
  readonly tier: Tier;
  /** Whom the strategy takes of those that are open. */
  pick(request?: Partial<StrategyRequest>): string;
  /** Whom it would take. */
  look(request?: Partial<StrategyRequest>): string;
  judge(request?: Partial<StrategyRequest>): Readonly<Record<string, Judgement>>;
}

export const usageOf = (tokens: number): Usage => ({ ...NO_USAGE, inputTokens: tokens });

/** What is known of the accounts, as they are when it is asked. */
function allowanceOf(accounts: Accounts): Allowance {
  const of = (name: string): Account => accounts[name] ?? {};
  return {
    isQuiet: false,
    of({ credential: { name } }) {
      const { left, confidence = 1, resetsAt, windowMs, limit } = of(name);
      if (left === undefined) return null;
      const remainingRatio = left / 100;
      const fact: QuotaFact = {
        credential: name,
        group: "5h",
        remainingRatio,
        resetsAt: resetsAt ?? null,
        observedAt: 0,
        source: "poll",
        ...(windowMs === undefined ? {} : { windowMs }),
        ...(limit === undefined ? {} : { limit, unit: "tokens" }),
      };
      return { remainingRatio, fact, confidence, spentRatio: 0 };
    },
    shareOf({ credential: { name } }, tokens) {
      const { limit } = of(name);
      return limit === undefined ? null : Math.min(1, tokens / limit);
    },
  };
}

/** What a call costs there. */
const costUsdOf =
  (accounts: Accounts): StrategyParts["costUsd"] =>
  ({ credential: { name } }, { inputTokens, outputTokens }) => {
    const usd = accounts[name]?.usd;
    return usd ? (usd[0] * inputTokens + usd[1] * outputTokens) / 1_000 : null;
  };

export interface ChoosingOptions {
  readonly router?: NonNullable<GuardOptions["router"]>;
  readonly strategy?: StrategyName;
  readonly chains?: Readonly<Record<string, readonly string[]>>;
}

/** A strategy over accounts that a test may change at any time. */
export function choosing(
  accounts: Record<string, Account>,
  { router = {}, strategy: name = "quota", chains = {} }: ChoosingOptions = {},
): ChoosingKit {
  const clock = testClock();
  const settings = choosingSettings(resolveOptions({ router }).router.choosing);
  const preferred = (current: Candidate, model: string): readonly string[] => chains[model] ?? chains[nameOf(current)] ?? [];
  const parts: StrategyParts = { allowance: allowanceOf(accounts), settings, clock, costUsd: costUsdOf(accounts), preferred };
  const strategy = strategyOf(name, parts);
  const tier = Object.entries(accounts).map(([each, { priority = 0, isFallback = false }]) => candidate(each, "m", { priority, isFallback }));
  const ask = (request: Partial<StrategyRequest>, look: boolean): string => {
    const asked = { ...PLAIN, ...request };
    const open = tier.filter((each) => !accounts[nameOf(each)]?.closed && !asked.wasTried(each));
    return nameOf(strategy.pick(tier, open, asked, look ? new Map<object, object>() : null));
  };

  return {
    accounts,
    clock,
    settings,
    parts,
    strategy,
    tier,
    pick: (request = {}) => ask(request, false),
    look: (request = {}) => ask(request, true),
    judge(request = {}) {
      const judged = strategy.judge?.(tier, { ...PLAIN, ...request }) ?? [];
      return Object.fromEntries(judged.map((judgement, place) => [nameOf(tier[place] as Candidate), judgement]));
    },
  };
}
