/** What routes ask for behind the `?`. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";

/** An ISO date, or ms since the epoch. */
export const time = z
  .string()
  .transform((text) => (/^\d{1,15}$/.test(text) ? Number(text) : Date.parse(text)))
  .pipe(z.number("must be an ISO date or ms since the epoch"));

/** Throws `body_invalid` that names the parameter. */
export function parsedQuery<T extends z.ZodType>(schema: T, query: unknown): z.output<T> {
  const parsed = schema.safeParse(query);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new GuardError("body_invalid", `${issue?.path.join(".") ?? "query"}: ${issue?.message ?? "not valid"}`, { param: issue?.path.join(".") });
}
