import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { eventsOf, lastBoundary, nextBoundary } from "../../src/dialects/sse.ts";

const bytes = (text: string): Buffer => Buffer.from(text);

describe("the end of the last complete event", () => {
  test.each<[string, number]>([
    ["", 0],
    ["\n", 0],
    ["data: a", 0],
    ["data: a\n", 0],
    ["data: a\n\n", 9],
    ["data: a\n\ndata", 9],
    ["data: a\r\n", 0],
    ["data: a\r\n\r", 0],
    ["data: a\r\n\r\n", 11],
    ["data: a\r\n\r\ndata: b\r\n", 11],
    ["data: a\r\r", 0],
    ["data: a\r\rd", 9],
    ["data: a\n\rd", 9],
    ["data: a\r\n\rd", 10],
    ["data: a\n\r\n", 10],
    ["data: a\r\n\n", 10],
    ["data: a\r\r\n", 10],
    ["data: a\rdata: b\r\n", 0],
    ["data: a\n\n\n", 10],
    ["a\n\nb\n\nc", 6],
  ])("%j has it at %i", (text, at) => {
    expect(lastBoundary(bytes(text))).toBe(at);
  });
});

test.each<[string, number, number]>([
  ["data: a\n\ndata: b\n\n", 0, 9],
  ["data: a\n\ndata: b\n\n", 9, 18],
  ["data: a\r\n\r\ndata: b", 3, 11],
  ["data: a\r\rdata: b", 3, 9],
  ["data: a", 3, 7],
  ["data: a\r\nid: 1\r\n\r\nx", 0, 18],
])("the first event of %j that ends behind %i ends at %i", (text, from, at) => {
  expect(nextBoundary(bytes(text), from)).toBe(at);
});

const ending = fc.constantFrom("\n", "\r\n", "\r");
/** A stream whose events end with any of the three line ends, mixed. A CR followed by an LF of the next line would be one line end, so those are left out. */
const stream = fc
  .array(
    fc.tuple(
      fc.array(fc.tuple(fc.constantFrom("data: a", "data: ", "id: 7", ": note", "event: x", 'data: {"a":"é😀"}'), ending), {
        minLength: 1,
        maxLength: 3,
      }),
      ending,
    ),
    { minLength: 1, maxLength: 5 },
  )
  .map((events) => events.map(([lines, last]) => lines.map((line) => line.join("")).join("") + last).join(""))
  .filter((text) => !/\r\n?\r\n/.test(text) || !/[^\r\n]\r\r?\n/.test(text.replaceAll(/\r\n/g, "\n")));

const meaning = (events: readonly Buffer[]): readonly string[] =>
  events
    .map((event) =>
      event
        .toString()
        .split(/\r\n|\n|\r/)
        .filter(Boolean)
        .join("|"),
    )
    .filter((text) => text !== "");

/** Reads a stream as it comes: whole events are taken, the rest waits. */
function read(parts: readonly Buffer[]): Buffer[] {
  const events: Buffer[] = [];
  let open = Buffer.alloc(0);
  for (const part of parts) {
    const all = Buffer.concat([open, part]);
    const end = lastBoundary(all);
    events.push(...eventsOf(all.subarray(0, end)));
    open = all.subarray(end);
  }
  return open.length > 0 ? [...events, ...eventsOf(open)] : events;
}

test("cut anywhere, a stream has the same bytes and the same events", () => {
  fc.assert(
    fc.property(stream, (text) => {
      const whole = bytes(text);
      const expected = meaning([...eventsOf(whole)]);
      for (let cut = 0; cut <= whole.length; cut += 1) {
        const events = read([whole.subarray(0, cut), whole.subarray(cut)]);
        expect(Buffer.concat(events)).toEqual(whole);
        expect(meaning(events)).toEqual(expected);
      }
      const single = read(Array.from(whole, (byte) => Buffer.from([byte])));
      expect(meaning(single)).toEqual(expected);
    }),
    { numRuns: 300 },
  );
});

test("events are found whatever ends their lines", () => {
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = `data: a${end}${end}id: 1${end}data: b${end}${end}data: c${end}${end}`;
    expect(meaning([...eventsOf(bytes(text))])).toEqual(["data: a", "id: 1|data: b", "data: c"]);
  }
});

test.each([["\n"], ["\r\n"], ["\r"]])("an event keeps its own line ends and no other's (%j)", (end) => {
  const events = [`data: a${end}${end}`, `id: 1${end}data: b${end}${end}`];
  expect([...eventsOf(bytes(events.join("")))].map(String)).toEqual(events);
});

test("bytes behind the last boundary are an event of their own", () => {
  expect([...eventsOf(bytes("data: a\n\ndata: b"))].map(String)).toEqual(["data: a\n\n", "data: b"]);
  expect([...eventsOf(Buffer.alloc(0))]).toEqual([]);
});
