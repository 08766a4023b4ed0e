import { expect, test } from "vitest";
import type { StrategyRequest } from "../../../src/pool/candidate.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { choosing, type Account } from "./choosing-kit.ts";

const asking = (inputTokens: number, outputTokens: number): Partial<StrategyRequest> => ({
  usage: () => ({ ...NO_USAGE, inputTokens, outputTokens }),
});

const kit = (accounts: Record<string, Account>) => choosing(accounts, { strategy: "least-cost" });

test("who is cheapest depends on what the call will use", () => {
  const { pick } = kit({ writer: { usd: [0.05, 0.01] }, reader: { usd: [0.01, 0.05] } });
  expect(pick(asking(1_000, 100))).toBe("reader");
  expect(pick(asking(100, 1_000))).toBe("writer");
});

test("equally cheap ones in turn, dearer ones and those without a price never while they are open", () => {
  const { pick, accounts } = kit({ unpriced: {}, a: { usd: [0.01, 0.01] }, dear: { usd: [0.02, 0.02] }, b: { usd: [0.01, 0.01] } });
  const turn = (): string => pick(asking(10, 10));
  expect([turn(), turn(), turn(), turn()]).toEqual(["a", "b", "a", "b"]);
  Object.assign(accounts, { a: { ...accounts.a, closed: true }, b: { ...accounts.b, closed: true } });
  expect(turn()).toBe("dear");
  accounts.dear = { ...accounts.dear, closed: true };
  expect(turn()).toBe("unpriced");
});

test("what costs nothing is cheapest, which is not the same as no price", () => {
  expect(kit({ unpriced: {}, paid: { usd: [0.01, 0.01] }, free: { usd: [0, 0] } }).pick(asking(10, 10))).toBe("free");
});

test("without prices, or where nobody knows what is used, all in turn", () => {
  const unpriced = kit({ a: {}, b: {} });
  expect([unpriced.pick(asking(1, 1)), unpriced.pick(asking(1, 1)), unpriced.pick(asking(1, 1))]).toEqual(["a", "b", "a"]);
  const unknown = kit({ a: { usd: [0.9, 0.9] }, b: { usd: [0.1, 0.1] } });
  expect([unknown.pick(), unknown.pick(), unknown.pick()]).toEqual(["a", "b", "a"]);
});

test("a look changes nothing", () => {
  const { look, pick } = kit({ a: { usd: [1, 1] }, b: { usd: [1, 1] } });
  expect([look(asking(1, 1)), look(asking(1, 1)), pick(asking(1, 1)), look(asking(1, 1))]).toEqual(["a", "a", "a", "b"]);
});

test("its judgement: the cheaper the better, without a price last", () => {
  const { cheap, dear, unpriced } = kit({ cheap: { usd: [0.001, 0.002] }, dear: { usd: [1, 2] }, unpriced: {} }).judge(asking(1_000, 1_000));
  expect(cheap).toMatchObject({ level: "ok", reason: "costs about $0.003" });
  expect(cheap?.score).toBeGreaterThan(dear?.score ?? 1);
  expect(dear?.score).toBeGreaterThan(unpriced?.score ?? 1);
  expect(unpriced).toEqual({ level: "ok", score: 0, parts: { cost: 0 }, reason: "nobody knows what it would cost: it comes last" });
  expect([cheap, dear, unpriced].every((each) => (each?.score ?? 2) >= 0 && (each?.score ?? 2) <= 1)).toBe(true);
});
