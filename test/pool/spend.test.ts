import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { OpenSpend } from "../../src/pool/spend.ts";
import { credential } from "./pool-kit.ts";
import { MINUTE } from "./health-kit.ts";
import { spendKit, TTL } from "./spend-kit.ts";

describe("an attempt", () => {
  test("counts while it is open, and with what it used from then on", () => {
    const { see, open, parts } = spendKit();
    see(0.8);
    const attempt = open(100);
    expect(parts()).toEqual([0.1, 0]);
    attempt?.end(50);
    expect(parts()).toEqual([0, 0.05]);
  });

  test("is forgotten by a word that was seen after its end, and by no other", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.8);
    const [first, second] = [open(100), open(200)];
    clock.advance(1_000);
    first?.end(60);
    clock.advance(1_000);
    see(0.74);
    expect(parts()).toEqual([0.2, 0]);
    clock.advance(1_000);
    second?.end(210);
    expect(parts()).toEqual([0, 0.21]);
    clock.advance(1_000);
    see(0.53);
    expect(parts()).toEqual([0, 0]);
  });

  test("counts against a word that was seen before its end, however late it is told", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.8);
    const seenAt = clock.now() + 1;
    const attempt = open(100);
    clock.advance(2_000);
    attempt?.end(100);
    clock.advance(5_000);
    see(0.8, { observedAt: seenAt });
    expect(parts()).toEqual([0, 0.1]);
  });

  test("counts against a late word of another quota, though all the others know of it", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.8);
    const seenAt = clock.now() + 1;
    const attempt = open(100);
    clock.advance(2_000);
    attempt?.end(100);
    clock.advance(1_000);
    see(0.7);
    expect(parts()).toEqual([0, 0]);
    see(0.8, { group: "weekly", observedAt: seenAt });
    expect(parts("weekly")).toEqual([0, 0.1]);
  });

  test("may use nothing: all goes back, but the request that was made", () => {
    const { see, open, parts } = spendKit();
    see(0.8);
    see(0.8, { group: "requests", unit: "requests", limit: 10 });
    open(100)?.end(0);
    expect([parts(), parts("requests")]).toEqual([
      [0, 0],
      [0, 0.1],
    ]);
  });

  test("that never reached the provider leaves nothing behind", () => {
    const { see, open, parts, spent } = spendKit();
    see(0.8);
    see(0.8, { group: "requests", unit: "requests", limit: 10 });
    const attempt = open(100);
    expect(parts("requests")).toEqual([0.1, 0]);
    attempt?.end(null);
    expect([parts(), parts("requests"), spent.of("a").attempts]).toEqual([[0, 0], [0, 0], 0]);
  });

  test("ends once", () => {
    const { see, open, parts } = spendKit();
    see(0.8);
    const attempt = open(100);
    for (const tokens of [50, 70, null, 0]) attempt?.end(tokens);
    expect(parts()).toEqual([0, 0.05]);
  });

  test("of an account that nobody knows anything of is not counted", () => {
    const { see, open, spent } = spendKit(["a", "b"]);
    expect([open(100), spent.isEmpty]).toEqual([null, true]);
    see(0.8);
    expect([open(100, undefined, "m", "b"), open(100) === null, spent.isEmpty]).toEqual([null, false, false]);
  });

  test("counts on when the quota's word has passed meanwhile", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.8, { resetsAt: clock.now() + MINUTE });
    open(100);
    clock.advance(2 * MINUTE);
    const late = open(200);
    see(0.9);
    expect(parts()[0]).toBeCloseTo(0.3);
    late?.end(null);
    expect(parts()).toEqual([0.1, 0]);
  });

  test("of a credential that is gone harms nobody who comes under its name", () => {
    const { see, open, parts, credentials } = spendKit([]);
    credentials.put("plugin", credential("a"));
    see(0.8);
    const attempt = open(100);
    credentials.remove("a");
    credentials.put("plugin", credential("a"));
    expect(parts()).toEqual([0, 0]);
    open(50);
    attempt?.end(900);
    expect(parts()).toEqual([0.05, 0]);
  });
});

describe("an attempt that nobody gives back", () => {
  test("stands as it was estimated, at the end of its time, whenever that is noticed", () => {
    const { clock, see, open, parts, spent } = spendKit();
    see(0.8);
    open(100);
    clock.advance(TTL - 1);
    expect(parts()).toEqual([0.1, 0]);
    clock.advance(1);
    expect([parts(), spent.of("a").attempts]).toEqual([[0, 0.1], 0]);
    clock.advance(1);
    see(0.7);
    expect(parts()).toEqual([0, 0]);
  });

  test("does not outlast a word that was seen after its time, though nobody looked in between", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.8);
    open(100);
    clock.advance(TTL + 1);
    see(0.7);
    clock.advance(MINUTE);
    expect(parts()).toEqual([0, 0]);
  });

  test.each([
    [30, 0.03],
    [null, 0],
    [0, 0],
    [400, 0.4],
  ])("may still say that it used %s: that replaces the estimate, once", (tokens, expected) => {
    const { clock, see, open, parts } = spendKit();
    see(0.9);
    const attempt = open(100);
    clock.advance(TTL);
    expect(parts()).toEqual([0, 0.1]);
    clock.advance(MINUTE);
    attempt?.end(tokens);
    attempt?.end(tokens);
    expect(parts()).toEqual([0, expected]);
  });

  test("takes nobody else's share back when its own is long gone or put together with others", () => {
    const { clock, see, open, parts } = spendKit();
    see(0.9);
    const late = open(100);
    clock.advance(TTL);
    expect(parts()).toEqual([0, 0.1]);
    for (let i = 0; i < 1_000; i += 1) {
      clock.advance(3_000);
      open(1, undefined, `model-${i}`)?.end(1);
    }
    expect(parts()[1]).toBeCloseTo(1.1);
    late?.end(null);
    expect(parts()[1]).toBeCloseTo(1);
    late?.end(100);
    expect(parts()[1]).toBeCloseTo(1);
  });
});

describe("memory", () => {
  test("is bounded for what is open: the oldest beyond the bound counts as spent", () => {
    const { see, open, parts, spent } = spendKit();
    see(1, { limit: 100_000 });
    for (let i = 0; i < 10_020; i += 1) open(1);
    expect(spent.of("a")).toMatchObject({ attempts: 10_000, openTokens: 10_000, spentTokens: 20 });
    expect(parts().map((part) => Math.round(part * 100_000))).toEqual([10_000, 20]);
  });

  test("is bounded for what ended: what is put together is not forgotten before the last of it, nor for another model", () => {
    const { clock, see, open, parts } = spendKit();
    see(1);
    see(1, { group: "claude", models: ["claude-*"] });
    const begin = clock.now();
    for (let i = 0; i < 300; i += 1) {
      clock.advance(3_000);
      open(1, undefined, i % 2 === 0 ? "claude-x" : "gemini-x")?.end(1);
    }
    expect([parts()[1], parts("claude")[1]]).toEqual([0.3, 0.15]);
    // All that ended before is known to this word; of what was put together, more may be counted, and never less.
    see(0.9, { observedAt: begin + 600_000 });
    expect(parts()[1]).toBeGreaterThanOrEqual(0.1);
    expect(parts()[1]).toBeLessThan(0.2);
    clock.advance(1);
    see(0.7);
    see(0.7, { group: "claude", models: ["claude-*"] });
    expect([parts()[1], parts("claude")[1]]).toEqual([0, 0]);
  });

  test("of very many models is bounded too: they count everywhere then", () => {
    const { clock, see, open, parts } = spendKit();
    see(1);
    see(1, { group: "claude", models: ["claude-*"] });
    for (let i = 0; i < 129; i += 1) open(1, undefined, `gemini-${i}`)?.end(1);
    expect(parts()[1]).toBeCloseTo(0.129);
    expect(parts("claude")[1]).toBeGreaterThan(0);
    clock.advance(1);
    see(1, { group: "claude", models: ["claude-*"] });
    expect(parts("claude")).toEqual([0, 0]);
  });
});

describe("a share", () => {
  test("of requests, of tokens, of what is read and of what is written goes by the limit", () => {
    const { see, open, parts } = spendKit();
    for (const unit of ["requests", "tokens", "input_tokens", "output_tokens"] as const) see(1, { group: unit, unit, limit: 1_000 });
    const groups = ["requests", "tokens", "input_tokens", "output_tokens"];
    const known = open(300, 100);
    expect(groups.map((group) => parts(group)[0])).toEqual([0.001, 0.3, 0.2, 0.1]);
    // What it wrote is what differs in the end.
    known?.end(250);
    expect(groups.map((group) => parts(group)[1])).toEqual([0.001, 0.25, 0.2, 0.05]);
    const unknown = open(100);
    expect(groups.map((group) => parts(group)[0])).toEqual([0.001, 0.1, 0.1, 0.1]);
    unknown?.end(50);
    expect(groups.map((group) => parts(group)[1])).toEqual([0.002, 0.3, 0.25, 0.1]);
  });

  test("counts for the models that count in the quota, and for no others", () => {
    const { see, open, parts } = spendKit();
    see(0, { group: "claude", models: ["claude-*"] });
    see(0.9, { group: "gemini", models: ["gemini-*"] });
    see(0.9, { group: "review", models: [] });
    open(100, undefined, "gemini-3-pro");
    open(30, undefined, "claude-opus");
    expect([parts("claude"), parts("gemini"), parts("review")]).toEqual([
      [0.03, 0],
      [0.1, 0],
      [0, 0],
    ]);
  });

  test.each(["share", "usd", "credits"] as const)("of %s without anything learnt is a millionth a token", (unit) => {
    const { see, open, parts } = spendKit();
    see(0.5, { group: "5h", unit });
    open(20_000);
    expect(parts("5h")).toEqual([0.02, 0]);
  });

  test("is learnt from how far the account's own figure moves", () => {
    const { clock, seeShare, use, spent } = spendKit();
    const perToken = () => spent.shareOf(credential("a"), seeShare(0), { requests: 1, tokens: 1, inputTokens: 1, outputTokens: 1 });
    const rates: number[] = [];
    for (let percent = 99; percent > 0; percent -= 1) {
      seeShare((percent + 1) / 100);
      use(100_000);
      clock.advance(1);
      seeShare(percent / 100);
    }
    rates.push(perToken());
    // A percent for each 100,000 tokens.
    expect(rates[0]).toBeCloseTo(1e-7, 9);
  });

  test("is learnt where whole percents are told, too: what is used while the figure stands still belongs to its next step", () => {
    const { clock, seeShare, use, spent } = spendKit();
    let left = 1;
    seeShare(left);
    for (let i = 0; i < 400; i += 1) {
      use(10_000);
      left -= 0.001;
      clock.advance(1);
      seeShare(Math.ceil(left * 100) / 100);
    }
    expect(spent.shareOf(credential("a"), seeShare(0.1), { requests: 1, tokens: 10_000, inputTokens: 0, outputTokens: 10_000 })).toBeCloseTo(
      0.001,
      4,
    );
  });

  test("is learnt for others of its provider, who go by it until they know better", () => {
    const { clock, seeShare, use, spent } = spendKit(["a", "b"]);
    for (let percent = 100; percent > 50; percent -= 10) {
      seeShare(percent / 100);
      use(1_000_000);
      clock.advance(1);
    }
    const size = { requests: 1, tokens: 1_000_000, inputTokens: 0, outputTokens: 0 };
    const fact = seeShare(1, { credential: "b" });
    expect(spent.shareOf(credential("b"), fact, size)).toBeCloseTo(0.1, 2);
    expect(spent.shareOf(credential("b"), { ...fact, group: "weekly" }, size)).toBe(1);
    expect(spent.shareOf(credential("b", { provider: "codex" }), fact, size)).toBe(1);
  });

  test.each<[string, (kit: ReturnType<typeof spendKit>) => void]>([
    [
      "across a reset",
      ({ clock, seeShare, use }) => {
        seeShare(0.9, { resetsAt: clock.now() + 500 });
        use(100);
        clock.advance(1);
        seeShare(0.8);
      },
    ],
    [
      "where the figure rises",
      ({ clock, seeShare, use }) => {
        seeShare(0.5);
        use(100);
        clock.advance(1);
        seeShare(0.9);
      },
    ],
    [
      "from a refusal",
      ({ clock, seeShare, use }) => {
        seeShare(0.9);
        use(100);
        clock.advance(1);
        seeShare(0, { source: "error" });
      },
    ],
    [
      "after a refusal",
      ({ clock, seeShare, use }) => {
        seeShare(0.9, { source: "error" });
        use(100);
        clock.advance(1);
        seeShare(0.5);
      },
    ],
    [
      "from an estimate",
      ({ clock, seeShare, use }) => {
        seeShare(0.9, { source: "estimate" });
        use(100);
        clock.advance(1);
        seeShare(0.2);
      },
    ],
    [
      "where nothing of ours was used",
      ({ clock, seeShare, open }) => {
        seeShare(0.9);
        open(100);
        clock.advance(1);
        seeShare(0.2);
      },
    ],
  ])("is not learnt %s", (_what, happens) => {
    const kit = spendKit();
    happens(kit);
    kit.open(1);
    expect(kit.spent.shareOf(credential("a"), kit.seeShare(0.1), { requests: 1, tokens: 1, inputTokens: 0, outputTokens: 1 })).toBe(1e-6);
  });

  test("stays between bounds, whoever else uses the account", () => {
    const { clock, seeShare, use, spent, parts } = spendKit();
    const perToken = () => spent.shareOf(credential("a"), seeShare(0), { requests: 1, tokens: 1, inputTokens: 0, outputTokens: 1 });
    for (let i = 0; i < 100; i += 1) {
      clock.advance(1);
      seeShare(1);
      use(1);
      clock.advance(1);
      seeShare(0.01);
      parts("5h");
    }
    clock.advance(1);
    expect(perToken()).toBe(1e-3);
  });
});

/** What has to be true of any story of attempts, words and time. */
test("whatever happens: never negative, nothing is left after a word that is later than all ends, and a second end changes nothing", () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant("open" as const), tokens: fc.nat(500), output: fc.option(fc.nat(500), { nil: undefined }), model: fc.nat(2) }),
    fc.record({ do: fc.constant("end" as const), which: fc.nat(30), tokens: fc.option(fc.nat(800)) }),
    fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 1, max: 400_000 }) }),
    fc.record({ do: fc.constant("see" as const), ratio: fc.integer({ min: 0, max: 100 }), agoMs: fc.nat(50_000) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { clock, see, seeShare, open, parts } = spendKit();
      see(1);
      seeShare(1);
      const attempts: { attempt: OpenSpend | null; beganAt: number; tokens: number; isOpen: boolean; isSwept: boolean }[] = [];
      /** What ended and when, by the plainest book there is. */
      let ended: { tokens: number; at: number; of: object }[] = [];
      let seenAt = clock.now();
      function sweep(): void {
        for (const each of attempts) {
          if (!each.isOpen || each.isSwept || clock.now() - each.beganAt < TTL) continue;
          each.isSwept = true;
          ended.push({ tokens: each.tokens, at: each.beganAt + TTL, of: each });
        }
      }
      for (const each of steps) {
        sweep();
        if (each.do === "wait") clock.advance(each.ms);
        if (each.do === "open") {
          const attempt = open(each.tokens, each.output === undefined ? undefined : Math.min(each.output, each.tokens), `m${each.model}`);
          attempts.push({ attempt, beganAt: clock.now(), tokens: each.tokens, isOpen: true, isSwept: false });
        }
        if (each.do === "end" && attempts.length > 0) {
          const one = attempts[each.which % attempts.length] as (typeof attempts)[number];
          one.attempt?.end(each.tokens);
          if (one.isOpen) {
            one.isOpen = false;
            ended = ended.filter(({ of }) => of !== one);
            if (each.tokens !== null) ended.push({ tokens: each.tokens, at: clock.now(), of: one });
          }
          const before = [parts(), parts("5h")];
          one.attempt?.end(777);
          expect([parts(), parts("5h")]).toEqual(before);
        }
        if (each.do === "see") {
          const observedAt = clock.now() - each.agoMs;
          see(each.ratio / 100, { observedAt });
          seeShare(each.ratio / 100, { observedAt });
          seenAt = Math.max(seenAt, observedAt);
        }
        sweep();
        const [openPart, endedPart] = parts();
        const isUnder = attempts.filter(({ isOpen, isSwept }) => isOpen && !isSwept);
        expect(openPart).toBeCloseTo(isUnder.reduce((sum, { tokens }) => sum + tokens, 0) / 1_000);
        const exact = ended.filter(({ at }) => at >= seenAt).reduce((sum, { tokens }) => sum + tokens, 0) / 1_000;
        const all = ended.reduce((sum, { tokens }) => sum + tokens, 0) / 1_000;
        // What ended within two seconds may be counted a little longer than it should be, never shorter.
        expect(endedPart).toBeGreaterThanOrEqual(exact - 1e-9);
        expect(endedPart).toBeLessThanOrEqual(all + 1e-9);
        for (const part of parts("5h")) expect(part).toBeGreaterThanOrEqual(0);
      }
      clock.advance(TTL);
      parts();
      clock.advance(1);
      see(0.5);
      seeShare(0.5);
      expect([parts(), parts("5h")]).toEqual([
        [0, 0],
        [0, 0],
      ]);
    }),
    { numRuns: 300 },
  );
});
