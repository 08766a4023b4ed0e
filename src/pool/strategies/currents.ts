import type { Tier } from "../candidate.ts";
import { setStates } from "./set-states.ts";

/** Clients make up names of models: the scope that was used longest ago starts anew. */
const MAX_SCOPES = 10_000;

/** Whom a scope stays with. Candidates go by their keys: the objects are others after each renewal of a token. */
export interface Current {
  readonly key: string;
  /** Monotonic, ms. */
  readonly since: number;
  /** When others were left, monotonic, ms; only of the latest times. */
  readonly left: ReadonlyMap<string, number>;
}

export interface Currents {
  of(tier: Tier): Current | undefined;
  /** Goes over to somebody. What was left more than `keepLeftMs` ago is forgotten. */
  change(tier: Tier, key: string, now: number, keepLeftMs: number): void;
  /** It was used: others are forgotten before it. */
  used(tier: Tier): void;
}

/** One for each scope of choice: a model on a set of accounts. */
export function currents(): Currents {
  let sets = 0;
  const idOf = setStates(() => String((sets += 1)));
  const scopes = new Map<string, Current>();
  const scopeOf = (tier: Tier): string => `${idOf(tier)} ${tier[0]?.name}`;

  function keep(scope: string, current: Current): void {
    scopes.delete(scope);
    for (const oldest of scopes.keys()) {
      if (scopes.size < MAX_SCOPES) break;
      scopes.delete(oldest);
    }
    scopes.set(scope, current);
  }

  return {
    of: (tier) => scopes.get(scopeOf(tier)),
    change(tier, key, now, keepLeftMs) {
      const scope = scopeOf(tier);
      const before = scopes.get(scope);
      const left = new Map([...(before?.left ?? [])].filter(([other, at]) => other !== key && now - at < keepLeftMs));
      if (before) left.set(before.key, now);
      keep(scope, { key, since: now, left });
    },
    used(tier) {
      const scope = scopeOf(tier);
      const current = scopes.get(scope);
      if (current) keep(scope, current);
    },
  };
}
