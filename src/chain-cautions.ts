import { editDistance, hint } from "./core/nearest.ts";
import type { Offered } from "./offered.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

/** A slip of the finger, and not another name: short ones are all alike. */
const MOST_SLIPS = 2;
const SHORTEST = 5;

/**
 * What fallback chains name and nobody offers now. A model may still be discovered, and a plugin may bring the credential, so it is no error; a name that was
 * mistyped would be found out when it is needed.
 */
export function chainCautions(
  options: Pick<ResolvedOptions, "models" | "modelAlias" | "router">,
  { credentials, offers }: Offered,
): readonly string[] {
  const accounts = credentials.all.map(({ name }) => name);
  const literal = credentials.all.flatMap(({ models }) => (models ?? []).filter((pattern) => !pattern.includes("*")));
  const models = new Set([...options.models.map(({ name }) => name), ...Object.keys(options.modelAlias), ...literal]);
  const known = [...models, ...accounts];
  const idle = new Set(offers.idleMembers().map(({ key, member }) => `${key}\n${member}`));

  function cautionOf(key: string, member: string): string | null {
    if (idle.has(`${key}\n${member}`)) {
      const what = member.includes("*")
        ? `no model that is offered now matches ${member}`
        : `nobody offers ${member} now, and no credential is called so`;
      return `the fallback chain of ${key}: ${what}${hint(member, known)}`;
    }
    // Where a credential may offer anything, a mistyped name of one is a model.
    const meant = known.includes(member) || member.length < SHORTEST ? undefined : accounts.find((name) => editDistance(name, member) <= MOST_SLIPS);
    return meant === undefined ? null : `the fallback chain of ${key}: ${member} is taken for a model; did you mean the credential ${meant}?`;
  }

  return Object.entries(options.router.fallbackChains).flatMap(([key, members]) => members.flatMap((member) => cautionOf(key, member) ?? []));
}
