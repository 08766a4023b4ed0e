import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { breakers, type BreakerOptions, type Breakers, type BreakerState, type Pass, type ProviderSign } from "../../src/pool/breaker.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { candidate } from "./pool-kit.ts";

const A = candidate("a");
const OPTIONS: BreakerOptions = { failureThreshold: 3, openForMs: 30_000, halfOpen: 1 };

function kit(options: Partial<BreakerOptions> | null = {}) {
  const clock = testClock();
  const logger = keptLogger();
  const all: Breakers = breakers({ clock, logger, options: options && { ...OPTIONS, ...options } });
  /** Begins an attempt that must be let in. */
  const enter = (who = A): Pass => {
    const pass = all.enter(who);
    if (!pass) throw new Error("it was not let in");
    return pass;
  };
  const may = (who = A): boolean => all.enter(who) !== null;
  /** One attempt after the other. */
  const attempts = (sign: ProviderSign, times = 1, who = A): void => {
    for (let i = 0; i < times; i += 1) all.leave(who, enter(who), sign, 503);
  };
  const state = (name = "a"): BreakerState => all.states().find(({ credential }) => credential === name)?.state ?? "closed";
  return { clock, all, enter, may, attempts, state, levels: () => logger.lines.map(({ level }) => level) };
}

describe("a circuit breaker", () => {
  test("opens at the third failure in a row, for its time", () => {
    const { clock, all, may, attempts, state } = kit();
    attempts("failed", 2);
    expect([state(), all.isQuiet, all.blockOf(A)]).toEqual(["closed", true, null]);
    attempts("failed");
    const now = clock.now();
    const block = { reason: "breaker", credential: "a", model: null, code: 503, since: now, until: now + 30_000 };
    expect([state(), all.isQuiet, may()]).toEqual(["open", false, false]);
    expect(all.blockOf(A)).toEqual(block);
    expect(all.blockOf(candidate("a", "other model"))).toEqual(block);
    expect(all.blocks()).toEqual([block]);
    clock.advance(29_999);
    expect([state(), may()]).toEqual(["open", false]);
    clock.advance(1);
    expect([state(), all.blockOf(A), all.blocks()]).toEqual(["half-open", null, []]);
  });

  test("leaves other credentials alone", () => {
    const { all, may, attempts, state } = kit();
    attempts("failed", 3);
    const b = candidate("b");
    attempts("failed", 2, b);
    expect([state("b"), all.blockOf(b), may(b)]).toEqual(["closed", null, true]);
  });

  test("starts counting again after an answer, and not after what says nothing", () => {
    const { all, attempts, state } = kit();
    attempts("failed", 2);
    attempts("answered");
    expect(all.states()).toEqual([]);
    attempts("failed", 2);
    attempts("nothing", 5);
    expect(state()).toBe("closed");
    attempts("failed");
    expect(state()).toBe("open");
  });

  test("lets one request try it, and closes when that is answered", () => {
    const { clock, all, enter, may, attempts, state, levels } = kit();
    attempts("failed", 3);
    clock.advance(30_000);
    const probe = enter();
    expect(may()).toBe(false);
    // While the probe is under way, there is a time to ask again.
    expect(all.blockOf(A)).toMatchObject({ reason: "breaker", until: clock.now() + 1_000 });
    expect(all.blocks()).toHaveLength(1);
    all.leave(A, probe, "answered", 200);
    expect([state(), all.isQuiet, all.blockOf(A), may()]).toEqual(["closed", true, null, true]);
    expect(levels()).toEqual(["warn", "info"]);
    attempts("failed", 2);
    expect(state()).toBe("closed");
  });

  test("opens for its whole time again when the probe fails", () => {
    const { clock, all, may, attempts, state } = kit();
    attempts("failed", 3);
    clock.advance(45_000);
    attempts("failed");
    expect([state(), may()]).toEqual(["open", false]);
    expect(all.blockOf(A)).toMatchObject({ since: clock.now(), until: clock.now() + 30_000 });
    clock.advance(30_000);
    attempts("answered");
    expect([state(), all.isQuiet]).toEqual(["closed", true]);
  });

  test("gives the place of an abandoned probe to the next one", () => {
    const { clock, may, attempts, state } = kit();
    attempts("failed", 3);
    clock.advance(30_000);
    attempts("nothing", 3);
    expect([state(), may(), may()]).toEqual(["half-open", true, false]);
  });

  test.each(["slow", "m"])("is not moved by what was sent before it opened, be it for another model or the same: %s", (model) => {
    const { clock, all, enter, may, attempts, state } = kit();
    const slow = candidate("a", model);
    const [first, second, third, fourth, fifth] = Array.from({ length: 5 }, () => enter(slow)) as [Pass, Pass, Pass, Pass, Pass];
    attempts("failed", 3);
    all.leave(slow, first, "answered", 200);
    clock.advance(20_000);
    all.leave(slow, second, "failed", 500);
    expect(all.blockOf(A)?.until).toBe(clock.now() + 10_000);
    clock.advance(10_000);
    const probe = enter();
    all.leave(slow, third, "answered", 200);
    all.leave(slow, fourth, "failed", 500);
    all.leave(slow, fifth, "nothing", 0);
    expect([state(), may()]).toEqual(["half-open", false]);
    all.leave(A, probe, "answered", 200);
    expect(state()).toBe("closed");
  });

  test("forgets the other probes of a round that one of them lost", () => {
    const { clock, all, enter, may, attempts, state } = kit({ halfOpen: 2 });
    attempts("failed", 3);
    clock.advance(30_000);
    const [one, two] = [enter(), enter()];
    expect(may()).toBe(false);
    all.leave(A, one, "failed", 500);
    all.leave(A, two, "answered", 200);
    expect(state()).toBe("open");
    clock.advance(30_000);
    expect([may(), may(), may()]).toEqual([true, true, false]);
  });

  test("is tried by the next one, too, when a probe takes longer than it was open: a stream may last for minutes", () => {
    const { clock, all, enter, may, attempts, state } = kit();
    attempts("failed", 3);
    clock.advance(30_000);
    const long = enter();
    clock.advance(29_999);
    expect(may()).toBe(false);
    clock.advance(1);
    const short = enter();
    expect(may()).toBe(false);
    all.leave(A, short, "answered", 200);
    expect([state(), may()]).toEqual(["closed", true]);
    // It was let in by a breaker that is gone: one failure like any other.
    all.leave(A, long, "failed", 500);
    attempts("failed");
    expect(state()).toBe("closed");
    attempts("failed");
    expect(state()).toBe("open");
  });

  test("is closed by a long probe, too, when it ends well", () => {
    const { clock, all, enter, attempts, state } = kit();
    attempts("failed", 3);
    clock.advance(30_000);
    const long = enter();
    clock.advance(30_000);
    enter();
    all.leave(A, long, "answered", 200);
    expect(state()).toBe("closed");
  });

  test("goes by durations, whatever happens to the wall clock", () => {
    const { clock, all, attempts, state } = kit();
    attempts("failed", 3);
    clock.set(clock.now() + 1e9);
    expect([state(), all.blockOf(A)?.until]).toEqual(["open", clock.now() + 30_000]);
    clock.set(clock.now() - 2e9);
    clock.advance(30_000);
    expect(state()).toBe("half-open");
  });

  test("can be closed by a person", () => {
    const { all, may, attempts, state } = kit();
    expect(all.close("a")).toBe(false);
    attempts("failed", 2);
    expect(all.close("a")).toBe(false);
    attempts("failed", 3);
    expect([all.close("a"), all.close("a"), state(), all.isQuiet, may()]).toEqual([true, false, "closed", true, true]);
  });

  test("that is off never opens and keeps nothing", () => {
    const { all, attempts } = kit(null);
    attempts("failed", 100);
    expect([all.isQuiet, all.states(), all.blocks()]).toEqual([true, [], []]);
  });
});

describe("any sequence of attempts", () => {
  type Step =
    | { readonly kind: "enter"; readonly credential: "a" | "b" }
    | { readonly kind: "leave"; readonly which: number; readonly sign: ProviderSign }
    | { readonly kind: "advance"; readonly ms: number };
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant("enter" as const), credential: fc.constantFrom("a" as const, "b" as const) }) },
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant("leave" as const),
        which: fc.nat(3),
        sign: fc.constantFrom<ProviderSign[]>("failed", "failed", "answered", "nothing"),
      }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.nat(25) }) },
  );

  /** A breaker that knows each attempt: which round it belongs to, if it is a probe. */
  interface Model {
    failures: number;
    openUntil: number | null;
    round: number;
    /** When they began. */
    probes: number[];
  }

  test("does what a breaker does that knows each attempt", () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 120 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 3 }),
        (steps, threshold, halfOpen) => {
          const { clock, all, state } = kit({ failureThreshold: threshold, openForMs: 20, halfOpen });
          const models: Record<string, Model> = {
            a: { failures: 0, openUntil: null, round: 0, probes: [] },
            b: { failures: 0, openUntil: null, round: 0, probes: [] },
          };
          const open: { readonly pass: Pass; readonly credential: "a" | "b"; readonly round: number | null; readonly since: number }[] = [];
          const who = { a: candidate("a"), b: candidate("b") };
          const alone = ({ probes }: Model): number => probes.filter((since) => clock.monotonic() < since + 20).length;
          for (const each of steps) {
            const now = clock.monotonic();
            if (each.kind === "advance") clock.advance(each.ms);
            if (each.kind === "enter") {
              const model = models[each.credential] as Model;
              const isProbe = model.openUntil !== null;
              const expected = !isProbe || (now >= (model.openUntil as number) && alone(model) < halfOpen);
              expect(all.blockOf(who[each.credential]) === null).toBe(expected);
              const pass = all.enter(who[each.credential]);
              expect(pass !== null).toBe(expected);
              if (pass && isProbe) model.probes.push(now);
              if (pass) open.push({ pass, credential: each.credential, round: isProbe ? model.round : null, since: now });
            }
            if (each.kind === "leave" && open.length > 0) {
              // Mostly one of the last, so that probes end while their round lasts.
              const [attempt] = open.splice(Math.max(0, open.length - 1 - each.which), 1) as [(typeof open)[number]];
              const model = models[attempt.credential] as Model;
              all.leave(who[attempt.credential], attempt.pass, each.sign, 500);
              const isProbe = model.openUntil !== null && attempt.round === model.round;
              if (isProbe) model.probes.splice(model.probes.indexOf(attempt.since), 1);
              if (model.openUntil === null || isProbe) {
                if (each.sign === "answered") Object.assign(model, { failures: 0, openUntil: null, round: model.round + 1, probes: [] });
                else if (each.sign === "failed" && (model.failures += 1) >= threshold) {
                  Object.assign(model, { openUntil: now + 20, round: model.round + 1, probes: [] });
                }
              }
            }
            for (const [name, model] of Object.entries(models)) {
              const { openUntil } = model;
              expect(state(name)).toBe(openUntil === null ? "closed" : clock.monotonic() < openUntil ? "open" : "half-open");
              expect(alone(model)).toBeLessThanOrEqual(halfOpen);
            }
            expect(all.isQuiet).toBe(Object.values(models).every(({ openUntil }) => openUntil === null));
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });
});
