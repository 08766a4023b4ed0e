import { expect, test } from "vitest";
import type { QuotaFact } from "../src/core/quota-fact.ts";
import { quotaReader } from "../src/quota-reader.ts";
import { testClock } from "../src/testing/clock.ts";
import { configured } from "./upstream/providers/kit.ts";

const gpt = configured({ provider: "openai", apiKey: "sk-k" });
const mine = configured({ provider: "anthropic", apiKey: "sk-ant-k" });

function kit() {
  const facts: QuotaFact[] = [];
  const clock = testClock();
  const read = quotaReader({ report: (fact) => void facts.push(fact) }, clock);
  const used = (ratio: string, credential = mine, status = 200): void =>
    read({ credential, model: "m" }, status, { "anthropic-ratelimit-unified-5h-utilization": ratio }, status === 200 ? null : Buffer.from(""));
  const tokens = (left: number, model: string): void =>
    read({ credential: gpt, model }, 200, { "x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": String(left) }, null);
  return { facts, clock, used, read, tokens };
}

test("what an answer's headers say becomes a fact of its credential", () => {
  const { facts, clock, used } = kit();
  used("0.5");
  const fact = { credential: "mine", group: "5h", remainingRatio: 0.5, resetsAt: null, observedAt: clock.now(), windowMs: 18_000_000 };
  expect(facts).toEqual([{ ...fact, source: "headers" }]);
  // What comes with a refusal shows no room.
  used("0.2", mine, 429);
  expect(facts[1]).toEqual({ ...fact, remainingRatio: 0.8, source: "error" });
});

test("two models' figures never replace each other", () => {
  const { facts, tokens } = kit();
  tokens(50, "a");
  tokens(50, "b");
  tokens(50, "a");
  expect(facts.map(({ group, models }) => [group, models])).toEqual([
    ["tokens/a", ["a"]],
    ["tokens/b", ["b"]],
  ]);
});

test("what has hardly changed is told again after a while only, what has changed at once", () => {
  const { facts, clock, used } = kit();
  used("0.5");
  used("0.505");
  clock.advance(29_999);
  used("0.505");
  expect(facts).toHaveLength(1);
  used("0.6");
  clock.advance(30_000);
  used("0.6");
  used("0.6", configured({ provider: "anthropic", apiKey: "sk-ant-k" }));
  expect(facts.map(({ remainingRatio }) => remainingRatio)).toEqual([0.5, 0.4, 0.4, 0.4]);
});

test("that nothing is left, or something again, is told at once", () => {
  const { facts, used } = kit();
  for (const ratio of ["0.995", "1", "1", "0.995"]) used(ratio);
  expect(facts.map(({ remainingRatio }) => remainingRatio > 0)).toEqual([true, false, true]);
});

test("a refusal's words count where its headers have no numbers", () => {
  const { facts, clock, read } = kit();
  const body = Buffer.from(JSON.stringify({ error: { type: "tokens" } }));
  read({ credential: gpt, model: "a" }, 429, { "retry-after": "3", "x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "7" }, body);
  read({ credential: gpt, model: "b" }, 429, { "retry-after": "3" }, body);
  expect(facts).toMatchObject([
    { group: "tokens/a", remainingRatio: 0.07, source: "error" },
    { group: "tokens/b", remainingRatio: 0, source: "error", resetsAt: clock.now() + 3_000 },
  ]);
});

test("headers that say nothing, providers that say nothing, and names that no group can have, are no facts", () => {
  const { facts, read, tokens } = kit();
  read({ credential: mine, model: "m" }, 200, {}, null);
  read(
    { credential: configured({ provider: "gemini", apiKey: "k" }), model: "m" },
    200,
    { "anthropic-ratelimit-unified-5h-utilization": "0.5" },
    null,
  );
  tokens(5, "x".repeat(400));
  tokens(5, "a\nb");
  expect(facts).toEqual([]);
});
