import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Candidate, Tier } from "./candidate.ts";
import type { CredentialSet } from "./credential-set.ts";
import { chainTable, type ChainTable, type FallbackChains } from "./fallback-chains.ts";
import { matchesAny, patternMatcher } from "./patterns.ts";

/** A model as the operator named it: what it is called at the provider, and by which credential it is served. */
export interface ModelEntry {
  readonly name: string;
  /** The provider's name for it; absent = the same. */
  readonly model?: string;
  /** Serves it; absent = every credential. */
  readonly credential?: string;
  readonly maxOutputTokens?: number;
  /** Requests and tokens per minute on each credential that serves it; -1 = unlimited, absent = the default. */
  readonly rpm?: number;
  readonly tpm?: number;
}

/** What providers said that they offer. */
export interface ModelLists {
  /** Grows with each change. */
  readonly version: number;
  /** The last list of a credential that could be read; null = unknown. */
  lists(credential: string): ReadonlySet<string> | null;
}

/** Everything that may serve one model, by priority. */
export interface Offer {
  readonly name: string;
  /** No pair of a credential and a model at its provider twice. */
  readonly candidates: readonly Candidate[];
  /** Those of the model itself; the others are its fallbacks. */
  readonly own: readonly Candidate[];
  /** What its chain adds, in its order. */
  readonly fallbacks: readonly Fallback[];
  /** By priority, highest first, and credentials that are fallbacks last; then the same for each fallback. */
  readonly tiers: readonly Tier[];
  /** For who weighs priorities by themselves: all, then the credentials that are fallbacks; then the same for each fallback. */
  readonly wholes: readonly Tier[];
}

/** A model of a chain, or the same model elsewhere, and who serves it. */
export interface Fallback {
  /** As the chain names it; of a pattern, the model. */
  readonly asked: string;
  readonly candidates: readonly Candidate[];
}

/** Where a request keeps the offer that it was costed over. Two guards may have to do with one request. */
export interface OfferSlot {
  offer: object | undefined;
  /** Whose allow-list of models counts for fallbacks, too. Absent = nobody's. */
  readonly principal?: { readonly models: readonly string[] | null } | undefined;
}

export interface Offers {
  readonly credentials: CredentialSet;
  /** Grows whenever what is offered may have changed. */
  readonly version: number;
  /** The model that a client's name stands for, after aliases and `provider:model`. */
  resolve(model: string): string;
  /** Everything that may serve the model, fallbacks included. Throws `model_not_found` when nothing does. */
  of(model: string): Offer;
  /**
   * The one that a request was costed over first, in its slot: what comes later may be dearer. Without fallbacks that its principal may not use. Throws as
   * {@link Offers.of}, and `model_not_allowed` when nothing is left.
   */
  forRequest(request: OfferSlot, model: string): Offer;
  /** From now on the request goes to no fallback that does not fit; to all of them when nothing would be left. Returns what there is. */
  keepFitting(request: OfferSlot, model: string, fits: (candidate: Candidate) => boolean): Offer;
  /** Members of chains that stand for nothing that is there now. */
  idleMembers(): readonly { readonly key: string; readonly member: string }[];
  /** Credentials that are to take over from the current one for a model; see {@link ChainTable.preferred}. */
  readonly preferred: ChainTable["preferred"];
  /** All credentials, for an operation that names no model. `operation` is what health is kept under. */
  any(operation: string): Offer;
}

export interface OffersOptions {
  readonly credentials: CredentialSet;
  readonly models: readonly ModelEntry[];
  readonly aliases: Readonly<Record<string, string>>;
  readonly lists?: ModelLists;
  /** Absent = there are none. */
  readonly chains?: FallbackChains;
  /** What chains know a candidate's provider by. Default: the id of its row. */
  readonly kindsOf?: (candidate: Candidate) => readonly string[];
}

/** A pattern may stand for hundreds of models; nobody tries that many. */
const MAX_FALLBACKS = 32;

/** Requests are of few kinds: what they may use and what is priced for them. */
const MAX_RESTRICTED = 100;

/** Client-made names are many: the candidates of at most this many are remembered, besides those of the table. */
const MAX_REMEMBERED = 1_000;

const NO_ENTRIES: readonly ModelEntry[] = [];

/** The table by name. */
export type ModelTable = ReadonlyMap<string, readonly ModelEntry[]>;

export const modelTable = (models: readonly ModelEntry[]): ModelTable => Map.groupBy(models, ({ name }) => name);

/** What the table says of a model on a credential: an entry of its own goes before the one for all. */
export function entryOf(table: ModelTable, name: string, credential: string): ModelEntry | undefined {
  const entries = table.get(name) ?? NO_ENTRIES;
  return entries.find((entry) => entry.credential === credential) ?? entries.find((entry) => entry.credential === undefined);
}

/** Who offers what: config first, what providers list second. Worked out once a model, until a list or a credential changes. */
export function offers(options: OffersOptions): Offers {
  const { credentials, models, aliases, lists, chains = {}, kindsOf = providerOf } = options;
  const table = modelTable(models);
  const chained = chainTable({ chains, kindsOf, isCredential: (name) => credentials.find(name) !== undefined });
  const most = table.size + MAX_REMEMBERED;
  const known = new Map<string, Offer>();
  const operations = new Map<string, Offer>();
  /** Those of this guard. */
  const ours = new WeakSet<object>();
  /** By what is left of its fallbacks. */
  const restricted = new WeakMap<Offer, Map<string, Offer>>();
  let providers: ReadonlySet<string> = new Set();
  let version = -1;

  /** Both only grow, so their sum tells of any change. */
  const current = (): number => credentials.version + (lists?.version ?? 0);

  function renew(): void {
    version = current();
    known.clear();
    operations.clear();
    providers = new Set(credentials.all.map(({ provider }) => provider));
  }

  /** `provider:model` narrows the choice to one provider. */
  function split(model: string): { readonly provider: string | null; readonly name: string } {
    const name = Object.hasOwn(aliases, model) ? (aliases[model] as string) : model;
    const colon = name.indexOf(":");
    const provider = colon > 0 ? name.slice(0, colon) : "";
    return providers.has(provider) ? { provider, name: name.slice(colon + 1) } : { provider: null, name };
  }

  /** Why a credential is no candidate, or how sure it is that it is one. */
  function claim(credential: Credential, name: string, entries: readonly ModelEntry[]): "yes" | "maybe" | "unlisted" | "no" {
    if (credential.models && matchesAny(credential.models, name)) return "yes";
    if (entries.some((entry) => entry.credential === credential.name)) return "yes";
    // A list that does not name the model speaks against it; an entry bound to others only does so too.
    if (credential.models) return "no";
    const open = entries.find((entry) => entry.credential === undefined);
    if (entries.length > 0 && !open) return "no";
    const listed = lists?.lists(credential.name) ?? null;
    if (!listed) return "maybe";
    return listed.has(open?.model ?? name) ? "yes" : "unlisted";
  }

  /** Who serves a model by itself. */
  function serving(provider: string | null, name: string): readonly Candidate[] {
    const entries = table.get(name) ?? NO_ENTRIES;
    const asked = credentials.all.filter((credential) => provider === null || credential.provider === provider);
    const claims = asked.map((credential) => ({ credential, claim: claim(credential, name, entries) }));
    const sure = claims.filter((each) => each.claim === "yes" || each.claim === "maybe");
    // On nobody's list: it may be too new, or a private one. Who was not told what to offer may try.
    const chosen = sure.length > 0 ? sure : claims.filter((each) => each.claim === "unlisted");
    return chosen.map(({ credential }) => on(credential, name));
  }

  const on = (credential: Credential, name: string): Candidate => candidate(credential, name, entryOf(table, name, credential.name)?.model ?? name);

  /** The models that anybody is known to offer: those of the configuration in its order, then those of the lists by the alphabet. */
  function offeredNames(): readonly string[] {
    const written = credentials.all.flatMap((credential) => (credential.models ?? []).filter((pattern) => !pattern.includes("*")));
    const listed = credentials.all.flatMap(({ name }) => [...(lists?.lists(name) ?? [])]).toSorted();
    return [...new Set([...table.keys(), ...written, ...listed])].filter((name) => split(name).name === name);
  }

  /** What a member of a chain means for a model. */
  function meant(member: string, name: string): readonly Fallback[] {
    const credential = credentials.find(member);
    if (credential) {
      const isAble = claim(credential, name, table.get(name) ?? NO_ENTRIES) !== "no";
      return [{ asked: name, candidates: isAble ? [on(credential, name)] : [] }];
    }
    const { provider, name: wanted } = split(member);
    if (!wanted.includes("*")) return [{ asked: member, candidates: serving(provider, wanted) }];
    return offeredNames()
      .filter(patternMatcher(wanted))
      .map((each) => ({ asked: each, candidates: serving(provider, each) }));
  }

  function fallbacksOf(asked: string, name: string, own: readonly Candidate[]): readonly Fallback[] {
    const members = chained.membersFor(asked, name, byPriority(own).flat());
    const seen = new Set(own.map(pairOf));
    const found: Fallback[] = [];
    for (const each of members.flatMap((member) => meant(member, name))) {
      const candidates = each.candidates.filter((one) => !seen.has(pairOf(one)));
      if (candidates.length === 0) continue;
      for (const one of candidates) seen.add(pairOf(one));
      found.push({ asked: each.asked, candidates });
      if (found.length === MAX_FALLBACKS) break;
    }
    return found;
  }

  function find(model: string): Offer {
    const { provider, name } = split(model);
    const own = serving(provider, name);
    const fallbacks = chained.isEmpty ? NO_FALLBACKS : fallbacksOf(model, name, own);
    if (own.length + fallbacks.length === 0) {
      throw new GuardError("model_not_found", "no credential offers this model; GET /v1/models lists what is offered", { param: "model" });
    }
    return offerOf(name, own, fallbacks);
  }

  function of(model: string): Offer {
    if (version !== current()) renew();
    let offer = known.get(model);
    if (!offer) {
      offer = find(model);
      ours.add(offer);
      if (known.size >= most) known.clear();
      known.set(model, offer);
    }
    return offer;
  }

  /** The same without the fallbacks that do not fit: one object for the same ones. Null = nobody is left. */
  function restrict(offer: Offer, fits: (candidate: Candidate, asked: string) => boolean): Offer | null {
    if (offer.fallbacks.length === 0) return offer;
    const left = offer.fallbacks.flatMap(({ asked, candidates }) => candidates.map((each) => fits(each, asked)));
    if (!left.includes(false)) return offer;
    if (offer.own.length === 0 && !left.includes(true)) return null;
    let parts = restricted.get(offer);
    if (!parts) restricted.set(offer, (parts = new Map<string, Offer>()));
    const key = left.map(Number).join("");
    let less = parts.get(key);
    if (!less) {
      let place = 0;
      const isLeft = (): boolean => left[place++] === true;
      less = offerOf(offer.name, offer.own, withCandidates(offer.fallbacks, isLeft));
      ours.add(less);
      if (parts.size >= MAX_RESTRICTED) parts.clear();
      parts.set(key, less);
    }
    return less;
  }

  function forRequest(request: OfferSlot, model: string): Offer {
    if (request.offer !== undefined && ours.has(request.offer)) return request.offer as Offer;
    const allowed = request.principal?.models;
    const all = of(model);
    const offer = allowed ? restrict(all, ({ name }, asked) => matchesAny(allowed, name) || matchesAny(allowed, asked)) : all;
    if (!offer) {
      const message = "this model is served by others, and this key may use none of them; GET /v1/models lists what it may use";
      throw new GuardError("model_not_allowed", message, { param: "model" });
    }
    request.offer = offer;
    return offer;
  }

  return {
    credentials,
    preferred: chained.preferred,
    idleMembers() {
      if (version !== current()) renew();
      const isIdle = (key: string, member: string): boolean =>
        !credentials.find(member) && meant(member, split(key).name).every(({ candidates }) => candidates.length === 0);
      return Object.entries(chains).flatMap(([key, members]) => members.filter((member) => isIdle(key, member)).map((member) => ({ key, member })));
    },
    get version() {
      return current();
    },
    resolve(model) {
      if (version !== current()) renew();
      return split(model).name;
    },
    of,
    forRequest,
    keepFitting(request, model, fits) {
      const offer = forRequest(request, model);
      const left = restrict(offer, fits) ?? offer;
      request.offer = left;
      return left;
    },
    any(operation) {
      if (version !== current()) renew();
      let offer = operations.get(operation);
      if (!offer) {
        offer = offerOf(
          operation,
          credentials.all.map((credential) => candidate(credential, operation, operation)),
        );
        if (operations.size >= MAX_REMEMBERED) operations.clear();
        operations.set(operation, offer);
      }
      return offer;
    },
  };
}

const candidate = (credential: Credential, name: string, model: string): Candidate => ({
  credential,
  model,
  name,
  key: `${credential.name}/${name}`,
});

const NO_FALLBACKS: readonly Fallback[] = Object.freeze([]);

const providerOf = ({ credential }: Candidate): readonly string[] => [credential.provider];

/** Models by other names of ours may be one at the provider: trying it again helps nobody. */
const pairOf = ({ credential, model }: Candidate): string => `${credential.name}/${model}`;

const withCandidates = (fallbacks: readonly Fallback[], fits: (candidate: Candidate) => boolean): readonly Fallback[] =>
  fallbacks.map(({ asked, candidates }) => ({ asked, candidates: candidates.filter(fits) })).filter(({ candidates }) => candidates.length > 0);

export function offerOf(name: string, own: readonly Candidate[], fallbacks: readonly Fallback[] = NO_FALLBACKS): Offer {
  const groups = [own, ...fallbacks.map(({ candidates }) => candidates)];
  return { name, own, fallbacks, candidates: groups.flat(), tiers: groups.flatMap(byPriority), wholes: groups.flatMap(asWhole) };
}

/** What is left of it when only some candidates will do. */
export const offerWith = ({ name, own, fallbacks }: Offer, fits: (candidate: Candidate) => boolean): Offer =>
  offerOf(name, own.filter(fits), withCandidates(fallbacks, fits));

const byPriority = (candidates: readonly Candidate[]): readonly Tier[] =>
  ranked(candidates, ({ credential }) => (credential.isFallback ? -1e9 : 0) + credential.priority);

const asWhole = (candidates: readonly Candidate[]): readonly Tier[] => ranked(candidates, ({ credential }) => (credential.isFallback ? 0 : 1));

/** Those of one rank together, highest first. */
function ranked(candidates: readonly Candidate[], rank: (candidate: Candidate) => number): readonly Tier[] {
  return [...Map.groupBy(candidates, rank)].toSorted(([a], [b]) => b - a).map(([, tier]) => tier);
}
