import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { LedgerRow } from "../../src/core/ledger.ts";
import type { CounterState } from "../../src/core/store.ts";
import { expiresAt, horizonOf } from "../../src/limits/horizon.ts";
import type { LimitDefinition } from "../../src/limits/limit.ts";
import type { CompiledLimit } from "../../src/limits/registry.ts";
import { replay, type ReplayOptions } from "../../src/limits/replay.ts";
import { definition } from "./definition-kit.ts";
import { row, world, type Lived, type World } from "./replay-kit.ts";

/** A midnight in UTC, early in a month. */
const T = Date.UTC(2026, 10, 3);
const DAY = 86_400_000;
const HOUR = 3_600_000;

const replayed = (of: World, found: readonly LedgerRow[], more: Partial<ReplayOptions> = {}): CounterState[] => {
  const { registry, clock } = of;
  const options = { registry, limits: registry.all(), resolve: (model: string) => model, nowMs: clock.now(), fromMs: 0, isBeginning: true, ...more };
  const counting = replay(options);
  for (const each of found) counting.add(each);
  return [...counting.counters()];
};

const ALL: readonly LimitDefinition[] = [
  definition({
    name: "odd",
    scope: ["user"],
    unit: "tokens",
    kind: { bucket: { capacity: 500, refillPerSec: 0.7 } },
    overrides: { bob: 90, carl: -1 },
  }),
  definition({ name: "frozen", scope: ["team"], unit: "usd", kind: { bucket: { capacity: 0.000004, refillPerSec: 0 } } }),
  definition({ name: "pairs", scope: ["user", "model"], unit: "output_tokens", kind: { bucket: { capacity: 60, refillPerSec: 3 } } }),
  definition({ name: "hour", scope: ["user"], unit: "input_tokens", kind: { window: { limit: 900, per: HOUR, timeZone: "UTC" } } }),
  definition({ name: "rpm", scope: ["key"], unit: "requests", kind: { window: { limit: 20, per: 60_000, timeZone: "UTC" } } }),
  definition({ name: "today", scope: ["global"], unit: "usd", kind: { window: { limit: 0.000005, per: "day", timeZone: "Europe/Berlin" } } }),
  definition({ name: "month", scope: ["route"], unit: "tokens", kind: { window: { limit: 9_000, per: "month", timeZone: "UTC" } } }),
  definition({ name: "named", scope: ["user"], unit: "requests", kind: { bucket: { capacity: 1, refillPerSec: 0.001 } } }),
];

const gap = fc.oneof(fc.constant(0), fc.nat(900), fc.nat(60_000), fc.nat(2 * HOUR), fc.constantFrom(DAY, 23 * HOUR));
const amount = fc.oneof(fc.nat(9), fc.nat(80), fc.nat(300));

/** `isWithin`: nobody uses more than was held. */
const lives = (isWithin: boolean, longest: number): fc.Arbitrary<Lived[]> =>
  fc
    .array(
      fc.record({
        gap,
        forMs: fc.oneof(fc.constant(0), fc.nat(longest)),
        user: fc.constantFrom("alice", "bob", "carl", "dora"),
        org: fc.constantFrom(undefined, undefined, "acme"),
        model: fc.constantFrom("gpt-4o", "mini", null),
        key: fc.constantFrom("k1", null),
        route: fc.constantFrom("/v1/chat/completions", "/v1/embeddings"),
        input: amount,
        output: amount,
        usd: fc.option(fc.nat(900), { freq: 8 }),
        more: amount,
        end: fc.oneof({ weight: 5, arbitrary: fc.constant("settle" as const) }, fc.constantFrom("release" as const, "estimate" as const)),
      }),
      { maxLength: 60 },
    )
    .map((all) => {
      let atMs = T;
      return all.map(({ gap: ms, user, org, more, input, output, usd, ...same }) => {
        atMs += ms;
        const [i, o, u] = isWithin ? [input + more, output + more, (usd ?? 0) + more] : [more, more, more * 9];
        const ceiling = { input_tokens: i, output_tokens: o, tokens: i + o, usd: u };
        const expected = { input_tokens: i, output_tokens: Math.floor(o / 3), tokens: i + Math.floor(o / 3), usd: u };
        return { ...same, atMs, input, output, usd, ceiling, expected, scopes: { user, team: "data", ...(org === undefined ? {} : { org }) } };
      });
    });

const LATER = [0, 1, 999, 59_999, HOUR, DAY, 40 * DAY];

async function prepared(definitions: readonly LimitDefinition[]): Promise<World> {
  const it = world(definitions, T, ["named"]);
  await it.registry.set("odd", "dora", { limit: 70, refillPerSec: 0.01, until: null });
  await it.registry.set("named", "acme/alice", { limit: 3, until: null });
  return it;
}

const endOf = (requests: readonly Lived[], afterMs: number): number => (requests.at(-1)?.atMs ?? T) + afterMs;

describe("replayed counters", () => {
  test("stand to the unit as those of an engine that lived through the same requests", async () => {
    await fc.assert(
      fc.asyncProperty(lives(true, 20_000), fc.nat(90_000), async (requests, afterMs) => {
        const it = await prepared(ALL);
        const found = it.live(requests, endOf(requests, afterMs));
        const counters = replayed(it, found);
        for (const ms of LATER) {
          const at = it.clock.now() + ms;
          expect(it.standings(requests, counters, at)).toEqual(it.standings(requests, undefined, at));
        }
      }),
      { numRuns: 150 },
    );
  });

  test("never have more left, whatever comes late, was used beyond its hold, or was held by an expectation", async () => {
    await fc.assert(
      fc.asyncProperty(
        lives(false, 400_000),
        fc.nat(90_000),
        fc.array(fc.nat(1_000), { minLength: 60, maxLength: 60 }),
        fc.array(fc.boolean(), { minLength: ALL.length, maxLength: ALL.length }),
        async (requests, afterMs, order, expects) => {
          const it = await prepared(ALL.map((each, i) => ({ ...each, estimate: expects[i] === true ? "expected" : "ceiling" })));
          const found = it.live(requests, endOf(requests, afterMs));
          const mixed = found.map((each, i) => [order[i] ?? 0, each] as const).sort(([a], [b]) => a - b);
          for (const counters of [
            replayed(
              it,
              mixed.map(([, each]) => each),
            ),
            replayed(it, found),
          ]) {
            for (const ms of LATER) {
              const at = it.clock.now() + ms;
              const truth = it.standings(requests, undefined, at);
              for (const [key, { available }] of it.standings(requests, counters, at)) {
                expect(available, `${key} after ${ms} ms`).toBeLessThanOrEqual(truth.get(key)?.available ?? NaN);
              }
            }
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test("never have more left when only the rows that are needed are known", async () => {
    const busy = fc.array(fc.tuple(fc.oneof(fc.nat(3_000), fc.nat(25_000)), fc.nat(30), fc.nat(45)), { minLength: 20, maxLength: 60 });
    const kinds: readonly LimitDefinition["kind"][] = [
      { bucket: { capacity: 60, refillPerSec: 3 } },
      { bucket: { capacity: 60, refillPerSec: 0.9 } },
      { window: { limit: 90, per: 60_000, timeZone: "UTC" } },
      { window: { limit: 900, per: "day", timeZone: "UTC" } },
    ];
    await fc.assert(
      fc.property(busy, fc.nat(45_000), fc.nat(3), (steps, afterMs, pick) => {
        let atMs = T - 60_000;
        const requests = steps.map(([ms, held, output]): Lived => {
          atMs += ms;
          const ceiling = { output_tokens: held };
          const same = { forMs: 0, scopes: { user: "alice" }, model: null, route: "r", key: null, ceiling, expected: ceiling, input: 0, usd: 0 };
          // A request is let in by what is left, so alone it leaves no more debt than it uses beyond its hold: here never a whole capacity.
          return { ...same, atMs, output, end: "settle" };
        });
        const it = world([definition({ name: "l", unit: "output_tokens", kind: kinds[pick] as LimitDefinition["kind"] })], T - 60_000);
        const found = it.live(requests, atMs + afterMs);
        const { neededFromMs: fromMs } = horizonOf(it.registry.get("l") as CompiledLimit, [], it.clock.now());
        const known = found.filter(({ at }) => at >= fromMs);
        const [left] = it.standings(requests, replayed(it, known, { fromMs, isBeginning: false })).values();
        const [truth] = it.standings(requests).values();
        expect(left?.available).toBeLessThanOrEqual(truth?.available ?? NaN);
      }),
      { numRuns: 400 },
    );
  });
});

const USAGE = { inputTokens: 1, cacheReadTokens: 20, cacheWriteTokens: 300, outputTokens: 4_000, reasoningTokens: 50_000 };
const HELD = { requests: 1, tokens: 90_000, input_tokens: 800, output_tokens: 80_000, usd: 7_000 };

describe("what a row had charged", () => {
  const day = (unit: LimitDefinition["unit"]): LimitDefinition =>
    definition({ name: unit, unit, kind: { window: { limit: unit === "usd" ? 1 : 1_000_000, per: "day", timeZone: "UTC" } } });
  const of = world([day("requests"), day("tokens"), day("input_tokens"), day("output_tokens"), day("usd")], T + HOUR);

  test.each<[string, Partial<LedgerRow>, Record<string, number>]>([
    ["settled", { billedNanoUsd: 5 }, { requests: 1, tokens: 54_321, input_tokens: 321, output_tokens: 54_000, usd: 5 }],
    ["settled without a price", { billedNanoUsd: null }, { requests: 1, tokens: 54_321, input_tokens: 321, output_tokens: 54_000, usd: 7_000 }],
    ["settled by its cost alone", { usage: null, billedNanoUsd: 5 }, { ...HELD, usd: 5 }],
    ["estimated", { state: "estimated", usage: null }, HELD],
    ["unknown", { state: "unknown", usage: null }, HELD],
    ["still open", { state: "intent", usage: null }, HELD],
    ["released", { state: "released", usage: null }, {}],
    ["refused", { state: "refused", usage: null }, {}],
    ["held in one unit", { held: { usd: 7_000 }, billedNanoUsd: 9_000 }, { usd: 9_000 }],
    ["held nothing", { held: {} }, {}],
    ["settled for nothing", { billedNanoUsd: 0, held: { usd: 7_000 } }, {}],
  ])("%s", (_, more, spent) => {
    const counters = replayed(of, [row({ at: T, held: HELD, usage: USAGE, ...more })]);
    const used = counters.map(({ key, state }) => [key.split(":")[1], (JSON.parse(state) as number[])[4]]);
    expect(Object.fromEntries(used)).toEqual(spent);
  });
});

describe("when a row counts", () => {
  const minute = (more: Partial<LimitDefinition>): LimitDefinition =>
    definition({ kind: { window: { limit: 1_000, per: 60_000, timeZone: "UTC" } }, ...more });
  const cells = (estimate: "ceiling" | "expected", more: Partial<LedgerRow>): Record<string, number> => {
    const [found] = replayed(world([minute({ estimate })], T), [row({ at: T - 30_000, latencyMs: 9_999.5, ...more })]);
    const [, , , , , indexes, counts] = JSON.parse(found?.state ?? "") as [string, number, number, number, number, number[], number[]];
    return Object.fromEntries(indexes.map((index, i) => [index - T / 1_000, counts[i] as number]));
  };
  const usage = { inputTokens: 40, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 20, reasoningTokens: 0 };

  test.each<[string, Record<string, number>, Record<string, number>]>([
    ["within its hold: when it was held", cells("ceiling", { usage, held: { tokens: 60 } }), { "-30": 60 }],
    ["beyond its hold: the rest at its end", cells("ceiling", { usage, held: { tokens: 50 } }), { "-30": 50, "-20": 10 }],
    ["where a limit may have held less than the row says: at its end", cells("expected", { usage, held: { tokens: 60 } }), { "-20": 60 }],
    ["never settled: when it was held", cells("expected", { state: "unknown", held: { tokens: 60 } }), { "-30": 60 }],
    ["of a clock that is ahead: now", cells("ceiling", { usage, at: T + 5_000, held: { tokens: 60 } }), { 0: 60 }],
  ])("%s", (_, found, expected) => expect(found).toEqual(expected));

  test("a late row of yesterday does not count today", () => {
    const it = world([definition({ kind: { window: { limit: 100, per: "day", timeZone: "UTC" } } })], T + HOUR);
    const found = [row({ at: T + 1_000 }), row({ at: T - 1, state: "intent" })];
    expect(replayed(it, found)).toEqual(replayed(it, found.slice(0, 1)));
  });
});

describe("the counters of a row", () => {
  const keys = (definitions: readonly LimitDefinition[], more: Partial<LedgerRow>, options: Partial<ReplayOptions> = {}): string[] =>
    replayed(world(definitions, T), [row({ at: T, ...more })], options).map(({ key }) => key);

  test("belong to its organisation, client key, route and the model that its name stands for", () => {
    const scopes = [["user"], ["org"], ["key"], ["route"], ["model"], ["user", "model"], ["team"], ["global"]];
    const definitions = scopes.map((scope, i) => definition({ name: `l${i}`, scope }));
    const more = { scopes: { user: "a:b", org: "acme" }, model: "alias", route: "r", key: "k9" };
    const found = keys(definitions, more, { resolve: (model) => (model === "alias" ? "gpt-4o" : model) });
    const user = /^b:l0:acme:~[\w-]{22}$/;
    expect(found[0]).toMatch(user);
    expect(found.slice(1, 5)).toEqual(["b:l1:acme", "b:l2:acme:k9", "b:l3:r", "b:l4:gpt-4o"]);
    expect(found[5]).toMatch(/^b:l5:acme:~[\w-]{22}:gpt-4o$/);
    expect(found.slice(6)).toEqual(["b:l7:all"]);
  });

  test("count a model that nobody offers any more under its own name, and none for what was passed through unread", () => {
    const gone = (): string => {
      throw new Error("not offered");
    };
    const definitions = [definition({ name: "m", scope: ["model"] })];
    expect(keys(definitions, { model: "old" }, { resolve: gone })).toEqual(["b:m:old"]);
    expect(keys(definitions, { model: "whisper", dialect: null })).toEqual([]);
  });

  test("are found although another limit demands a scope that the request did not have", () => {
    const definitions = [definition({ name: "tenant", scope: ["tenant"], required: true }), definition({ name: "mine" })];
    expect(keys(definitions, {})).toEqual(["b:mine:alice"]);
  });

  test("of a bucket whose size a function gives hold the debt alone", () => {
    const kind = { bucket: { capacity: () => expect.unreachable("nobody asked"), refillPerSec: 1 } };
    const it = world([definition({ name: "f", kind })], T);
    expect(replayed(it, [row({ at: T - 5_000 })])).toEqual([{ key: "b:f:alice", state: JSON.stringify(["b", T - 5_000, -7, 0, 0, 1, 1000]) }]);
    expect(replayed(it, [row({ at: T - 7_000 })])).toEqual([]);
  });
});

describe("how far back a limit reaches", () => {
  const reach = (more: Partial<LimitDefinition>, numbers: readonly { limit?: number; refillPerSec?: number }[] = [], onlySet = false) => {
    const it = world([definition({ name: "l", ...more })], T + HOUR, onlySet ? ["l"] : []);
    const limit = it.registry.get("l") as CompiledLimit;
    const { neededFromMs, usefulFromMs } = horizonOf(limit, numbers, T + HOUR);
    return [neededFromMs, usefulFromMs, expiresAt(limit, numbers, T + HOUR - 1_000, T + HOUR)];
  };
  const back = (seconds: number): number => T + HOUR - seconds * 1_000;
  const bucket = { bucket: { capacity: 100, refillPerSec: 2 } };

  test.each<[string, unknown, unknown]>([
    ["a bucket: twice from empty to full", reach({ kind: bucket }), [back(100), back(400), back(1) + 100_000]],
    ["its slowest override", reach({ kind: bucket, overrides: { a: 300, b: -1 } }), [back(300), back(1_200), back(1) + 300_000]],
    ["its slowest number of run time", reach({ kind: bucket }, [{ refillPerSec: 1 }]), [back(200), back(800), back(1) + 200_000]],
    ["one that only has numbers of run time", reach({ kind: bucket }, [{ limit: 10 }], true), [back(10), back(40), back(1) + 10_000]],
    ["one that never refills: everything, for ever", reach({ kind: { bucket: { capacity: 1, refillPerSec: 0 } } }), [0, 0, null]],
    ["one whose size a function gives", reach({ kind: { bucket: { capacity: () => 5, refillPerSec: 1 } } }), [0, 0, null]],
    ["a window and a cell", reach({ kind: { window: { limit: 1, per: 60_000, timeZone: "UTC" } } }), [back(61), back(61), back(1) + 61_000]],
    ["today", reach({ kind: { window: { limit: 1, per: "day", timeZone: "UTC" } } }), [T, T, T + DAY]],
    ["places: nothing", reach({ unit: "concurrent", kind: { concurrency: { limit: 1 } } }), [T + HOUR, T + HOUR, T + HOUR]],
  ])("%s", (_, found, expected) => expect(found).toEqual(expected));

  test("a bucket that was full on the way is known to the unit", () => {
    const it = world([definition({ kind: { bucket: { capacity: 100, refillPerSec: 1 } } })], T);
    const found = [-700, -500, -300, -100, -20].map((seconds) => row({ at: T + seconds * 1_000, held: { tokens: 90 }, state: "estimated" }));
    const known = replayed(it, found.slice(1), { fromMs: T - 600_000, isBeginning: false });
    expect(known).toEqual(replayed(it, found));
    expect(known).toHaveLength(1);
  });

  test("a bucket whose past is not known has at least what let the request in, and no more than it surely had", () => {
    const it = world([definition({ kind: { bucket: { capacity: 100, refillPerSec: 1 } } })], T);
    const from = (seconds: number): number[] => {
      const options = { fromMs: T - seconds * 1_000, isBeginning: false };
      return replayed(it, [row({ at: T, held: { tokens: 30 }, state: "estimated" })], options).map(
        ({ state }) => (JSON.parse(state) as number[])[2] ?? NaN,
      );
    };
    expect([from(10), from(150), from(200)]).toEqual([[-30], [20], [70]]);
  });
});
