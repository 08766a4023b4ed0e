/** The guard's options: what a host writes, what the code uses, and every mistake named at once. */
import type { z } from "zod";
import { ConfigError } from "./core/errors.ts";
import { isPromise } from "./core/time.ts";
import { crossProblems } from "./options/checks.ts";
import { hint } from "./core/nearest.ts";
import type { LimitOptions } from "./options/limits.ts";
import { resolveParsed, type ResolvedOptions } from "./options/resolved.ts";
import { optionsSchema, type AuthFunction, type ScopesFunction } from "./options/schema.ts";
import { formatPath, optionTree, suggestOption, type OptionNode, type OptionPath, type PathStyle, type Problem } from "./options/tree.ts";
import { addUnbuilt, splitUnbuilt } from "./options/unbuilt.ts";

/** What `createGuard()` takes. Everything is optional and has a default; YAML has the same names in snake_case. */
export type GuardOptions<LimitNames extends string = string> = Omit<WrittenOptions, "limits" | "auth" | "scopes"> & {
  readonly limits?: readonly LimitOptions<LimitNames>[] | undefined;
  // Named, because a declaration file spells out what is only inferred, and then a callback may not name its own request type any more.
  readonly auth?: Exclude<WrittenOptions["auth"], AnyFunction> | AuthFunction;
  readonly scopes?: WithCallback<Exclude<WrittenOptions["scopes"], AnyFunction>> | ScopesFunction;
};

type WrittenOptions = z.input<typeof optionsSchema>;
type AnyFunction = (...args: never[]) => unknown;
type WithCallback<T> = T extends object ? Omit<T, "of"> & { readonly of?: ScopesFunction | null | undefined } : T;

let tree: OptionNode | undefined;

/** The names of all options, including those of later versions. */
export function optionNames(): OptionNode {
  if (!tree) {
    tree = optionTree(optionsSchema);
    addUnbuilt(tree);
  }
  return tree;
}

export type CheckedOptions = { readonly ok: true; readonly options: ResolvedOptions } | { readonly ok: false; readonly problems: readonly Problem[] };

/** Checks and resolves. `style` only decides how messages spell names. */
export function checkOptions(input: unknown, style: PathStyle = "code"): CheckedOptions {
  const promised = promisedProblems(input);
  if (promised.length > 0) return { ok: false, problems: promised };
  const { options, problems: unbuilt } = splitUnbuilt(input);
  const parsed = optionsSchema.safeParse(options);
  const broken = parsed.success ? [] : schemaProblems(parsed.error.issues, options, optionNames(), style);
  // One line an option: after "not yet" or a malformed value, whatever else could be said of it is noise.
  const problems = distinct([...unbuilt, ...broken, ...crossProblems(options)]);
  return parsed.success && problems.length === 0 ? { ok: true, options: resolveParsed(parsed.data) } : { ok: false, problems };
}

/** A promise has no option of its own, so it would pass for an empty object: a guard without a limit, or a memory store where another was meant. */
function promisedProblems(input: unknown): readonly Problem[] {
  const message = "is a promise: await it first";
  if (isPromise(input)) return [{ path: [], message }];
  if (typeof input !== "object" || input === null) return [];
  return Object.entries(input).flatMap(([name, value]): Problem[] => (isPromise(value) ? [{ path: [name], message }] : []));
}

/** Checks and resolves the options of `createGuard()`. Throws ConfigError that lists every problem, each by the option's path. */
export function resolveOptions(input: GuardOptions = {}): ResolvedOptions {
  const checked = checkOptions(input);
  if (checked.ok) return checked.options;
  throw new ConfigError(checked.problems.map(({ path, message }) => `${formatPath(optionNames(), path, "code")}: ${message}`));
}

function distinct(problems: readonly Problem[]): Problem[] {
  const seen = new Set<string>();
  return problems.filter(({ path }) => {
    const key = JSON.stringify(path);
    return seen.size < seen.add(key).size;
  });
}

type Issue = z.core.$ZodIssue;

/** Turns what zod found into lines that say what to write. Values never appear in them: they may be secrets. */
export function schemaProblems(issues: readonly Issue[], input: unknown, names: OptionNode, style: PathStyle, at: OptionPath = []): Problem[] {
  return issues.flatMap((issue): Problem[] => {
    const path = [...at, ...(issue.path as (string | number)[])];
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({ path: [...path, key], message: `unknown option${suggestOption(names, path, key, style)}` }));
    }
    if (issue.code === "invalid_union") {
      const meant = issue.errors.filter((errors) => !errors.some(isOfAnotherKind));
      if (meant.length === 1) return schemaProblems(meant[0] as readonly Issue[], input, names, style, path);
      return [{ path, message: issue.message }];
    }
    if (issue.code === "invalid_key") return [{ path, message: `its name ${issue.issues[0]?.message ?? "is not allowed"}` }];
    return [{ path, message: messageOf(issue, valueAt(input, path)) }];
  });
}

/** Whether an alternative of a union was not even of the right kind, so that its complaints mean nothing. */
const isOfAnotherKind = ({ code, path }: Issue): boolean =>
  path.length === 0 && (code === "invalid_type" || code === "custom" || code === "invalid_value");

/** zod's words for what a config calls otherwise. */
const KINDS: Readonly<Record<string, string>> = { record: "object", array: "list", int: "whole number" };

function messageOf(issue: Issue, value: unknown): string {
  switch (issue.code) {
    case "invalid_type": {
      const expected = KINDS[issue.expected] ?? issue.expected;
      return value === undefined ? `is required (${withArticle(expected)})` : `expected ${withArticle(expected)}, got ${kindOf(value)}`;
    }
    case "invalid_value": {
      const allowed = issue.values.map(String);
      const close = typeof value === "string" ? hint(value, allowed) : "";
      return allowed.length === 1 ? `must be ${allowed[0]}${close}` : `expected one of ${allowed.join(", ")}${close}`;
    }
    case "too_small":
      return issue.origin === "string" ? issue.message : `must be ${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}`;
    case "too_big":
      return issue.origin === "string" ? issue.message : `must be at most ${issue.maximum}`;
    default:
      return value === undefined ? `is required; ${issue.message}` : issue.message;
  }
}

const withArticle = (kind: string): string => `${/^[aeiou]/.test(kind) ? "an" : "a"} ${kind}`;

function kindOf(value: unknown): string {
  if (value === null) return "nothing (null)";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "number" && !Number.isFinite(value)) return "a number that is not finite";
  return withArticle(typeof value);
}

function valueAt(input: unknown, path: OptionPath): unknown {
  let value = input;
  for (const part of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Readonly<Record<string | number, unknown>>)[part];
  }
  return value;
}
