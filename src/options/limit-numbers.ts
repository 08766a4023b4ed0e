/** What of a limit is set at run time, checked as the options are. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";
import { LIMIT_SETTINGS, type LimitChange, type NewLimitNumbers } from "../core/limit-admin.ts";
import { hint } from "../core/nearest.ts";
import type { LimitDefinition, LimitNumbers } from "../limits/limit.ts";
import type { RuntimeNumbers } from "../limits/registry.ts";
import type { RuntimeSettings } from "../limits/settings.ts";
import { schemaProblems } from "../options.ts";
import { MAX_REFILL_PER_SEC, numberProblem } from "./limits.ts";
import { formatPath, optionTree } from "./tree.ts";
import { instant } from "./values.ts";

const numbers = { limit: z.number().optional(), capacity: z.number().optional(), refillPerSec: z.number().optional() };
const valueSchema = z.strictObject({ ...numbers, until: instant().nullable().default(null) });
const changeSchema = z.strictObject({
  ...numbers,
  mode: z.enum(["enforce", "shadow"]).optional(),
  enforceFrom: instant().nullable().optional(),
});

const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });

/** @throws GuardError `body_invalid` that names the field. */
export function limitNumbers(definition: LimitDefinition, input: NewLimitNumbers, nowMs: number): RuntimeNumbers {
  const { until, ...given } = parsed(valueSchema, input);
  const checked = checkedNumbers(definition, given);
  if (checked.limit === undefined && checked.refillPerSec === undefined)
    throw invalid("limit", "bucket" in definition.kind ? "give capacity, refillPerSec or both" : "is required (a number)");
  if (until !== null && until <= nowMs) throw invalid("until", "must be a time that is still to come");
  return { ...checked, until };
}

/** Settings with a change. `definition` is as it holds without the change. @throws GuardError `body_invalid` that names the field. */
export function changedSettings(definition: LimitDefinition, before: RuntimeSettings, input: LimitChange): RuntimeSettings {
  const given = typeof input === "object" && input !== null ? input : {};
  for (const field of Object.keys(given)) {
    if (Object.hasOwn(changeSchema.shape, field)) continue;
    throw invalid(field.slice(0, 64), `cannot be changed at run time${hint(field, LIMIT_SETTINGS)}; ${CHANGEABLE} can`);
  }
  const { mode, enforceFrom, ...sizes } = parsed(changeSchema, input);
  const changed = checkedNumbers(definition, sizes);
  if (mode === undefined && enforceFrom === undefined && Object.keys(changed).length === 0)
    throw invalid("mode", `give at least one of ${CHANGEABLE}`);
  if ((mode ?? definition.mode) === "shadow" && typeof enforceFrom === "number")
    throw invalid("enforceFrom", "is for limits that enforce; give mode: enforce beside it");
  return {
    ...before,
    ...changed,
    // Who says `enforce` and no time means now, and not a time that was configured.
    ...(mode === undefined ? {} : { mode, enforceFrom: null }),
    ...(enforceFrom === undefined ? {} : { enforceFrom }),
  };
}

const CHANGEABLE = LIMIT_SETTINGS.join(", ");

function parsed<T extends z.ZodType>(schema: T, input: unknown): z.output<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const tree = optionTree(schema);
  const [problem] = schemaProblems(result.error.issues, input, tree, "code");
  throw invalid(problem ? formatPath(tree, problem.path, "code") : "body", problem?.message ?? "is not valid");
}

interface GivenNumbers {
  readonly limit?: number | undefined;
  readonly capacity?: number | undefined;
  readonly refillPerSec?: number | undefined;
}

function checkedNumbers({ name, kind, unit }: LimitDefinition, { limit, capacity, refillPerSec }: GivenNumbers): LimitNumbers {
  for (const [param, value] of [
    ["capacity", capacity],
    ["refillPerSec", refillPerSec],
  ] as const) {
    if (value !== undefined && !("bucket" in kind)) throw invalid(param, `is for buckets, and ${name} is none; give limit`);
  }
  if (limit !== undefined && capacity !== undefined) throw invalid("capacity", "is the same as limit; give one of them");
  const size = limit ?? capacity;
  const problem = size === undefined ? null : numberProblem(size, unit);
  if (problem !== null) throw invalid(limit === undefined ? "capacity" : "limit", problem);
  const most = unit === "usd" ? MAX_REFILL_PER_SEC / 1e9 : MAX_REFILL_PER_SEC;
  if (refillPerSec !== undefined && !(refillPerSec >= 0 && refillPerSec <= most)) throw invalid("refillPerSec", `must be between 0 and ${most}`);
  return { ...(size === undefined ? {} : { limit: size }), ...(refillPerSec === undefined ? {} : { refillPerSec }) };
}
