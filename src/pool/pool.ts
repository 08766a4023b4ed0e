import type { AttemptOutcome, Choice, Credential, Lease } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Candidate, Strategy, Tier } from "./candidate.ts";
import { matchesAny } from "./patterns.ts";
import { roundRobin } from "./strategies/round-robin.ts";

/** A model as the operator named it: what it is called at the provider, and by which credential it is served. */
export interface ModelEntry {
  readonly name: string;
  /** The provider's name for it; absent = the same. */
  readonly model?: string;
  /** Serves it; absent = every credential. */
  readonly credential?: string;
  readonly maxOutputTokens?: number;
}

export interface PoolOptions {
  readonly credentials: readonly Credential[];
  readonly models: readonly ModelEntry[];
  readonly aliases: Readonly<Record<string, string>>;
}

export interface Pool {
  readonly credentials: readonly Credential[];
  /** The model that a client's name stands for, after aliases and `provider:model`. */
  resolve(model: string): string;
  /** Everything that may serve the model. Throws `model_not_found` when nothing does. */
  candidates(model: string): readonly Candidate[];
  /** Leases for one request. */
  choose(model: string): Choice;
  /** Open attempts now, by credential. */
  inFlight(credential: string): number;
}

/** Client-made names are many: the candidates of at most this many are remembered. */
const MAX_REMEMBERED = 1_000;

interface Offer {
  readonly name: string;
  readonly candidates: readonly Candidate[];
  readonly tiers: readonly Tier[];
}

export function credentialPool(options: PoolOptions): Pool {
  const { credentials, models, aliases } = options;
  const providers = new Set(credentials.map((credential) => credential.provider));
  const offers = new Map<string, Offer>();
  const open = new Map<string, number>(credentials.map((credential) => [credential.name, 0]));
  const pick: Strategy = roundRobin();

  /** `provider:model` narrows the choice to one provider. */
  function split(model: string): { readonly provider: string | null; readonly name: string } {
    const name = Object.hasOwn(aliases, model) ? (aliases[model] as string) : model;
    const colon = name.indexOf(":");
    const provider = colon > 0 ? name.slice(0, colon) : "";
    return providers.has(provider) ? { provider, name: name.slice(colon + 1) } : { provider: null, name };
  }

  function candidateOf(credential: Credential, name: string): Candidate | null {
    const entries = models.filter((entry) => entry.name === name);
    const entry = entries.find((item) => item.credential === credential.name) ?? entries.find((item) => item.credential === undefined);
    const candidate = { credential, model: entry?.model ?? name };
    if (credential.models && matchesAny(credential.models, name)) return candidate;
    if (entry?.credential !== undefined) return candidate;
    // A list that does not name the model speaks against it; an entry bound to others only does so too.
    if (credential.models) return null;
    return entries.length > 0 && !entry ? null : candidate;
  }

  function offerOf(model: string): Offer {
    const known = offers.get(model);
    if (known) return known;
    const { provider, name } = split(model);
    const candidates = credentials
      .filter((credential) => provider === null || credential.provider === provider)
      .map((credential) => candidateOf(credential, name))
      .filter((candidate) => candidate !== null);
    if (candidates.length === 0) {
      throw new GuardError("model_not_found", "no credential offers this model; GET /v1/models lists what is offered", { param: "model" });
    }
    const offer = { name, candidates, tiers: tiersOf(candidates) };
    if (offers.size >= MAX_REMEMBERED) offers.clear();
    offers.set(model, offer);
    return offer;
  }

  const count = (name: string, by: number): void => void open.set(name, (open.get(name) ?? 0) + by);

  return {
    credentials,
    resolve: (model) => split(model).name,
    candidates: (model) => offerOf(model).candidates,
    choose: (model) => new Attempts(offerOf(model), pick, count),
    inFlight: (name) => open.get(name) ?? 0,
  };
}

/** Fallbacks come last, then by priority, highest first. */
function tiersOf(candidates: readonly Candidate[]): readonly Tier[] {
  const rank = ({ credential }: Candidate): number => (credential.isFallback ? -1e9 : 0) + credential.priority;
  const groups = Map.groupBy(candidates, rank);
  return [...groups].toSorted(([a], [b]) => b - a).map(([, tier]) => tier);
}

/** The leases of one request: never the same credential twice. */
class Attempts implements Choice {
  readonly #offer: Offer;
  readonly #pick: Strategy;
  readonly #count: (name: string, by: number) => void;
  #tried: Credential[] | undefined;

  constructor(offer: Offer, pick: Strategy, count: (name: string, by: number) => void) {
    this.#offer = offer;
    this.#pick = pick;
    this.#count = count;
  }

  next(): Lease | null {
    const tried = this.#tried;
    for (const tier of this.#offer.tiers) {
      const left = tried ? tier.filter((candidate) => !tried.includes(candidate.credential)) : tier;
      if (left.length === 0) continue;
      const { credential, model } = left.length === 1 ? (left[0] as Candidate) : this.#pick(left);
      (this.#tried ??= []).push(credential);
      this.#count(credential.name, 1);
      return new PoolLease(credential, model, this.#offer.name, this.#count);
    }
    return null;
  }
}

class PoolLease implements Lease {
  readonly credential: Credential;
  readonly model: string;
  readonly name: string;
  readonly #count: (name: string, by: number) => void;
  #released = false;

  constructor(credential: Credential, model: string, name: string, count: (name: string, by: number) => void) {
    this.credential = credential;
    this.model = model;
    this.name = name;
    this.#count = count;
  }

  release(_outcome: AttemptOutcome): void {
    if (this.#released) return;
    this.#released = true;
    this.#count(this.credential.name, -1);
  }
}
