/** Bans after repeated errors: of credentials by what their provider answers, of clients by what they send. */
import { z } from "zod";
import type { OptionPath, Problem } from "./tree.ts";
import { banDuration, duration, list } from "./values.ts";

/** What a provider answers for good reason and again and again. */
const DEFAULT_CODES = [401, 403, 429, 500, 502, 503, 504] as const;
const MAX_ATTEMPTS = 1_000_000;
const MIN_WINDOW_MS = 1_000;

/** They say that the request itself is wrong. */
const REQUEST_CODES: ReadonlySet<number> = new Set([400, 405, 406, 409, 411, 413, 414, 415, 416, 417, 422, 431]);

/** Whether a status says something about the credential that got it. */
export const isBanCode = (code: number): boolean => !REQUEST_CODES.has(code);

const errorCode = () =>
  z
    .number()
    .int()
    .min(400)
    .max(599)
    .refine(isBanCode, "says that the request is wrong, which any client can bring about: it cannot ban a credential");
const attempts = () => z.number().int().min(1).max(MAX_ATTEMPTS);

const ruleSchema = z.strictObject({
  code: errorCode(),
  /** @default fail2ban.maxAttempts */
  maxAttempts: attempts().optional(),
  /** @default fail2ban.banDuration */
  banDuration: banDuration().optional(),
});

const clientsSchema = z.strictObject({
  maxAttempts: attempts().default(20),
  window: duration(MIN_WINDOW_MS).default(60_000),
  banDuration: banDuration().default(900_000),
  /** Whether a valid key may still come from a banned address: several clients may share one. */
  validKeys: z.enum(["pass", "refuse"]).default("pass"),
});

const sectionSchema = z.strictObject({
  /** Errors of one code within the window that ban a credential for a model. */
  maxAttempts: attempts().default(3),
  window: duration(MIN_WINDOW_MS).default(600_000),
  /** How long; `permanent` = until a person lifts it. */
  banDuration: banDuration().default(null),
  /** What counts besides the codes that have a rule. @default 401, 403, 429, 500, 502, 503, 504 */
  errorCodes: list(errorCode()).default([]),
  /** Other numbers for single codes. */
  errorCodeRules: list(ruleSchema).default([]),
  /** Bans of clients that guess keys or send nonsense; `false` = none. */
  clients: z.union([z.boolean(), clientsSchema], { error: "expected true, false or { maxAttempts, window, banDuration, validKeys }" }).prefault({}),
});

/** `true` = all defaults. */
export const fail2banSchema = z.union([z.boolean(), sectionSchema], {
  error: "expected true, false or { maxAttempts, window, banDuration, errorCodes, errorCodeRules, clients }",
});

export interface ResolvedFail2ban {
  readonly maxAttempts: number;
  readonly windowMs: number;
  /** Null = until a person lifts it. */
  readonly banMs: number | null;
  readonly codes: readonly number[];
  readonly rules: readonly { readonly code: number; readonly maxAttempts: number; readonly banMs: number | null }[];
  /** Null = clients are not banned. */
  readonly clients: ResolvedClientBans | null;
}

export interface ResolvedClientBans {
  readonly maxAttempts: number;
  readonly windowMs: number;
  readonly banMs: number | null;
  readonly validKeys: "pass" | "refuse";
}

export function resolveFail2ban(option: z.output<typeof fail2banSchema>): ResolvedFail2ban | null {
  if (option === false) return null;
  const { maxAttempts, window, banDuration: banMs, errorCodes, errorCodeRules, clients } = option === true ? sectionSchema.parse({}) : option;
  return {
    maxAttempts,
    windowMs: window,
    banMs,
    codes: errorCodes.length > 0 ? [...new Set(errorCodes)] : DEFAULT_CODES,
    rules: errorCodeRules.map((rule) => ({
      code: rule.code,
      maxAttempts: rule.maxAttempts ?? maxAttempts,
      // Null is a value here: forever.
      banMs: rule.banDuration === undefined ? banMs : rule.banDuration,
    })),
    clients: clientBans(clients),
  };
}

function clientBans(option: z.output<typeof sectionSchema>["clients"]): ResolvedClientBans | null {
  if (option === false) return null;
  return option === true ? defaultClientBans() : resolveClients(option);
}

const resolveClients = ({ maxAttempts, window, banDuration: banMs, validKeys }: z.output<typeof clientsSchema>): ResolvedClientBans => ({
  maxAttempts,
  windowMs: window,
  banMs,
  validKeys,
});

/** What holds where nothing is said, also for the part on its own. */
export const defaultClientBans = (): ResolvedClientBans => resolveClients(clientsSchema.parse({}));

/** One rule a code. `option` may still be malformed. */
export function fail2banProblems(option: unknown): Problem[] {
  const rules = typeof option === "object" && option !== null ? (option as { readonly errorCodeRules?: unknown }).errorCodeRules : undefined;
  if (!Array.isArray(rules)) return [];
  const at: OptionPath = ["fail2ban", "errorCodeRules"];
  const seen = new Set<unknown>();
  return rules.flatMap((rule: unknown, index): Problem[] => {
    const code = typeof rule === "object" && rule !== null ? (rule as { readonly code?: unknown }).code : undefined;
    if (typeof code !== "number" || seen.size < seen.add(code).size) return [];
    return [{ path: [...at, index, "code"], message: `${code} has a rule already; one rule a code` }];
  });
}
