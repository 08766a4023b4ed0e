import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Candidate, Tier } from "./candidate.ts";
import type { CredentialSet } from "./credential-set.ts";
import { matchesAny } from "./patterns.ts";

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
  readonly candidates: readonly Candidate[];
  /** By priority, highest first; fallbacks last. */
  readonly tiers: readonly Tier[];
  /** For who weighs priorities by themselves: all, then the fallbacks. */
  readonly wholes: readonly Tier[];
}

/** Where a request keeps the offer that it was costed over. Two guards may have to do with one request. */
export interface OfferSlot {
  offer: object | undefined;
}

export interface Offers {
  readonly credentials: CredentialSet;
  /** Grows whenever what is offered may have changed. */
  readonly version: number;
  /** The model that a client's name stands for, after aliases and `provider:model`. */
  resolve(model: string): string;
  /** Everything that may serve the model. Throws `model_not_found` when nothing does. */
  of(model: string): Offer;
  /** The one that a request was costed over first, in its slot: what comes later may be dearer. Throws as {@link Offers.of}. */
  forRequest(request: OfferSlot, model: string): Offer;
  /** All credentials, for an operation that names no model. `operation` is what health is kept under. */
  any(operation: string): Offer;
}

export interface OffersOptions {
  readonly credentials: CredentialSet;
  readonly models: readonly ModelEntry[];
  readonly aliases: Readonly<Record<string, string>>;
  readonly lists?: ModelLists;
}

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
  const { credentials, models, aliases, lists } = options;
  const table = modelTable(models);
  const most = table.size + MAX_REMEMBERED;
  const known = new Map<string, Offer>();
  const operations = new Map<string, Offer>();
  /** Those of this guard. */
  const ours = new WeakSet<object>();
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

  function find(model: string): Offer {
    const { provider, name } = split(model);
    const entries = table.get(name) ?? NO_ENTRIES;
    const asked = credentials.all.filter((credential) => provider === null || credential.provider === provider);
    const claims = asked.map((credential) => ({ credential, claim: claim(credential, name, entries) }));
    const sure = claims.filter((each) => each.claim === "yes" || each.claim === "maybe");
    // On nobody's list: it may be too new, or a private one. Who was not told what to offer may try.
    const chosen = sure.length > 0 ? sure : claims.filter((each) => each.claim === "unlisted");
    if (chosen.length === 0) {
      throw new GuardError("model_not_found", "no credential offers this model; GET /v1/models lists what is offered", { param: "model" });
    }
    return offerOf(
      name,
      chosen.map(({ credential }) => candidate(credential, name, entryOf(table, name, credential.name)?.model ?? name)),
    );
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

  return {
    credentials,
    get version() {
      return current();
    },
    resolve(model) {
      if (version !== current()) renew();
      return split(model).name;
    },
    of,
    forRequest(request, model) {
      const { offer } = request;
      if (offer !== undefined && ours.has(offer)) return offer as Offer;
      const now = of(model);
      request.offer = now;
      return now;
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

export const offerOf = (name: string, candidates: readonly Candidate[]): Offer => ({
  name,
  candidates,
  tiers: ranked(candidates, ({ credential }) => (credential.isFallback ? -1e9 : 0) + credential.priority),
  wholes: ranked(candidates, ({ credential }) => (credential.isFallback ? 0 : 1)),
});

/** Those of one rank together, highest first. */
function ranked(candidates: readonly Candidate[], rank: (candidate: Candidate) => number): readonly Tier[] {
  return [...Map.groupBy(candidates, rank)].toSorted(([a], [b]) => b - a).map(([, tier]) => tier);
}
