/** Accounts at providers: what may be written of one, and what is wrong with it. The same for the configuration and for plugins. */
import { z } from "zod";
import type { AccountField, Credential, ProviderRow } from "../core/credential.ts";
import { hint } from "../core/nearest.ts";
import { Secret } from "../core/secret.ts";
import { checkBaseUrl, checkProxyUrl } from "../upstream/egress.ts";
import { checkExtraHeaders } from "../upstream/headers.ts";
import { serviceAccount } from "./service-account.ts";
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

const matching = (pattern: RegExp, expected: string) => z.string(expected).regex(pattern, expected);

/** What only some providers take; which ones stands in their rows. */
const accountFields = {
  /** Of Google Cloud. @default the service account's own */
  project: matching(/^[A-Za-z0-9][A-Za-z0-9.:_-]{0,127}$/, "expected the id of a Google Cloud project").optional(),
  /** Of Google Cloud. @default us-central1 */
  location: matching(/^[a-z][a-z0-9-]{1,31}$/, "expected a location such as global or us-central1").optional(),
  /** The JSON key of a service account: its path, or itself. */
  serviceAccount: serviceAccount().optional(),
  /** Of Azure. @default the API without versions */
  apiVersion: matching(/^(?:\d{4}-\d{2}-\d{2}(?:-preview)?)$/, "expected a version such as 2024-10-21").optional(),
  /** Of ChatGPT: the account that is billed. */
  accountId: matching(/^[\x21-\x7e]{1,128}$/, "expected the id of an account").optional(),
  /** Of Qwen's portal: the host that its login named. @default portal.qwen.ai */
  resourceUrl: matching(
    /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+$/,
    "expected a host such as portal.qwen.ai",
  )
    .superRefine((host, ctx) => {
      try {
        checkBaseUrl(`https://${host}`);
      } catch (error) {
        ctx.addIssue({ code: "custom", message: (error as Error).message.replace(/^base_url:? /, "") });
      }
    })
    .optional(),
  /** Of AWS, for Kiro. @default the one in `profileArn`, or us-east-1 */
  region: matching(/^[a-z]{2}(?:-[a-z]{2,12}){1,3}-\d{1,2}$/, "expected a region of AWS such as us-east-1").optional(),
  /** Of Kiro: the profile that is billed. Accounts of an AWS Builder ID have none. */
  profileArn: matching(
    /^arn:aws:codewhisperer:[a-z]{2}(?:-[a-z]{2,12}){1,3}-\d{1,2}:\d{12}:profile\/[A-Za-z0-9]{1,64}$/,
    "expected a profile such as arn:aws:codewhisperer:us-east-1:000000000000:profile/EXAMPLE",
  ).optional(),
  /** Of Antigravity: whose login it is, so that the app's own server on this machine may tell its quotas. */
  email: matching(/^[^\s@]{1,64}@[^\s@]{1,190}$/, "expected an e-mail address").optional(),
} satisfies Record<AccountField, z.ZodType>;

const ACCOUNT_FIELDS = Object.keys(accountFields) as readonly AccountField[];

export const credentialSchema = z.strictObject({
  name: name(),
  /** One of those in docs/credentials.md, or one that a plugin brings. */
  provider: z.string().default("openai"),
  /** @default none, for providers that need none or another proof */
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
  ...accountFields,
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

/** Written as text, or read already. */
const keyOf = ({ apiKey }: Written): string => (apiKey instanceof Secret ? apiKey.reveal() : typeof apiKey === "string" ? apiKey : "");

/** What a provider demands of its credentials. */
export function demandsOf(row: ProviderRow, written: Written): readonly FieldProblem[] {
  const isThere = (field: string): boolean => written[field] !== undefined && written[field] !== null;
  const { takes = [], needs = [] } = row.account ?? {};
  const problems: FieldProblem[] = ACCOUNT_FIELDS.filter((field) => isThere(field) && !takes.includes(field)).map((field) => ({
    field,
    message: `is nothing that the provider ${row.id} takes${takes.length === 0 ? "" : `; it takes ${takes.join(", ")}`}`,
  }));
  if (row.baseUrl === null && written.baseUrl === undefined) {
    problems.push({ field: "baseUrl", message: `is required: ${/^[aeiou]/.test(row.id) ? "an" : "a"} ${row.id} provider has no address of its own` });
  }
  for (const fields of needs) {
    const [field, ...others] = fields;
    if (field === undefined || fields.some(isThere)) continue;
    const or = others.length === 0 ? "" : ` (or ${others.join(", ")})`;
    const elsewhere = row.id === "openai" ? " (an openai-compatible server may need none)" : "";
    problems.push({ field, message: `is required for the provider ${row.id}${or}${elsewhere}` });
  }
  const lacking = row.account?.lacks?.(written, keyOf(written));
  if (lacking) problems.push(lacking);
  return problems;
}

/** A checked credential with the row of its provider. */
export function resolveCredential({ baseUrl, ...rest }: ParsedCredential, row: ProviderRow): Credential {
  const found = row.of ? Object.freeze({ ...row, ...row.of(rest) }) : row;
  return { ...rest, row: found, ...checkBaseUrl(baseUrl ?? found.baseUrl ?? "") };
}
