import { describe, expect, test } from "vitest";
import { isSource, type Answer, type Sink, type Source } from "../../../src/core/answer.ts";
import { GuardError } from "../../../src/core/errors.ts";
import type { KeptAnswer } from "../../../src/middleware/idempotency/claims.ts";
import { Recording } from "../../../src/middleware/idempotency/recording.ts";
import { replay } from "../../../src/middleware/idempotency/replay.ts";

interface Kept extends Sink {
  readonly seen: string[];
  isFull: boolean;
}

function sink(): Kept {
  const seen: string[] = [];
  return {
    seen,
    isFull: false,
    chunk(bytes) {
      seen.push(bytes.toString());
      return !this.isFull;
    },
    end: () => void seen.push("(end)"),
    error: ({ code }) => void seen.push(`(${code})`),
  };
}

/** A source that a test drives by hand. */
function driven(): Source & { sink: Sink | undefined; readonly asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    sink: undefined,
    start(to) {
      this.sink = to;
    },
    resume: () => void asked.push("resume"),
    cancel: () => void asked.push("cancel"),
  };
}

const bodyOf = ({ body }: Answer): Source => {
  if (!isSource(body)) throw new Error("it is no stream");
  return body;
};

const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

function recordingOf(maxBytes: number) {
  const source = driven();
  const recording = new Recording(maxBytes);
  const reader = sink();
  const body = bodyOf(
    recording.answer({ status: 200, headers: ["content-type", "text/event-stream", "set-cookie", "a=b", "ratelimit", "x"], body: source }),
  );
  body.start(reader);
  return { source, recording, reader, body, to: source.sink as Sink };
}

describe("a stream that is remembered", () => {
  test("passes as it is, at its reader's pace, and what came within one tick is one chunk", async () => {
    const { source, recording, reader, body, to } = recordingOf(100);
    expect(to.chunk(Buffer.from("a"))).toBe(true);
    to.chunk(Buffer.from("b"));
    await nextTurn();
    reader.isFull = true;
    expect(to.chunk(Buffer.from("c"))).toBe(false);
    body.resume();
    expect(source.asked).toEqual(["resume"]);
    to.end();
    expect(reader.seen).toEqual(["a", "b", "c", "(end)"]);
    const kept = recording.recorded() as KeptAnswer;
    expect(kept.headers).toEqual(["content-type", "text/event-stream"]);

    const again = sink();
    const told = replay(kept);
    expect(told.headers).toEqual(["content-type", "text/event-stream", "idempotency-replayed", "true"]);
    bodyOf(told).start(again);
    await expect.poll(() => again.seen).toEqual(["ab", "c", "(end)"]);
  });

  test("is none that broke, was left, or is too large, to the byte", () => {
    const broken = recordingOf(100);
    broken.to.chunk(Buffer.from("a"));
    broken.to.error(new GuardError("upstream_protocol", "it broke"));
    expect(broken.reader.seen).toEqual(["a", "(upstream_protocol)"]);
    expect(broken.recording.recorded()).toBe("partial");

    const left = recordingOf(100);
    left.body.cancel();
    expect(left.source.asked).toEqual(["cancel"]);
    expect(left.recording.recorded()).toBe("partial");

    for (const [text, isKept] of [
      ["12345", true],
      ["123456", false],
    ] as const) {
      const { to, recording, reader } = recordingOf(5);
      for (const each of text) to.chunk(Buffer.from(each));
      to.end();
      expect(reader.seen.join("")).toBe(`${text}(end)`);
      expect(recording.recorded() === "too_large").toBe(!isKept);
    }
  });

  test("is told again no faster than it is read, and to nobody who left", async () => {
    const kept: KeptAnswer = { status: 200, headers: [], body: ["YQ==", "Yg==", "Yw=="] };
    const slow = sink();
    slow.isFull = true;
    const body = bodyOf(replay(kept));
    body.start(slow);
    await nextTurn();
    expect(slow.seen).toEqual(["a"]);
    body.resume();
    expect(slow.seen).toEqual(["a", "b"]);
    body.cancel();
    body.resume();
    await nextTurn();
    expect(slow.seen).toEqual(["a", "b"]);
  });
});

test("a whole answer is kept by the byte, an empty one too", () => {
  for (const bytes of [Buffer.from([0, 255, 128]), Buffer.alloc(0), null]) {
    const recording = new Recording(3);
    const answer: Answer = { status: 201, headers: [], body: bytes };
    expect(recording.answer(answer)).toBe(answer);
    expect(replay(recording.recorded() as KeptAnswer)).toMatchObject({ status: 201, body: bytes ?? Buffer.alloc(0) });
  }
});
