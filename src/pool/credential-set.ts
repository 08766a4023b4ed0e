import type { Credential } from "../core/credential.ts";

/** All that there is; what is beyond is refused. */
const MAX_CREDENTIALS = 10_000;

/** The credentials that there are now: those of the configuration in its order, then those of plugins in the order of their arrival. */
export interface CredentialSet extends Iterable<Credential> {
  /** Grows with each change: whoever keeps something worked out from the set looks at it. */
  readonly version: number;
  readonly all: readonly Credential[];
  find(name: string): Credential | undefined;
  /** Returns a function that stops it. */
  onChange(listener: CredentialChange): () => void;
}

/** Called after each change: undefined = there was or is none of this name. */
export type CredentialChange = (name: string, before: Credential | undefined, now: Credential | undefined) => void;

/** The one owner of the set. A credential is replaced, never changed: a request that runs keeps the one it was lent. */
export interface ChangingCredentials extends CredentialSet {
  /** Who brought it; null = the configuration. Undefined = there is none. */
  ownerOf(name: string): string | null | undefined;
  /** All of the configuration, in its order: those that are new come in, those that are not named go. */
  configure(credentials: readonly Credential[]): void;
  /** Adds one, or replaces the one of this name in its place. False = the set is full. */
  put(owner: string, credential: Credential): boolean;
  /** False = there is none. */
  remove(name: string): boolean;
}

interface Member {
  readonly owner: string | null;
  readonly credential: Credential;
}

export function credentialSet(configured: readonly Credential[] = []): ChangingCredentials {
  const members = new Map<string, Member>();
  const listeners = new Set<CredentialChange>();
  let all: readonly Credential[] = [];
  let version = 0;

  function changed(name: string, before: Credential | undefined): void {
    all = [...members.values()].map(({ credential }) => credential);
    version += 1;
    const now = members.get(name)?.credential;
    for (const listener of listeners) listener(name, before, now);
  }

  function configure(credentials: readonly Credential[]): void {
    const before = new Map(members);
    members.clear();
    for (const credential of credentials) members.set(credential.name, { owner: null, credential });
    for (const [name, member] of before) if (member.owner !== null) members.set(name, member);
    for (const name of new Set([...before.keys(), ...members.keys()])) {
      const was = before.get(name)?.credential;
      if (was !== members.get(name)?.credential) changed(name, was);
    }
  }
  configure(configured);

  return {
    get version() {
      return version;
    },
    get all() {
      return all;
    },
    [Symbol.iterator]: () => all[Symbol.iterator](),
    find: (name) => members.get(name)?.credential,
    ownerOf: (name) => members.get(name)?.owner,
    configure,
    put(owner, credential) {
      const { name } = credential;
      const before = members.get(name)?.credential;
      if (!before && members.size >= MAX_CREDENTIALS) return false;
      members.set(name, { owner, credential });
      changed(name, before);
      return true;
    },
    remove(name) {
      const before = members.get(name)?.credential;
      members.delete(name);
      if (before) changed(name, before);
      return before !== undefined;
    },
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
}
