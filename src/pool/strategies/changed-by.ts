import type { Look } from "../candidate.ts";

/** What a turn changes: the state itself or, where nobody is really asked for, the copy that this look has of it. */
export function changedBy<T extends object>(look: Look | null, state: T, copy: (state: T) => T): T {
  if (!look) return state;
  const known = look.get(state) as T | undefined;
  if (known) return known;
  const own = copy(state);
  look.set(state, own);
  return own;
}
