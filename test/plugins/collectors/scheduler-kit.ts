/** Schedulers on a clock that only a test moves, with records and locks as the store has them and a provider that answers as it is told. */
import type { Credential } from "../../../src/core/credential.ts";
import type { GuardedFetch, PluginHost, QuotaFact } from "../../../src/core/plugin.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { RecordStore } from "../../../src/core/store.ts";
import { claude } from "../../../src/plugins/collectors/claude.ts";
import { codex } from "../../../src/plugins/collectors/codex.ts";
import { copilot } from "../../../src/plugins/collectors/copilot.ts";
import type { LocalQuotas } from "../../../src/plugins/collectors/local-server/local-quotas.ts";
import { scheduler, type Scheduler, type SchedulerOptions } from "../../../src/plugins/collectors/scheduler.ts";
import { pluginTimers } from "../../../src/plugin-timers.ts";
import { recordLock } from "../../../src/record-lock.ts";
import { memoryRecords } from "../../../src/stores/memory-records.ts";
import { testClock, type TestClock } from "../../../src/testing/clock.ts";
import { keptLogger } from "../../core/context-kit.ts";
import { settled } from "../plugin-kit.ts";
import { credentialOf } from "./collectors-kit.ts";

const COLLECTORS = [claude, codex, copilot];

/** A credential that one of them asks about. */
export const account = (name: string, provider: "anthropic" | "codex" | "copilot" = "codex", key = "sk-ant-oat-1"): Credential =>
  credentialOf(provider, { name, apiKey: new Secret(key) });

/** Of each provider an answer that says that so much is left. */
export function leftAt(url: string, left: number): object {
  if (url.includes("/api/oauth/usage")) return { five_hour: { utilization: 100 - left * 100 } };
  if (url.includes("/copilot_internal")) return { quota_snapshots: { premium_interactions: { percent_remaining: left * 100 } } };
  return { rate_limit: { primary_window: { used_percent: 100 - left * 100 } } };
}

export const reply = (body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Response =>
  new Response(JSON.stringify(body), { status, headers });

export type Provider = (url: string, key: string) => Response | Promise<Response>;

export interface SchedulerKit {
  readonly clock: TestClock;
  readonly logger: ReturnType<typeof keptLogger>;
  readonly records: RecordStore;
  readonly credentials: Map<string, Credential>;
  readonly facts: QuotaFact[];
  /** The keys that were sent, in order. */
  readonly asked: string[];
  /** How many questions are under way, and the most that ever were. */
  readonly load: { now: number; most: number };
  /** `<provider> <status>` of each run that was counted. */
  readonly counted: string[];
  provider: Provider;
  start(options?: Partial<SchedulerOptions>, local?: LocalQuotas | null): Scheduler;
  /** Time passes, and what falls due happens. */
  pass(ms: number): Promise<void>;
}

export function schedulerKit(more: Partial<Pick<SchedulerKit, "clock" | "records">> = {}): SchedulerKit {
  const clock = more.clock ?? testClock();
  const logger = keptLogger();
  const records = more.records ?? memoryRecords(clock.now, logger);
  const locks = recordLock({ records, clock });
  const credentials = new Map<string, Credential>();
  const facts: QuotaFact[] = [];
  const load = { now: 0, most: 0 };

  const fetch: GuardedFetch = async (url, init) => {
    const key = (new Headers(init?.headers).get("authorization") ?? "").replace("Bearer ", "");
    kit.asked.push(key);
    load.now += 1;
    load.most = Math.max(load.most, load.now);
    const signal = init?.signal;
    const late = new Promise<never>((_resolve, reject) => {
      const timer = clock.timer(init?.timeoutMs ?? 0, () => reject(new Error("late")));
      signal?.addEventListener("abort", () => {
        timer.cancel();
        reject(new Error("aborted"));
      });
    });
    late.catch(() => undefined);
    try {
      return await Promise.race([kit.provider(String(url), key), late]);
    } finally {
      load.now -= 1;
    }
  };

  const host: Pick<PluginHost, "credentials" | "fetch" | "lock" | "records" | "logger" | "clock" | "every" | "counter"> = {
    clock,
    logger,
    records,
    fetch,
    lock: async (name, ttlMs) => locks.take(`locks/${name}`, ttlMs),
    every: (ms, fn) => pluginTimers("collectors", clock, (error) => logger.error({ err: error }, "a turn failed")).every(ms, fn),
    counter: (name) => (values) => void kit.counted.push(`${name === "collector_runs_total" ? "" : name}${values.join(" ")}`),
    credentials: {
      list: () => [...credentials.values()].map(({ name, provider }) => ({ name, provider })),
      get: (name: string) => credentials.get(name),
      report: (fact: QuotaFact) => {
        if (!credentials.has(fact.credential)) return Promise.reject(new Error("gone"));
        facts.push(fact);
        return Promise.resolve();
      },
    } as unknown as PluginHost["credentials"],
  };

  const kit: SchedulerKit = {
    clock,
    logger,
    records,
    credentials,
    facts,
    asked: [],
    load,
    counted: [],
    provider: (url) => reply(leftAt(url, 0.6)),
    start: (options = {}, local = null) =>
      scheduler({
        host,
        collectors: COLLECTORS,
        options: { intervalMs: 60_000, workers: 8, jitterMs: 0, isAdaptive: true, timeoutMs: 10_000, endpoints: {}, ...options },
        local,
        random: () => 0.5,
      }),
    async pass(ms) {
      // In steps, because what an answer starts must be there before more time passes.
      await settled();
      for (let left = ms; left > 0; left -= 1_000) {
        clock.advance(Math.min(left, 1_000));
        await settled();
        await settled();
      }
    },
  };
  return kit;
}
