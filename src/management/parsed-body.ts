import type { z } from "zod";
import { GuardError } from "../core/errors.ts";

/** A body as a route expects it. Throws `body_invalid` that names the member at fault. */
export function parsedBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body ?? {});
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const param = issue?.path.join(".");
  throw new GuardError("body_invalid", `${param ? `${param}: ` : ""}${issue?.message ?? "the body is not valid"}`, param ? { param } : {});
}
