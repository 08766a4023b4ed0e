import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ChatEvent } from "../../src/dialects/message.ts";
import { oneAtATime } from "../../src/dialects/one-at-a-time.ts";

const open = (key: number): ChatEvent => ({ type: "open", choice: 0, key, block: { type: "text" } });
const delta = (key: number, text: string): ChatEvent => ({ type: "delta", key, text });
const close = (key: number): ChatEvent => ({ type: "close", key });
const STOP: ChatEvent = { type: "stop", choice: 0, reason: "stop", stopSequence: null };
const END: ChatEvent = { type: "end" };

describe("blocks one at a time", () => {
  test("what is in order goes through at once", () => {
    const order = oneAtATime();
    for (const event of [open(0), delta(0, "a"), close(0), open(1), close(1), STOP, END]) expect(order.push([event])).toEqual([event]);
  });

  test("a block that opens meanwhile waits, and so does its end", () => {
    const order = oneAtATime();
    expect(order.push([open(0), open(1), delta(1, "b"), delta(0, "a"), close(1)])).toEqual([open(0), delta(0, "a")]);
    expect(order.push([close(0)])).toEqual([close(0), open(1), delta(1, "b"), close(1)]);
  });

  test("the end of an answer closes what is still open", () => {
    const order = oneAtATime();
    expect(order.push([open(0), open(1), delta(1, "b"), STOP, END])).toEqual([open(0), close(0), open(1), delta(1, "b"), close(1), STOP, END]);
  });

  test("a sign of life does not wait", () => {
    const order = oneAtATime();
    order.push([open(0), open(1)]);
    expect(order.push([{ type: "ping" }])).toEqual([{ type: "ping" }]);
  });

  test("what waits has a bound", () => {
    const order = oneAtATime();
    order.push([open(0), open(1)]);
    expect(() => {
      for (let i = 0; i < 100; i += 1) order.push([delta(1, "x".repeat(100_000))]);
    }).toThrow(/put in order/);
  });

  test("however blocks are mixed, each comes whole, in order, with all its text", () => {
    const plan = fc.array(fc.tuple(fc.nat(4), fc.string({ maxLength: 3 })), { maxLength: 40 });
    fc.assert(
      fc.property(plan, (steps) => {
        const order = oneAtATime();
        const opened: number[] = [];
        const texts = new Map<number, string>();
        const events: ChatEvent[] = [];
        for (const [key, text] of steps) {
          if (!texts.has(key)) {
            opened.push(key);
            events.push(open(key));
          }
          texts.set(key, (texts.get(key) ?? "") + text);
          events.push(delta(key, text));
        }
        const out = [...events, STOP].flatMap((event) => order.push([event]));
        const seen: number[] = [];
        const got = new Map<number, string>();
        let current: number | null = null;
        for (const event of out) {
          if (event.type === "open") {
            expect(current).toBeNull();
            current = event.key;
            seen.push(event.key);
            got.set(event.key, "");
          } else if (event.type === "delta") {
            expect(event.key).toBe(current);
            got.set(event.key, `${got.get(event.key)}${event.text}`);
          } else if (event.type === "close") {
            expect(event.key).toBe(current);
            current = null;
          }
        }
        expect(current).toBeNull();
        expect(seen).toEqual(opened);
        expect(got).toEqual(texts);
      }),
    );
  });
});
