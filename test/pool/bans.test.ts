import { describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import { eventEmitter, type GuardEvents } from "../../src/core/events.ts";
import type { StrikeStore } from "../../src/core/store.ts";
import { bans, type BanRules } from "../../src/pool/bans.ts";
import { strikeStore } from "../../src/stores/strikes.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { countedStrikes, MINUTE, recordsOn, settled } from "./health-kit.ts";
import { candidate } from "./pool-kit.ts";

const A = candidate("c1", "A");
const B = candidate("c1", "B");

const RULES: BanRules = { maxAttempts: 3, windowMs: 10 * MINUTE, banMs: null, codes: [401, 403, 429, 500, 502, 503, 504], rules: [] };

function kit(rules: Partial<BanRules> | null = {}, clock = testClock(), records = recordsOn(clock), counting?: StrikeStore) {
  const logger = keptLogger();
  const strikes = countedStrikes(clock);
  const events = eventEmitter(logger);
  const emitted: GuardEvents["ban"][] = [];
  events.on("ban", (event) => void emitted.push(event));
  const changes: string[] = [];
  const banned = bans({
    clock,
    logger,
    records,
    strikes: counting ?? strikes,
    events,
    rules: rules && { ...RULES, ...rules },
    onBan: (name) => void changes.push(`ban ${name}`),
    onLift: (name) => void changes.push(`lift ${name}`),
  });
  const fail = (code: number, times = 1, who = A): void => {
    for (let i = 0; i < times; i += 1) banned.failed(who, code);
  };
  const isBanned = (who = A): boolean => banned.blockOf(who, clock.now()) !== null;
  return { clock, records, logger, strikes, banned, emitted, changes, fail, isBanned };
}

describe("fail2ban of credentials", () => {
  test("bans at the third refusal of three", () => {
    const { clock, banned, emitted, changes, fail, isBanned, logger } = kit();
    fail(401, 2);
    expect([isBanned(), banned.isEmpty]).toEqual([false, true]);
    fail(401);
    const now = clock.now();
    expect(banned.blockOf(A, now)).toEqual({ reason: "banned", credential: "c1", model: "A", code: 401, since: now, until: null });
    expect(banned.blocks(now)).toEqual([banned.blockOf(A, now)]);
    expect(emitted).toEqual([{ credential: "c1", model: "A", client: null, code: 401, until: null }]);
    expect(changes).toEqual(["ban c1"]);
    expect(logger.lines.map(({ level, fields }) => [level, fields])).toEqual([["warn", { credential: "c1", model: "A", code: 401, until: null }]]);
  });

  test("forgets two refusals at a success", () => {
    const { banned, strikes, fail, isBanned } = kit();
    fail(500, 2);
    fail(401, 2);
    banned.served(A);
    expect(strikes.counts.size).toBe(0);
    fail(500, 2);
    fail(401, 2);
    expect(isBanned()).toBe(false);
    fail(500);
    expect(isBanned()).toBe(true);
  });

  test("ignores a 404 that nobody asked to count", () => {
    const { strikes, fail, isBanned } = kit();
    fail(404, 100);
    expect([isBanned(), strikes.asked]).toEqual([false, []]);
  });

  test("bans at the first 429 where a rule says so, while 500 needs three", () => {
    const { clock, fail, isBanned } = kit({ rules: [{ code: 429, maxAttempts: 1, banMs: 10_000 }] });
    fail(500, 2);
    expect(isBanned()).toBe(false);
    fail(429);
    expect(isBanned()).toBe(true);
    clock.advance(9_999);
    expect(isBanned()).toBe(true);
    clock.advance(1);
    expect(isBanned()).toBe(false);
    fail(500, 3);
    clock.advance(1e9);
    expect(isBanned()).toBe(true);
  });

  test("bans at the second 503 where a rule says so", () => {
    const { fail, isBanned } = kit({ rules: [{ code: 503, maxAttempts: 2, banMs: null }] });
    fail(503);
    expect(isBanned()).toBe(false);
    fail(503);
    expect(isBanned()).toBe(true);
  });

  test("obeys a rule whose code stands in no list", () => {
    const { fail, isBanned } = kit({ codes: [500], rules: [{ code: 418, maxAttempts: 2, banMs: 1_000 }] });
    fail(418, 2);
    expect(isBanned()).toBe(true);
  });

  test("counts each code by itself", () => {
    const { fail, isBanned } = kit();
    fail(401, 2);
    fail(500, 2);
    expect(isBanned()).toBe(false);
    fail(401);
    expect(isBanned()).toBe(true);
  });

  test("bans one model and leaves the others of the credential", () => {
    const { fail, isBanned, strikes } = kit();
    fail(401, 2, B);
    fail(401, 3);
    expect([isBanned(A), isBanned(B)]).toEqual([true, false]);
    expect([...strikes.counts.values()]).toEqual([2]);
  });

  test("bans all models when there is no model", () => {
    const { clock, banned, emitted, changes, fail, isBanned } = kit({ banMs: 1_000 });
    fail(401, 3, candidate("c1", ""));
    expect([isBanned(A), isBanned(candidate("c1", "")), isBanned(candidate("c2", "A"))]).toEqual([true, true, false]);
    expect(emitted).toMatchObject([{ credential: "c1", model: null }]);
    clock.advance(1_000);
    expect([banned.isEmpty, changes]).toEqual([true, ["ban c1", "lift c1"]]);
  });

  test("is not changed by what still comes back while the ban stands", () => {
    const { clock, banned, emitted, changes, fail, strikes } = kit();
    fail(401, 3);
    const block = banned.blockOf(A, clock.now());
    const asked = strikes.asked.length;
    clock.advance(5);
    fail(401);
    banned.served(A);
    fail(500, 9);
    expect(banned.blockOf(A, clock.now())).toEqual(block);
    expect([emitted.length, changes.length, strikes.asked.length]).toEqual([1, 1, asked]);
  });

  test("ends a ban of 100 ms by itself, with no strike left", () => {
    const { clock, banned, changes, fail, isBanned, strikes } = kit({ banMs: 100 });
    fail(500, 2);
    fail(401, 3);
    clock.advance(99);
    expect(isBanned()).toBe(true);
    clock.advance(51);
    expect([isBanned(), banned.isEmpty, strikes.counts.size]).toEqual([false, true, 0]);
    expect(changes).toEqual(["ban c1", "lift c1"]);
    fail(401, 2);
    fail(500, 2);
    expect(isBanned()).toBe(false);
    fail(500);
    expect(isBanned()).toBe(true);
  });

  test("does not list what has expired", () => {
    const { clock, banned, fail } = kit({ rules: [{ code: 500, maxAttempts: 1, banMs: 1_000 }] });
    fail(500);
    fail(401, 3, B);
    clock.advance(1_000);
    expect(banned.blocks(clock.now())).toMatchObject([{ model: "B" }]);
  });

  test("forgets strikes that are older than the window", () => {
    const { clock, fail, isBanned } = kit();
    for (let day = 0; day < 30; day += 1) {
      fail(500, 2);
      clock.advance(10 * MINUTE);
    }
    expect(isBanned()).toBe(false);
    fail(500, 2);
    clock.advance(10 * MINUTE - 1);
    fail(500);
    expect(isBanned()).toBe(true);
  });

  test("asks the store nothing for the successes of those that were never refused", () => {
    const { banned, fail, strikes } = kit();
    for (let i = 0; i < 100; i += 1) banned.served(A);
    fail(401, 1, B);
    for (let i = 0; i < 100; i += 1) banned.served(A);
    banned.served(B);
    banned.served(B);
    expect(strikes.asked).toEqual(["strike credential/c1/B/401", "clear credential/c1/B/401"]);
  });

  test("remembers a bounded number of pairs to forget", () => {
    const { banned, fail, strikes } = kit();
    for (let i = 0; i <= 10_000; i += 1) fail(401, 1, candidate("c1", `m${i}`));
    banned.served(candidate("c1", "m0"));
    expect(strikes.asked.at(-1)).toMatch(/^strike/);
    banned.served(candidate("c1", "m1"));
    expect(strikes.asked.at(-1)).toBe("clear credential/c1/m1/401");
  });

  test("that is off counts nothing and does not know of bans from before", async () => {
    const on = kit();
    on.fail(401, 3);
    const off = kit(null, on.clock, on.records);
    await off.banned.load();
    off.fail(401, 10);
    expect([off.banned.isEmpty, off.strikes.asked]).toEqual([true, []]);
  });
});

describe("lifting bans", () => {
  test("ends permanent ones, of a model or of the whole credential", () => {
    const { banned, changes, fail, isBanned } = kit();
    for (const who of [A, B, candidate("c2", "A")]) fail(401, 3, who);
    expect(banned.lift("c1", "unknown")).toBe(0);
    expect(banned.lift("c1", "B")).toBe(1);
    expect([isBanned(A), isBanned(B)]).toEqual([true, false]);
    expect(banned.lift("c1", null)).toBe(1);
    expect([isBanned(A), isBanned(candidate("c2", "A"))]).toEqual([false, true]);
    expect(changes.slice(3)).toEqual(["lift c1", "lift c1"]);
    fail(401, 2);
    expect(isBanned()).toBe(false);
    fail(401);
    expect(isBanned()).toBe(true);
  });
});

describe("bans in a store", () => {
  test("hold in other processes at once and after a restart, and are lifted everywhere", async () => {
    const one = kit({ banMs: 10 * MINUTE });
    const two = kit({}, one.clock, one.records);
    await Promise.all([one.banned.load(), two.banned.load()]);
    one.fail(401, 3);
    two.fail(401, 3, B);
    expect([two.isBanned(A), one.isBanned(B)]).toEqual([true, true]);
    // Each of them is told by one process only.
    expect([one.emitted.length, two.emitted.length]).toEqual([1, 1]);
    expect([one.changes, two.changes]).toEqual([["ban c1"], ["ban c1"]]);
    const restarted = kit({}, one.clock, one.records);
    await restarted.banned.load();
    expect(restarted.banned.blocks(one.clock.now()).map(({ model, until }) => [model, until])).toEqual([
      ["A", one.clock.now() + 10 * MINUTE],
      ["B", null],
    ]);
    expect(restarted.banned.lift("c1", "B")).toBe(1);
    one.clock.advance(10 * MINUTE);
    expect([one, two, restarted].map(({ banned }) => banned.isEmpty)).toEqual([true, true, true]);
    expect([one.changes, two.changes, restarted.changes]).toEqual([["ban c1", "lift c1"], ["ban c1"], ["lift c1"]]);
  });
});

describe("strikes in a store", () => {
  test("that answers later are counted as they come back", async () => {
    const clock = testClock();
    const it = kit({}, clock, recordsOn(clock), strikeStore({ clock }));
    it.fail(401, 2);
    await settled();
    it.banned.served(A);
    await settled();
    it.fail(401, 2);
    await settled();
    expect(it.isBanned()).toBe(false);
    // Five that were under way together: one ban.
    it.fail(401, 5);
    await settled();
    expect([it.isBanned(), it.emitted.length]).toEqual([true, 1]);
    it.banned.lift("c1", null);
    it.fail(401, 2);
    await settled();
    expect(it.isBanned()).toBe(false);
  });

  test("that come back during the ban do not prolong it", async () => {
    const answers: ((count: number) => void)[] = [];
    const slow: StrikeStore = { strike: () => new Promise((resolve) => void answers.push(resolve)), clear: () => undefined };
    const clock = testClock();
    const it = kit({ banMs: 1_000 }, clock, recordsOn(clock), slow);
    it.fail(401, 4);
    answers[2]?.(3);
    await settled();
    clock.advance(600);
    answers[3]?.(4);
    await settled();
    expect([it.isBanned(), it.emitted.length]).toEqual([true, 1]);
    clock.advance(400);
    expect(it.isBanned()).toBe(false);
  });

  test("that is away cost nothing but bans, and are complained about once", async () => {
    const it = kit();
    it.fail(401, 2);
    it.strikes.isAway = true;
    it.fail(401, 5);
    it.banned.served(A);
    expect(it.isBanned()).toBe(false);
    expect(it.logger.lines.map(({ level }) => level)).toEqual(["warn"]);
    it.strikes.isAway = false;
    it.fail(500);
    expect(it.logger.lines.map(({ level }) => level)).toEqual(["warn", "info"]);
    it.fail(500, 2);
    expect(it.isBanned()).toBe(true);

    const away: StrikeStore = {
      strike: () => Promise.reject(new GuardError("store_unavailable", "away")),
      clear: () => Promise.reject(new GuardError("store_unavailable", "away")),
    };
    const later = kit({}, it.clock, it.records, away);
    later.fail(401, 5, B);
    later.banned.served(B);
    await settled();
    expect(later.isBanned(B)).toBe(false);
    expect(later.logger.lines.map(({ level }) => level)).toEqual(["warn"]);
  });
});
