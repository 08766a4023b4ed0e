import type { LedgerRow } from "../../src/core/ledger.ts";
import { silentLogger } from "../../src/core/logger.ts";
import type { Amounts, Charge, CounterState, Rule, Standing, Unit } from "../../src/core/store.ts";
import { NO_USAGE } from "../../src/core/usage.ts";
import { decodeState } from "../../src/limits/codec.ts";
import { limitEngine } from "../../src/limits/engine.ts";
import type { LimitDefinition } from "../../src/limits/limit.ts";
import { chargeOf, planner } from "../../src/limits/plan.ts";
import { limitRegistry, type LimitRegistry } from "../../src/limits/registry.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { FACTS } from "./definition-kit.ts";

/** A request as it happened. Amounts in the limits' own units. */
export interface Lived {
  readonly atMs: number;
  readonly forMs: number;
  readonly scopes: Readonly<Record<string, string>>;
  readonly model: string | null;
  readonly route: string;
  readonly key: string | null;
  readonly ceiling: Amounts;
  readonly expected: Amounts;
  readonly input: number;
  readonly output: number;
  /** Null = no price. */
  readonly usd: number | null;
  readonly end: "settle" | "release" | "estimate";
}

let rows = 0;

export function row(more: Partial<LedgerRow> = {}): LedgerRow {
  rows += 1;
  return {
    id: `r${rows}`,
    requestId: `r${rows}`,
    at: 0,
    key: "k1",
    scopes: { user: "alice" },
    route: "/v1/chat/completions",
    dialect: "openai",
    model: "gpt-4o",
    servedModel: "gpt-4o",
    provider: "openai",
    credential: "main",
    stream: false,
    tag: null,
    held: { tokens: 10 },
    state: "settled",
    status: 200,
    code: null,
    latencyMs: 0,
    firstByteMs: null,
    attempts: 1,
    tried: null,
    usage: { ...NO_USAGE, inputTokens: 3, outputTokens: 4 },
    provenance: "exact",
    rawNanoUsd: 0,
    billedNanoUsd: 0,
    limit: null,
    priceVersion: null,
    ...more,
  };
}

export interface World {
  readonly clock: TestClock;
  readonly registry: LimitRegistry;
  readonly limits: MemoryLimits;
  /** Lets the requests happen, until `untilMs`; returns their rows by time. */
  live(requests: readonly Lived[], untilMs: number): LedgerRow[];
  /** How the counters of these requests stand, by key. */
  standings(of: readonly Lived[], restored?: readonly CounterState[], atMs?: number): Map<string, Standing>;
}

const settledBy = ({ input, output, usd }: Lived): Amounts => ({
  input_tokens: input,
  output_tokens: output,
  tokens: input + output,
  ...(usd === null ? {} : { usd }),
});

/** Limits with an engine behind them, on a clock that a test moves. */
export function world(definitions: readonly LimitDefinition[], nowMs: number, onlySet: readonly string[] = []): World {
  const clock = testClock({ now: nowMs });
  const registry = limitRegistry({ records: memoryRecords(clock.now, silentLogger), clock, logger: silentLogger });
  for (const definition of definitions) registry.add(definition, onlySet.includes(definition.name));
  const limits = new MemoryLimits(clock, 100_000);
  const engine = limitEngine(limits);
  const plans = planner({ registry, requiredByDefault: false });
  const planOf = ({ scopes, route, model, key }: Lived) => plans.plan(scopes, { route, model, key });

  function chargesOf(request: Lived): Charge[] {
    return planOf(request).flatMap((planned) => {
      const { unit, estimate } = planned.limit.definition;
      const amount = unit === "requests" ? 1 : ((estimate === "expected" ? request.expected : request.ceiling)[unit] ?? 0);
      const charge = chargeOf(planned, amount, FACTS, clock.now()) as Charge | null;
      return charge === null ? [] : [charge];
    });
  }

  return {
    clock,
    registry,
    limits,
    live(requests, untilMs) {
      const found: LedgerRow[] = [];
      type Event = { readonly atMs: number; run(): void };
      const events: Event[] = [];
      requests.forEach((request, i) => {
        events.push({
          atMs: request.atMs,
          run() {
            const charges = chargesOf(request);
            if (charges.length === 0) return;
            const held: { [unit in Unit]?: number } = {};
            for (const { unit, amount } of charges) held[unit] = Math.max(held[unit] ?? 0, amount);
            const { atMs: at, forMs: latencyMs, scopes, model, route, key } = request;
            const open = row({ at, scopes, model, dialect: model === null ? null : "openai", route, key, held, state: "intent", usage: null });
            if (engine.reserve(`op${i}`, charges, 10 * 86_400_000).kind !== "allowed") return;
            const place = found.push(open) - 1;
            const finish: Event = {
              atMs: at + latencyMs,
              run() {
                if (request.end === "release") engine.release(`op${i}`);
                if (request.end === "settle") engine.settle(`op${i}`, settledBy(request));
                const usage = { ...NO_USAGE, inputTokens: request.input, outputTokens: request.output };
                const settled = { state: "settled", usage, billedNanoUsd: request.usd } as const;
                const end = request.end === "settle" ? settled : ({ state: request.end === "release" ? "released" : "estimated" } as const);
                found[place] = { ...open, latencyMs, ...end };
              },
            };
            if (latencyMs === 0) finish.run();
            else events.splice(events.findLastIndex(({ atMs }) => atMs <= finish.atMs) + 1, 0, finish);
          },
        });
      });
      events.sort((a, b) => a.atMs - b.atMs);
      for (let event = events.shift(); event && event.atMs <= untilMs; event = events.shift()) {
        clock.advance(event.atMs - clock.now());
        event.run();
      }
      clock.advance(untilMs - clock.now());
      return found;
    },
    standings(of, restored, atMs = clock.now()) {
      const asked = new Map<string, Rule>();
      for (const request of of) {
        for (const planned of planOf(request)) {
          const charge = chargeOf(planned, 0, FACTS, atMs) as Charge | null;
          if (charge !== null) asked.set(planned.key, charge.rule);
        }
      }
      const at = testClock({ now: atMs });
      const backend = new MemoryLimits(at, 100_000);
      // Copies, so that looking into the future leaves the present alone.
      const states = restored
        ? restored.map(({ key, state }) => decodeState(key, state))
        : [...asked.keys()].flatMap((key) => limits.state({ key }) ?? []);
      for (const state of states) backend.insert(structuredClone(state));
      const found = limitEngine(backend).peek([...asked].map(([key, rule]) => ({ key, rule })));
      return new Map([...asked.keys()].map((key, i) => [key, found[i] as Standing]));
    },
  };
}
