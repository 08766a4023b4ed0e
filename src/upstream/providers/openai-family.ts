/** Providers that speak OpenAI's dialect and differ in little: an address, a header, a word in their errors. */
import type { AccountFields, Credential, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { resetTime } from "../../core/reset-time.ts";
import { openAi, openAiCompatible } from "./openai.ts";
import { ACCOUNT, ACCOUNT_CAPACITY, CREDENTIAL, startOf, usualVerdict, type Headers } from "./verdicts.ts";
import { plausibleWait, usualWait } from "./waits.ts";

const keyed = { needs: [["apiKey"]] } as const;

/**
 * Azure OpenAI. Its models are deployments. Without a version it is asked as OpenAI is (the `v1` API); with one, the deployment stands in the path.
 * https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
 */
const azure: ProviderRow = {
  ...openAi,
  id: "azure",
  baseUrl: null,
  account: { takes: ["apiVersion"], needs: [["apiKey"]] },
  // Its list of models is that of all of Azure, not of the deployments.
  paths: { chat: "/openai/v1/chat/completions", completions: "/openai/v1/completions", embeddings: "/openai/v1/embeddings" },
  also: { responses: { chat: "/openai/v1/responses" } },
  of({ apiVersion }: AccountFields) {
    if (apiVersion === undefined) return {};
    const deployed = (what: string): string => `/openai/deployments/{model}/${what}?api-version=${apiVersion}`;
    return { paths: { chat: deployed("chat/completions"), completions: deployed("completions"), embeddings: deployed("embeddings") }, also: {} };
  },
  authorize(headers: Record<string, string>, { apiKey }: Credential) {
    if (apiKey) headers["api-key"] = apiKey.reveal();
  },
};

/** https://openrouter.ai/docs/api-reference/limits */
const openRouter: ProviderRow = {
  ...openAiCompatible,
  id: "openrouter",
  baseUrl: "https://openrouter.ai/api",
  account: keyed,
  classify: (status, headers, body) => (status === 402 ? ACCOUNT : usualVerdict(status, headers, body)),
  // A moment, where others write a duration.
  retryAfterMs(headers, nowMs, isRateLimit) {
    const resetAt = isRateLimit ? resetTime(headers["x-ratelimit-reset"], nowMs) : null;
    return usualWait(headers, nowMs, isRateLimit) ?? plausibleWait(resetAt === null ? null : resetAt - nowMs);
  },
};

/** https://api-docs.deepseek.com/quick_start/error_codes: 402 is an empty balance. */
const deepSeek: ProviderRow = {
  ...openAiCompatible,
  id: "deepseek",
  baseUrl: "https://api.deepseek.com",
  account: keyed,
  classify: openRouter.classify,
};

/** A wrong key is told as a lack of permission, and used up credits as one of room. */
function xaiVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  const start = startOf(body);
  if (status === 403 && /bad[- ]credentials/i.test(start)) return CREDENTIAL;
  if (status < 500 && status >= 400 && /free usage exhausted/i.test(start)) return ACCOUNT_CAPACITY;
  return usualVerdict(status, headers, body);
}

const xai: ProviderRow = {
  ...openAiCompatible,
  id: "xai",
  baseUrl: "https://api.x.ai",
  account: keyed,
  also: { responses: { chat: "/v1/responses" } },
  classify: xaiVerdict,
};

/** The address of a server of its makers' own, in their dialect's usual way. */
const plain = (id: string, baseUrl: string): ProviderRow => ({ ...openAiCompatible, id, baseUrl });
const plainKeyed = (id: string, baseUrl: string): ProviderRow => ({ ...plain(id, baseUrl), account: keyed });

export const openAiFamily: readonly ProviderRow[] = [
  azure,
  openRouter,
  plainKeyed("groq", "https://api.groq.com/openai"),
  plainKeyed("mistral", "https://api.mistral.ai"),
  deepSeek,
  xai,
  plainKeyed("together", "https://api.together.xyz"),
  plain("ollama", "http://127.0.0.1:11434"),
  plain("vllm", "http://127.0.0.1:8000"),
];
