import type { Shortfall } from "../core/store.ts";

/** The one that a refusal names: never is longer than any time, and an amount that can never fit outranks both. Of equals the first. `failing` is not empty. */
export function worstShortfall(failing: readonly Shortfall[]): Shortfall {
  return failing.reduce((worst, each) => (isWorse(each, worst) ? each : worst));
}

function isWorse(a: Shortfall, b: Shortfall): boolean {
  if (a.tooSmall !== b.tooSmall) return a.tooSmall;
  return (a.waitMs ?? Infinity) > (b.waitMs ?? Infinity);
}
