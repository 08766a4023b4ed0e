import { expect, test } from "vitest";
import type { Answer } from "../../src/core/answer.ts";
import { sequence, type Step } from "../../src/core/step.ts";
import { isPromise } from "../../src/core/time.ts";
import { contextWith, kit } from "./context-kit.ts";

const ANSWER: Answer = { status: 200, headers: [], body: null };
const ctx = contextWith(kit().services);

function traced(): { readonly ran: string[]; readonly step: (name: string, result?: Answer | Promise<Answer | void>) => Step } {
  const ran: string[] = [];
  return { ran, step: (name, result) => () => (ran.push(name), result) };
}

test("synchronous steps run in order and stay synchronous", () => {
  const { ran, step } = traced();
  expect(sequence(step("a"), step("b"), step("c"))(ctx)).toBeUndefined();
  expect(ran).toEqual(["a", "b", "c"]);
});

test("the first answer ends it", () => {
  const { ran, step } = traced();
  expect(sequence(step("a"), step("b", ANSWER), step("c", ANSWER))(ctx)).toBe(ANSWER);
  expect(ran).toEqual(["a", "b"]);
});

test("a step that waits makes the rest wait, and only from there on", async () => {
  const { ran, step } = traced();
  const gate = Promise.withResolvers<void>();
  const result = sequence(step("a"), step("b", gate.promise), step("c"), step("d", Promise.resolve(ANSWER)), step("e"))(ctx);
  expect([isPromise(result), ran]).toEqual([true, ["a", "b"]]);
  gate.resolve();
  expect(await result).toBe(ANSWER);
  expect(ran).toEqual(["a", "b", "c", "d"]);
});

test("an awaited answer ends it", async () => {
  const { ran, step } = traced();
  expect(await sequence(step("a", Promise.resolve(ANSWER)), step("b"))(ctx)).toBe(ANSWER);
  expect(ran).toEqual(["a"]);
});

test("a refusal skips the rest, thrown or rejected", async () => {
  const { ran, step } = traced();
  const throws: Step = () => {
    throw new Error("refused");
  };
  expect(() => sequence(step("a"), throws, step("b"))(ctx)).toThrow("refused");
  await expect(sequence(step("c", Promise.resolve()), throws, step("d"))(ctx)).rejects.toThrow("refused");
  await expect(sequence(() => Promise.reject(new Error("late")), step("e"))(ctx)).rejects.toThrow("late");
  expect(ran).toEqual(["a", "c"]);
});

test("no steps, and sequences of sequences", () => {
  const { ran, step } = traced();
  expect(sequence()(ctx)).toBeUndefined();
  expect(sequence(sequence(step("a"), step("b")), sequence(), step("c", ANSWER))(ctx)).toBe(ANSWER);
  expect(ran).toEqual(["a", "b", "c"]);
});

test("one sequence serves requests that overlap", async () => {
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const order: string[] = [];
  const run = sequence(
    (of) => gates[Number(of.id)]?.promise,
    (of) => void order.push(of.id),
  );
  const both = ["0", "1"].map((id) => run(contextWith(kit().services, { id })));
  gates[1]?.resolve();
  await both[1];
  gates[0]?.resolve();
  await both[0];
  expect(order).toEqual(["1", "0"]);
});
