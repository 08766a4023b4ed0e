/** Logins and keys of coding products that speak OpenAI's dialect: Qwen, iFlow, Kimi. */
import type { AccountFields, Credential, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { bearer, openAiCompatible } from "./openai.ts";
import { ACCOUNT_CAPACITY, startOf, usualVerdict, type Headers } from "./verdicts.ts";

type Fields = Readonly<Record<string, unknown>>;

const keyed = { needs: [["apiKey"]] } as const;

/** What the portal gives for nothing each day has run out: a lack of room, however it is told. */
function portalVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  const isSpent = (status === 403 || status === 429) && /insufficient_quota|quota_exceeded|free allocated quota exceeded/i.test(startOf(body));
  return isSpent ? ACCOUNT_CAPACITY : usualVerdict(status, headers, body);
}

/** The portal refuses a chat without a system message, and a stream that does not ask for its usage. */
function adaptedForPortal(body: Fields): Fields {
  const messages: readonly unknown[] = Array.isArray(body.messages) ? body.messages : [];
  const begins = fieldsOf(messages[0])?.role;
  const isFit = begins === "system" || !Array.isArray(body.messages);
  return {
    ...body,
    ...(isFit ? {} : { messages: [{ role: "system", content: [{ type: "text", text: "" }] }, ...messages] }),
    ...(body.stream === true ? { stream_options: { ...fieldsOf(body.stream_options), include_usage: true } } : {}),
  };
}

/** A key of DashScope; or a login, whose answer named the host of its portal. */
export const qwen: ProviderRow = {
  ...openAiCompatible,
  id: "qwen",
  baseUrl: "https://dashscope-intl.aliyuncs.com/compatible-mode",
  account: { takes: ["resourceUrl"], needs: [["apiKey"]] },
  of({ resourceUrl }: AccountFields) {
    if (resourceUrl === undefined) return {};
    return {
      baseUrl: `https://${resourceUrl}`,
      paths: { chat: "/v1/chat/completions" },
      models: ["qwen3-coder-plus", "qwen3-coder-flash", "coder-model", "vision-model"],
      adapt: adaptedForPortal,
      classify: portalVerdict,
      authorize(headers: Record<string, string>, credential: Credential) {
        bearer(headers, credential);
        headers["x-dashscope-authtype"] = "qwen-oauth";
        headers["x-dashscope-cachecontrol"] = "enable";
      },
    };
  },
};

/** Its streams break on an empty list of tools, which means none. The signature of its own client is not made: it names that client. */
export const iflow: ProviderRow = {
  ...openAiCompatible,
  id: "iflow",
  baseUrl: "https://apis.iflow.cn",
  account: keyed,
  adapt(body: Fields) {
    if (!Array.isArray(body.tools) || body.tools.length > 0) return body;
    const { tools: _tools, ...rest } = body;
    return rest;
  },
};

/** Speaks Anthropic's dialect on the same address. */
export const kimi: ProviderRow = {
  ...openAiCompatible,
  id: "kimi",
  baseUrl: "https://api.kimi.com/coding",
  account: keyed,
  paths: { chat: "/v1/chat/completions", models: "/v1/models" },
  also: { anthropic: { chat: "/v1/messages" } },
  authorize(headers: Record<string, string>, credential: Credential) {
    bearer(headers, credential);
    headers["anthropic-version"] = "2023-06-01";
  },
};
