// The official clients, each asked the same in its own words, and what they understood in words of ours.
import Anthropic from "@anthropic-ai/sdk";
import { ApiError, GoogleGenAI, type Content, type GenerateContentParameters, type GenerateContentResponse } from "@google/genai";
import OpenAI from "openai";

export type ClientName = "openai" | "responses" | "anthropic" | "gemini";

/** How a client reaches a guard: over HTTP below a mount, or by a fetch in this process. */
export interface Reach {
  readonly apiKey: string;
  /** Of the mount; absent = the client's own host, which must never be asked. */
  readonly mount?: string;
  readonly fetch: typeof globalThis.fetch;
}

export interface Question {
  readonly model: string;
  readonly stream: boolean;
  readonly offersTool?: true;
  readonly showsImage?: true;
  readonly maxTokens?: number;
}

export interface Said {
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly input: unknown }[];
  readonly stop: string | null | undefined;
  readonly usage: readonly [inputTokens: number | undefined, outputTokens: number | undefined];
  /** Sends the result of its calls, each the same. */
  readonly answer: (result: string) => Promise<Said>;
}

export interface Client {
  ask(question: Question): Promise<Said>;
  /** How many tokens the prompt has, where the API tells. */
  readonly count?: (model: string) => Promise<number | undefined>;
  /** What its errors are. */
  readonly errorType: new (...args: never[]) => Error;
  /** How it writes a stop, a stop at the cap, and a stop for tools. */
  readonly stops: readonly [stop: string, length: string, toolCalls: string];
}

const SYSTEM = "be kind";
const PROMPT = "one two three";
export const IMAGE = { mediaType: "image/png", data: "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" } as const;
const MAX_TOKENS = 200;
const SCHEMA = { type: "object" as const, properties: { city: { type: "string" } }, required: ["city"] };

/** Pieces that came in while the stream ran: what a failure leaves behind. */
export const heard: string[] = [];
/** The bytes behind them. */
export const wire: string[] = [];

/** What the dialects end with when all went well. */
export const END = /\[DONE\]|message_stop|"stop_reason":"|"finish_reason":"|"finishReason"|response\.(?:completed|incomplete)/;

/** Writes down what comes through. */
export function listening(fetch: typeof globalThis.fetch): typeof globalThis.fetch {
  return async (input, init) => {
    const response = await fetch(input, init);
    const decoder = new TextDecoder();
    const seen = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        wire.push(decoder.decode(chunk, { stream: true }));
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body?.pipeThrough(seen) ?? null, { status: response.status, headers: response.headers });
  };
}

function chat(reach: Reach): Client {
  const openai = new OpenAI({ ...base(reach, "/v1"), maxRetries: 0 });
  type Messages = OpenAI.ChatCompletionMessageParam[];

  async function said(question: Question, messages: Messages): Promise<Said> {
    const params = {
      model: question.model,
      messages,
      max_tokens: question.maxTokens ?? MAX_TOKENS,
      ...(question.offersTool ? { tools: [{ type: "function" as const, function: { name: "weather", parameters: SCHEMA } }] } : {}),
    };
    let completion: OpenAI.ChatCompletion;
    if (question.stream) {
      const stream = openai.chat.completions.stream({ ...params, stream_options: { include_usage: true } });
      stream.on("content", (piece) => heard.push(piece));
      completion = await stream.finalChatCompletion();
    } else completion = await openai.chat.completions.create(params);
    const [choice] = completion.choices;
    const calls = (choice?.message.tool_calls ?? []).flatMap((call) => (call.type === "function" ? [call] : []));
    return {
      text: choice?.message.content ?? "",
      calls: calls.map((call) => ({ name: call.function.name, input: JSON.parse(call.function.arguments) as unknown })),
      stop: choice?.finish_reason,
      usage: [completion.usage?.prompt_tokens, completion.usage?.completion_tokens],
      answer: (result) =>
        said(question, [
          ...messages,
          choice?.message as OpenAI.ChatCompletionMessage,
          ...calls.map(({ id }) => ({ role: "tool" as const, tool_call_id: id, content: result })),
        ]),
    };
  }

  return {
    errorType: OpenAI.APIError,
    stops: ["stop", "length", "tool_calls"],
    ask: (question) =>
      said(question, [
        { role: "system", content: SYSTEM },
        {
          role: "user",
          content: question.showsImage
            ? [
                { type: "text", text: PROMPT },
                { type: "image_url", image_url: { url: `data:${IMAGE.mediaType};base64,${IMAGE.data}` } },
              ]
            : PROMPT,
        },
      ]),
  };
}

function responses(reach: Reach): Client {
  const openai = new OpenAI({ ...base(reach, "/v1"), maxRetries: 0 });

  async function said(question: Question, input: OpenAI.Responses.ResponseInput): Promise<Said> {
    const params = {
      model: question.model,
      instructions: SYSTEM,
      input,
      max_output_tokens: question.maxTokens ?? MAX_TOKENS,
      ...(question.offersTool ? { tools: [{ type: "function" as const, name: "weather", parameters: SCHEMA, strict: false }] } : {}),
    };
    let response: OpenAI.Responses.Response;
    if (question.stream) {
      const stream = openai.responses.stream(params);
      stream.on("response.output_text.delta", ({ delta }) => heard.push(delta));
      response = await stream.finalResponse();
    } else response = await openai.responses.create(params);
    const calls = response.output.flatMap((item) => (item.type === "function_call" ? [item] : []));
    return {
      text: response.output_text,
      calls: calls.map((call) => ({ name: call.name, input: JSON.parse(call.arguments) as unknown })),
      stop: response.incomplete_details?.reason ?? response.status,
      usage: [response.usage?.input_tokens, response.usage?.output_tokens],
      answer: (result) =>
        said(question, [
          ...input,
          ...(response.output as OpenAI.Responses.ResponseInputItem[]),
          ...calls.map(({ call_id }) => ({ type: "function_call_output" as const, call_id, output: result })),
        ]),
    };
  }

  return {
    errorType: OpenAI.APIError,
    stops: ["completed", "max_output_tokens", "completed"],
    ask: (question) =>
      said(question, [
        {
          role: "user",
          content: question.showsImage
            ? [
                { type: "input_text", text: PROMPT },
                { type: "input_image", detail: "auto", image_url: `data:${IMAGE.mediaType};base64,${IMAGE.data}` },
              ]
            : PROMPT,
        },
      ]),
  };
}

function anthropic(reach: Reach): Client {
  const claude = new Anthropic({ ...base(reach, ""), maxRetries: 0 });

  async function said(question: Question, messages: Anthropic.MessageParam[]): Promise<Said> {
    const params = {
      model: question.model,
      system: SYSTEM,
      messages,
      max_tokens: question.maxTokens ?? MAX_TOKENS,
      ...(question.offersTool ? { tools: [{ name: "weather", input_schema: SCHEMA }] } : {}),
    };
    let message: Anthropic.Message;
    if (question.stream) {
      const stream = claude.messages.stream(params);
      stream.on("text", (piece) => heard.push(piece));
      message = await stream.finalMessage();
    } else message = await claude.messages.create(params);
    const calls = message.content.flatMap((block) => (block.type === "tool_use" ? [block] : []));
    const { input_tokens: fresh, cache_read_input_tokens: read, cache_creation_input_tokens: written, output_tokens: output } = message.usage;
    return {
      text: message.content.map((block) => (block.type === "text" ? block.text : "")).join(""),
      calls: calls.map(({ name, input }) => ({ name, input })),
      stop: message.stop_reason,
      usage: [fresh + (read ?? 0) + (written ?? 0), output],
      answer: (result) =>
        said(question, [
          ...messages,
          { role: "assistant", content: message.content },
          { role: "user", content: calls.map(({ id }) => ({ type: "tool_result" as const, tool_use_id: id, content: result })) },
        ]),
    };
  }

  return {
    errorType: Anthropic.APIError,
    stops: ["end_turn", "max_tokens", "tool_use"],
    count: async (model) => (await claude.messages.countTokens({ model, messages: [{ role: "user", content: PROMPT }] })).input_tokens,
    ask: (question) =>
      said(question, [
        {
          role: "user",
          content: question.showsImage
            ? [
                { type: "text", text: PROMPT },
                { type: "image", source: { type: "base64", media_type: IMAGE.mediaType, data: IMAGE.data } },
              ]
            : PROMPT,
        },
      ]),
  };
}

function gemini({ apiKey, mount, fetch }: Reach): Client {
  const google = new GoogleGenAI({ apiKey, httpOptions: { ...(mount === undefined ? {} : { baseUrl: mount }), fetch } });

  async function chunksOf(params: GenerateContentParameters, isStream: boolean): Promise<readonly GenerateContentResponse[]> {
    if (!isStream) return [await google.models.generateContent(params)];
    const chunks: GenerateContentResponse[] = [];
    for await (const chunk of await google.models.generateContentStream(params)) {
      chunks.push(chunk);
      heard.push(chunk.candidates?.[0]?.content?.parts?.[0]?.text ?? "");
    }
    return chunks;
  }

  async function said(question: Question, contents: readonly Content[]): Promise<Said> {
    const config = {
      systemInstruction: SYSTEM,
      maxOutputTokens: question.maxTokens ?? MAX_TOKENS,
      ...(question.offersTool ? { tools: [{ functionDeclarations: [{ name: "weather", parametersJsonSchema: SCHEMA }] }] } : {}),
    };
    const chunks = await chunksOf({ model: question.model, contents: [...contents], config }, question.stream);
    const parts = chunks.flatMap(({ candidates }) => candidates?.[0]?.content?.parts ?? []);
    const calls = parts.flatMap(({ functionCall }) => (functionCall ? [functionCall] : []));
    const usage = chunks.findLast(({ usageMetadata }) => usageMetadata)?.usageMetadata;
    const results = (result: string): Content => ({
      role: "user",
      parts: calls.map(({ id, name = "" }) => ({ functionResponse: { ...(id === undefined ? {} : { id }), name, response: { result } } })),
    });
    return {
      text: parts.map(({ text, thought }) => (thought ? "" : (text ?? ""))).join(""),
      calls: calls.map(({ name = "", args }) => ({ name, input: args })),
      stop: chunks.findLast(({ candidates }) => candidates?.[0]?.finishReason)?.candidates?.[0]?.finishReason,
      usage: [usage?.promptTokenCount, usage && (usage.candidatesTokenCount ?? 0) + (usage.thoughtsTokenCount ?? 0)],
      answer: (result) => said(question, [...contents, { role: "model", parts }, results(result)]),
    };
  }

  return {
    errorType: ApiError,
    stops: ["STOP", "MAX_TOKENS", "STOP"],
    count: async (model) => (await google.models.countTokens({ model, contents: PROMPT })).totalTokens,
    ask: (question) =>
      said(question, [
        {
          role: "user",
          parts: [{ text: PROMPT }, ...(question.showsImage ? [{ inlineData: { mimeType: IMAGE.mediaType, data: IMAGE.data } }] : [])],
        },
      ]),
  };
}

const base = ({ apiKey, mount, fetch }: Reach, version: string) => ({
  apiKey,
  ...(mount === undefined ? {} : { baseURL: mount + version }),
  fetch,
});

export const CLIENTS: Readonly<Record<ClientName, (reach: Reach) => Client>> = { openai: chat, responses, anthropic, gemini };
