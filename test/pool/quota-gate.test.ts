import { describe, expect, test } from "vitest";
import type { AttemptOutcome, Choice, Lease } from "../../src/core/credential.ts";
import { GuardError } from "../../src/core/errors.ts";
import { quotaGate, type GateEntry } from "../../src/pool/quota-gate.ts";
import { refusalOf } from "../core/context-kit.ts";
import { MINUTE } from "./health-kit.ts";
import { block, candidate, lend, NEVER_SENT, offersOf, poolKit, SERVED } from "./pool-kit.ts";
import { asking, spendKit } from "./spend-kit.ts";

const PROBE = 15 * MINUTE;
const REFUSED: AttemptOutcome = { kind: "refused", status: 429, fault: "capacity", isAccountWide: true, waitMs: null };

function kit(names: readonly string[] = ["a", "b"]) {
  const of = spendKit(names);
  const gate = quotaGate({ facts: of.facts, spend: of.spent, clock: of.clock });
  const nobodyAsks = {
    amount(): never {
      throw new Error("nobody has to work this out");
    },
  };
  return {
    ...of,
    gate,
    nobodyAsks,
    /** Why credential `a` may not be used for so much. */
    reason: (tokens: number, model = "m") => gate.blockOf(candidate("a", model), asking(tokens))?.reason ?? null,
    blockOf: (tokens: number) => gate.blockOf(candidate("a"), asking(tokens)),
    enter: (tokens: number) => gate.enter(candidate("a"), asking(tokens)) as GateEntry,
  };
}

describe("the gate", () => {
  test("knows nothing and asks nothing while nobody told anything", () => {
    const { gate, see, nobodyAsks } = kit();
    expect(gate.isQuiet).toBe(true);
    see(0.5);
    expect(gate.isQuiet).toBe(false);
    expect([gate.blockOf(candidate("b"), nobodyAsks), gate.enter(candidate("b"), nobodyAsks)]).toEqual([null, null]);
  });

  test("lets in what fits, to the last token, and says what does not", () => {
    const { see, reason, clock } = kit();
    see(0.3);
    expect([reason(0), reason(300), reason(301)]).toEqual([null, null, "unaffordable"]);
    see(0, { group: "weekly", resetsAt: clock.now() + 600 * MINUTE });
    expect([reason(0), reason(301)]).toEqual(["exhausted", "exhausted"]);
  });

  test("looks at every quota, not only at the scarcest", () => {
    const { see, reason } = kit();
    see(0.1, { limit: 1_000_000 });
    see(0.5, { group: "minute", limit: 100 });
    expect([reason(50), reason(51)]).toEqual([null, "unaffordable"]);
  });

  test("keeps nobody out for another group, by an estimate, or for no known reason", () => {
    const { see, reason } = kit();
    see(0, { group: "claude", models: ["claude-*"] });
    see(0, { group: "code-review", models: ["codex-review*"] });
    see(0, { group: "guess", source: "estimate" });
    expect([reason(100, "gemini-3-pro"), reason(100, "gpt-5-codex"), reason(100, "claude-opus")]).toEqual([null, null, "exhausted"]);
  });

  test("counts what others are about to use, and says to ask again soon where only they are in the way", () => {
    const { see, enter, reason, blockOf, clock } = kit();
    see(0.3);
    const first = enter(200);
    expect([reason(100), reason(101)]).toEqual([null, "unaffordable"]);
    expect(blockOf(101)?.until).toBe(clock.now() + 1_000);
    const second = enter(100);
    expect(blockOf(1)).toMatchObject({ reason: "exhausted", until: clock.now() + 1_000 });
    second.leave({ kind: "served", status: 200, tokens: 40 });
    expect([reason(60), reason(61)]).toEqual([null, "unaffordable"]);
    first.leave(NEVER_SENT);
    first.leave(SERVED);
    expect([reason(260), reason(261)]).toEqual([null, "unaffordable"]);
    expect(blockOf(261)?.until).toBe(clock.now() + PROBE);
  });

  test("only looks when it is asked what is in the way", () => {
    const { see, gate, spent, clock } = kit();
    see(0, { resetsAt: clock.now() + 60 * MINUTE });
    clock.advance(PROBE);
    for (let i = 0; i < 5; i += 1) expect(gate.blockOf(candidate("a"), asking(100))).toBeNull();
    expect([spent.isEmpty, spent.of("a").attempts]).toEqual([true, 0]);
  });

  test("lets what takes more than there ever is try a whole quota, and no other", () => {
    const { see, reason, clock } = kit();
    see(1);
    expect(reason(5_000)).toBeNull();
    clock.advance(1);
    see(0.999);
    expect(reason(5_000)).toBe("unaffordable");
  });

  test("names the time at which the quota is whole again, the last where there are several", () => {
    const { see, blockOf, clock } = kit();
    see(0, { resetsAt: clock.now() + 90 * MINUTE });
    see(0, { group: "weekly", resetsAt: clock.now() + 600 * MINUTE });
    expect(blockOf(1)).toEqual({
      reason: "exhausted",
      credential: "a",
      model: null,
      code: 0,
      note: "nothing is left of its quota weekly",
      since: clock.now(),
      until: clock.now() + 600 * MINUTE,
    });
  });
});

describe("a quota that fills up bit by bit", () => {
  test("keeps nobody out for longer than it takes to fill up to what the request needs", () => {
    const { see, reason, blockOf, clock } = kit();
    const began = clock.now();
    see(0, { resetsAt: began + MINUTE, windowMs: MINUTE, refills: true });
    expect([reason(1), reason(100)]).toEqual(["exhausted", "exhausted"]);
    expect([blockOf(100)?.until, blockOf(500)?.until, blockOf(9_000)?.until]).toEqual([began + 6_000, began + 30_000, began + MINUTE]);
    clock.advance(6_000);
    expect([reason(100), reason(101)]).toEqual([null, "unaffordable"]);
    clock.advance(24_000);
    expect([reason(500), reason(501)]).toEqual([null, "unaffordable"]);
  });

  test("counts what was used meanwhile", () => {
    const { see, reason, blockOf, use, clock } = kit();
    const began = clock.now();
    see(0.5, { resetsAt: began + 30_000, windowMs: MINUTE, refills: true });
    clock.advance(5_000);
    use(500);
    expect([reason(100), reason(101), blockOf(200)?.until]).toEqual([null, "unaffordable", began + 12_000]);
  });

  test("the others are kept out until they are whole; where nobody knows when, until the word is over", () => {
    const { see, reason, blockOf, clock } = kit();
    see(0, { resetsAt: clock.now() + MINUTE, windowMs: MINUTE });
    clock.advance(MINUTE - 1);
    expect(reason(1)).toBe("exhausted");
    see(0, { windowMs: MINUTE });
    expect(blockOf(1)?.until).toBe(clock.now() + MINUTE);
  });
});

describe("our own arithmetic without numbers", () => {
  test("is a guess; what the provider says, or numbers do, is none", () => {
    const { see, seeShare, blockOf, enter } = kit();
    seeShare(0.2);
    expect(blockOf(400_000)).toMatchObject({ reason: "unaffordable", isGuess: true });
    const other = enter(1);
    expect(blockOf(400_000)?.isGuess).toBeUndefined();
    other.leave(NEVER_SENT);
    see(0.1);
    expect(blockOf(400_000)).toMatchObject({ note: "too little is left of its quota tokens" });
    expect(blockOf(400_000)?.isGuess).toBeUndefined();
  });
});

describe("an old word", () => {
  test.each([
    ["that nothing is left", 0, 1],
    ["that too little is left", 0.1, 500],
  ])("%s holds for 15 minutes, then one request at a time may try", (_what, ratio, tokens) => {
    const { see, reason, blockOf, enter, clock } = kit();
    see(ratio);
    clock.advance(PROBE - 1);
    expect(blockOf(tokens)?.until).toBe(clock.now() + 1);
    clock.advance(1);
    expect(reason(tokens)).toBeNull();
    const probe = enter(tokens);
    expect(blockOf(tokens)).not.toBeNull();
    probe.leave({ kind: "served", status: 200, tokens: 0 });
    expect(reason(tokens)).toBeNull();
    const next = enter(tokens);
    next.leave(REFUSED);
    expect(blockOf(tokens)?.until).toBe(clock.now() + PROBE);
    clock.advance(PROBE);
    expect(reason(tokens)).toBeNull();
  });

  test("is over when the quota is whole again, though it is not 15 minutes old", () => {
    const { see, reason, clock } = kit();
    see(0, { resetsAt: clock.now() + MINUTE });
    clock.advance(MINUTE - 1);
    expect(reason(1)).toBe("exhausted");
    clock.advance(1);
    expect(reason(1)).toBeNull();
  });

  test("is renewed by what the answer says", () => {
    const { see, reason, enter, clock } = kit();
    see(0);
    clock.advance(PROBE);
    const probe = enter(1);
    see(0, { source: "error" });
    probe.leave(REFUSED);
    clock.advance(PROBE - 1);
    expect(reason(1)).toBe("exhausted");
    clock.advance(1);
    const again = enter(1);
    see(0.5);
    expect(reason(1)).toBeNull();
    again.leave({ kind: "served", status: 200, tokens: 1 });
    expect([reason(400), reason(500)]).toEqual([null, "unaffordable"]);
  });

  test("is tried by the next one at once when the first was never sent, and after 15 minutes when it never comes back", () => {
    const { see, reason, enter, clock } = kit();
    see(0);
    clock.advance(PROBE);
    enter(1).leave(NEVER_SENT);
    expect(reason(1)).toBeNull();
    enter(1);
    clock.advance(PROBE - 1);
    expect(reason(1)).toBe("exhausted");
    clock.advance(1);
    expect(reason(1)).toBeNull();
  });
});

describe("a pool with quotas", () => {
  function pooled(names: readonly string[] = ["a", "b"], later = false) {
    const of = kit(names);
    const { pool, health, slots, rejected } = poolKit(offersOf(of.credentials.all), later, of.gate);
    const asks = (tokens: number): Choice => pool.choose({ model: "m", opId: "op", tokens: () => tokens });
    return { ...of, pool, health, slots, rejected, asks };
  }

  test("passes over who has nothing left or too little, and says so to the metrics", () => {
    const { see, asks, rejected } = pooled(["a", "b", "c"]);
    see(0);
    see(0.1, { credential: "b" });
    const from = asks(200);
    expect([lend(from)?.credential.name, lend(from)]).toEqual(["c", null]);
    expect(rejected).toEqual(["exhausted", "unaffordable"]);
    expect(lend(asks(100))?.credential.name).toBe("b");
  });

  test("refuses with the earliest time when nobody else is left", () => {
    const { see, asks, clock } = pooled();
    see(0, { resetsAt: clock.now() + 90 * MINUTE });
    see(0.1, { credential: "b", resetsAt: clock.now() + 60 * MINUTE });
    const refused = refusalOf(() => lend(asks(200)));
    expect(refused).toMatchObject({ code: "all_credentials_limited", status: 429 });
    // poolKit's own clock stands at 0.
    expect(refused.retryAfterMs).toBe(clock.now() + 60 * MINUTE);
    expect(refused).toBeInstanceOf(GuardError);
  });

  test("asks one at a time where only a guess of ours is against it, after all others", () => {
    const { seeShare, asks, health } = pooled(["a", "b", "c"]);
    seeShare(0.2);
    seeShare(0.2, { credential: "b" });
    const from = asks(400_000);
    expect([lend(from), lend(from), lend(from), lend(from)].map((lease) => lease?.credential.name)).toEqual(["c", "a", "b", undefined]);
    health.blocked.set("c/m", block("banned", null));
    expect(refusalOf(() => lend(asks(400_000)))).toMatchObject({ code: "all_credentials_limited" });
  });

  test("an account that has something left serves a request of any size, where there is no other", () => {
    const { seeShare, asks } = pooled(["a"]);
    seeShare(0.2);
    const first = lend(asks(400_000)) as Lease;
    expect(first.credential.name).toBe("a");
    expect(refusalOf(() => lend(asks(400_000))).code).toBe("all_credentials_limited");
    first.release({ kind: "served", status: 200, tokens: 150_000 });
    expect(lend(asks(400_000))?.credential.name).toBe("a");
  });

  test("says that it is busy when those that were passed over have nothing left", () => {
    const { see, asks } = pooled();
    see(0);
    const from = asks(1);
    (lend(from) as Lease).release(NEVER_SENT);
    expect([lend(from), from.busy?.()?.code]).toEqual([null, "all_credentials_limited"]);
  });

  test("counts a request from its choice on, also while it waits for room, and gives it back when there is none", async () => {
    const { see, asks, slots, spent } = pooled(["a"], true);
    see(0.3);
    const waiting = asks(200).next();
    expect(spent.of("a").openTokens).toBe(200);
    expect(refusalOf(() => lend(asks(200))).code).toBe("all_credentials_limited");
    await waiting;
    slots.short.set("a/m", { waitMs: 5_000 });
    await expect(asks(100).next()).rejects.toMatchObject({ code: "all_credentials_limited" });
    expect(spent.of("a").openTokens).toBe(200);
  });

  test("gives back what a choice counted that failed", async () => {
    const { see, asks, slots, spent } = pooled(["a"]);
    see(0.3);
    const fail = () => {
      throw new Error("the store is away");
    };
    slots.take = fail;
    expect(() => lend(asks(200))).toThrow("away");
    slots.take = () => Promise.reject(new Error("the store is away"));
    await expect(asks(200).next()).rejects.toThrow("away");
    expect(spent.of("a").attempts).toBe(0);
  });

  test("counts what the attempt used in the end, once", () => {
    const { see, asks, parts } = pooled(["a"]);
    see(1);
    const lease = lend(asks(200)) as Lease;
    expect(parts()).toEqual([0.2, 0]);
    lease.release({ kind: "served", status: 200, tokens: 150 });
    lease.release(NEVER_SENT);
    expect(parts()).toEqual([0, 0.15]);
  });

  test("tells reading and writing apart where the request does", () => {
    const { see, pool, parts } = pooled(["a"]);
    see(1, { group: "out", unit: "output_tokens" });
    const usage = { inputTokens: 600, cacheReadTokens: 100, cacheWriteTokens: 0, outputTokens: 40, reasoningTokens: 10 };
    lend(pool.choose({ model: "m", opId: "op", tokens: () => 1, usage: () => usage }));
    expect(parts("out")).toEqual([0.05, 0]);
  });

  test("does not wait for one with nothing left: it is nobody's alternative", () => {
    const { see, asks, health } = pooled();
    see(0, { credential: "b" });
    (lend(asks(1)) as Lease).release({ kind: "refused", status: 500, fault: "capacity", isAccountWide: false, waitMs: null });
    expect(health.left.at(-1)).toMatchObject({ key: "a/m", hasOthers: false });
  });

  test("asks nothing of those that are kept out anyway, and nothing at all of what names no model", () => {
    const { see, pool, health, nobodyAsks, gate } = pooled(["a"]);
    see(0);
    health.blocked.set("a/m", block("banned", null));
    expect(refusalOf(() => lend(pool.choose({ model: "m", opId: "op", tokens: nobodyAsks.amount }))).code).toBe("no_credential");
    const files = pool.chooseAny({ operation: "/v1/files", opId: "op", affinity: null, credential: null });
    expect(lend(files)?.credential.name).toBe("a");
    expect(gate.isQuiet).toBe(false);
  });
});
