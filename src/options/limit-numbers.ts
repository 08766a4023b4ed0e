/** Numbers of a limit that are set at run time, checked as the options are. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";
import type { NewLimitNumbers } from "../core/limit-admin.ts";
import type { LimitDefinition } from "../limits/limit.ts";
import type { RuntimeNumbers } from "../limits/registry.ts";
import { schemaProblems } from "../options.ts";
import { MAX_REFILL_PER_SEC, numberProblem } from "./limits.ts";
import { formatPath, optionTree } from "./tree.ts";
import { instant } from "./values.ts";

const schema = z.strictObject({
  limit: z.number().optional(),
  capacity: z.number().optional(),
  refillPerSec: z.number().optional(),
  until: instant().nullable().default(null),
});

const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });

/** @throws GuardError `body_invalid` that names the field. */
export function limitNumbers({ name, kind, unit }: LimitDefinition, input: NewLimitNumbers, nowMs: number): RuntimeNumbers {
  const result = schema.safeParse(input);
  if (!result.success) {
    const tree = optionTree(schema);
    const [problem] = schemaProblems(result.error.issues, input, tree, "code");
    throw invalid(problem ? formatPath(tree, problem.path, "code") : "numbers", problem?.message ?? "are not valid");
  }
  const { limit, capacity, refillPerSec, until } = result.data;
  const isBucket = "bucket" in kind;
  for (const [param, value] of [
    ["capacity", capacity],
    ["refillPerSec", refillPerSec],
  ] as const) {
    if (value !== undefined && !isBucket) throw invalid(param, `is for buckets, and ${name} is none; give limit`);
  }
  if (limit !== undefined && capacity !== undefined) throw invalid("capacity", "is the same as limit; give one of them");
  const size = limit ?? capacity;
  if (size === undefined && refillPerSec === undefined)
    throw invalid("limit", isBucket ? "give capacity, refillPerSec or both" : "is required (a number)");
  const problem = size === undefined ? null : numberProblem(size, unit);
  if (problem !== null) throw invalid(limit === undefined ? "capacity" : "limit", problem);
  const most = unit === "usd" ? MAX_REFILL_PER_SEC / 1e9 : MAX_REFILL_PER_SEC;
  if (refillPerSec !== undefined && !(refillPerSec >= 0 && refillPerSec <= most)) throw invalid("refillPerSec", `must be between 0 and ${most}`);
  if (until !== null && until <= nowMs) throw invalid("until", "must be a time that is still to come");
  return { ...(size === undefined ? {} : { limit: size }), ...(refillPerSec === undefined ? {} : { refillPerSec }), until };
}
