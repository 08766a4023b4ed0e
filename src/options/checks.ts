/** Checks across options. They read what was written, not what was parsed, so that one malformed option does not hide another's mistake. */
import { BUILT_IN_SCOPES } from "../core/scope.ts";
import { Secret } from "../core/secret.ts";
import { STRATEGY_NAMES } from "../pool/strategies/index.ts";
import { PROVIDER_IDS, providerRow } from "../upstream/providers.ts";
import { choosingProblems } from "./choosing.ts";
import { demandsOf, unknownProvider } from "./credentials.ts";
import { fail2banProblems } from "./fail2ban.ts";
import { limitProblems } from "./limits.ts";
import { chainProblems, stickyProblems } from "./router-checks.ts";
import { isServerUrl, spoolProblems } from "./stores.ts";
import { hint } from "../core/nearest.ts";
import type { OptionPath, Problem } from "./tree.ts";
import { hasPlugins } from "./unbuilt.ts";

type Fields = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);
const fieldsOf = (value: unknown): Fields => (isObject(value) ? value : {});
const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
const secretOf = (value: unknown): string | undefined => (value instanceof Secret ? value.reveal() : textOf(value));

function rowsOf(value: unknown, at: OptionPath): readonly { readonly row: Fields; readonly path: OptionPath }[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((row: unknown, index) => (isObject(row) ? [{ row, path: [...at, index] }] : []));
}

export function crossProblems(options: unknown): readonly Problem[] {
  const root = fieldsOf(options);
  return [
    ...duplicateNames(root),
    ...limitsProblems(root),
    ...keyProblems(root),
    ...credentialProblems(root),
    ...strategyProblems(root),
    ...choosingProblems(fieldsOf(root.router)),
    ...chainProblems(fieldsOf(root.router).fallbackChains),
    ...stickyProblems(fieldsOf(root.router).sticky, declaredScopes(root.scopes)),
    ...modelProblems(root),
    ...aliasProblems(root),
    ...fail2banProblems(root.fail2ban),
    ...serverProblems(root),
    ...spoolProblems(root.ledger),
  ];
}

/** Nodes that share a server must make the same digest of the same key. */
function serverProblems(root: Fields): Problem[] {
  if (fieldsOf(root.secrets).key !== undefined && fieldsOf(root.secrets).key !== null) return [];
  const shared = ["store", "ledger"].find((section) => isServerUrl(secretOf(fieldsOf(root[section]).url) ?? ""));
  if (shared === undefined) return [];
  return [
    {
      path: ["secrets", "key"],
      message: `is required because ${shared}.url names a server that several nodes may share; make one (openssl rand -hex 32) and give it to every node, here or as QUOTAGUARD_SECRET_KEY`,
    },
  ];
}

function duplicateNames(root: Fields): Problem[] {
  const problems: Problem[] = [];
  const lists: readonly OptionPath[] = [["keys"], ["auth", "keys"], ["credentials"], ["limits"]];
  for (const list of lists) {
    const first = new Map<string, number>();
    const value = list.length === 1 ? root[list[0] as string] : fieldsOf(root.auth).keys;
    for (const { row, path } of rowsOf(value, list)) {
      const name = textOf(row.name);
      if (name === undefined) continue;
      const before = first.get(name);
      if (before === undefined) first.set(name, Number(path.at(-1)));
      else problems.push({ path: [...path, "name"], message: `${name} is already the name of ${list.join(".")}[${before}]; names must differ` });
    }
  }
  return problems;
}

/** Scopes that somebody declares: built in, named, or read from a header. */
function declaredScopes(scopes: unknown): ReadonlySet<string> {
  const { names, headers } = fieldsOf(scopes);
  const own = Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
  return new Set([...BUILT_IN_SCOPES, ...own, ...Object.keys(fieldsOf(headers))]);
}

const OWN_SCOPES = " (scopes of your own are declared in scopes.names or scopes.headers)";

function scopeProblem(name: string, path: OptionPath, declared: ReadonlySet<string>): Problem[] {
  if (declared.has(name)) return [];
  return [{ path, message: `unknown scope ${name}${hint(name, declared)}${OWN_SCOPES}` }];
}

function limitsProblems(root: Fields): Problem[] {
  const declared = declaredScopes(root.scopes);
  return rowsOf(root.limits, ["limits"]).flatMap(({ row, path }) => oneLimitProblems(row, path, declared));
}

/** Everything that the schema cannot say about one limit. */
export function oneLimitProblems(row: Fields, path: OptionPath, declared: ReadonlySet<string>): Problem[] {
  const problems: Problem[] = limitProblems(row).map((problem) => ({ ...problem, path: [...path, ...problem.path] }));
  const { scope } = row;
  if (typeof scope === "string") problems.push(...scopeProblem(scope, [...path, "scope"], declared));
  else if (Array.isArray(scope)) {
    for (const [index, name] of scope.entries()) {
      if (typeof name !== "string") continue;
      problems.push(...scopeProblem(name, [...path, "scope", index], declared));
      if (scope.indexOf(name) < index) problems.push({ path: [...path, "scope", index], message: `${name} is named twice` });
    }
  }
  return problems;
}

/** Two principals with one key would be one principal, and nobody could say which. */
function keyProblems(root: Fields): Problem[] {
  const problems: Problem[] = [];
  const declared = declaredScopes(root.scopes);
  const owners = new Map<string, string>();
  const claim = (value: unknown, path: OptionPath, owner: string): void => {
    const key = secretOf(value);
    if (key === undefined || key === "") return;
    const other = owners.get(key);
    if (other === undefined) owners.set(key, owner);
    else problems.push({ path, message: `is the same key as ${other}; give each its own` });
  };
  const { auth } = root;
  const inCode = isObject(auth);
  const at: OptionPath = inCode ? ["auth", "keys"] : ["keys"];
  claim(inCode ? auth.masterKey : fieldsOf(root.server).masterKey, inCode ? ["auth", "masterKey"] : ["server", "masterKey"], "the master key");
  claim(fieldsOf(root.management).key, ["management", "key"], "the management key");
  for (const { row, path } of rowsOf(inCode ? auth.keys : root.keys, at)) {
    claim(row.key, [...path, "key"], `the key ${textOf(row.name) ?? "before"}`);
    for (const scope of Object.keys(fieldsOf(row.scopes))) problems.push(...scopeProblem(scope, [...path, "scopes", scope], declared));
  }
  return problems;
}

/** Providers of plugins are known once these are set up. */
function credentialProblems(root: Fields): Problem[] {
  return rowsOf(root.credentials, ["credentials"]).flatMap(({ row, path }): Problem[] => {
    const provider = row.provider === undefined ? "openai" : row.provider;
    if (typeof provider !== "string") return [];
    const isKnown = PROVIDER_IDS.includes(provider);
    if (!isKnown && hasPlugins(root)) return [];
    const problems = isKnown ? demandsOf(providerRow(provider), row) : [unknownProvider(provider, PROVIDER_IDS)];
    return problems.map(({ field, message }) => ({ path: [...path, field], message }));
  });
}

/** Names of plugins' strategies are known once these are set up. */
function strategyProblems(root: Fields): Problem[] {
  const name = textOf(fieldsOf(root.router).strategy);
  if (name === undefined || (STRATEGY_NAMES as readonly string[]).includes(name) || hasPlugins(root)) return [];
  return [{ path: ["router", "strategy"], message: unknownStrategy(name, STRATEGY_NAMES) }];
}

export const unknownStrategy = (name: string, known: readonly string[]): string => `expected one of ${known.join(", ")}${hint(name, known)}`;

function modelProblems(root: Fields): Problem[] {
  const problems: Problem[] = [];
  const credentials = rowsOf(root.credentials, []).flatMap(({ row }) => textOf(row.name) ?? []);
  const seen = new Map<string, number>();
  for (const { row, path } of rowsOf(root.models, ["models"])) {
    const credential = textOf(row.credential);
    if (credential !== undefined && !credentials.includes(credential) && !hasPlugins(root)) {
      problems.push({ path: [...path, "credential"], message: `there is no credential ${credential}${hint(credential, credentials)}` });
    }
    const id = JSON.stringify([row.name, credential]);
    const before = seen.get(id);
    if (before === undefined) seen.set(id, Number(path.at(-1)));
    else if (typeof row.name === "string") {
      problems.push({
        path: [...path, "name"],
        message: `models[${before}] already describes ${row.name} for ${credential === undefined ? "all credentials" : credential}`,
      });
    }
  }
  return problems;
}

function aliasProblems(root: Fields): Problem[] {
  const aliases = fieldsOf(root.modelAlias);
  return Object.entries(aliases).flatMap(([alias, target]): Problem[] => {
    if (typeof target !== "string") return [];
    if (target === alias) return [{ path: ["modelAlias", alias], message: "stands for itself; name the model it stands for, or remove it" }];
    if (Object.hasOwn(aliases, target)) return [{ path: ["modelAlias", alias], message: `${target} is an alias too; name the model it stands for` }];
    return [];
  });
}
