/**
 * Gemini on Vertex AI. An account is a service account, whose signature is exchanged for a token (RFC 7523), or a key in express mode.
 * https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference
 */
import { sign } from "node:crypto";
import type { AccountFields, Credential, ProviderPaths, ServiceAccount, TokenExchange } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { Secret } from "../../core/secret.ts";
import { gemini, googleKey } from "./gemini.ts";
import { bearer } from "./openai.ts";

const SCOPE = "https://www.googleapis.com/auth/cloud-platform";
const GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const LIFE_S = 3_600;
const DEFAULT_LOCATION = "us-central1";
/** Google's access tokens. */
const GOOGLE_TOKEN = "ya29.";

const base64url = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

function assertion({ clientEmail, privateKey, privateKeyId, tokenUri }: ServiceAccount, nowMs: number): string {
  const at = Math.floor(nowMs / 1_000);
  const header = { alg: "RS256", typ: "JWT", ...(privateKeyId === null ? {} : { kid: privateKeyId }) };
  const signed = `${base64url(header)}.${base64url({ iss: clientEmail, scope: SCOPE, aud: tokenUri, iat: at, exp: at + LIFE_S })}`;
  return `${signed}.${sign("RSA-SHA256", Buffer.from(signed), privateKey.reveal()).toString("base64url")}`;
}

const serviceAccountTokens: TokenExchange = {
  request({ serviceAccount }, nowMs) {
    if (!serviceAccount) return null;
    const body = new URLSearchParams({ grant_type: GRANT, assertion: assertion(serviceAccount, nowMs) }).toString();
    return { url: serviceAccount.tokenUri, method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body };
  },
  read({ access_token: token, expires_in: seconds }, _credential, nowMs) {
    const lifeMs = Number(seconds ?? LIFE_S) * 1_000;
    return typeof token === "string" && lifeMs > 0 ? { token: new Secret(token), expiresAt: nowMs + lifeMs } : null;
  },
};

const pathsBelow = (prefix: string): ProviderPaths => ({
  chat: `${prefix}/publishers/google/models/{model}:generateContent`,
  stream: `${prefix}/publishers/google/models/{model}:streamGenerateContent?alt=sse`,
  count_tokens: `${prefix}/publishers/google/models/{model}:countTokens`,
});

export const vertexAi: ProviderRow = {
  ...gemini,
  id: "vertex-ai",
  baseUrl: "https://aiplatform.googleapis.com",
  account: {
    takes: ["project", "location", "serviceAccount"],
    needs: [["serviceAccount", "apiKey"]],
    lacks({ project, location, serviceAccount }, key) {
      if ((project ?? serviceAccount ?? undefined) !== undefined) return null;
      const why = key.startsWith(GOOGLE_TOKEN)
        ? "with an access token"
        : (location ?? undefined) === undefined
          ? null
          : "with location: express mode has none";
      return why === null ? null : { field: "project", message: `is required (or serviceAccount) ${why}` };
    },
  },
  // Of express mode.
  paths: pathsBelow("/v1"),
  of({ project, location = DEFAULT_LOCATION, serviceAccount }: AccountFields) {
    const id = project ?? serviceAccount?.projectId;
    if (id === undefined) return {};
    const host = location === "global" ? "" : `${location}-`;
    return {
      baseUrl: `https://${host}aiplatform.googleapis.com`,
      paths: pathsBelow(`/v1/projects/${encodeURIComponent(id)}/locations/${location}`),
    };
  },
  tokens: serviceAccountTokens,
  authorize(headers: Record<string, string>, credential: Credential) {
    if (credential.serviceAccount || credential.apiKey?.reveal().startsWith(GOOGLE_TOKEN)) bearer(headers, credential);
    else googleKey(headers, credential);
  },
  models: [
    "gemini-3-pro-preview",
    "gemini-3-flash-preview",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.0-flash-001",
    "gemini-2.0-flash-lite-001",
  ],
};
