/** What is asked of `admin.keys`, checked as the options are. */
import { z } from "zod";
import { ConfigError, GuardError } from "../core/errors.ts";
import type { NewKey } from "../core/key-admin.ts";
import { hint } from "../core/nearest.ts";
import type { Scopes } from "../core/scope.ts";
import { schemaProblems } from "../options.ts";
import { keySchema } from "./schema.ts";
import { formatPath, optionTree, type OptionNode } from "./tree.ts";
import { duration, label } from "./values.ts";

const DAY_MS = 86_400_000;
const MAX_OVERLAP_MS = 90 * DAY_MS;

const newKeySchema = keySchema.omit({ key: true }).extend({ org: label(128).nullable().default(null) });
const rotationSchema = z.strictObject({ overlap: duration(0, MAX_OVERLAP_MS).default(0) });

let tree: OptionNode | undefined;

/** What a key may do. */
export interface KeyGrant {
  readonly name: string;
  readonly scopes: Scopes;
  readonly models: readonly string[] | null;
  readonly mayAssertScopes: boolean;
  /** Wall clock, ms; null = never. */
  readonly expiresAt: number | null;
}

/** @throws GuardError `body_invalid` that names the field, `scope_invalid` for a scope that nobody declares. */
export function keyGrant(input: NewKey, declaredScopes: ReadonlySet<string>, nowMs: number): KeyGrant {
  const { org, expires, scopes: given, ...rest } = parsed(newKeySchema, input);
  for (const scope of Object.keys(given)) {
    if (!declaredScopes.has(scope)) {
      throw new GuardError("scope_invalid", `scopes.${scope}: nobody declares this scope${hint(scope, declaredScopes)}; scopes.names does`, {
        scope,
      });
    }
  }
  if (expires !== null && expires <= nowMs) throw invalid("expires", "must be a time that is still to come");
  if (org !== null && given.org !== undefined && given.org !== org)
    throw invalid("org", "is another one than scopes.org; a key belongs to one organisation");
  const scopes = org === null ? given : parsed(keySchema, { name: rest.name, key: "-", scopes: { ...given, org } }).scopes;
  return { ...rest, scopes, expiresAt: expires };
}

/** Ms. @throws GuardError `body_invalid` */
export const overlapMs = (options: { readonly overlap?: number | string | undefined }): number => parsed(rotationSchema, options).overlap;

function parsed<T extends z.ZodType>(schema: T, input: unknown): z.output<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  tree ??= optionTree(newKeySchema);
  const [problem] = schemaProblems(result.error.issues, input, tree, "code");
  throw invalid(problem ? formatPath(tree, problem.path, "code") : "options", problem?.message ?? "is not valid");
}

const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });

/** What is wrong with a set-up, for whoever asks at run time. */
export const asRefusal = (error: unknown): unknown =>
  error instanceof ConfigError ? new GuardError("forbidden", error.problems.join("; "), { cause: error }) : error;
