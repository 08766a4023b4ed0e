/** What holds between any two dialects: the caller's and the provider's. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { DialectId, Family } from "../../src/core/call.ts";
import { totalInputTokens, totalOutputTokens } from "../../src/core/usage.ts";
import { dialect } from "../../src/dialects/index.ts";
import type { AssistantBlock, ChatAnswer, ChatRequest, UserBlock } from "../../src/dialects/message.ts";
import { answering, collected, decoded, encoding, eventsOf, read, same } from "./codec-kit.ts";
import { answers, requests, thinkingBlock, turns } from "./generators.ts";

const DIALECTS = ["openai", "responses", "anthropic", "gemini"] as const satisfies readonly DialectId[];
const FAMILIES: Readonly<Record<DialectId, Family>> = { openai: "openai", responses: "openai", anthropic: "anthropic", gemini: "gemini" };
const MODELS: Readonly<Record<Family, string>> = { openai: "gpt-4o", anthropic: "claude-opus-4-1", gemini: "gemini-2.5-flash" };

/** What a conversation says, whatever its dialect: texts, calls, answers to calls. */
function said({ turns: all }: ChatRequest): readonly unknown[] {
  return all.flatMap(({ role, blocks }) =>
    (blocks as readonly (UserBlock | AssistantBlock)[]).flatMap((block): readonly unknown[] => {
      if (block.type === "text") return [[role, block.text]];
      if (block.type === "tool_call") return [["call", block.name, JSON.parse(block.input)]];
      if (block.type === "tool_result") return [["answer", block.content.flatMap((each) => (each.type === "text" ? [each.text] : []))]];
      return block.type === "image" ? [["image"]] : [];
    }),
  );
}

/** Dialects put the texts of one turn together, or apart: joined they are the same. */
const joined = (parts: readonly unknown[]): string => JSON.stringify(parts);

const told = ({ choices }: ChatAnswer) =>
  choices.map(({ blocks, stop }) => ({
    text: blocks.flatMap((block) => (block.type === "text" ? [block.text] : [])).join(""),
    calls: blocks.flatMap((block) => (block.type === "tool_call" ? [[block.name, JSON.parse(block.input)]] : [])),
    stop,
  }));

const totals = ({ usage }: ChatAnswer) => usage && [totalInputTokens(usage), totalOutputTokens(usage), usage.cacheReadTokens];

export function pairLaws(numRuns: number): void {
  const pairs = DIALECTS.flatMap((from) => DIALECTS.map((to) => [from, to] as const)).filter(([from, to]) => from !== to);

  describe.each(pairs)("from %s to %s", (from, to) => {
    const [caller, provider] = [dialect(from).codec, dialect(to).codec];
    const family = FAMILIES[to];
    const model = MODELS[family];
    const thoughts = [thinkingBlock("anthropic"), thinkingBlock("gemini"), thinkingBlock("openai")];

    test("a conversation keeps what was said, called and answered", () => {
      const conversation = fc.oneof(turns(), turns([fc.oneof(...thoughts)]));
      fc.assert(
        fc.property(requests({ model, turns: conversation }), (request) => {
          const lenient = { cannot() {}, drops() {}, dropped: [] };
          const { body } = caller.encodeRequest(request, encoding(FAMILIES[from], { losses: lenient }));
          const asked = read(caller, body, { model, stream: request.stream, lossy: true }).request;
          const sent = provider.encodeRequest(asked, encoding(family, { losses: lenient }));
          const arrived = read(provider, sent.body, { model, stream: request.stream, lossy: true }).request;
          expect(joined(said(arrived))).toBe(joined(said(asked)));
          expect(arrived.tools.map((tool) => (tool.kind === "web_search" ? tool.kind : sent.toolName(tool.name)))).toEqual(
            asked.tools.map((tool) => (tool.kind === "web_search" ? tool.kind : tool.name)),
          );
        }),
        { numRuns },
      );
    });

    test("an answer keeps text, calls, why it ended and what it used, whole and streamed, wherever it is cut", () => {
      const any = fc.oneof(answers(), answers([fc.oneof(...thoughts)]));
      fc.assert(
        fc.property(any, fc.integer({ min: 1, max: 64 }), (answer, step) => {
          const whole = provider.decodeAnswer(provider.encodeAnswer(answer, answering({ model })), same) as ChatAnswer;
          const given = caller.decodeAnswer(caller.encodeAnswer(whole, answering({ model })), same) as ChatAnswer;
          const stream = provider.encoder(answering({ model })).push(eventsOf(answer));
          const encoder = caller.encoder(answering({ model }));
          const written = decoded(provider, stream, step)
            .map((events) => encoder.push(events))
            .join("");
          const streamed = collected(caller, written) as ChatAnswer;
          const ends = decoded(caller, written)
            .flat()
            .filter(({ type }) => type === "end");
          expect(ends).toHaveLength(1);
          for (const each of [given, streamed]) {
            expect(told(each)).toEqual(told(answer));
            if (totals(answer)?.some((count) => count > 0)) expect(totals(each)).toEqual(totals(answer));
          }
        }),
        { numRuns },
      );
    });
  });
}
