import type { Look, Tier } from "../candidate.ts";
import { changedBy } from "./changed-by.ts";
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
  of(tier: Tier, look: Look | null): Current | undefined;
  /** Goes over to somebody. What was left more than `keepLeftMs` ago is forgotten. */
  change(tier: Tier, look: Look | null, key: string, now: number, keepLeftMs: number): void;
  /** It was used: others are forgotten before it. */
  used(tier: Tier): void;
}

/** One for each scope of choice: a model on a set of accounts. */
export function currents(): Currents {
  let sets = 0;
  const idOf = setStates(() => String((sets += 1)));
  const scopes = new Map<string, Current>();
  const scopeOf = (tier: Tier): string => `${idOf(tier)} ${tier[0]?.name}`;

  /** A look has but those that it changed. */
  const changed = (look: Look | null): Map<string, Current> => changedBy(look, scopes, () => new Map<string, Current>());

  function known(scope: string, look: Look | null): Current | undefined {
    return (look && changed(look).get(scope)) ?? scopes.get(scope);
  }

  function keep(scope: string, current: Current, into: Map<string, Current>): void {
    into.delete(scope);
    for (const oldest of into.keys()) {
      if (into.size < MAX_SCOPES) break;
      into.delete(oldest);
    }
    into.set(scope, current);
  }

  return {
    of: (tier, look) => known(scopeOf(tier), look),
    change(tier, look, key, now, keepLeftMs) {
      const scope = scopeOf(tier);
      const before = known(scope, look);
      const left = new Map([...(before?.left ?? [])].filter(([other, at]) => other !== key && now - at < keepLeftMs));
      if (before) left.set(before.key, now);
      keep(scope, { key, since: now, left }, changed(look));
    },
    used(tier) {
      const scope = scopeOf(tier);
      const current = scopes.get(scope);
      if (current) keep(scope, current, scopes);
    },
  };
}
