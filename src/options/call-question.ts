/** What `explain` may be asked about a call. */
import { z } from "zod";
import { GuardError } from "../core/errors.ts";
import type { CallQuestion } from "../core/explain.ts";

const text = (name: string): z.ZodString => z.string(`${name} must be text`).min(1, `${name} must not be empty`);

const Question = z
  .strictObject({
    key: text("key").optional(),
    scopes: z.record(z.string(), z.unknown(), "scopes must be an object such as { user: 'alice' }").optional(),
    model: text("model").optional(),
    maxTokens: z.int("maxTokens must be a whole number").min(1, "maxTokens must be at least 1").optional(),
    messages: z.array(z.unknown(), "messages must be a list").optional(),
    body: z.record(z.string(), z.unknown(), "body must be an object").optional(),
    stream: z.boolean("stream must be true or false").optional(),
    dialect: z.enum(["openai", "anthropic", "responses", "gemini"], "dialect must be openai, anthropic, responses or gemini").optional(),
  })
  .refine(({ key, scopes }) => key === undefined || scopes === undefined, "give key or scopes, not both: a key has its own");

/** Throws `body_invalid` that names the field. */
export function callQuestion(given: unknown): CallQuestion {
  const parsed = Question.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const param = issue?.path.join(".");
  throw new GuardError("body_invalid", issue?.message ?? "the question is not valid", param ? { param } : {});
}
