import type { Credential } from "../core/credential.ts";
import type { ModelLists } from "./offers.ts";
import { matchesAny } from "./patterns.ts";

/** More models than any account has; a list that goes on is cut. */
const MAX_MODELS = 10_000;

/** A model as a provider lists it. */
export interface ListedModel {
  readonly id: string;
  /** Seconds since the epoch; null = the provider does not say. */
  readonly created: number | null;
  /** Null = the provider does not say. */
  readonly ownedBy: string | null;
}

/** What each credential's provider said that it offers: the last list that could be read. */
export interface ModelCatalogue extends ModelLists {
  /**
   * Takes over what a provider lists. Of a credential with `models` only those that match count. A model that is known already stays as it was told
   * first, because some servers make up a new date at each question.
   */
  set(credential: string, models: Iterable<ListedModel>): void;
  /** The models of a credential, in the provider's order; none while its list is unknown. */
  models(credential: string): readonly ListedModel[];
  /** One model of a credential; null = it is not on the list. */
  model(credential: string, id: string): ListedModel | null;
}

interface List {
  readonly ids: ReadonlySet<string>;
  readonly models: ReadonlyMap<string, ListedModel>;
}

export function modelCatalogue(credentials: readonly Credential[]): ModelCatalogue {
  const lists = new Map<string, List | null>(credentials.map(({ name }) => [name, null]));
  const patterns = new Map(credentials.map(({ name, models }) => [name, models]));
  let version = 0;

  return {
    get version() {
      return version;
    },
    lists: (credential) => lists.get(credential)?.ids ?? null,
    models: (credential) => [...(lists.get(credential)?.models.values() ?? [])],
    model: (credential, id) => lists.get(credential)?.models.get(id) ?? null,
    set(credential, listed) {
      const known = lists.get(credential);
      if (known === undefined) throw new Error(`there is no credential ${credential} whose models could be listed`);
      const offered = patterns.get(credential) ?? null;
      const models = new Map<string, ListedModel>();
      for (const model of listed) {
        if (models.size >= MAX_MODELS) break;
        if (models.has(model.id) || (offered && !matchesAny(offered, model.id))) continue;
        models.set(model.id, known?.models.get(model.id) ?? model);
      }
      const ids = new Set(models.keys());
      // Whoever remembers what was offered asks again at each new version.
      if (known && known.ids.size === ids.size && [...ids].every((id) => known.ids.has(id))) return;
      lists.set(credential, { ids, models });
      version += 1;
    },
  };
}
