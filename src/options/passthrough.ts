/** Paths that are passed on as they are: files, images, audio, WebSocket. */
import { z } from "zod";
import { matchPath } from "../dialects/index.ts";
import { cost, COST_FORMS, costOf, type ResolvedCost } from "./cost.ts";
import { list } from "./values.ts";

const PATTERN = /^\/v1\/(?:[A-Za-z0-9_-][A-Za-z0-9._~-]*\/)*(?:[A-Za-z0-9_-][A-Za-z0-9._~-]*\*?|\*)$/;

const pathPattern = () =>
  z
    .string()
    .regex(PATTERN, "must be a path below /v1/, perhaps with a * at its end: /v1/images/*, /v1/files*")
    .refine((path) => matchPath(path, false) === undefined, "is not passed through: the gateway reads, meters and answers it itself");

const sectionSchema = z.strictObject({
  /** Which: `default` (images, audio, files, batches, realtime), or a list in its place. */
  paths: z
    .union(
      [
        z.literal("default"),
        // A list without a path would be "off" in disguise.
        list(pathPattern()).refine((paths) => paths.length > 0, "is empty; to pass nothing through, use false in place of the section"),
      ],
      { error: "expected default, or a list of paths such as /v1/images/*" },
    )
    .default("default"),
  /** Path -> what one request costs, where the answer does not say. */
  cost: z.record(pathPattern(), cost(`expected one of ${COST_FORMS}; functions are for budgets() on routes of yours`)).default({}),
});

/** `false` = off. */
export const passthroughSchema = z.union([z.boolean(), sectionSchema], { error: "expected true, false or { paths, cost }" });

export interface ResolvedPassthrough {
  readonly paths: readonly string[] | "default";
  /** Path pattern -> cost. */
  readonly cost: Readonly<Record<string, ResolvedCost>>;
}

export function resolvePassthrough(option: z.output<typeof passthroughSchema>): ResolvedPassthrough | null {
  if (option === false) return null;
  const { paths, cost: costs } = option === true ? sectionSchema.parse({}) : option;
  return { paths, cost: Object.fromEntries(Object.entries(costs).map(([path, written]) => [path, withText(costOf(written))])) };
}

/** The input is only counted, so its text will do; an object would stay the host's own, and be frozen with the options. */
function withText(resolved: ResolvedCost): ResolvedCost {
  if (resolved.kind === "amounts" || resolved.input === undefined || typeof resolved.input === "string") return resolved;
  return { ...resolved, input: JSON.stringify(resolved.input) };
}
