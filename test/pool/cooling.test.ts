import { describe, expect, test } from "vitest";
import { cooling, type Trouble } from "../../src/pool/cooling.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { DAY, MINUTE, nobody, others, recordsOn, settled, shakyRecords } from "./health-kit.ts";
import { candidate } from "./pool-kit.ts";

const A = candidate("a", "m");
const A2 = candidate("a", "n");
const B = candidate("b", "m");

const trouble = (status: number, more: Partial<Trouble> = {}): Trouble => ({
  fault: "capacity",
  status,
  isAccountWide: false,
  waitMs: null,
  ...more,
});
const denied = (status: number, more: Partial<Trouble> = {}): Trouble => trouble(status, { fault: "credential", ...more });

function kit(clock = testClock(), records = recordsOn(clock)) {
  const logger = keptLogger();
  const cooled = cooling({ records, clock, logger });
  const fail = (what: Trouble, who = A, hasOthers = others): void => cooled.failed(who, what, hasOthers);
  /** Ms until the candidate may be used. */
  const left = (who = A): number => {
    const block = cooled.blockOf(who, clock.now());
    return block ? (block.until as number) - clock.now() : 0;
  };
  return { clock, records, logger, cooled, fail, left };
}

describe("a cooldown", () => {
  test.each<[string, Trouble, number]>([
    ["401", denied(401), 30 * MINUTE],
    ["402", denied(402), 30 * MINUTE],
    ["403", denied(403), 30 * MINUTE],
    ["an account without money", denied(429), 30 * MINUTE],
    ["an account without money, whose rate limits are whole in 6 ms", denied(429, { waitMs: 6 }), 30 * MINUTE],
    ["an account that is back in two hours", denied(403, { waitMs: 120 * MINUTE }), 120 * MINUTE],
    ["429 with a time", trouble(429, { waitMs: 4_500 }), 4_500],
    ["429 with a part of a millisecond", trouble(429, { waitMs: 0.2 }), 1],
    ["429 without a time", trouble(429), 1_000],
    ["429 that says now", trouble(429, { waitMs: 0 }), 1_000],
    ["429 that names no number", trouble(429, { waitMs: Number.NaN }), 1_000],
    ["429 with a time in a day", trouble(429, { waitMs: DAY }), DAY],
    ["408", trouble(408), MINUTE],
    ["500", trouble(500), MINUTE],
    ["503", trouble(503), MINUTE],
    ["503 with a time", trouble(503, { waitMs: 7_000 }), 7_000],
    ["504", trouble(504), MINUTE],
    ["529", trouble(529), MINUTE],
  ])("after %s is as long as it has to be", (_name, what, expected) => {
    const { clock, cooled, fail, left } = kit();
    fail(what);
    expect(left()).toBe(expected);
    expect(cooled.blockOf(A, clock.now())).toEqual({
      reason: "cooling",
      credential: "a",
      model: "m",
      code: what.status,
      since: clock.now(),
      until: clock.now() + expected,
    });
    clock.advance(expected - 1);
    expect([left(), cooled.isEmpty]).toEqual([1, false]);
    clock.advance(1);
    expect([left(), cooled.isEmpty, cooled.blocks(clock.now())]).toEqual([0, true, []]);
  });

  test("is of one model on one credential", () => {
    const { fail, left } = kit();
    fail(trouble(503));
    expect([left(A), left(A2), left(B)]).toEqual([MINUTE, 0, 0]);
  });

  test("is of all models when the provider speaks of the account, or when there is no model", () => {
    const wide = kit();
    wide.fail(denied(401, { isAccountWide: true }));
    expect([wide.left(A), wide.left(A2), wide.left(B)]).toEqual([30 * MINUTE, 30 * MINUTE, 0]);
    expect(wide.cooled.blocks(wide.clock.now())).toMatchObject([{ credential: "a", model: null, code: 401 }]);
    const nameless = kit();
    nameless.fail(trouble(503), candidate("a", ""));
    expect([nameless.left(A2), nameless.left(candidate("a", "")), nameless.left(B)]).toEqual([MINUTE, MINUTE, 0]);
  });

  test("of a candidate is the longer one of its own and its account's", () => {
    const { clock, cooled, fail } = kit();
    fail(trouble(429, { waitMs: 5_000 }));
    fail(trouble(429, { waitMs: 9_000, isAccountWide: true }));
    expect(cooled.blockOf(A, clock.now())).toMatchObject({ model: null, until: clock.now() + 9_000 });
    fail(trouble(503));
    expect(cooled.blockOf(A, clock.now())).toMatchObject({ model: "m", code: 503 });
  });

  test("is never shortened by a later answer", () => {
    const { clock, fail, left } = kit();
    fail(trouble(429, { waitMs: 10_000 }));
    clock.advance(1_000);
    fail(trouble(429, { waitMs: 2_000 }));
    fail(trouble(429));
    expect(left()).toBe(9_000);
    fail(trouble(503));
    expect(left()).toBe(MINUTE);
  });

  test("does not keep the last usable candidate out, unless the provider named a time", () => {
    const { fail, left } = kit();
    for (const what of [trouble(429), trouble(503), denied(401), trouble(429, { waitMs: 0 })]) fail(what, A, nobody);
    expect(left()).toBe(0);
    fail(trouble(503, { waitMs: 2_000 }), A, nobody);
    expect(left()).toBe(2_000);
    // What a credential fault costs where others can serve is too much here.
    fail(denied(401, { waitMs: 3_000 }), A, nobody);
    expect(left()).toBe(3_000);
    fail(trouble(429, { waitMs: 5_000, isAccountWide: true }), B, nobody);
    expect(left(B)).toBe(5_000);
  });

  test("is logged when it begins or grows, as a warning where a person has to look", () => {
    const { clock, fail, logger } = kit();
    fail(trouble(503));
    fail(trouble(503));
    fail(denied(401, { isAccountWide: true }));
    expect(logger.lines.map(({ level, fields }) => [level, fields])).toEqual([
      ["info", { credential: "a", model: "m", code: 503, until: clock.now() + MINUTE }],
      ["warn", { credential: "a", model: null, code: 401, until: clock.now() + 30 * MINUTE }],
    ]);
  });
});

describe("429 without a time", () => {
  /** The waits of so many refusals, each as soon as the last wait is over. */
  function waits({ clock, fail, left }: ReturnType<typeof kit>, count: number): number[] {
    return Array.from({ length: count }, () => {
      fail(trouble(429));
      const waitMs = left();
      clock.advance(waitMs);
      return waitMs;
    });
  }

  test("doubles the wait, up to half an hour", () => {
    const seconds = waits(kit(), 14).map((ms) => ms / 1_000);
    expect(seconds).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800, 1800]);
  });

  test("does not double it for those that were under way together", () => {
    const it = kit();
    for (let i = 0; i < 50; i += 1) it.fail(trouble(429));
    it.clock.advance(999);
    it.fail(trouble(429));
    expect(it.left()).toBe(1);
    it.clock.advance(1);
    it.fail(trouble(429));
    expect(it.left()).toBe(2_000);
  });

  test("does not double it while a time that the provider named runs", () => {
    const it = kit();
    it.fail(trouble(429, { waitMs: 10_000 }));
    it.clock.advance(5_000);
    for (let i = 0; i < 50; i += 1) it.fail(trouble(429));
    it.clock.advance(5_000);
    expect(waits(it, 2)).toEqual([1_000, 2_000]);
  });

  test("begins anew after a success, or when a person ended it", () => {
    const it = kit();
    waits(it, 5);
    it.cooled.served(A2);
    expect(waits(it, 1)).toEqual([32_000]);
    it.cooled.served(A);
    expect(waits(it, 3)).toEqual([1_000, 2_000, 4_000]);
    it.cooled.lift("a", "n");
    expect(waits(it, 1)).toEqual([8_000]);
    it.cooled.lift("a", null);
    expect(waits(it, 1)).toEqual([1_000]);
  });

  test("is counted for the account and for each model by itself", () => {
    const it = kit();
    waits(it, 4);
    it.fail(trouble(429), A2);
    expect(it.left(A2)).toBe(1_000);
    it.fail(trouble(429, { isAccountWide: true }));
    // A success from before the account's wait is none after it.
    it.cooled.served(A);
    it.clock.advance(1_000);
    it.fail(trouble(429, { isAccountWide: true }));
    expect(it.left()).toBe(2_000);
    it.clock.advance(2_000);
    it.cooled.served(A);
    it.fail(trouble(429, { isAccountWide: true }));
    expect(it.left()).toBe(1_000);
  });

  test("is remembered for a bounded number of pairs", () => {
    const it = kit();
    waits(it, 3);
    for (let i = 0; i < 10_000; i += 1) it.fail(trouble(429), candidate("b", `m${i}`));
    it.clock.advance(MINUTE);
    expect(waits(it, 1)).toEqual([1_000]);
  });
});

describe("a success", () => {
  test("ends what we guessed about the pair", () => {
    for (const what of [trouble(503), denied(403), trouble(429)]) {
      const { cooled, fail, left } = kit();
      fail(what);
      fail(what, A2);
      cooled.served(A);
      expect(left(A)).toBe(0);
      expect(left(A2)).toBeGreaterThan(0);
    }
  });

  test("of what was sent before does not end a time that the provider named", () => {
    const { clock, cooled, fail, left } = kit();
    fail(trouble(429, { waitMs: 20_000 }));
    clock.advance(5_000);
    cooled.served(A);
    expect(left()).toBe(15_000);
  });

  test("ends a guess that is longer than the time that came with the refusal", () => {
    const { cooled, fail, left } = kit();
    fail(denied(403, { waitMs: 6 }));
    cooled.served(A);
    expect(left()).toBe(0);
  });

  test("does not end an account's cooldown that still runs", () => {
    const { cooled, fail, left } = kit();
    fail(denied(402, { isAccountWide: true }));
    fail(trouble(503));
    cooled.served(A);
    expect(left()).toBe(30 * MINUTE);
  });
});

describe("a time that is named for more than a day", () => {
  /** A week, and then a day later. */
  function aDayLater(more: Partial<Trouble> = {}) {
    const it = kit();
    it.fail(trouble(429, { waitMs: 7 * DAY, ...more }));
    expect(it.left()).toBe(DAY);
    it.clock.advance(DAY - 1);
    expect(it.left()).toBe(1);
    it.clock.advance(1);
    return it;
  }

  test("is looked into once a day, by one request", () => {
    const { clock, cooled, left } = aDayLater();
    expect([left(), cooled.isEmpty, cooled.blocks(clock.now())]).toEqual([0, false, []]);
    cooled.entered(A);
    expect(left()).toBe(MINUTE);
    // It has not come back, so another may go.
    clock.advance(MINUTE);
    expect(left()).toBe(0);
    cooled.entered(A);
    expect(left()).toBe(MINUTE);
    cooled.served(A);
    expect([left(), cooled.isEmpty]).toEqual([0, true]);
  });

  test("counts again for a day when the look is refused; another time that is named then counts instead, a shorter one too", () => {
    const { clock, cooled, fail, left } = aDayLater();
    cooled.entered(A);
    fail(trouble(429));
    expect(left()).toBe(DAY);
    clock.advance(DAY);
    cooled.entered(A);
    // The only one that is left is not let go either.
    fail(trouble(429), A, nobody);
    expect(left()).toBe(DAY);
    clock.advance(DAY);
    cooled.entered(A);
    fail(trouble(429, { waitMs: 5_000 }));
    expect(left()).toBe(5_000);
    clock.advance(5_000);
    expect(cooled.isEmpty).toBe(true);
  });

  test("says nothing new when the look fails for another reason", () => {
    const { clock, cooled, fail, left } = aDayLater();
    cooled.entered(A);
    fail(trouble(503, { waitMs: 5_000 }));
    expect(left()).toBe(MINUTE);
    clock.advance(MINUTE);
    expect([left(), cooled.isEmpty]).toEqual([0, false]);
  });

  test("ends with the time that was named, whoever looked", () => {
    const { clock, cooled, left } = aDayLater();
    clock.advance(6 * DAY - 1);
    cooled.entered(A);
    expect(left()).toBe(1);
    clock.advance(1);
    expect([left(), cooled.isEmpty]).toEqual([0, true]);
  });

  test("is looked into for the whole account by one of its models", () => {
    const { clock, cooled, left } = aDayLater({ isAccountWide: true });
    cooled.entered(A2);
    expect([left(A), left(A2), left(B)]).toEqual([MINUTE, MINUTE, 0]);
    cooled.served(A2);
    expect([left(A), cooled.blocks(clock.now())]).toEqual([0, []]);
  });

  test("is looked into by one request of all processes", async () => {
    const one = kit();
    const two = kit(one.clock, one.records);
    await Promise.all([one.cooled.load(), two.cooled.load()]);
    one.fail(trouble(429, { waitMs: 7 * DAY }));
    one.clock.advance(DAY);
    expect([one.left(), two.left()]).toEqual([0, 0]);
    two.cooled.entered(A);
    expect([one.left(), two.left()]).toEqual([MINUTE, MINUTE]);
    two.fail(trouble(429));
    expect([one.left(), two.left()]).toEqual([DAY, DAY]);
    one.clock.advance(DAY);
    one.cooled.entered(A);
    one.fail(trouble(429, { waitMs: 5_000 }));
    expect([one.left(), two.left()]).toEqual([5_000, 5_000]);
    const three = kit(one.clock, one.records);
    await three.cooled.load();
    expect(three.left()).toBe(5_000);
  });
});

describe("a quota that has room again", () => {
  const always = (): boolean => true;

  test("ends the cooldowns that are about it, in all processes", async () => {
    const one = kit();
    const two = kit(one.clock, one.records);
    await Promise.all([one.cooled.load(), two.cooled.load()]);
    const since = one.clock.now();
    const renamed = { ...candidate("a", "n"), model: "provider-n" };
    one.fail(trouble(429, { waitMs: 5 * DAY }));
    one.fail(trouble(429, { waitMs: 90_000 }), renamed);
    one.fail(trouble(429, { waitMs: 90_000, isAccountWide: true }));
    one.fail(trouble(429, { waitMs: 90_000 }), B);
    const asked: unknown[] = [];
    two.cooled.quotaSeen("a", (...said) => {
      asked.push(said);
      return said[0] === "provider-n";
    });
    expect(asked).toEqual([
      ["m", since],
      ["provider-n", since],
      [null, since],
    ]);
    two.cooled.quotaSeen("a", (model) => model === null);
    expect([one.left(renamed), two.left(renamed), one.left(B)]).toEqual([0, 0, 90_000]);
    expect(one.left(A)).toBe(DAY);
    two.cooled.quotaSeen("a", always);
    expect([one.left(A), two.left(A)]).toEqual([0, 0]);
    expect(one.cooled.blocks(since)).toMatchObject([{ credential: "b" }]);
  });

  test.each<[string, Trouble]>([
    ["a provider that fails", trouble(503)],
    ["a key that is refused", denied(401)],
    ["an account without money", denied(429)],
  ])("says nothing of %s", (_what, what) => {
    const { cooled, fail, left } = kit();
    fail(what);
    const before = left();
    cooled.quotaSeen("a", always);
    expect(left()).toBe(before);
  });

  test("lets the next guess begin anew", () => {
    const { clock, cooled, fail, left } = kit();
    for (let i = 0; i < 3; i += 1) {
      fail(trouble(429));
      clock.advance(left());
    }
    fail(trouble(429));
    expect(left()).toBe(8_000);
    cooled.quotaSeen("a", always);
    fail(trouble(429));
    expect(left()).toBe(1_000);
  });
});

describe("ending cooldowns", () => {
  test("ends those of the model, or all of the credential, and counts them", () => {
    const { clock, cooled, fail, left } = kit();
    const longer = candidate("ab", "m");
    for (const who of [A, A2, B, longer]) fail(trouble(503), who);
    fail(denied(401, { isAccountWide: true }));
    expect([cooled.lift("a", "unknown"), cooled.lift("nobody", null)]).toEqual([0, 0]);
    expect(cooled.lift("a", "m")).toBe(1);
    expect(left(A)).toBe(30 * MINUTE);
    expect(cooled.lift("a", null)).toBe(2);
    expect([left(A), left(A2), left(B), left(longer)]).toEqual([0, 0, MINUTE, MINUTE]);
    clock.advance(MINUTE);
    expect(cooled.lift("b", null)).toBe(0);
  });
});

describe("cooldowns in a store", () => {
  test("hold in other processes at once and after a restart, and end everywhere with a success", async () => {
    const one = kit();
    const two = kit(one.clock, one.records);
    await Promise.all([one.cooled.load(), two.cooled.load()]);
    one.fail(trouble(503), candidate("a", "vendor/model ü"));
    one.fail(trouble(429, { waitMs: 90_000 }), B);
    expect([two.left(candidate("a", "vendor/model ü")), two.left(B)]).toEqual([MINUTE, 90_000]);
    two.cooled.served(B);
    expect(one.left(B)).toBe(90_000);
    two.cooled.served(candidate("a", "vendor/model ü"));
    expect(one.cooled.blocks(one.clock.now())).toMatchObject([{ credential: "b", model: "m", code: 429 }]);
    const three = kit(one.clock, one.records);
    await three.cooled.load();
    expect(three.cooled.blocks(one.clock.now())).toEqual(one.cooled.blocks(one.clock.now()));
  });

  test("hold without it", async () => {
    const clock = testClock();
    const records = shakyRecords(recordsOn(clock));
    records.state = "rejects";
    const it = kit(clock, records);
    await it.cooled.load();
    it.fail(trouble(503));
    it.fail(trouble(503), B);
    await settled();
    expect([it.left(A), it.left(B)]).toEqual([MINUTE, MINUTE]);
    expect(it.logger.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    it.cooled.close();
    expect(clock.pending()).toBe(0);
  });
});
