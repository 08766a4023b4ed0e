/** What plugins give at run time: credentials, new tokens, what is left of quotas. Checked as the configuration is. */
import { z } from "zod";
import { ConfigError } from "../core/errors.ts";
import { QUOTA_GROUP, QUOTA_SOURCES, QUOTA_UNITS, type QuotaFact } from "../core/quota-fact.ts";
import { LAST_MOMENT_MS } from "../core/time.ts";
import { schemaProblems } from "../options.ts";
import { credentialSchema } from "./credentials.ts";
import { formatPath, optionTree } from "./tree.ts";
import { secret } from "./values.ts";

const instant = (expected: string) => z.number(expected).min(0, expected).max(LAST_MOMENT_MS, expected);
const instantOrNever = () => instant("expected ms since the epoch").int("expected whole ms since the epoch").nullable().default(null);
const upsertSchema = credentialSchema.extend({ expiresAt: instantOrNever() });
const tokenSchema = z.object({ apiKey: secret(), expiresAt: instantOrNever() });
const factSchema = z.object({
  credential: z.string(),
  group: z.string().regex(QUOTA_GROUP, "expected 1 to 320 characters"),
  remainingRatio: z.number("expected a number from 0 to 1").min(0).max(1),
  resetsAt: instant("expected ms since the epoch, or null").nullable(),
  observedAt: instant("expected ms since the epoch"),
  source: z.enum(QUOTA_SOURCES),
  models: z
    .array(z.string().regex(/^\P{Cc}{1,256}$/u, "expected patterns of models, such as claude-*"))
    .max(100)
    .optional(),
  windowMs: z
    .number()
    .min(1)
    .max(400 * 24 * 60 * 60_000)
    .optional(),
  refills: z.boolean().optional(),
  limit: z.number().min(0).max(9e15).optional(),
  unit: z.enum(QUOTA_UNITS).optional(),
  confidence: z.number("expected a number from 0 to 1").min(0).max(1).optional(),
});

/** Checks what a plugin gives. Throws ConfigError, each line naming a field of `what`. */
function parsed<T>(schema: z.ZodType<T>, input: unknown, what: string): T {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const names = optionTree(schema);
  const problems = schemaProblems(result.error.issues, input, names, "code");
  throw new ConfigError(problems.map(({ path, message }) => `${what}: ${path.length === 0 ? "" : `${formatPath(names, path, "code")}: `}${message}`));
}

export const parsePluginCredential = (input: unknown, what: string) => parsed(upsertSchema, input, what);

export const parseToken = (input: unknown, what: string) => parsed(tokenSchema, input, what);

export const parseQuotaFact = (input: unknown, what: string): QuotaFact => parsed(factSchema, input, what);
