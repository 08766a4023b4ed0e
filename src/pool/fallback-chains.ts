/** Where a request goes when all that its model has is closed: the chains of the configuration, by whom they are for. */
import type { Candidate } from "./candidate.ts";

/** Members by key. A key is a model, a credential, a provider or a family; a member is a model, a pattern of models or a credential. */
export type FallbackChains = Readonly<Record<string, readonly string[]>>;

export interface FallbackChainsOptions {
  readonly chains: FallbackChains;
  /** What a candidate's provider is known by, the narrowest name first: its row, then its family, then its dialect. */
  readonly kindsOf: (candidate: Candidate) => readonly string[];
  readonly isCredential: (name: string) => boolean;
}

export interface ChainTable {
  readonly isEmpty: boolean;
  /**
   * The members for a model: of its own chain, else of the chains of the credentials that serve it, else of their providers, else of the families. `asked` is
   * the client's name for it, `name` what that stands for, `own` who serves it, the first ones first.
   */
  membersFor(asked: string, name: string, own: readonly Candidate[]): readonly string[];
  /** Credentials that are to take over from the current one for a model, in the order of the first chain that names any. */
  preferred(current: Candidate, model: string): readonly string[];
}

const NOBODY: readonly string[] = Object.freeze([]);

/** Names of models differ by case and by Google's prefix, and mean the same. */
export const plainModel = (name: string): string =>
  name
    .trim()
    .toLowerCase()
    .replace(/^(?:models\/)+/, "");

export function chainTable({ chains, kindsOf, isCredential }: FallbackChainsOptions): ChainTable {
  const exact = new Map(Object.entries(chains));
  const plain = new Map(Object.entries(chains).map(([key, members]) => [plainModel(key), members]));

  /** What the chains say of each kind of key, the narrowest first. */
  function* levels(asked: string, name: string, own: readonly Candidate[]): Generator<readonly string[]> {
    yield exact.get(asked) ?? exact.get(name) ?? plain.get(plainModel(name)) ?? NOBODY;
    const of = (keys: readonly string[]): readonly string[] => [...new Set(keys)].flatMap((key) => exact.get(key) ?? NOBODY);
    yield of(own.map(({ credential }) => credential.name));
    const kinds = own.map(kindsOf);
    const most = Math.max(0, ...kinds.map(({ length }) => length));
    for (let i = 0; i < most; i += 1) yield of(kinds.flatMap((names) => names[i] ?? NOBODY));
  }

  return {
    isEmpty: exact.size === 0,
    membersFor(asked, name, own) {
      for (const members of levels(asked, name, own)) if (members.length > 0) return members;
      return NOBODY;
    },
    preferred(current, model) {
      if (exact.size === 0) return NOBODY;
      for (const members of levels(model, model, [current])) {
        const credentials = members.filter(isCredential);
        if (credentials.length > 0) return credentials;
      }
      return NOBODY;
    },
  };
}
