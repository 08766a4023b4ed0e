/** What routes ask for behind the `?`. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";
import { instant } from "../options/values.ts";

/** What a Date can tell has at most 13 digits; a year alone is no time. */
const EPOCH_MS = /^\d{12,13}$/;

/** A time as people and programs write it: ms since the epoch becomes a number, a date stays a text. */
export const timeText = (text: string): string | number => (EPOCH_MS.test(text) ? Number(text) : text);

/** A date, a date and time with an offset, or ms since the epoch. */
export const time = z
  .string()
  .transform((text): string | number | Date => timeText(text))
  .pipe(instant());

/** Throws `body_invalid` that names the parameter. */
export function parsedQuery<T extends z.ZodType>(schema: T, query: unknown): z.output<T> {
  const parsed = schema.safeParse(query);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new GuardError("body_invalid", `${issue?.path.join(".") ?? "query"}: ${issue?.message ?? "not valid"}`, { param: issue?.path.join(".") });
}
