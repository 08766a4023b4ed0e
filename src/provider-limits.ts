/** Asks an OpenAI account for its current limits: a request of one token, whose answer's headers tell them. */
import type { Clock } from "./core/time.ts";
import type { Credential } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import { limitSync } from "./metering/openai-limits.ts";
import type { Pool } from "./pool/pool.ts";
import { requestHeaders } from "./upstream/headers.ts";
import { providerRow } from "./upstream/providers.ts";
import type { ResponseHeaders, Transport } from "./upstream/transport.ts";

const TIMEOUT_MS = 30_000;
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

/** Throws `upstream_*` when the account cannot be asked. */
export async function providerLimits(pool: Pool, transport: Transport, clock: Clock): Promise<ProviderLimits> {
  const credential = pool.credentials.find(({ provider }) => provider === "openai");
  if (!credential?.apiKey) return { kind: "skipped", reason: "no openai credential with a key is configured" };
  const { status, headers } = await ask(credential, transport, clock);
  if (status !== 200) throw new GuardError("upstream_refused", `the provider answered the limit probe with status ${status}`);
  const synced = limitSync(headers, { fallbackRefillPerSec: FALLBACK_REFILL_PER_SEC });
  if (!synced) return { kind: "skipped", reason: "the provider's answer carries no token limits" };
  const shown = Object.fromEntries(HEADERS.flatMap((name) => (typeof headers[name] === "string" ? [[name, headers[name]] as const] : [])));
  return { kind: "known", ...synced, headers: shown };
}

function ask(credential: Credential, transport: Transport, clock: Clock): Promise<{ readonly status: number; readonly headers: ResponseHeaders }> {
  const row = providerRow(credential.provider);
  const model = credential.models?.find((pattern) => !pattern.includes("*")) ?? DEFAULT_MODEL;
  const body = Buffer.from(JSON.stringify({ model, messages: [{ role: "user", content: "hi" }], [row.capField]: 1 }));
  const { origin, basePath, allowPrivate, proxyUrl } = credential;
  return new Promise((resolve, reject) => {
    let answer: { status: number; headers: ResponseHeaders } | undefined;
    const timer = clock.timer(TIMEOUT_MS, () => {
      exchange.abort();
      reject(new GuardError("upstream_timeout", "the provider did not answer the limit probe in time"));
    });
    const exchange = transport.send(
      {
        origin,
        path: basePath + row.paths.chat,
        method: "POST",
        headers: requestHeaders({}, row, credential, body.length),
        body,
        allowPrivate,
        proxyUrl,
      },
      {
        head(status, headers) {
          answer = { status, headers };
        },
        data: () => true,
        end() {
          timer.cancel();
          if (answer) resolve(answer);
          else reject(new GuardError("upstream_protocol", "the provider's answer to the limit probe had no head"));
        },
        fail(error) {
          timer.cancel();
          reject(error);
        },
      },
    );
  });
}
