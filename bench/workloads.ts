/** What is asked and answered: the same bytes for every target, built once. */

import { anthropicCodec } from "../src/dialects/anthropic/index.ts";
import { losses } from "../src/dialects/losses.ts";
import { openaiCodec } from "../src/dialects/openai/codec.ts";
import { translation } from "../src/dialects/translate.ts";

export interface Workload {
  readonly id: "json" | "sse" | "sse-translated";
  readonly title: string;
  /** It asks for another dialect than the upstream's: only gateways that translate can answer it. The workload that is the same otherwise. */
  readonly translationOf?: Workload["id"];
  /** Whole requests, one per client key; connections take them in turn. */
  readonly requests: readonly Buffer[];
  /** The payload that must arrive, byte for byte. */
  readonly answer: Buffer;
  /** The same as the upstream writes it, head and framing included, in one write. */
  readonly wire: Buffer;
}

export const MODEL = "gpt-4o";
export const CLIENTS = 8;
const STREAM_CHUNKS = 50;
const PATH = "/v1/chat/completions";

export const clientKey = (index: number): string => `qg_bench_client_${index}_0123456789abcdef0123456789abcdef`;

/** What tells the upstream which of the two to answer. */
export const STREAM_MARK = '"stream":true';

export const workloads: readonly Workload[] = [jsonWorkload(), sseWorkload(), translatedWorkload()];

/** Any other request that reaches the upstream (a gateway asking for a list of models, say). */
export const notFoundWire = notFound(JSON.stringify({ error: { message: "Unknown path.", type: "invalid_request_error", param: null, code: null } }));

function jsonWorkload(): Workload {
  const content = text(520);
  const body = {
    id: "chatcmpl-B9MHDbslfkBeAs8l4b",
    object: "chat.completion",
    created: 1_770_000_000,
    model: "gpt-4o-2024-11-20",
    choices: [{ index: 0, message: { role: "assistant", content, refusal: null, annotations: [] }, logprobs: null, finish_reason: "stop" }],
    usage: usage(212, 128),
    service_tier: "default",
    system_fingerprint: "fp_fc9f1d7035",
  };
  const answer = Buffer.from(JSON.stringify(body));
  const wire = Buffer.concat([head(["Content-Type: application/json", `Content-Length: ${answer.length}`]), answer]);
  return { id: "json", title: "JSON: 1 KB chat request, 1 KB answer with usage", requests: requests({}), answer, wire };
}

function sseWorkload(): Workload {
  const events: string[] = [];
  const event = (choices: readonly unknown[], totals: unknown): void => {
    const chunk = {
      id: "chatcmpl-B9MHDbslfkBeAs8l4b",
      object: "chat.completion.chunk",
      created: 1_770_000_000,
      model: "gpt-4o-2024-11-20",
    };
    events.push(`data: ${JSON.stringify({ ...chunk, system_fingerprint: "fp_fc9f1d7035", choices, usage: totals })}\n\n`);
  };
  for (let i = 0; i < STREAM_CHUNKS; i++) {
    const last = i === STREAM_CHUNKS - 1;
    const delta = i === 0 ? { role: "assistant", content: "", refusal: null } : last ? {} : { content: ` word${i}` };
    event([{ index: 0, delta, logprobs: null, finish_reason: last ? "stop" : null }], null);
  }
  event([], usage(212, STREAM_CHUNKS));
  events.push("data: [DONE]\n\n");
  // One HTTP chunk per event, as providers send them, although all of them leave in one write.
  const frames = events.map((data) => `${Buffer.byteLength(data).toString(16)}\r\n${data}\r\n`).join("");
  const wire = Buffer.concat([
    head(["Content-Type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked"]),
    Buffer.from(`${frames}0\r\n\r\n`),
  ]);
  const answer = Buffer.from(events.join(""));
  const title = `SSE: ${STREAM_CHUNKS} chunks, usage and [DONE] in one burst (${(answer.length / 1000).toFixed(1)} KB)`;
  return { id: "sse", title, requests: requests({ stream: true, stream_options: { include_usage: true } }), answer, wire };
}

/** The same stream for a client of Anthropic's. What must arrive is what the codecs make of it, so a gateway that cuts, loses or reorders anything is found out. */
function translatedWorkload(): Workload {
  const { answer: events, wire } = sseWorkload();
  const asked = {
    model: MODEL,
    stream: true,
    temperature: 0.2,
    max_tokens: 256,
    system: text(260),
    messages: [{ role: "user", content: text(580) }],
  };
  const lost = losses(false);
  const made = translation({
    from: anthropicCodec,
    to: openaiCodec,
    request: anthropicCodec.decodeRequest(asked, { model: MODEL, stream: true }, lost),
    encoding: { losses: lost, family: "openai" },
    answering: { model: MODEL, nextId: () => "never", created: 0, wantsUsage: true },
    unwrap: undefined,
  });
  const observer = made.observer({ hideUsage: false, countTokens: () => 0 });
  const pieces = [observer.push(events), observer.end().rest].filter((piece) => piece !== null);
  const title = `SSE, translated: the same stream for a client of Anthropic's (${CLIENTS} clients, ${STREAM_CHUNKS} chunks)`;
  return { id: "sse-translated", title, translationOf: "sse", requests: posts("/v1/messages", asked), answer: Buffer.concat(pieces), wire };
}

function notFound(body: string): Buffer {
  return Buffer.from(`HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}

function requests(extra: Readonly<Record<string, unknown>>): readonly Buffer[] {
  const messages = [
    { role: "system", content: text(260) },
    { role: "user", content: text(580) },
  ];
  return posts(PATH, { model: MODEL, ...extra, temperature: 0.2, max_tokens: 256, messages });
}

function posts(path: string, asked: object): readonly Buffer[] {
  const body = Buffer.from(JSON.stringify(asked));
  return Array.from({ length: CLIENTS }, (_, index) => {
    const lines = [
      `POST ${path} HTTP/1.1`,
      "Host: gateway.local",
      "User-Agent: OpenAI/JS 7.55.0",
      "Accept: application/json",
      "Content-Type: application/json",
      `Authorization: Bearer ${clientKey(index)}`,
      `Content-Length: ${body.length}`,
    ];
    return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), body]);
  });
}

function head(framing: readonly string[]): Buffer {
  const lines = [
    "HTTP/1.1 200 OK",
    "Date: Thu, 01 Jan 2026 00:00:00 GMT",
    ...framing,
    "openai-organization: org-bench",
    "openai-processing-ms: 412",
    "openai-version: 2020-10-01",
    "x-ratelimit-limit-requests: 10000000",
    "x-ratelimit-limit-tokens: 1000000000",
    "x-ratelimit-remaining-requests: 9999999",
    "x-ratelimit-remaining-tokens: 999999999",
    "x-request-id: req_0123456789abcdef0123456789abcdef",
  ];
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n`);
}

function usage(input: number, output: number): object {
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
  };
}

/** Plain words of about that length, with an escaped quote now and then as real text has. */
function text(length: number): string {
  const words = 'The "budget" of a team is refilled while it works, and what was held is given back when the answer was shorter than feared. ';
  return words.repeat(Math.ceil(length / words.length)).slice(0, length);
}
