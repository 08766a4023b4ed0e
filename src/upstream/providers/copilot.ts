/**
 * GitHub Copilot. The GitHub token of a login stands in `api_key`, and is exchanged for one of Copilot's, which also says where it is asked. Headers that name
 * an editor are not sent: who is allowed to, sets them in the credential's `headers`.
 */
import type { AdaptedRequest, Credential, TokenExchange } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { resetTime } from "../../core/reset-time.ts";
import { Secret } from "../../core/secret.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { bearer, openAiCompatible } from "./openai.ts";

type Fields = Readonly<Record<string, unknown>>;

const API = "https://api.githubcopilot.com";
const TOKEN_PATH = "/copilot_internal/v2/token";
const TOKEN_HOST = "https://api.github.com";
/** Where a token may be sent; an answer that names another host is not believed. */
const HOSTS: ReadonlySet<string> = new Set([
  API,
  "https://api.individual.githubcopilot.com",
  "https://api.business.githubcopilot.com",
  "https://copilot-proxy.githubusercontent.com",
]);
/** Of a token that says no end. */
const LIFE_MS = 25 * 60_000;

/** An operator's own base URL stands for all of GitHub's hosts. */
const isRelayed = ({ origin }: Credential): boolean => origin !== API;

const tokens: TokenExchange = {
  request(credential) {
    if (!credential.apiKey) return null;
    const base = isRelayed(credential) ? credential.origin + credential.basePath : TOKEN_HOST;
    return { url: base + TOKEN_PATH, method: "GET", headers: { authorization: `Bearer ${credential.apiKey.reveal()}` }, body: null };
  },
  read({ token, expires_at: end, endpoints }, credential, nowMs) {
    const api = fieldsOf(endpoints)?.api;
    const origin = typeof api === "string" ? api.replace(/\/+$/, "") : API;
    if (typeof token !== "string" || (!isRelayed(credential) && !HOSTS.has(origin))) return null;
    const expiresAt = resetTime(end, nowMs) ?? nowMs + LIFE_MS;
    return { token: new Secret(token), expiresAt, ...(isRelayed(credential) ? {} : { origin }) };
  },
};

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** Its models read an assistant's text as one. */
function adaptedMessage(value: unknown): unknown {
  const message = fieldsOf(value);
  if (message?.role !== "assistant" || !Array.isArray(message.content)) return value;
  const texts = message.content.map((part: unknown) => fieldsOf(part)?.text);
  return { ...message, content: texts.filter((text) => typeof text === "string").join("") };
}

/** One tool cannot be demanded by its name; offering no other is the same. */
function adapt(body: Fields): Fields {
  const messages = Array.isArray(body.messages) ? { messages: body.messages.map(adaptedMessage) } : {};
  const wanted = fieldsOf(fieldsOf(body.tool_choice)?.function)?.name;
  if (wanted === undefined) return { ...body, ...messages };
  const tools = listOf(body.tools).filter((tool) => fieldsOf(fieldsOf(tool)?.function)?.name === wanted);
  return { ...body, ...messages, tools, tool_choice: "required" };
}

const showsImage = (part: unknown): boolean => {
  const type = fieldsOf(part)?.type;
  return type === "image_url" || type === "input_image";
};

/** Who began decides what a request is billed as: a person, when the last turn is theirs. */
function requestHeaders(body: Fields, { requestId }: AdaptedRequest): Readonly<Record<string, string>> {
  const turns = listOf(body.messages ?? body.input).map(fieldsOf);
  const isPersons = typeof body.input === "string" || turns.at(-1)?.role === "user";
  const hasImage = turns.some((turn) => listOf(turn?.content).some(showsImage));
  return {
    "x-initiator": isPersons ? "user" : "agent",
    "x-request-id": requestId,
    ...(hasImage ? { "copilot-vision-request": "true" } : {}),
  };
}

export const copilot: ProviderRow = {
  ...openAiCompatible,
  id: "copilot",
  baseUrl: API,
  paths: { chat: "/chat/completions", embeddings: "/embeddings", models: "/models" },
  also: { responses: { chat: "/responses" } },
  account: { needs: [["apiKey"]] },
  tokens,
  authorize: bearer,
  adapt,
  requestHeaders,
};
