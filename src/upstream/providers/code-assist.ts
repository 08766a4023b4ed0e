/**
 * Google's Code Assist: Gemini's dialect inside an envelope that names model and project. Two products stand in front of it. The token of a login stands in
 * `api_key`; who renews it is a plugin's business. We do not say that we are either product.
 */
import { createHash } from "node:crypto";
import type { AdaptedRequest } from "../../core/credential.ts";
import type { Family } from "../../core/call.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { gemini } from "./gemini.ts";
import { bearer } from "./openai.ts";

type Fields = Readonly<Record<string, unknown>>;

const HOST = "https://cloudcode-pa.googleapis.com";

const unwrap = (body: Fields): Fields => fieldsOf(body.response) ?? body;

/** Counting knows no project, and the model from the inside. */
const counted = (body: Fields, model: string): Fields => ({ request: { ...body, model: `models/${model}` } });

export const geminiCli: ProviderRow = {
  ...gemini,
  id: "gemini-cli",
  baseUrl: HOST,
  paths: {
    chat: "/v1internal:generateContent",
    stream: "/v1internal:streamGenerateContent?alt=sse",
    count_tokens: "/v1internal:countTokens",
  },
  account: { takes: ["project"], needs: [["apiKey"], ["project"]] },
  authorize: bearer,
  adapt(body: Fields, { credential, model, operation }: AdaptedRequest) {
    if (operation === "count_tokens") return counted(body, model);
    return { model, project: credential.project, request: body };
  },
  unwrap,
  models: ["gemini-3.1-pro-preview", "gemini-3-pro-preview", "gemini-3-flash-preview", "gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite"],
};

const isClaude = (model: string): boolean => model.startsWith("claude");

const familyOf = (model: string): Family => (isClaude(model) ? "anthropic" : model.startsWith("gpt") ? "openai" : "gemini");

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

function requestType(body: Fields, model: string): string {
  if (model.includes("image")) return "image_gen";
  const searches = listOf(body.tools).some((tool) => fieldsOf(tool)?.googleSearch !== undefined);
  return searches ? "web_search" : "agent";
}

/** The same for all requests of a conversation, so that its cache is found: a number made of how it begins. */
const sessionOf = (body: Fields): string =>
  `-${
    createHash("sha256")
      .update(JSON.stringify(listOf(body.contents)[0] ?? ""))
      .digest()
      .readBigUInt64BE() >> 1n
  }`;

function adaptedForAntigravity(body: Fields, { credential, model, operation, requestId }: AdaptedRequest): Fields {
  if (operation === "count_tokens") return counted(body, model);
  const { safetySettings: _settings, generationConfig, toolConfig, ...rest } = body;
  const config = fieldsOf(generationConfig);
  const { maxOutputTokens: cap, ...others } = config ?? {};
  const calling = fieldsOf(toolConfig) ?? {};
  const isCalling = isClaude(model) && listOf(body.tools).length > 0;
  return {
    model,
    project: credential.project,
    requestId,
    requestType: requestType(body, model),
    request: {
      ...rest,
      ...(config ? { generationConfig: isClaude(model) && cap !== undefined ? config : others } : {}),
      ...(isCalling
        ? { toolConfig: { ...calling, functionCallingConfig: { ...fieldsOf(calling.functionCallingConfig), mode: "VALIDATED" } } }
        : toolConfig === undefined
          ? {}
          : { toolConfig }),
      sessionId: sessionOf(body),
    },
  };
}

export const antigravity: ProviderRow = {
  ...geminiCli,
  id: "antigravity",
  account: { takes: ["project", "email"], needs: [["apiKey"], ["project"]] },
  baseUrl: "https://daily-cloudcode-pa.googleapis.com",
  otherOrigins: [HOST],
  family: familyOf,
  adapt: adaptedForAntigravity,
  models: [
    "gemini-3-pro-high",
    "gemini-3-pro-low",
    "gemini-3-flash",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "claude-sonnet-4-5",
    "claude-sonnet-4-5-thinking",
    "claude-opus-4-5-thinking",
    "gpt-oss-120b-medium",
  ],
};
