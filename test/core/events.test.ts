import { expect, test } from "vitest";
import { eventEmitter, type GuardEvents } from "../../src/core/events.ts";
import { keptLogger } from "./context-kit.ts";

const DEBT: GuardEvents["debt"] = { requestId: "r", limit: "user-day", unit: "usd", amount: 1 };

test("every listener hears of it, in order, and only of its own event", () => {
  const events = eventEmitter(keptLogger());
  const heard: string[] = [];
  events.on("debt", () => void heard.push("a"));
  events.on("debt", ({ limit }) => void heard.push(limit));
  events.on("attempt", () => void heard.push("attempt"));
  events.emit("debt", DEBT);
  expect(heard).toEqual(["a", "user-day"]);
});

test("nobody listens, somebody does, and no more", () => {
  const events = eventEmitter(keptLogger());
  expect(events.has("debt")).toBe(false);
  const stop = events.on("debt", () => {});
  expect([events.has("debt"), events.has("refused")]).toEqual([true, false]);
  stop();
  expect(events.has("debt")).toBe(false);
  expect(() => events.emit("debt", DEBT)).not.toThrow();
});

test("a listener that throws or rejects is logged and breaks neither the others nor the request", async () => {
  const logger = keptLogger();
  const events = eventEmitter(logger);
  const heard: string[] = [];
  events.on("debt", () => {
    throw new Error("thrown");
  });
  events.on("debt", () => Promise.reject(new Error("rejected")) as unknown as void);
  events.on("debt", () => void heard.push("third"));
  events.emit("debt", DEBT);
  await new Promise(setImmediate);
  expect(heard).toEqual(["third"]);
  expect(logger.lines.map(({ level, fields }) => [level, (fields.err as Error).message])).toEqual([
    ["warn", "thrown"],
    ["warn", "rejected"],
  ]);
});
