import { markup } from "./markup.ts";
import { compilePrice, type ModelPrice, type Price } from "./price.ts";

/** The operator's own word on prices, before any other. A rule without a price only says the markup. */
export interface PriceRule {
  /** Value of the scope `org`; absent = everybody. */
  readonly org?: string | undefined;
  /** Absent = every one. */
  readonly provider?: string | undefined;
  /** Name or pattern, of clients or of the provider; absent = every one. */
  readonly model?: string | undefined;
  readonly price?: ModelPrice | undefined;
  /** Percent on top of what the provider bills. */
  readonly markupPct?: number | undefined;
  /** Wall clock, ms: it counts from here on … */
  readonly from?: number | undefined;
  /** … and no longer from here on. */
  readonly until?: number | undefined;
}

/** A rule that was read. */
export interface ReadRule {
  readonly rule: PriceRule;
  /** Where it is written. */
  readonly option: string;
  readonly price: Price | null;
  readonly bill: ((nanoUsd: number) => number) | null;
  /** Whether it is about one of these names. */
  about(names: readonly string[]): boolean;
}

export type MatcherOf = (pattern: string) => (name: string) => boolean;

export interface PriceRules {
  /** Those that have rules of their own. */
  readonly orgs: ReadonlySet<string>;
  /** When rules begin or end; ms, ascending. */
  readonly changes: readonly number[];
  /** What holds for an org (null = none in particular), the most specific first. */
  at(org: string | null, atMs: number): readonly ReadRule[];
}

/** Reads rules. Throws ConfigError that names what cannot be a price. */
export function priceRules(rules: readonly PriceRule[], matcherOf: MatcherOf): PriceRules {
  const read = rules.map((rule, i) => readRule(rule, `prices.rules[${i}]`, matcherOf));
  const ordered = read.toSorted(bySpecificity);
  const times = rules.flatMap(({ from, until }) => [from, until]).filter((time) => time !== undefined);
  return {
    orgs: new Set(rules.flatMap(({ org }) => org ?? [])),
    changes: [...new Set(times)].sort((a, b) => a - b),
    at: (org, atMs) =>
      ordered.filter(
        ({ rule }) => (rule.org === undefined || rule.org === org) && atMs >= (rule.from ?? -Infinity) && atMs < (rule.until ?? Infinity),
      ),
  };
}

function readRule(rule: PriceRule, option: string, matcherOf: MatcherOf): ReadRule {
  const { model, price, markupPct } = rule;
  const matches = model === undefined ? () => true : matcherOf(model);
  return {
    rule,
    option,
    price: price === undefined ? null : compilePrice(price, `${option}.price`),
    bill: markupPct === undefined ? null : markup(markupPct, `${option}.markupPct`),
    about: (names) => names.some(matches),
  };
}

/** An org's before everybody's, a name before a pattern, a long pattern before a short one, a provider's before all providers', the newest before older ones. */
function bySpecificity({ rule: a }: ReadRule, { rule: b }: ReadRule): number {
  return (
    Number(b.org !== undefined) - Number(a.org !== undefined) ||
    narrowness(b.model) - narrowness(a.model) ||
    Number(b.provider !== undefined) - Number(a.provider !== undefined) ||
    (b.from ?? -Infinity) - (a.from ?? -Infinity) ||
    0
  );
}

function narrowness(model: string | undefined): number {
  if (model === undefined) return -1;
  return model.includes("*") ? model.replaceAll("*", "").length : Number.MAX_SAFE_INTEGER;
}
