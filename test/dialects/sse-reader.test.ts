import { describe, expect, test } from "vitest";
import { isComment, sseReader, type SseEvent } from "../../src/dialects/sse-reader.ts";

const TEXT = 'event: a\r\ndata: {"x":"äöü€😀"}\r\n\r\n: still here\n\ndata: one\ndata: two\n\nevent: b\rdata: three\r\rdata: [DONE]\n\n';

const told = (events: readonly SseEvent[]): unknown[] => events.map((event) => (isComment(event) ? "comment" : event));

const WHOLE = told([...sseReader().push(Buffer.from(TEXT))]);

describe("server-sent events", () => {
  test("have a name or none, one or several lines, and any line end; comments are told", () => {
    expect(WHOLE).toEqual([
      { name: "a", data: '{"x":"äöü€😀"}' },
      "comment",
      { name: null, data: "one\ntwo" },
      { name: "b", data: "three" },
      { name: null, data: "[DONE]" },
    ]);
  });

  test("are the same wherever the bytes are cut", () => {
    const bytes = Buffer.from(TEXT);
    for (let cut = 1; cut < bytes.length; cut += 1) {
      const reader = sseReader();
      expect(told([...reader.push(bytes.subarray(0, cut)), ...reader.push(bytes.subarray(cut))]), `cut at ${cut}`).toEqual(WHOLE);
    }
  });

  test("the last one may lack its empty line, and is told at the end", () => {
    const reader = sseReader();
    expect(reader.push(Buffer.from("data: a\n\ndata: b"))).toEqual([{ name: null, data: "a" }]);
    expect(reader.end()).toEqual([{ name: null, data: "b" }]);
    expect(sseReader().end()).toEqual([]);
  });

  test("one that grows without end is refused", () => {
    const reader = sseReader();
    const chunk = Buffer.from("data: " + "x".repeat(64 * 1024));
    reader.push(chunk);
    expect(() => {
      for (let i = 0; i < 100; i += 1) reader.push(Buffer.from("x".repeat(64 * 1024)));
    }).toThrow(/more than 1 MiB/);
  });
});
