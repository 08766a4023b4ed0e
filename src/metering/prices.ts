import type { Context, PricedCost, Pricer, Prices } from "../core/context.ts";
import { ConfigError } from "../core/errors.ts";
import { MAX_AMOUNT, usdToNano } from "../core/money.ts";
import type { Clock } from "../core/time.ts";
import { markup } from "./markup.ts";
import { compilePrice, costOf, dearest, mostOf, versionOf, type ModelPrice, type Price } from "./price.ts";
import { priceRules, type MatcherOf, type PriceRule, type ReadRule } from "./price-rules.ts";
import { NO_SOURCES, type PriceSource, type PriceSources } from "./price-source.ts";

/** An entry of `models[]`, as far as prices go. */
export interface PricedModel {
  readonly name: string;
  /** As the provider names it. */
  readonly model?: string | undefined;
  /** The price is that of this credential only. */
  readonly credential?: string | undefined;
  readonly price?: ModelPrice | undefined;
}

/** Which provider a credential is an account at. */
export interface PricedCredentials {
  /** Grows with each change. */
  readonly version: number;
  find(name: string): { readonly provider: string } | undefined;
}

export interface PriceBookOptions {
  /** The operator's rules come first, then the entries of `models[]`, then the sources in their order. */
  readonly rules: readonly PriceRule[];
  readonly models: readonly PricedModel[];
  readonly sources: PriceSources;
  /** Percent on top of what the provider bills, where no rule says another. */
  readonly markupPct: number;
  readonly credentials: PricedCredentials;
  /** Reads a model pattern. */
  readonly matcherOf: MatcherOf;
  readonly clock: Pick<Clock, "now">;
}

export interface ModelAndCredential {
  readonly model: string;
  readonly credential: string | null;
}

/** What applies to a model at a credential, and who says so. */
export interface AppliedPrice {
  readonly price: Price;
  readonly markupPct: number;
  /** For people: an option's path, or the name of a source. */
  readonly source: string;
  /** The same for the same prices, and another for others: rows carry it. */
  readonly version: string;
}

/** The prices of one moment, for one org. */
export interface PriceSheet extends Prices {
  /**
   * The price of a model at a credential: of the rule, entry or source that is bound to it or its provider, else of an unbound one. Without a credential: the
   * unbound one, else the dearest of the bound ones, class by class. Null = not priced, which is never the same as free.
   */
  find(model: string, credential: string | null): AppliedPrice | null;
  /**
   * The most that so many tokens can be billed as, in nano-USD after markup, wherever they may be served. Input may turn out to be cached or
   * written to a cache, output to be reasoning, and a request smaller than expected: the dearest class and size count. `isText` = there can be no audio
   * and no image in the input, so that their prices do not. Null = one of the pairs has no price, or there is none.
   */
  ceiling(pairs: readonly ModelAndCredential[], inputTokens: number, outputTokens: number, isText?: boolean, images?: number): number | null;
  /** The most tokens that any of the pairs writes in one answer, per the sources; `unknown` is for those that none of them knows. Null = none is known. */
  maxOutputTokens(pairs: readonly ModelAndCredential[], unknown: number): number | null;
}

/** Itself it is the prices of now, for no org in particular. */
export interface PriceBook extends Pricer, PriceSheet {
  of(ctx: Pick<Context, "scopes">): PriceSheet;
  /** What holds, held or will hold at a time (wall clock, ms), by the sources that there are now. */
  at(org: string | null, atMs: number): PriceSheet;
}

/** Client-made names are many: so many are remembered. */
const MAX_REMEMBERED = 10_000;

/** The prices of `models[]` under one name. */
interface Shelf {
  unbound: Entry | null;
  readonly bound: Map<string, Entry>;
}

interface Entry {
  readonly price: Price;
  readonly option: string;
}

/** A price on its way to being applied, and the kind of place that it stands in. */
interface Found {
  readonly price: Price;
  readonly kind: "rules" | "models" | "file" | "book" | "dearest";
  readonly source: string;
}

interface Terms {
  readonly applied: AppliedPrice | null;
  readonly bill: (nanoUsd: number) => number;
  /** For a cost that the provider itself reports. */
  readonly reportedVersion: string;
  /** Null = no source knows. */
  readonly maxOutputTokens: number | null;
}

interface Epoch {
  readonly sources: PriceSources["current"];
  readonly since: number;
  readonly until: number;
  readonly sheets: Map<string | null, PriceSheet>;
}

/** Reads the prices of the config. Throws {@link ConfigError} that names what cannot be a price, and what is priced twice. */
export function priceBook({ rules: written, models, sources, markupPct, credentials, matcherOf, clock }: PriceBookOptions): PriceBook {
  const rules = priceRules(written, matcherOf);
  const generalMarkup = markup(markupPct, "prices.markupPct");
  const shelves = shelvesOf(models);
  const realNames = namesOf(models);
  const compiled = new WeakMap<ModelPrice, Price>();
  // Nothing can change between hold and settlement, so nobody has to remember what a request was held by.
  const isConstant = rules.changes.length === 0 && sources === NO_SOURCES;
  const pinned = new WeakMap<object, { readonly org: string | null; readonly sheet: PriceSheet }>();
  let epoch: Epoch | undefined;

  function read(price: ModelPrice, source: string): Price {
    let known = compiled.get(price);
    if (!known) compiled.set(price, (known = compilePrice(price, source)));
    return known;
  }

  function sheetOf(list: PriceSources["current"], applying: readonly ReadRule[], atMs: number): PriceSheet {
    const priced = applying.filter(({ price }) => price !== null);
    const marked = applying.filter(({ bill }) => bill !== null);
    const memo = new Map<string, Map<string | null, Terms>>();
    let remembered = 0;
    let version = credentials.version;

    /** The first rule that counts at this provider; null = of a credential that nobody knows, or of none. */
    const ruleFor = (among: readonly ReadRule[], names: readonly string[], provider: string | null): ReadRule | undefined =>
      among.find(({ rule, about }) => (rule.provider === undefined || rule.provider === provider) && about(names));

    function foundBy(rule: ReadRule): Found {
      return { price: rule.price as Price, kind: "rules", source: rule.option };
    }

    /** Lists have the names of providers: what clients call a model may be another one there, and counts only when nothing else is known. */
    function inSources<T>(
      names: readonly string[],
      provider: string | null,
      ask: (source: PriceSource, names: readonly string[]) => T | null,
    ): T | null {
      const [own, ...real] = names as readonly [string, ...string[]];
      const inTurn = provider === null ? [names] : real.length === 0 ? [[own]] : [real, [own]];
      for (const some of inTurn) {
        for (const source of list) {
          const found = ask(source, some);
          if (found !== null) return found;
        }
      }
      return null;
    }

    const priceIn = (names: readonly string[], provider: string | null): Found | null =>
      inSources(names, provider, (source, some) => {
        const price = dearest(some.flatMap((name) => source.find(name, provider, atMs)).map((each) => read(each.price, source.name)));
        return price && { price, kind: source.kind, source: source.name };
      });

    const mostOutput = (names: readonly string[], provider: string | null): number | null =>
      inSources(names, provider, (source, some) => {
        const known = some.map((name) => source.maxOutputTokens(name, provider)).filter((most) => most !== null);
        return known.length === 0 ? null : Math.max(...known);
      });

    function atCredential(model: string, credential: string, names: readonly string[], provider: string | null): Found | null {
      const rule = ruleFor(priced, names, provider);
      if (rule) return foundBy(rule);
      const shelf = shelves.get(model);
      const entry = shelf?.bound.get(credential) ?? shelf?.unbound;
      return entry ? { price: entry.price, kind: "models", source: entry.option } : priceIn(names, provider);
    }

    /** Nobody knows who serves it. */
    function anywhere(model: string, names: readonly string[]): Found | null {
      const rule = ruleFor(priced, names, null);
      if (rule) return foundBy(rule);
      const shelf = shelves.get(model);
      if (shelf?.unbound) return { price: shelf.unbound.price, kind: "models", source: shelf.unbound.option };
      // What a provider charges for everything says nothing of a model that may not be its own.
      const named = priced.filter(({ rule: { provider, model: pattern } }) => provider !== undefined && pattern !== undefined);
      const providers = new Set(named.map((each) => each.rule.provider as string));
      const bound = [...providers].flatMap((provider) => ruleFor(named, names, provider) ?? []).map(foundBy);
      for (const { price, option } of shelf?.bound.values() ?? []) bound.push({ price, kind: "models", source: option });
      const price = dearest(bound.map((each) => each.price));
      if (!price) return priceIn(names, null);
      return bound.length === 1 ? (bound[0] as Found) : { price, kind: "dearest", source: bound.map(({ source }) => source).join(", ") };
    }

    function termsOf(model: string, credential: string | null): Terms {
      const names = [model, ...realNamesAt(realNames.get(model) ?? [], credential)];
      const provider = credential === null ? null : (credentials.find(credential)?.provider ?? null);
      const found = credential === null ? anywhere(model, names) : atCredential(model, credential, names, provider);
      const rule = ruleFor(marked, names, provider);
      const bill = rule?.bill ?? generalMarkup;
      const pct = rule?.rule.markupPct ?? markupPct;
      return {
        bill,
        reportedVersion: `reported:${versionOf(null, pct)}`,
        maxOutputTokens: mostOutput(names, provider),
        applied: found && { price: found.price, markupPct: pct, source: found.source, version: `${found.kind}:${versionOf(found.price, pct)}` },
      };
    }

    function find(model: string, credential: string | null): Terms {
      if (version !== credentials.version || remembered >= MAX_REMEMBERED) {
        memo.clear();
        remembered = 0;
        ({ version } = credentials);
      }
      let places = memo.get(model);
      if (!places) memo.set(model, (places = new Map<string | null, Terms>()));
      let terms = places.get(credential);
      if (!terms) {
        places.set(credential, (terms = termsOf(model, credential)));
        remembered += 1;
      }
      return terms;
    }

    function cost(model: string, credential: string | null, usage: Parameters<Prices["cost"]>[2]): PricedCost | null {
      const { reportedUsd } = usage;
      const { applied, bill, reportedVersion } = find(model, credential);
      // What the provider says it billed is the cost, whatever our table says.
      if (reportedUsd !== undefined && reportedUsd >= 0 && reportedUsd < Infinity) {
        const raw = Math.min(MAX_AMOUNT, usdToNano(reportedUsd));
        return { rawNanoUsd: raw, billedNanoUsd: bill(raw), priceVersion: reportedVersion };
      }
      if (applied === null) return null;
      const raw = costOf(applied.price, usage);
      return { rawNanoUsd: raw, billedNanoUsd: bill(raw), priceVersion: applied.version };
    }

    return {
      find: (model, credential) => find(model, credential).applied,
      cost,
      ceiling(pairs, inputTokens, outputTokens, isText, images) {
        let most: number | null = null;
        let last: Terms | null = null;
        for (const { model, credential } of pairs) {
          const terms = find(model, credential);
          const { applied, bill } = terms;
          if (applied === null) return null;
          // Usually all candidates share one price.
          if (last?.applied?.price === applied.price && last.bill === bill) continue;
          last = terms;
          most = Math.max(most ?? 0, bill(mostOf(applied.price, inputTokens, outputTokens, isText, images)));
        }
        return most;
      },
      maxOutputTokens(pairs, unknown) {
        const known = pairs.map(({ model, credential }) => find(model, credential).maxOutputTokens);
        return known.every((most) => most === null) ? null : Math.max(...known.map((most) => most ?? unknown));
      },
    };
  }

  function begun(now: number): Epoch {
    const list = sources.current;
    const changes = [...rules.changes, ...list.flatMap((source) => source.changes)];
    return {
      sources: list,
      since: Math.max(-Infinity, ...changes.filter((change) => change <= now)),
      until: Math.min(Infinity, ...changes.filter((change) => change > now)),
      sheets: new Map(),
    };
  }

  function sheetIn({ sources: list, sheets, since }: Epoch, org: string | null, now: number): PriceSheet {
    const whose = org !== null && rules.orgs.has(org) ? org : null;
    const at = since === -Infinity ? now : since;
    let sheet = sheets.get(whose);
    if (!sheet) sheets.set(whose, (sheet = sheetOf(list, rules.at(whose, at), at)));
    return sheet;
  }

  function current(org: string | null): PriceSheet {
    const now = clock.now();
    if (!epoch || epoch.sources !== sources.current || now < epoch.since || now >= epoch.until) epoch = begun(now);
    return sheetIn(epoch, org, now);
  }

  return {
    of(ctx) {
      const org = ctx.scopes?.org ?? null;
      if (isConstant) return current(org);
      const known = pinned.get(ctx);
      if (known?.org === org) return known.sheet;
      const sheet = current(org);
      pinned.set(ctx, { org, sheet });
      return sheet;
    },
    at: (org, atMs) => sheetIn(begun(atMs), org, atMs),
    find: (model, credential) => current(null).find(model, credential),
    cost: (model, credential, usage) => current(null).cost(model, credential, usage),
    ceiling: (...held) => current(null).ceiling(...held),
    maxOutputTokens: (pairs, unknown) => current(null).maxOutputTokens(pairs, unknown),
  };
}

function shelvesOf(models: readonly PricedModel[]): ReadonlyMap<string, Shelf> {
  const shelves = new Map<string, Shelf>();

  const put = (name: string, credential: string | undefined, entry: Entry, isOwnName: boolean): void => {
    let shelf = shelves.get(name);
    if (!shelf) shelves.set(name, (shelf = { unbound: null, bound: new Map() }));
    const taken = credential === undefined ? shelf.unbound !== null : shelf.bound.has(credential);
    if (taken && !isOwnName) return;
    if (taken)
      throw new ConfigError([`${entry.option}: ${name} already has a price${credential === undefined ? "" : ` at ${credential}`}; keep one of them`]);
    if (credential === undefined) shelf.unbound = entry;
    else shelf.bound.set(credential, entry);
  };

  const priced = models.flatMap(({ name, model, credential, price }, i) => {
    const option = `models[${i}].price`;
    return price === undefined ? [] : [{ name, model, credential, entry: { option, price: compilePrice(price, option) } }];
  });
  for (const { name, credential, entry } of priced) put(name, credential, entry, true);
  // A provider's answer names the model its own way. Clients' names come first.
  for (const { model, credential, entry } of priced) if (model !== undefined) put(model, credential, entry, false);
  return shelves;
}

interface RealName {
  readonly model: string;
  readonly credential: string | undefined;
}

/** What providers call the models that clients know by another name: rules and sources may know only that one. */
function namesOf(models: readonly PricedModel[]): ReadonlyMap<string, readonly RealName[]> {
  const renamed = models.flatMap(({ name, model, credential }) => (model === undefined || model === name ? [] : [{ name, model, credential }]));
  return Map.groupBy(renamed, ({ name }) => name);
}

function realNamesAt(entries: readonly RealName[], credential: string | null): readonly string[] {
  const own = entries.filter((entry) => entry.credential === credential);
  const at = credential === null ? entries : own.length > 0 ? own : entries.filter((entry) => entry.credential === undefined);
  return at.map(({ model }) => model);
}
