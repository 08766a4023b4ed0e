/** Requests and answers in the neutral form, as any dialect may have to write them. */
import fc from "fast-check";
import type { Family } from "../../src/core/call.ts";
import type { Usage } from "../../src/core/usage.ts";
import type {
  AssistantBlock,
  ChatAnswer,
  ChatRequest,
  JsonObject,
  Signature,
  StopReason,
  Tool,
  ToolResultBlock,
  Turn,
  UserBlock,
} from "../../src/dialects/message.ts";
import { settledStop } from "../../src/dialects/message.ts";

/** Any text that JSON can carry between machines: no halves of characters. */
const words = fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 });
const name = fc.stringMatching(/^[a-zA-Z_][a-zA-Z0-9_]{0,20}$/);
const id = fc.stringMatching(/^[a-zA-Z0-9_-]{1,24}$/);
const base64 = fc.uint8Array({ minLength: 1, maxLength: 20 }).map((bytes) => Buffer.from(bytes).toString("base64"));

/** The text of a JSON object, written as JSON.stringify does. */
const toolInput = fc
  .dictionary(name, fc.oneof(words, fc.integer(), fc.boolean(), fc.constant(null)), { maxKeys: 4 })
  .map((value) => JSON.stringify(value));

const textBlock = words.map((text) => ({ type: "text" as const, text }));
const imageBlock = fc.oneof(
  base64.map((data) => ({ type: "image" as const, source: { kind: "base64" as const, mediaType: "image/png", data } })),
  fc.webUrl().map((url) => ({ type: "image" as const, source: { kind: "url" as const, url, mediaType: null } })),
);

const signature = (family: Family): fc.Arbitrary<Signature> => base64.map((value) => ({ family, value }));
/** Of a family, or unsigned; `null` = no thoughts at all. */
export const thinkingBlock = (family: Family): fc.Arbitrary<AssistantBlock> =>
  fc.record({ type: fc.constant("thinking" as const), text: words, signature: signature(family) });

const toolCall = fc.record({ type: fc.constant("tool_call" as const), id, name, input: toolInput });

const functionTool = fc.record<Extract<Tool, { kind: "function" }>>({
  kind: fc.constant("function" as const),
  name,
  description: fc.option(words, { nil: null }),
  schema: fc.constant<JsonObject>({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  strict: fc.constant(null),
});

/** A conversation that begins and ends with the user, in which each call has its answer. */
export function turns(extra: readonly fc.Arbitrary<AssistantBlock>[] = []): fc.Arbitrary<readonly Turn[]> {
  // Texts that stand side by side are one in some dialects.
  const said = fc
    .tuple(fc.tuple(...extra.map((each) => fc.option(each))), fc.option(textBlock))
    .map(([first, text]) => [...first.filter((block) => block !== null), ...(text ? [text] : [])]);
  const exchange = fc.record({
    said,
    calls: fc.array(toolCall, { maxLength: 2 }),
    asked: fc.array(fc.oneof(textBlock, imageBlock), { minLength: 1, maxLength: 2 }),
    answers: words,
  });
  return fc.tuple(textBlock, fc.array(exchange, { maxLength: 3 })).map(([first, exchanges]) => {
    const all: Turn[] = [{ role: "user", blocks: [first] }];
    let made = 0;
    for (const { said: blocks, calls, asked, answers: told } of exchanges) {
      // Ids differ within a conversation.
      const own = calls.map((call) => ({ ...call, id: `${call.id}_${(made += 1)}` }));
      if (blocks.length + own.length === 0) continue;
      all.push({ role: "assistant", blocks: [...blocks, ...own] });
      const results: ToolResultBlock[] = own.map((call) => ({
        type: "tool_result",
        id: call.id,
        name: call.name,
        content: [{ type: "text", text: told }],
        isError: false,
      }));
      all.push({ role: "user", blocks: [...results, ...(asked as UserBlock[])] });
    }
    return all;
  });
}

export interface RequestShape {
  readonly model?: string;
  readonly turns?: fc.Arbitrary<readonly Turn[]>;
}

export function requests({ model = "some-model", turns: conversation = turns() }: RequestShape = {}): fc.Arbitrary<ChatRequest> {
  return fc.record({
    model: fc.constant(model),
    system: fc.array(textBlock, { maxLength: 1 }),
    turns: conversation,
    tools: fc.uniqueArray(functionTool, { maxLength: 3, selector: (tool) => tool.name }),
    toolChoice: fc.constant(null),
    parallelToolCalls: fc.constant(null),
    maxOutputTokens: fc.option(fc.integer({ min: 1, max: 100_000 })),
    stop: fc.uniqueArray(words, { maxLength: 2 }),
    temperature: fc.option(fc.constantFrom(0, 0.5, 1)),
    topP: fc.option(fc.constantFrom(0.1, 1)),
    topK: fc.constant(null),
    seed: fc.constant(null),
    format: fc.constant(null),
    reasoning: fc.constant(null),
    promptCacheKey: fc.constant(null),
    user: fc.constant(null),
    stream: fc.boolean(),
  });
}

const count = fc.nat(10_000);
const usages: fc.Arbitrary<Usage> = fc.record({
  inputTokens: count,
  cacheReadTokens: count,
  cacheWriteTokens: fc.constant(0),
  outputTokens: count,
  reasoningTokens: count,
});

/** Texts that stand side by side are one in most dialects: here none do. */
export function answers(extra: readonly fc.Arbitrary<AssistantBlock>[] = [], usage: fc.Arbitrary<Usage | null> = usages): fc.Arbitrary<ChatAnswer> {
  const blocks = fc.tuple(fc.tuple(...extra.map((each) => fc.option(each))), fc.option(textBlock), fc.array(toolCall, { maxLength: 3 }));
  return fc.tuple(blocks, fc.constantFrom<StopReason>("stop", "length", "content_filter"), usage).map(([[first, said, calls], stop, used]) => {
    const own = calls.map((call, i) => ({ ...call, id: `${call.id}_${i}` }));
    const all: AssistantBlock[] = [...first.filter((block) => block !== null), ...(said ? [said] : []), ...own];
    return {
      id: "answer_1",
      model: "some-model",
      usage: used,
      choices: [{ index: 0, blocks: all, stop: settledStop(stop, own.length > 0), stopSequence: null }],
    };
  });
}
