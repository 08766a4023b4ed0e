/** The Gemini API: https://ai.google.dev/api. */
import type { Credential } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { googleVerdict } from "./google.ts";
import { googleFaultQuotas } from "./google-quotas.ts";
import { usualWait } from "./waits.ts";

export function googleKey(headers: Record<string, string>, { apiKey }: Credential): void {
  if (apiKey) headers["x-goog-api-key"] = apiKey.reveal();
}

export const gemini: ProviderRow = {
  id: "gemini",
  dialect: "gemini",
  baseUrl: "https://generativelanguage.googleapis.com",
  paths: {
    chat: "/v1beta/models/{model}:generateContent",
    stream: "/v1beta/models/{model}:streamGenerateContent?alt=sse",
    count_tokens: "/v1beta/models/{model}:countTokens",
    models: "/v1beta/models?pageSize=1000",
  },
  account: { needs: [["apiKey"]] },
  capField: "max_tokens",
  forwardedHeaders: ["accept"],
  authorize: googleKey,
  classify: googleVerdict,
  retryAfterMs: usualWait,
  faultQuotas: googleFaultQuotas,
};
