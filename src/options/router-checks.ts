/** What the schema cannot say about sticky sessions and fallback chains. They read what was written, as all cross checks do. */
import { hint } from "../core/nearest.ts";
import { plainModel } from "../pool/fallback-chains.ts";
import type { Problem } from "./tree.ts";

/** The name that stands for a session, beside those of scopes. */
const SESSION = "session";

/** Scopes whose values tell nothing of who asks. */
const NOBODYS: ReadonlySet<string> = new Set(["global", "route", "model", "credential"]);

const CHAINS = ["router", "fallbackChains"] as const;
const BY = ["router", "sticky", "by"] as const;

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === "object" && value !== null && !Array.isArray(value);

export function chainProblems(chains: unknown): readonly Problem[] {
  if (!isObject(chains)) return [];
  const keys = new Map<string, string>();
  return Object.entries(chains).flatMap(([key, members]): Problem[] => {
    const problems: Problem[] = [];
    const before = keys.get(plainModel(key));
    if (before === undefined) keys.set(plainModel(key), key);
    else problems.push({ path: [...CHAINS, key], message: `is the same name as ${before}; write one chain for both` });
    for (const [index, member] of (Array.isArray(members) ? members : []).entries() as Iterable<[number, unknown]>) {
      if (typeof member !== "string") continue;
      const path = [...CHAINS, key, index];
      if (plainModel(member) === plainModel(key)) problems.push({ path, message: "is the key itself; name what takes over from it" });
      else if ((members as readonly unknown[]).indexOf(member) < index) problems.push({ path, message: `${member} is named twice` });
    }
    return problems;
  });
}

export function stickyProblems(sticky: unknown, scopes: ReadonlySet<string>): readonly Problem[] {
  const by: unknown = isObject(sticky) ? sticky.by : undefined;
  const known = [SESSION, ...[...scopes].filter((scope) => !NOBODYS.has(scope))];
  return (Array.isArray(by) ? by : []).flatMap((name: unknown, index): Problem[] => {
    if (typeof name !== "string") return [];
    if (!known.includes(name)) {
      const own = "(scopes of your own are declared in scopes.names or scopes.headers)";
      return [{ path: [...BY, index], message: `expected session or a scope, not ${name}${hint(name, known)} ${own}` }];
    }
    return (by as readonly unknown[]).indexOf(name) < index ? [{ path: [...BY, index], message: `${name} is named twice` }] : [];
  });
}
