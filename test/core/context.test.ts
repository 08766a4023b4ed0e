import { describe, expect, test } from "vitest";
import type { Call } from "../../src/core/call.ts";
import type { Outcome } from "../../src/core/context.ts";
import { callOf, contextWith, kit } from "./context-kit.ts";

const OUTCOME: Outcome = { status: 200, code: null, error: null };

describe("work for after the response", () => {
  test("runs last in, first out, with the outcome at hand", () => {
    const ctx = contextWith(kit().services);
    const ran: string[] = [];
    for (const name of ["a", "b", "c"]) ctx.after((of) => void ran.push(`${name}${of.outcome?.status}`));
    expect(ctx.close(OUTCOME)).toBeUndefined();
    expect(ran).toEqual(["c200", "b200", "a200"]);
  });

  test("waits for each hook that is asynchronous before the next", async () => {
    const ctx = contextWith(kit().services);
    const ran: string[] = [];
    const gate = Promise.withResolvers<void>();
    ctx.after(() => void ran.push("first in"));
    ctx.after(async () => {
      await gate.promise;
      ran.push("waited");
    });
    ctx.after(() => void ran.push("last in"));
    const closing = ctx.close(OUTCOME);
    expect(ran).toEqual(["last in"]);
    gate.resolve();
    await closing;
    expect(ran).toEqual(["last in", "waited", "first in"]);
  });

  test("goes on behind hooks that throw or reject, and logs them", async () => {
    const { services, logger } = kit();
    const ctx = contextWith(services);
    const ran: string[] = [];
    ctx.after(() => void ran.push("settled"));
    ctx.after(() => {
      throw new Error("broken");
    });
    ctx.after(() => Promise.reject(new Error("rejected")));
    ctx.after(() => {
      throw new Error("broken first");
    });
    await ctx.close(OUTCOME);
    expect(ran).toEqual(["settled"]);
    expect(logger.lines.map(({ level, fields }) => [level, (fields.err as Error).message, fields.requestId])).toEqual([
      ["error", "broken first", "req-1"],
      ["error", "rejected", "req-1"],
      ["error", "broken", "req-1"],
    ]);
  });

  test("runs once, whoever closes again", async () => {
    const ctx = contextWith(kit().services);
    let runs = 0;
    ctx.after(async () => {
      runs += 1;
    });
    const first = ctx.close(OUTCOME);
    expect(ctx.close({ status: 499, code: "client_closed", error: null })).toBeUndefined();
    await first;
    expect([runs, ctx.closed, ctx.outcome]).toEqual([1, true, OUTCOME]);
  });

  test("that is registered when all is over runs at once: a step may finish behind a client that left", async () => {
    const ctx = contextWith(kit().services);
    await ctx.close(OUTCOME);
    let released = false;
    ctx.after(() => {
      released = true;
    });
    expect(released).toBe(true);
  });
});

describe("corrections", () => {
  test("run again each time that usage becomes known after the end", () => {
    const { services, logger } = kit();
    const ctx = contextWith(services);
    const ran: string[] = [];
    ctx.onCorrection(() => void ran.push("a"));
    ctx.onCorrection(() => {
      throw new Error("broken");
    });
    ctx.onCorrection(() => void ran.push("b"));
    ctx.correct();
    ctx.correct();
    expect(ran).toEqual(["a", "b", "a", "b"]);
    expect(logger.lines).toHaveLength(2);
  });

  test("that reject are logged: a rejection nobody handles would end the process", async () => {
    const { services, logger } = kit();
    const ctx = contextWith(services);
    const others = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    const unhandled: unknown[] = [];
    process.on("unhandledRejection", (reason) => unhandled.push(reason));
    try {
      ctx.onCorrection(() => Promise.reject(new Error("store away")));
      ctx.correct();
      await new Promise(setImmediate);
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of others) process.on("unhandledRejection", listener);
    }
    expect(unhandled).toEqual([]);
    expect(logger.lines.map(({ fields }) => (fields.err as Error).message)).toEqual(["store away"]);
  });
});

describe("a client that leaves", () => {
  test("aborts the signal and calls the listener, once", () => {
    const ctx = contextWith(kit().services);
    let calls = 0;
    ctx.onGone(() => {
      calls += 1;
    });
    const { signal } = ctx;
    expect([ctx.gone, signal.aborted]).toEqual([false, false]);
    ctx.leave();
    ctx.leave();
    expect([ctx.gone, signal.aborted, calls]).toEqual([true, true, 1]);
    expect(ctx.signal).toBe(signal);
  });

  test("is known to a listener and a signal that come later", () => {
    const ctx = contextWith(kit().services);
    ctx.leave();
    let calls = 0;
    ctx.onGone(() => {
      calls += 1;
    });
    expect([calls, ctx.signal.aborted]).toEqual([1, true]);
  });

  test("has one listener: another replaces it, undefined removes it", () => {
    const ctx = contextWith(kit().services);
    const calls: string[] = [];
    ctx.onGone(() => void calls.push("first"));
    ctx.onGone(() => void calls.push("second"));
    ctx.leave();
    const other = contextWith(kit().services);
    other.onGone(() => void calls.push("removed"));
    other.onGone(undefined);
    other.leave();
    expect(calls).toEqual(["second"]);
  });

  test("after the end disturbs nobody", async () => {
    const ctx = contextWith(kit().services);
    let calls = 0;
    ctx.onGone(() => {
      calls += 1;
    });
    await ctx.close(OUTCOME);
    ctx.leave();
    expect(calls).toBe(0);
  });
});

describe("the call", () => {
  test("is read once and not before somebody asks", () => {
    let reads = 0;
    const reader = { call: () => ((reads += 1), callOf("gpt-4o")) };
    const ctx = contextWith(kit().services, { reader });
    expect([reads, ctx.knownCall]).toEqual([0, undefined]);
    expect(ctx.call()).toBe(ctx.call());
    expect([reads, ctx.knownCall?.model]).toEqual([1, "gpt-4o"]);
  });

  test("on its way is one promise for all, and a value once it arrived", async () => {
    const gate = Promise.withResolvers<Call>();
    const ctx = contextWith(kit().services, { reader: { call: () => gate.promise } });
    expect(ctx.call()).toBe(ctx.call());
    expect(ctx.knownCall).toBeUndefined();
    const call = callOf("gpt-4o");
    gate.resolve(call);
    ctx.resolveCall(await ctx.call());
    expect(ctx.call()).toBe(call);
    expect(ctx.knownCall).toBe(call);
  });

  test("that could not be read stays unreadable", async () => {
    let reads = 0;
    const ctx = contextWith(kit().services, { reader: { call: () => ((reads += 1), Promise.reject(new Error("closed"))) } });
    await expect(ctx.call()).rejects.toThrow("closed");
    await expect(ctx.call()).rejects.toThrow("closed");
    expect(reads).toBe(1);
  });
});

test("headers for any answer are kept in order; the start is on the monotonic clock", () => {
  const { services, clock } = kit();
  clock.advance(250);
  const ctx = contextWith(services);
  ctx.reply("a", "1");
  ctx.reply("a", "2");
  expect([ctx.replyHeaders, ctx.startedAt]).toEqual([["a", "1", "a", "2"], 250]);
});
