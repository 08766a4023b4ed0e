/** Asks an OpenAI account for its current limits: a request of one token, whose answer's headers tell them. */
import type { Credential } from "./core/credential.ts";
import type { Clock } from "./core/time.ts";
import { GuardError } from "./core/errors.ts";
import { limitSync } from "./metering/openai-limits.ts";
import { askProvider } from "./upstream/ask.ts";
import type { QuotaReader } from "./quota-reader.ts";
import { rowOf } from "./upstream/providers.ts";
import type { Transport } from "./upstream/transport.ts";

const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 1024 * 1024;
const DEFAULT_MODEL = "gpt-4o-mini";
const FALLBACK_REFILL_PER_SEC = 5;
const HEADERS = ["limit", "remaining", "reset"].flatMap((what) => [`x-ratelimit-${what}-requests`, `x-ratelimit-${what}-tokens`]);

export type ProviderLimits =
  | { readonly kind: "skipped"; readonly reason: string }
  | {
      readonly kind: "known";
      readonly capacity: number;
      readonly refillPerSec: number;
      readonly tokens: number;
      readonly headers: Readonly<Record<string, string>>;
    };

export interface ProviderLimitsParts {
  readonly credentials: Iterable<Credential>;
  readonly transport: Transport;
  readonly clock: Clock;
  /** Is shown the answer: it tells what is left, as the answer to any request does. */
  readonly read: QuotaReader;
}

/** Throws `upstream_*` when the account cannot be asked. */
export async function providerLimits({ credentials, transport, clock, read }: ProviderLimitsParts): Promise<ProviderLimits> {
  const credential = [...credentials].find(({ provider }) => provider === "openai");
  if (!credential?.apiKey) return { kind: "skipped", reason: "no openai credential with a key is configured" };
  const model = credential.models?.find((pattern) => !pattern.includes("*")) ?? DEFAULT_MODEL;
  const probe = { model, messages: [{ role: "user", content: "hi" }], [rowOf(credential).capField]: 1 };
  const body = Buffer.from(JSON.stringify(probe));
  const {
    status,
    headers,
    body: said,
  } = await askProvider(transport, clock, {
    credential,
    to: "chat",
    body,
    timeoutMs: TIMEOUT_MS,
    maxBytes: MAX_ANSWER_BYTES,
  });
  read({ credential, model }, status, headers, status === 200 ? null : said);
  if (status !== 200) throw new GuardError("upstream_refused", `the provider answered the limit probe with status ${status}`);
  const synced = limitSync(headers, { fallbackRefillPerSec: FALLBACK_REFILL_PER_SEC });
  if (!synced) return { kind: "skipped", reason: "the provider's answer carries no token limits" };
  const shown = Object.fromEntries(HEADERS.flatMap((name) => (typeof headers[name] === "string" ? [[name, headers[name]] as const] : [])));
  return { kind: "known", ...synced, headers: shown };
}
