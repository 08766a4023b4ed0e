import type { Credential } from "../core/credential.ts";
import type { CredentialSet } from "./credential-set.ts";
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
   * Takes over what a provider lists. Throws for a name that no credential has. Of a credential with `models` only those that match count. A model that is known already stays as it was told
   * first, because some servers make up a new date at each question.
   */
  set(credential: string, models: Iterable<ListedModel>): void;
  /** The models of a credential, in the provider's order; none while its list is unknown. */
  models(credential: string): readonly ListedModel[];
  /** One model of a credential; null = it is not on the list. */
  model(credential: string, id: string): ListedModel | null;
}

interface List {
  /** Whose it is: another address or other patterns make it unknown. */
  of: Credential;
  readonly ids: ReadonlySet<string>;
  readonly models: ReadonlyMap<string, ListedModel>;
}

/** Whether a list that one had is the list of what replaced it: a new key alone opens the same account. */
function listsTheSame(one: Credential, other: Credential): boolean {
  if (one === other) return true;
  const patterns = ({ models }: Credential): string => JSON.stringify(models);
  const { provider, origin, basePath } = one;
  return other.provider === provider && other.origin === origin && other.basePath === basePath && patterns(one) === patterns(other);
}

export function modelCatalogue(credentials: CredentialSet): ModelCatalogue {
  const lists = new Map<string, List>();
  let version = 0;

  /** The list of a credential as it is now. */
  function listOf(name: string): List | undefined {
    const list = lists.get(name);
    if (!list) return undefined;
    const credential = credentials.find(name);
    if (credential && listsTheSame(list.of, credential)) {
      list.of = credential;
      return list;
    }
    lists.delete(name);
    return undefined;
  }

  /** Those of credentials that are gone. */
  function sweep(): void {
    if (lists.size > credentials.all.length) for (const name of lists.keys()) listOf(name);
  }

  return {
    get version() {
      return version;
    },
    lists: (credential) => listOf(credential)?.ids ?? null,
    models: (credential) => [...(listOf(credential)?.models.values() ?? [])],
    model: (credential, id) => listOf(credential)?.models.get(id) ?? null,
    set(name, listed) {
      const credential = credentials.find(name);
      if (!credential) throw new Error(`there is no credential ${name} whose models could be listed`);
      const known = listOf(name);
      const offered = credential.models;
      const models = new Map<string, ListedModel>();
      for (const model of listed) {
        if (models.size >= MAX_MODELS) break;
        if (models.has(model.id) || (offered && !matchesAny(offered, model.id))) continue;
        models.set(model.id, known?.models.get(model.id) ?? model);
      }
      const ids = new Set(models.keys());
      // Whoever remembers what was offered asks again at each new version.
      if (known && known.ids.size === ids.size && [...ids].every((id) => known.ids.has(id))) return;
      lists.set(name, { of: credential, ids, models });
      version += 1;
      sweep();
    },
  };
}
