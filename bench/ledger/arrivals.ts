/** Requests that come when they come, whether or not the ledger keeps up with them: each is an intent, and a finished row some time later. */
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import type { Ledger, LedgerRow } from "quotaguard";
import { quantile } from "../stores/meter.ts";

export interface Pace {
  /** Requests a second; 0 = none come. */
  readonly perSecond: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

export interface Measured {
  /** Requests whose finished row was found in the ledger, of those of the measured time. */
  readonly rows: number;
  readonly seconds: number;
  readonly cpuUs: number;
  /** From the moment a request should have come to the commit of its intent. Null = none came. */
  readonly intentP50Ms: number | null;
  readonly intentP99Ms: number | null;
  /** Times between two runs of a timer of 1 ms, as `monitorEventLoopDelay` sees them: about 1 ms on a loop with nothing to do. */
  readonly blockP50Ms: number;
  readonly blockP99Ms: number;
  readonly blockMaxMs: number;
  /** Reason and count. */
  readonly failures: readonly (readonly [string, number])[];
}

/** How long the provider takes. */
const ANSWER_MS = 20;
/** How often it is looked at what is due; whatever is late counts as late. */
const TICK_MS = 1;

let serial = 0;

/** A row as the gateway writes it, with what a usual request has. */
function row(at: number): LedgerRow {
  serial += 1;
  const id = `req_${at.toString(36)}${serial.toString(36).padStart(10, "0")}`;
  const user = `user-${serial % 500}`;
  return {
    id,
    requestId: id,
    at,
    key: `key-${serial % 50}`,
    scopes: { org: "acme", team: `team-${serial % 20}`, user },
    route: "/v1/chat/completions",
    dialect: "openai",
    model: "gpt-4o-mini",
    servedModel: "gpt-4o-mini-2024-07-18",
    provider: "openai",
    credential: "main",
    stream: serial % 2 === 0,
    tag: null,
    held: { requests: 1, tokens: 900, usd: 412_000 },
    state: "settled",
    status: 200,
    code: null,
    latencyMs: ANSWER_MS,
    firstByteMs: 5,
    attempts: 1,
    tried: null,
    usage: { inputTokens: 320, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 180, reasoningTokens: 0 },
    provenance: "exact",
    rawNanoUsd: 156_000,
    billedNanoUsd: 171_600,
    limit: null,
    priceVersion: "bundled:2026-11-01",
  };
}

/** Null = no ledger: what the arrivals alone cost. */
export async function arrivals(ledger: Ledger | null, { perSecond, warmUpMs, measureMs }: Pace): Promise<Measured> {
  const failures = new Map<string, number>();
  const fail = (error: unknown): void => {
    const reason = error instanceof Error ? error.message : String(error);
    failures.set(reason, (failures.get(reason) ?? 0) + 1);
  };
  const delay = monitorEventLoopDelay({ resolution: TICK_MS });
  const times: number[] = [];
  const waiting: { readonly row: LedgerRow; readonly closeAtMs: number; readonly isMeasured: boolean }[] = [];
  const startMs = performance.now();
  const measureFromMs = startMs + warmUpMs;
  const endMs = measureFromMs + measureMs;
  const firstAt = Date.now();
  const all = Math.floor(((warmUpMs + measureMs) * perSecond) / 1_000);
  let sent = 0;
  let answered = 0;
  let closed = 0;

  function arrive(dueMs: number): void {
    const isMeasured = dueMs >= measureFromMs;
    const mine = row(Date.now());
    const committed = (): void => {
      const nowMs = performance.now();
      answered += 1;
      if (isMeasured) times.push(nowMs - dueMs);
      waiting.push({ row: mine, closeAtMs: nowMs + ANSWER_MS, isMeasured });
    };
    const refused = (error: unknown): void => {
      answered += 1;
      fail(error);
    };
    try {
      void Promise.resolve(ledger?.intent(mine)).then(committed, refused);
    } catch (error) {
      refused(error);
    }
  }

  function work(): void {
    const nowMs = performance.now();
    const due = nowMs >= endMs ? all : Math.min(all, Math.floor(((nowMs - startMs) * perSecond) / 1_000));
    for (; sent < due; sent += 1) arrive(startMs + (sent * 1_000) / perSecond);
    while (waiting[0] !== undefined && waiting[0].closeAtMs <= nowMs) {
      const ended = waiting.shift() as (typeof waiting)[number];
      ledger?.close(ended.row);
      if (ended.isMeasured) closed += 1;
    }
  }

  const isBusy = (): boolean => answered < all || waiting.length > 0;
  const timer = perSecond > 0 ? setInterval(work, TICK_MS) : undefined;
  await until(measureFromMs);
  delay.enable();
  const cpu = process.cpuUsage();
  const fromMs = performance.now();
  await until(endMs);
  delay.disable();
  const { user, system } = process.cpuUsage(cpu);
  const seconds = (performance.now() - fromMs) / 1_000;
  while (isBusy()) await until(performance.now() + TICK_MS);
  clearInterval(timer);
  await ledger?.flush();
  const [found] = ledger === null ? [] : await ledger.totals({ from: firstAt }, []);
  const lost = ledger === null ? 0 : sent - sum(failures) - (found?.requests ?? 0);
  if (lost !== 0) failures.set("rows that are not in the ledger", lost);
  const sorted = Float64Array.from(times).sort();
  return {
    rows: closed,
    seconds,
    cpuUs: user + system,
    intentP50Ms: quantile(sorted, 0.5),
    intentP99Ms: quantile(sorted, 0.99),
    blockP50Ms: delay.percentile(50) / 1e6,
    blockP99Ms: delay.percentile(99) / 1e6,
    blockMaxMs: delay.max / 1e6,
    failures: [...failures],
  };
}

const sum = (counts: ReadonlyMap<string, number>): number => [...counts.values()].reduce((total, count) => total + count, 0);

const until = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, Math.max(0, ms - performance.now())));
