/** Accounts at providers: what may be written of one, and what is wrong with it. The same for the configuration and for plugins. */
import { z } from "zod";
import type { Credential, ProviderRow } from "../core/credential.ts";
import { hint } from "../core/nearest.ts";
import { checkBaseUrl, checkProxyUrl } from "../upstream/egress.ts";
import { checkExtraHeaders } from "../upstream/headers.ts";
import { label, list, name, secret, sendLimit } from "./values.ts";

/** Model patterns: names with `*` for any run of characters. */
export const patterns = () => list(label().regex(/^\S(?:.*\S)?$/u, "must not begin or end with a space: it would match no model"));

const extraHeaders = () =>
  z.record(z.string(), z.string()).superRefine((headers, ctx) => {
    for (const [header, value] of Object.entries(headers)) {
      try {
        checkExtraHeaders({ [header]: value });
      } catch (error) {
        ctx.addIssue({ code: "custom", path: [header], message: (error as Error).message.replace(/^headers: /, "") });
      }
    }
  });

/** Runs a check that throws, and reports its message under the option. */
function checked(check: (value: string) => unknown, option: string) {
  return z.string().superRefine((value, ctx) => {
    try {
      check(value);
    } catch (error) {
      // The check names the option in YAML spelling; the report's line already does.
      ctx.addIssue({ code: "custom", message: (error as Error).message.replace(new RegExp(`^${option}:? `), "") });
    }
  });
}

export const credentialSchema = z.strictObject({
  name: name(),
  /** `openai`, `openai-compatible`, or one that a plugin brings. */
  provider: z.string().default("openai"),
  /** @default none, for an openai-compatible server that asks for none */
  apiKey: secret().nullable().default(null),
  /** With or without a trailing `/v1`. @default the provider's own; an openai-compatible one has none */
  baseUrl: checked(checkBaseUrl, "base_url").optional(),
  /** Higher is tried first. */
  priority: z.number().int().min(-1_000).max(1_000).default(0),
  /** Its share under the strategy `weighted`, relative to the others. */
  weight: z.number().gt(0).max(1_000).default(1),
  /** Requests per minute. */
  rpm: sendLimit().default(-1),
  /** Tokens per minute, input and output together. */
  tpm: sendLimit().default(-1),
  /** Requests at one time. */
  maxConcurrent: sendLimit().default(-1),
  /** Tried only when all others cannot. */
  isFallback: z.boolean().default(false),
  /** What it offers. @default everything */
  models: patterns().nullable().default(null),
  proxyUrl: checked(checkProxyUrl, "proxy_url").nullable().default(null),
  /** Extra request headers. */
  headers: extraHeaders().default({}),
  /** Whether a host name may resolve to a private address. */
  allowPrivate: z.boolean().default(false),
  /** A label of yours. */
  tier: label(64).nullable().default(null),
});

export type ParsedCredential = z.output<typeof credentialSchema>;

/** What is written, whether or not it is right. */
type Written = Readonly<Record<string, unknown>>;

export interface FieldProblem {
  readonly field: string;
  readonly message: string;
}

export const unknownProvider = (provider: string, known: readonly string[]): FieldProblem => ({
  field: "provider",
  message: `expected one of ${known.join(", ")}${hint(provider, known)}`,
});

/** What a provider demands of its credentials. */
export function demandsOf(row: ProviderRow, written: Written): readonly FieldProblem[] {
  if (row.baseUrl === null && written.baseUrl === undefined) {
    return [{ field: "baseUrl", message: `is required: ${/^[aeiou]/.test(row.id) ? "an" : "a"} ${row.id} provider has no address of its own` }];
  }
  if (row.id !== "openai" || (written.apiKey !== undefined && written.apiKey !== null)) return [];
  return [{ field: "apiKey", message: "is required for the provider openai (an openai-compatible server may need none)" }];
}

/** A checked credential with the row of its provider. */
export function resolveCredential({ baseUrl, ...rest }: ParsedCredential, row: ProviderRow): Credential {
  return { ...rest, row, ...checkBaseUrl(baseUrl ?? row.baseUrl ?? "") };
}
