import { expect, test } from "vitest";
import type { QuotaFact } from "../src/core/quota-fact.ts";
import { quotaReader } from "../src/quota-reader.ts";
import { testClock } from "../src/testing/clock.ts";
import { configured } from "./upstream/providers/kit.ts";

const mine = configured({ provider: "anthropic", apiKey: "sk-ant-k" });

function kit() {
  const facts: QuotaFact[] = [];
  const clock = testClock();
  const read = quotaReader({ report: (fact) => void facts.push(fact) }, clock);
  const used = (ratio: string, credential = mine): void => read(credential, { "anthropic-ratelimit-unified-5h-utilization": ratio });
  return { facts, clock, used, read };
}

test("what an answer's headers say becomes a fact of its credential", () => {
  const { facts, clock, used } = kit();
  used("0.5");
  expect(facts).toEqual([{ credential: "mine", group: "5h", remainingRatio: 0.5, resetsAt: null, observedAt: clock.now(), source: "headers" }]);
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

test("headers that say nothing, and providers that say nothing, are no facts", () => {
  const { facts, read } = kit();
  read(mine, {});
  read(configured({ provider: "gemini", apiKey: "k" }), { "anthropic-ratelimit-unified-5h-utilization": "0.5" });
  expect(facts).toEqual([]);
});
