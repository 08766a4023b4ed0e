import type { Candidate } from "./candidate.ts";
import { penalties, type PenaltiesOptions, type Penalty } from "./penalties.ts";

/** What keeps a credential from being used for a model now. Wall clock, ms. */
export interface Block {
  /**
   * `banned`: by fail2ban · `cooling`: after a credential or capacity fault, or its token has expired · `breaker`: its provider fails again and again ·
   * `paused`: by a person or a plugin · `exhausted`: nothing is left of one of its quotas · `unaffordable`: too little is left for this request.
   */
  readonly reason: "banned" | "cooling" | "breaker" | "paused" | "exhausted" | "unaffordable";
  readonly credential: string;
  /** Null = all its models. */
  readonly model: string | null;
  /** The status that caused it; 0 = none did. */
  readonly code: number;
  /** For people, where the code does not say it. */
  readonly note?: string;
  /** Only our own arithmetic is against it, with numbers that nobody told: where nobody else is left it is asked all the same. */
  readonly isGuess?: true;
  readonly since: number;
  /** Null = until a person lifts it. */
  readonly until: number | null;
}

/** The one that lasts longer. */
export function longer(one: Block | null, other: Block | null): Block | null {
  if (one === null || other === null) return one ?? other;
  if (one.until === null) return one;
  return other.until === null || other.until > one.until ? other : one;
}

/**
 * Where a candidate's penalties are kept: under its own key, or under the credential's name where there is no model. No credential's name has a
 * slash.
 */
export const placeOf = ({ credential, name, key }: Candidate): string => (name === "" ? credential.name : key);

/** Whether a place is that of a model on a credential; null = of the credential, or of any model on it. */
export function isPlaceOf(place: string, credential: string, model: string | null): boolean {
  if (!place.startsWith(credential)) return false;
  return model === null ? place.length === credential.length || place[credential.length] === "/" : place === `${credential}/${model}`;
}

/** Penalties of credentials: for one model or for all of them. */
export interface BlockTable {
  readonly isEmpty: boolean;
  get(place: string, now: number): Penalty | undefined;
  /** False = what stands lasts as long or longer. */
  set(place: string, penalty: Penalty): boolean;
  delete(place: string): boolean;
  /** All that stand for a credential or for a model on it, by their places. */
  of(credential: string, now: number): readonly (readonly [place: string, penalty: Penalty])[];
  /** The longer one of the candidate's own and its credential's. */
  blockOf(candidate: Candidate, now: number): Block | null;
  blocks(now: number): readonly Block[];
  /** Ends those of a credential (for one model; null = all). Returns how many there were. */
  lift(credential: string, model: string | null): number;
  load(): Promise<void>;
  close(): void;
}

export function blockTable({ reason, ...options }: PenaltiesOptions & { readonly reason: Block["reason"] }): BlockTable {
  const table = penalties(options);
  const { clock } = options;

  /** Null = a single request may look whether it is over. */
  function blockOf(place: string, { code, since, until, probeAt = Infinity }: Penalty, now: number): Block | null {
    if (probeAt <= now) return null;
    const slash = place.indexOf("/");
    const [credential, model] = slash < 0 ? [place, null] : [place.slice(0, slash), place.slice(slash + 1)];
    return { reason, credential, model, code, since, until: until === null ? null : Math.min(until, probeAt) };
  }

  function find(place: string, now: number): Block | null {
    const penalty = table.get(place, now);
    return penalty ? blockOf(place, penalty, now) : null;
  }

  return {
    get isEmpty() {
      return table.isEmpty;
    },
    get: table.get,
    set: table.set,
    delete: table.delete,
    blockOf: ({ key, credential }, now) => (table.size === 0 ? null : longer(find(key, now), find(credential.name, now))),
    blocks: (now) => table.all(now).flatMap(([place, penalty]) => blockOf(place, penalty, now) ?? []),
    of: (credential, now) => table.all(now).filter(([place]) => isPlaceOf(place, credential, null)),
    lift(credential, model) {
      const meant = table.all(clock.now()).filter(([place]) => isPlaceOf(place, credential, model));
      for (const [place] of meant) table.delete(place);
      return meant.length;
    },
    load: table.load,
    close: table.close,
  };
}
