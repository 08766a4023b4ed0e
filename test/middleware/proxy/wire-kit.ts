/** A gateway of nothing but its proxy, in front of scripted providers of any dialect: real sockets on both sides. */
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import { onTestFinished } from "vitest";
import type { AttemptOutcome, Credential, ProviderRow } from "../../../src/core/credential.ts";
import type { Charged, Context } from "../../../src/core/context.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { codecOf, dialect } from "../../../src/dialects/index.ts";
import { gatewayHandler } from "../../../src/http/handler.ts";
import { proxyStep, type ProxyOptions } from "../../../src/middleware/proxy/proxy.ts";
import { retryBudget } from "../../../src/resilience/retry-budget.ts";
import { providerRow } from "../../../src/upstream/providers.ts";
import { undiciTransport } from "../../../src/upstream/transport.ts";
import { kit } from "../../core/context-kit.ts";
import { opening, serve } from "../../http/server-kit.ts";
import { credential } from "../../pool/pool-kit.ts";

export const OPENAI: ProviderRow = providerRow("openai-compatible");
export const ANTHROPIC: ProviderRow = {
  ...OPENAI,
  id: "anthropic",
  dialect: "anthropic",
  paths: { chat: "/v1/messages", count_tokens: "/v1/messages/count_tokens", models: "/v1/models" },
  forwardedHeaders: ["anthropic-beta"],
  authorize(headers, { apiKey }) {
    headers["x-api-key"] = apiKey?.reveal() ?? "";
    headers["anthropic-version"] = "2023-06-01";
  },
};

/** What a provider does: JSON, a list of raw pieces of a stream, or anything by hand. */
export type Script =
  | { readonly status?: number; readonly json: unknown; readonly headers?: Readonly<Record<string, string>> }
  | { readonly events: readonly string[]; readonly cut?: boolean; readonly type?: string }
  | ((res: ServerResponse) => void);

export interface Arrived {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: JsonObject;
  readonly text: string;
}

export interface Provider {
  readonly credential: Credential;
  readonly arrived: Arrived[];
  /** One per request, the last one for all that follow. */
  script(...scripts: readonly Script[]): void;
}

export async function provider(name: string, row: ProviderRow, ...first: readonly Script[]): Promise<Provider> {
  let scripts = [...first];
  const arrived: Arrived[] = [];
  const { url } = await serve((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => {
      const text = Buffer.concat(chunks).toString();
      arrived.push({ path: req.url ?? "", headers: req.headers, body: JSON.parse(text) as JsonObject, text });
      play(res, (scripts.length > 1 ? scripts.shift() : scripts[0]) as Script);
    });
  });
  const made = credential(name, { provider: row.id, row, origin: url, apiKey: new Secret(`sk-secret-of-${name}`), allowPrivate: true });
  return { credential: made, arrived, script: (...next) => void (scripts = [...next]) };
}

function play(res: ServerResponse, script: Script): void {
  if (typeof script === "function") return script(res);
  if ("json" in script) {
    res.writeHead(script.status ?? 200, { "content-type": "application/json", ...script.headers });
    return void res.end(typeof script.json === "string" ? script.json : JSON.stringify(script.json));
  }
  res.writeHead(200, { "content-type": script.type ?? "text/event-stream" });
  for (const event of script.events) res.write(event);
  if (script.cut) setImmediate(() => res.destroy());
  else res.end();
}

export const named = (name: string, data: unknown): string => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
export const said = (data: unknown): string => `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;

/** A whole Messages stream. */
export const anthropicStream = (text: readonly string[], usage = { input_tokens: 11, output_tokens: 7 }): readonly string[] => [
  named("message_start", {
    type: "message_start",
    message: { id: "msg_1", type: "message", role: "assistant", model: "claude", content: [], usage: { ...usage, output_tokens: 1 } },
  }),
  named("content_block_start", { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } }),
  ...text.map((piece) => named("content_block_delta", { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: piece } })),
  named("content_block_stop", { type: "content_block_stop", index: 0 }),
  named("message_delta", { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: usage.output_tokens } }),
  named("message_stop", { type: "message_stop" }),
];

export const anthropicAnswer = (text: string): JsonObject => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude",
  content: [{ type: "text", text }],
  stop_reason: "end_turn",
  usage: { input_tokens: 11, output_tokens: 7 },
});

const chunk = (choice: JsonObject | null, more: JsonObject = {}): string =>
  said({ id: "c1", object: "chat.completion.chunk", created: 1, model: "gpt", choices: choice ? [{ index: 0, ...choice }] : [], ...more });

export const openaiStream = (text: readonly string[]): readonly string[] => [
  chunk({ delta: { role: "assistant", content: "" }, finish_reason: null }),
  ...text.map((piece) => chunk({ delta: { content: piece }, finish_reason: null })),
  chunk({ delta: {}, finish_reason: "stop" }),
  chunk(null, { usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 } }),
  said("[DONE]"),
];

export const openaiAnswer = (text: string): JsonObject => ({
  id: "c1",
  object: "chat.completion",
  created: 1,
  model: "gpt",
  choices: [{ index: 0, message: { role: "assistant", content: text }, finish_reason: "stop" }],
  usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 },
});

export interface Gateway {
  readonly url: string;
  post(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Response>;
  /** How each lease ended. */
  readonly ended: { readonly name: string; readonly outcome: AttemptOutcome; readonly charged: Charged | undefined }[];
  readonly last: () => Context;
}

/** Asks each of the providers once, in their order. */
export async function gateway(providers: readonly Provider[], more: Partial<ProxyOptions> = {}, prepare?: (ctx: Context) => void): Promise<Gateway> {
  const parts = kit();
  const transport = undiciTransport({ connectTimeoutMs: 5_000, clock: parts.clock });
  onTestFinished(() => transport.close());
  let made = 0;
  const step = proxyStep({
    services: parts.services,
    transport,
    retryBudget: retryBudget(parts.clock, 1),
    maxRetries: providers.length,
    random: () => 0,
    dialectOf: (call) => dialect(call.dialect),
    codecOf,
    nextId: () => `made${(made += 1)}`,
    lossy: false,
    maxOutputTokensOf: () => null,
    requestTimeoutMs: 60_000,
    firstByteTimeoutMs: 60_000,
    idleTimeoutMs: 60_000,
    countTokens: (text) => Math.ceil(text.length / 4),
    inputTokens: () => 5,
    ...more,
  });
  const ended: Gateway["ended"] = [];
  let ctx: Context | undefined;
  const { options } = opening(
    {
      bodyLimit: 10_000_000,
      onOpen(opened) {
        ctx = opened;
        const left = [...providers];
        opened.choice = {
          next() {
            const next = left.shift();
            if (!next) return null;
            const model = opened.knownCall?.model ?? "";
            const release = (outcome: AttemptOutcome): void => void ended.push({ name: next.credential.name, outcome, charged: opened.charged });
            return { credential: next.credential, model, name: model, release };
          },
        };
        prepare?.(opened);
      },
    },
    parts,
  );
  const handler = gatewayHandler({ call: step, models: step }, options);
  const { url } = await serve((req, res) => handler(req, res, () => res.writeHead(418).end()));
  return {
    url,
    ended,
    last: () => ctx as Context,
    post: (path, body, headers = {}) =>
      fetch(url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) }),
  };
}

/** The data of a stream's events. */
export const dataOf = (text: string): readonly unknown[] =>
  text
    .split("\n\n")
    .flatMap((event) => event.split("\n").filter((line) => line.startsWith("data: ")))
    .map((line) => (line === "data: [DONE]" ? "[DONE]" : (JSON.parse(line.slice(6)) as unknown)));
