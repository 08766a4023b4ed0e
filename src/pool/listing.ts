/** What clients may ask for, by the names they may use: the configured ones together with what providers list. */
import type { Candidate } from "./candidate.ts";
import type { ListedModel, ModelCatalogue } from "./catalogue.ts";
import type { ModelEntry, Offers } from "./offers.ts";

export interface OfferedModel {
  /** The client's name for it. */
  readonly id: string;
  /** Seconds since the epoch; null = its provider does not say. */
  readonly created: number | null;
  /** The provider's own word, else the provider's id. */
  readonly ownedBy: string;
  /** Whether the configuration names it; else only a provider does. */
  readonly isConfigured: boolean;
  /** Credentials that offer it for certain. One whose list is unknown may be tried, too. */
  readonly credentials: readonly string[];
}

export interface Listing {
  /** By name: the configured ones in the order of the config, then the discovered ones by the alphabet. */
  all(): ReadonlyMap<string, OfferedModel>;
  /** Also by an alias or as `provider:model`; the answer carries the name that was asked for. */
  find(name: string): OfferedModel | null;
}

export interface ListingOptions {
  readonly offers: Offers;
  readonly catalogue: ModelCatalogue;
  readonly models: readonly ModelEntry[];
  readonly aliases: Readonly<Record<string, string>>;
}

/** Worked out once, until a provider's list or a credential changes. Names that stand for another (aliases) are hidden, and so are providers' own where config renames them. */
export function modelListing(options: ListingOptions): Listing {
  const { offers, catalogue, aliases } = options;
  const table = new Set(options.models.map(({ name }) => name));
  const standsForItself = (name: string): boolean => offers.resolve(name) === name;
  let version = -1;
  let known: ReadonlyMap<string, OfferedModel> = new Map();

  function configured(): readonly string[] {
    const literal = offers.credentials.all.flatMap(({ models }) => (models ?? []).filter((pattern) => !pattern.includes("*")));
    return [...new Set([...table, ...literal])].filter(standsForItself);
  }

  function candidatesOf(name: string): readonly Candidate[] {
    try {
      return offers.of(name).own;
    } catch {
      // In the table, and nobody offers it.
      return [];
    }
  }

  const isBound = (credential: string, name: string): boolean =>
    options.models.some((entry) => entry.name === name && entry.credential === credential);

  /** Without those that are candidates only because nobody knows what they offer. */
  const isCertain = ({ credential, name }: Candidate): boolean =>
    credential.models !== null || isBound(credential.name, name) || catalogue.lists(credential.name) !== null;

  function configuredModel(id: string, candidates: readonly Candidate[]): OfferedModel {
    let listed: ListedModel | null = null;
    for (const { credential, model } of candidates) listed ??= catalogue.model(credential.name, model);
    const provider = (candidates[0] as Candidate).credential.provider;
    return {
      id,
      created: listed?.created ?? null,
      ownedBy: listed?.ownedBy ?? provider,
      isConfigured: true,
      credentials: candidates.filter(isCertain).map(({ credential }) => credential.name),
    };
  }

  function discovered(configuredOnes: ReadonlyMap<string, OfferedModel>, spokenFor: ReadonlySet<string>): OfferedModel[] {
    const found = new Map<string, OfferedModel & { readonly credentials: string[] }>();
    for (const { name, provider } of offers.credentials.all) {
      for (const { id, created, ownedBy } of catalogue.models(name)) {
        if (configuredOnes.has(id) || spokenFor.has(`${name}/${id}`) || !standsForItself(id)) continue;
        const before = found.get(id);
        if (before) before.credentials.push(name);
        else found.set(id, { id, created, ownedBy: ownedBy ?? provider, isConfigured: false, credentials: [name] });
      }
    }
    // Providers list in any order, and not always the same.
    return [...found.values()].toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }

  function all(): ReadonlyMap<string, OfferedModel> {
    const current = offers.version;
    if (version === current) return known;
    const models = new Map<string, OfferedModel>();
    /** What providers call the models that are configured. */
    const spokenFor = new Set<string>();
    for (const name of configured()) {
      const candidates = candidatesOf(name);
      if (candidates.length === 0) continue;
      models.set(name, configuredModel(name, candidates));
      for (const { credential, model } of candidates) spokenFor.add(`${credential.name}/${model}`);
    }
    for (const model of discovered(models, spokenFor)) models.set(model.id, model);
    version = current;
    return (known = models);
  }

  return {
    all,
    find(name) {
      const target = all().get(offers.resolve(name));
      if (standsForItself(name)) return target ?? null;
      const candidates = candidatesOf(name);
      const [first] = candidates;
      if (!first) return null;
      // `provider:model` is there if that provider has it; an alias is the operator's word.
      if (target && candidates.some(({ credential }) => target.credentials.includes(credential.name))) return { ...target, id: name };
      return Object.hasOwn(aliases, name) ? configuredModel(name, [first]) : null;
    },
  };
}
