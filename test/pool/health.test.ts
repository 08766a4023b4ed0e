import { describe, expect, test } from "vitest";
import type { AttemptOutcome } from "../../src/core/credential.ts";
import { eventEmitter } from "../../src/core/events.ts";
import { credentialHealth, type Block, type CredentialHealth, type HealthOptions, type Pass } from "../../src/pool/health.ts";
import { credentialPool } from "../../src/pool/pool.ts";
import { roundRobin } from "../../src/pool/strategies/round-robin.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger, refusalOf } from "../core/context-kit.ts";
import { broke, countedStrikes, DAY, MINUTE, nobody, others, refused } from "./health-kit.ts";
import { candidate, choice, lend, NEVER_SENT, numbered, offersOf, SERVED, setSlots } from "./pool-kit.ts";

const A = candidate("a", "m");

const FAIL2BAN: HealthOptions["fail2ban"] = {
  maxAttempts: 3,
  windowMs: 10 * MINUTE,
  banMs: null,
  codes: [401, 403, 429, 500, 502, 503, 504],
  rules: [],
};
const BREAKER: HealthOptions["breaker"] = { failureThreshold: 5, openForMs: 30_000, halfOpen: 1 };

function kit(more: Partial<Pick<HealthOptions, "fail2ban" | "breaker" | "records" | "onUnauthorized">> = {}, clock = testClock()) {
  const logger = keptLogger();
  const strikes = countedStrikes(clock);
  const health: CredentialHealth = credentialHealth({
    clock,
    logger,
    records: memoryStore({ clock }).records,
    strikes,
    events: eventEmitter(logger),
    fail2ban: null,
    breaker: null,
    ...more,
  });
  const attempt = (outcome: AttemptOutcome, times = 1, who = A, hasOthers = others): void => {
    for (let i = 0; i < times; i += 1) {
      const pass = health.enter(who);
      if (pass) health.leave(who, pass, outcome, hasOthers);
    }
  };
  /** What keeps the candidate out, and for how long. */
  const why = (who = A): readonly [Block["reason"], number, number | null] | null => {
    const block = health.blockOf(who);
    return block && [block.reason, block.code, block.until === null ? null : block.until - clock.now()];
  };
  return { clock, logger, strikes, health, attempt, why };
}

describe("an attempt that only counted", () => {
  test("benches nobody, whatever it is answered; a token that is refused is renewed all the same", () => {
    const renewed: string[] = [];
    const { health, attempt, why } = kit({
      fail2ban: { ...FAIL2BAN, maxAttempts: 1 },
      breaker: { ...BREAKER, failureThreshold: 1 },
      onUnauthorized: ({ name }) => void renewed.push(name),
    });
    for (const status of [401, 403, 404, 429, 500]) attempt({ ...refused(status), isAside: true } as AttemptOutcome);
    expect([why(), health.isQuiet, health.blocks(), health.breakers()]).toEqual([null, true, [], []]);
    expect(renewed).toEqual(["a"]);
    attempt(refused(401));
    expect(renewed).toEqual(["a", "a"]);
    expect(why()).not.toBeNull();
  });
});

describe("a look into a long cooldown", () => {
  test("is one request: the next is sent when it was served", () => {
    const { clock, health, attempt, why } = kit();
    attempt(refused(429, "capacity", { waitMs: 7 * DAY }));
    clock.advance(DAY);
    expect(why()).toBeNull();
    const pass = health.enter(A) as Pass;
    expect(why()).toEqual(["cooling", 429, MINUTE]);
    health.leave(A, pass, SERVED, others);
    expect([why(), health.isQuiet]).toEqual([null, true]);
  });

  test("a quota with room ends it", () => {
    const { health, attempt, why } = kit();
    attempt(refused(429, "capacity", { waitMs: 7 * DAY }));
    health.quotaSeen("a", (model) => model === "n");
    expect(why()).toEqual(["cooling", 429, DAY]);
    health.quotaSeen("a", (model) => model === "m");
    expect(why()).toBeNull();
  });
});

describe("what an attempt says", () => {
  test.each<[string, AttemptOutcome, ReturnType<ReturnType<typeof kit>["why"]>]>([
    ["an answer", SERVED, null],
    ["a client that left", { kind: "abandoned", tokens: 3 }, null],
    ["an attempt that was never sent", NEVER_SENT, null],
    ["a request that is wrong", refused(400, "request"), null],
    ["a model that does not exist", refused(404, "request"), null],
    ["a refusal in words that speaks of the request", refused(403, "request"), null],
    ["an error of the provider's about the request", refused(500, "request"), null],
    ["a wrong key", refused(401), ["cooling", 401, 30 * MINUTE]],
    ["an unpaid bill", refused(402), ["cooling", 402, 30 * MINUTE]],
    ["no access", refused(403), ["cooling", 403, 30 * MINUTE]],
    ["a rate limit", refused(429, "capacity", { waitMs: 20_000 }), ["cooling", 429, 20_000]],
    ["an overload", refused(529), ["cooling", 529, MINUTE]],
    ["a timeout by status", refused(408), ["cooling", 408, MINUTE]],
    ["no connection", broke("upstream_unreachable"), ["cooling", 502, MINUTE]],
    ["half an answer", broke("upstream_protocol"), ["cooling", 502, MINUTE]],
    ["no answer in time", broke("upstream_timeout"), ["cooling", 504, MINUTE]],
    ["a failure of our own", broke("internal"), null],
    ["a plugin that failed", broke("plugin_failed"), null],
    ["our store being away", broke("store_unavailable"), null],
  ])("of %s", (_name, outcome, expected) => {
    const { health, attempt, why } = kit();
    attempt(outcome);
    expect(why()).toEqual(expected);
    expect(health.isQuiet).toBe(expected === null);
    expect(health.blocks()).toHaveLength(expected === null ? 0 : 1);
  });

  test("asks who else could serve only where that matters", () => {
    const { attempt, why } = kit();
    const never = (): boolean => {
      throw new Error("asked");
    };
    for (const outcome of [SERVED, NEVER_SENT, refused(400, "request"), broke("internal")]) attempt(outcome, 1, A, never);
    attempt(refused(503), 1, A, nobody);
    expect(why()).toBeNull();
    attempt(refused(503), 1, A, others);
    expect(why()).toEqual(["cooling", 503, MINUTE]);
  });

  test.each<[string, AttemptOutcome, number]>([
    ["a refusal by its status", refused(401), 401],
    ["an overload by its status", refused(503), 503],
    ["no connection as 502", broke("upstream_unreachable"), 502],
    ["half an answer as 502", broke("upstream_protocol"), 502],
    ["no answer in time as 504", broke("upstream_timeout"), 504],
  ])("fail2ban counts %s, also for the only candidate", (_name, outcome, code) => {
    const { health, attempt, why } = kit({ fail2ban: FAIL2BAN });
    attempt(outcome, 2, A, nobody);
    expect(health.isQuiet).toBe(true);
    attempt(outcome, 1, A, nobody);
    expect([why(), health.isQuiet]).toEqual([["banned", code, null], false]);
  });

  test("fail2ban bans the model only, also where the provider speaks of the account", () => {
    const { attempt, why } = kit({ fail2ban: FAIL2BAN });
    attempt(refused(401, "credential", { isAccountWide: true }), 3);
    expect(why()).toEqual(["banned", 401, null]);
    expect(why(candidate("a", "n"))).toEqual(["cooling", 401, 30 * MINUTE]);
  });

  test("fail2ban does not count what is nobody's fault or the request's", () => {
    const { strikes, attempt } = kit({ fail2ban: FAIL2BAN });
    // Codes that this list bans for, and a challenge of a provider's firewall, which says 403 about the request's text.
    const challenge = refused(403, "capacity", { waitMs: 10_000 });
    for (const outcome of [SERVED, NEVER_SENT, refused(401, "request"), refused(500, "request"), broke("internal"), challenge]) attempt(outcome, 5);
    expect(strikes.asked).toEqual([]);
  });

  test.each<[string, AttemptOutcome]>([
    ["errors of the provider", refused(500)],
    ["overloads", refused(529)],
    ["broken connections", broke("upstream_unreachable")],
    ["half answers", broke("upstream_protocol")],
    ["timeouts", broke("upstream_timeout")],
  ])("the breaker counts %s", (_name, outcome) => {
    const { health, attempt, why } = kit({ breaker: BREAKER });
    attempt(outcome, 4, A, nobody);
    expect(health.isQuiet).toBe(true);
    attempt(outcome, 1, A, nobody);
    expect(why()).toMatchObject(["breaker", outcome.kind === "refused" ? outcome.status : expect.any(Number), 30_000]);
    expect(health.breakers()).toEqual([{ credential: "a", state: "open" }]);
  });

  test.each<[string, AttemptOutcome]>([
    ["rate limits", refused(429)],
    ["wrong keys", refused(401)],
    ["timeouts that the provider answers with 408", refused(408)],
    ["clients that leave", { kind: "abandoned", tokens: 1 }],
    ["failures of our own", broke("internal")],
  ])("the breaker neither counts %s nor starts anew after them", (_name, outcome) => {
    const { health, attempt } = kit({ breaker: BREAKER });
    attempt(outcome, 20, A, nobody);
    attempt(refused(500), 4, A, nobody);
    attempt(outcome, 20, A, nobody);
    expect(health.isQuiet).toBe(true);
    attempt(refused(500), 1, A, nobody);
    expect(health.isQuiet).toBe(false);
  });

  test.each<[string, AttemptOutcome]>([
    ["an answer", SERVED],
    ["a refusal of the request", refused(400, "request")],
    ["a refusal of the request with an odd status", refused(500, "request")],
  ])("the breaker starts anew after %s", (_name, outcome) => {
    const { health, attempt } = kit({ breaker: BREAKER });
    attempt(refused(500), 4, A, nobody);
    attempt(outcome);
    attempt(refused(500), 4, A, nobody);
    expect(health.isQuiet).toBe(true);
  });
});

describe("a success", () => {
  test("ends a cooldown and forgets strikes", () => {
    const { attempt, why, strikes } = kit({ fail2ban: FAIL2BAN });
    attempt(refused(503), 2);
    attempt(SERVED);
    expect([why(), strikes.counts.size]).toEqual([null, 0]);
  });
});

test.each([NEVER_SENT, broke("internal"), refused(429)])("a probe that says nothing of the provider gives its place back: $kind", (outcome) => {
  const { clock, health, attempt } = kit({ breaker: { ...BREAKER, failureThreshold: 1 } });
  attempt(refused(500), 1, A, nobody);
  clock.advance(30_000);
  for (const each of [outcome, SERVED]) {
    const probe = health.enter(A);
    expect([probe === null, health.enter(A)]).toEqual([false, null]);
    health.leave(A, probe as Pass, each, nobody);
  }
  expect(health.isQuiet).toBe(true);
});

describe("what keeps a candidate out", () => {
  test("is what lasts longest", () => {
    const { clock, attempt, why, health } = kit({
      fail2ban: { maxAttempts: 2, windowMs: MINUTE, banMs: 45_000, codes: [500], rules: [] },
      breaker: { failureThreshold: 1, openForMs: 50_000, halfOpen: 1 },
    });
    const early = health.enter(A) as Pass;
    attempt(refused(500));
    expect(why()).toEqual(["cooling", 500, MINUTE]);
    clock.advance(20_000);
    health.leave(A, early, refused(500), others);
    // Banned for 45 s, cooling for a minute, broken for 30 s more.
    expect(health.blocks().map(({ reason, until }) => [reason, (until as number) - clock.now()])).toEqual([
      ["banned", 45_000],
      ["cooling", MINUTE],
      ["breaker", 30_000],
    ]);
    expect(why()).toEqual(["cooling", 500, MINUTE]);
    expect(health.lift("cooling", "a", "m")).toBe(1);
    expect(why()).toEqual(["banned", 500, 45_000]);
    expect(health.lift("banned", "a", null)).toBe(1);
    expect(why()).toEqual(["breaker", 500, 30_000]);
    expect(health.lift("cooling", "a", "m")).toBe(0);
    expect(health.lift("cooling", "a", null)).toBe(1);
    expect([why(), health.isQuiet, health.lift("cooling", "a", null)]).toEqual([null, true, 0]);
  });

  test("is never shorter because it is for ever", () => {
    const { attempt, why } = kit({ fail2ban: { maxAttempts: 1, windowMs: MINUTE, banMs: null, codes: [401], rules: [] } });
    attempt(refused(401));
    expect(why()).toEqual(["banned", 401, null]);
  });

  test("leaves quiet behind when its time is over, with no clock read after that", () => {
    const clock = testClock();
    let reads = 0;
    const counting = { ...clock, now: () => ((reads += 1), clock.now()) };
    const { health, attempt } = kit({ breaker: BREAKER }, counting);
    attempt(refused(503));
    clock.advance(MINUTE);
    expect(health.isQuiet).toBe(true);
    reads = 0;
    for (let i = 0; i < 100; i += 1) {
      expect(health.isQuiet).toBe(true);
      attempt(SERVED);
    }
    expect(reads).toBe(0);
  });
});

describe("health in a store", () => {
  test("outlives a restart, but for the breaker", async () => {
    const clock = testClock();
    const { records } = memoryStore({ clock });
    const before = kit({ fail2ban: FAIL2BAN, breaker: BREAKER, records }, clock);
    await before.health.load();
    before.attempt(refused(500), 5);
    before.health.close();
    const after = kit({ fail2ban: FAIL2BAN, breaker: BREAKER, records }, clock);
    await after.health.load();
    expect(after.health.blocks()).toEqual(before.health.blocks().filter(({ reason }) => reason !== "breaker"));
    expect(after.health.blocks()).toHaveLength(2);
    // Closed: it hears of nothing any more.
    after.attempt(refused(503), 3, candidate("b"));
    expect(after.health.blocks().filter(({ credential }) => credential === "b")).toHaveLength(2);
    expect(before.why(candidate("b"))).toBeNull();
  });
});

describe("a pool with health", () => {
  const poolWith = (health: CredentialHealth, now: () => number) =>
    credentialPool({ offers: offersOf(numbered(2)), health, slots: setSlots(), strategy: roundRobin(), now });

  test("goes on with the healthy one, and tells when to come back when there is none", () => {
    const { clock, health } = kit();
    const pool = poolWith(health, clock.now);
    lend(choice(pool))?.release(refused(503));
    const names = Array.from({ length: 3 }, () => lend(choice(pool))?.credential.name);
    expect(names).toEqual(["2", "2", "2"]);
    // The last one stays in use on a guess, and not against the provider's word.
    lend(choice(pool))?.release(refused(503));
    expect(lend(choice(pool))?.credential.name).toBe("2");
    lend(choice(pool))?.release(refused(429, "capacity", { waitMs: 5_000 }));
    expect(refusalOf(() => choice(pool).next())).toMatchObject({ code: "all_credentials_limited", retryAfterMs: 5_000 });
    clock.advance(5_000);
    expect(lend(choice(pool))?.credential.name).toBe("2");
  });

  test("tries a broken one with a single request", () => {
    const { clock, health } = kit({ breaker: { failureThreshold: 1, openForMs: 10_000, halfOpen: 1 } });
    const pool = poolWith(health, clock.now);
    for (const _ of [1, 2]) lend(choice(pool))?.release(broke("upstream_timeout"));
    health.lift("cooling", "1", "m");
    expect(refusalOf(() => choice(pool).next())).toMatchObject({ code: "no_credential", retryAfterMs: 10_000 });
    clock.advance(10_000);
    const probes = [lend(choice(pool)), lend(choice(pool))];
    expect(new Set(probes.map((lease) => lease?.credential.name))).toEqual(new Set(["1", "2"]));
    expect(refusalOf(() => choice(pool).next())).toMatchObject({ code: "no_credential", retryAfterMs: 1_000 });
    probes[0]?.release(SERVED);
    probes[1]?.release(NEVER_SENT);
    expect(health.breakers().map(({ state }) => state)).toEqual(["half-open"]);
  });
});
