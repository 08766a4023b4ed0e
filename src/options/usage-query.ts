/** What is asked of `admin.usage`, checked as the options are. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";
import { hint } from "../core/nearest.ts";
import { scopesFrom, type Scopes } from "../core/scope.ts";
import { LEDGER_FIELDS, type LedgerFilter, type LedgerGroup } from "../core/store.ts";
import type { UsageQuery } from "../core/usage-report.ts";
import { schemaProblems } from "../options.ts";
import { formatPath, optionTree, type OptionNode, type PathStyle } from "./tree.ts";
import { instant, scopeName } from "./values.ts";

const SCOPE_COLUMNS = ["org", "team", "user"] as const;
const USAGE_GROUPS = [...SCOPE_COLUMNS, ...LEDGER_FIELDS, "day"] as const satisfies readonly LedgerGroup[];
const MOST_GROUPS = 8;
const SCOPE = "scope.";

const isNamed = (text: string): text is (typeof USAGE_GROUPS)[number] => (USAGE_GROUPS as readonly string[]).includes(text);

/** `scope.team` is the same as `team`. */
const group = () =>
  z.string().transform((text, ctx): LedgerGroup => {
    const name = text.startsWith(SCOPE) ? text.slice(SCOPE.length) : text;
    if (isNamed(name) && (name === text || name !== "day")) return name;
    if (name !== text && scopeName().safeParse(name).success) return `${SCOPE}${name}` as LedgerGroup;
    ctx.addIssue({
      code: "custom",
      message: `unknown group ${text.slice(0, 64)}${hint(text, USAGE_GROUPS)}; known: ${USAGE_GROUPS.join(", ")}, scope.<name>`,
    });
    return z.NEVER;
  });

const text = () => z.string().max(1_000, "must have at most 1000 characters").optional();

/** Whoever asks for one of many must not get the sum of all because a value was missing. */
const MISSING = "has no value: leave it out if all are meant";

const scopeValues = () =>
  z.record(scopeName(), z.union([z.string(), z.number(), z.bigint()], { error: MISSING })).transform((values, ctx): Scopes => {
    const empty = Object.keys(values).find((name) => values[name] === "");
    if (empty !== undefined) {
      ctx.addIssue({ code: "custom", path: [empty], message: MISSING });
      return z.NEVER;
    }
    return scopesFrom(values);
  });

const schema = z.strictObject({
  from: instant().optional(),
  to: instant().optional(),
  scopes: scopeValues().prefault({}),
  key: text(),
  model: text(),
  provider: text(),
  credential: text(),
  route: text(),
  tag: text(),
  groupBy: z.array(group(), "expected a group or a list of them").max(MOST_GROUPS).default([]),
});

/** A question as ledgers understand it. */
export interface CheckedUsageQuery {
  readonly filter: LedgerFilter;
  readonly groupBy: readonly LedgerGroup[];
}

let tree: OptionNode | undefined;

/** @throws GuardError `body_invalid` that names the field, spelled as in code or as in a file. */
export function checkedUsageQuery(input: UsageQuery, style: PathStyle): CheckedUsageQuery {
  const missing = Object.keys(input).find((name) => input[name as keyof UsageQuery] === undefined);
  if (missing !== undefined) throw invalid(missing, MISSING);
  const asked = typeof input.groupBy === "string" ? { ...input, groupBy: [input.groupBy] } : input;
  const result = schema.safeParse(asked);
  tree ??= optionTree(schema);
  if (!result.success) {
    const [problem] = schemaProblems(result.error.issues, asked, tree, style);
    const param = problem ? formatPath(tree, problem.path, style) : "query";
    throw invalid(param, problem?.message ?? "is not valid");
  }
  const { from, to, scopes, groupBy, ...given } = result.data;
  if (from !== undefined && to !== undefined && from >= to) throw invalid("to", "must be later than from");
  const { fields, others } = apart(scopes);
  for (const name of LEDGER_FIELDS) {
    const value = given[name];
    if (value === undefined) continue;
    if (fields[name] !== undefined && fields[name] !== value) throw invalid(name, `is another one than scopes.${name}`);
    fields[name] = value;
  }
  const filter = { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), scopes: others, fields };
  return { filter, groupBy: [...new Set(groupBy)] };
}

/** Some scopes are fields of every row, and stand there. */
function apart(scopes: Scopes): { readonly fields: Record<string, string>; readonly others: Record<string, string> } {
  const fields: Record<string, string> = {};
  const others: Record<string, string> = {};
  for (const [name, value] of Object.entries(scopes)) ((LEDGER_FIELDS as readonly string[]).includes(name) ? fields : others)[name] = value;
  return { fields, others };
}

const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });
