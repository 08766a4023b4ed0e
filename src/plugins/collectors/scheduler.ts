/** Who is asked when: few at a time, a share of them for each provider, and each account by one process. */
import { ConfigError } from "../../core/errors.ts";
import { hint } from "../../core/nearest.ts";
import type { PluginHost } from "../../core/plugin.ts";
import { accountsOf, markOf, type Account, type Run } from "./accounts.ts";
import { askQuotas, type Asking } from "./ask.ts";
import type { Collector, CollectorId } from "./collector.ts";
import type { LocalQuotas } from "./local-server/local-quotas.ts";
import type { Outcome } from "./outcome.ts";
import { adaptiveIntervalMs, waitMs } from "./pace.ts";
import { providerBreakers } from "./provider-breakers.ts";
import { runsIn } from "./runs.ts";
import type { CollectorStatus } from "./status.ts";

const TICK_MS = 1_000;
/** Credentials come and go seldom, and a list of all has its price. */
const TICKS_PER_LOOK = 5;
/** How long before another process is looked at again that asks about the same account. */
const BUSY_MS = 5_000;
/** While the store cannot be asked. */
const NO_STORE_MS = 15_000;
/** Beyond the questions themselves: the store's answers. */
const LOCK_EXTRA_MS = 30_000;
/** Several questions may be needed, and no more time than this many of them. */
const MOST_TIMEOUTS = 2;
/** Clocks differ by as much. What was seen later than that was seen before a clock was put right. */
const MOST_SKEW_MS = 60_000;
/** In a row, before a person is told. */
const TOLD_FAILURES = 3;

export interface SchedulerOptions {
  readonly intervalMs: number;
  readonly workers: number;
  readonly jitterMs: number;
  readonly isAdaptive: boolean;
  readonly timeoutMs: number;
  readonly endpoints: Asking["endpoints"];
}

export interface SchedulerParts {
  readonly host: Pick<PluginHost, "credentials" | "fetch" | "lock" | "records" | "logger" | "clock" | "every" | "counter">;
  readonly collectors: readonly Collector[];
  readonly options: SchedulerOptions;
  /** Servers of apps on this machine, for accounts whose provider says nothing; null = none. */
  readonly local: LocalQuotas | null;
  /** From 0 to below 1. */
  readonly random: () => number;
}

export interface Scheduler {
  status(): readonly CollectorStatus[];
  refresh(name?: string): Promise<void>;
  /** Resolves when nobody is asked any more. */
  stop(): Promise<void>;
}

export function scheduler({ host, collectors, options, local, random }: SchedulerParts): Scheduler {
  const { clock, logger } = host;
  const { intervalMs, workers, jitterMs, isAdaptive, timeoutMs, endpoints } = options;
  const accounts = accountsOf(collectors, host.credentials, clock);
  const breakers = providerBreakers(clock);
  const runs = runsIn(host.records);
  const count = host.counter("collector_runs_total", "Questions about quotas, by what came of them", ["provider", "status"]);
  const ending = new AbortController();
  const running = new Map<CollectorId, number>();
  const works = new Set<Promise<void>>();
  let ticks = 0;

  function tick(): void {
    if (ticks % TICKS_PER_LOOK === 0) accounts.follow();
    ticks += 1;
    start();
  }

  const busy = (id?: CollectorId): number => (id === undefined ? [...running.values()].reduce((sum, each) => sum + each, 0) : (running.get(id) ?? 0));

  /** One that hangs takes its own share, and none of the others'. */
  function mayStart({ collector: { id }, running: isRunning, dueAt, isForced }: Account, now: number): boolean {
    const share = Math.max(1, Math.floor(workers / Math.max(accounts.kinds, 1)));
    return isRunning === null && dueAt <= now && busy(id) < share && (isForced || breakers.allows(id));
  }

  function start(): void {
    while (!ending.signal.aborted && busy() < workers) {
      const now = clock.monotonic();
      let next: Account | undefined;
      for (const account of accounts.all.values()) if (mayStart(account, now) && (!next || account.dueAt < next.dueAt)) next = account;
      if (!next) return;
      begin(next);
    }
  }

  function begin(account: Account): void {
    const { id } = account.collector;
    running.set(id, busy(id) + 1);
    breakers.begun(id);
    const done = work(account)
      .catch((error: unknown) => {
        logger.debug({ err: error, credential: account.name }, "the store could not be asked who asks about an account's quotas");
        account.dueAt = clock.monotonic() + NO_STORE_MS;
        return "nothing" as const;
      })
      .then((sign) => {
        works.delete(done);
        account.running = null;
        account.isForced = false;
        running.set(id, busy(id) - 1);
        if (breakers.ended(id, sign)) logger.warn({ collector: id }, "a provider does not say what is left of quotas; it is asked less often");
        start();
      });
    account.running = done;
    works.add(done);
  }

  async function work(account: Account): Promise<"answered" | "failed" | "nothing"> {
    // A person waits for it, perhaps in a program that nothing else keeps alive.
    if (!account.isForced) await pause(account, random() * jitterMs);
    const lockMs = Math.ceil(MOST_TIMEOUTS * timeoutMs + (local?.mostMs ?? 0) + LOCK_EXTRA_MS);
    const lock = await host.lock(`ask/${account.name}`, lockMs);
    try {
      const found = await runs.get(account.name);
      const known = found && (found.login === markOf(account.credential) || found.outcome === "limited") ? found : null;
      if (known && isEnough(known, account)) return adopt(account, known, lock === null);
      if (!lock) {
        account.run = known ?? account.run;
        account.dueAt = clock.monotonic() + BUSY_MS;
        return "nothing";
      }
      if (ending.signal.aborted || accounts.all.get(account.name) !== account) return "nothing";
      return await ask(account, known);
    } finally {
      // Its end is the last word.
      await lock?.release().catch(() => undefined);
    }
  }

  /** Whoever is told when to come back is not asked sooner, whoever wants to know. */
  function isEnough({ at, nextAt, outcome }: Run, { wantedAt }: Account): boolean {
    const now = clock.now();
    return nextAt > now && at - now < MOST_SKEW_MS && (at > wantedAt || outcome === "limited");
  }

  function adopt(account: Account, run: Run, isBusy: boolean): "nothing" {
    account.run = run;
    account.dueAt = clock.monotonic() + Math.max(run.nextAt - clock.now(), isBusy ? BUSY_MS : 0);
    return "nothing";
  }

  async function ask(account: Account, known: Run | null): Promise<"answered" | "failed" | "nothing"> {
    const { name, collector, credential } = account;
    // What is spent while the question is under way is counted in addition: too little is left then, never too much.
    const at = clock.now();
    const outcome = await answer(account);
    // Given up by us.
    if (ending.signal.aborted) return "nothing";
    if (outcome.kind === "ok") await report(name, outcome, at);
    const before = account.run ?? known;
    const failures = outcome.kind === "failed" || outcome.kind === "limited" ? (before?.failures ?? 0) + 1 : 0;
    account.run = runAfter(outcome, { at, login: markOf(credential), failures, before });
    const wait = waitMs(outcome, Math.max(intervalOf(collector), collector.leastIntervalMs ?? 0), failures);
    account.dueAt = clock.monotonic() + wait;
    account.run = { ...account.run, nextAt: Math.ceil(clock.now() + wait) };
    count([collector.provider, outcome.kind]);
    tell(account, outcome, before);
    await runs.put(name, account.run);
    return outcome.kind === "failed" ? "failed" : "answered";
  }

  async function answer({ collector, credential }: Account): Promise<Outcome> {
    const late = new AbortController();
    const timer = clock.timer(MOST_TIMEOUTS * timeoutMs, () => late.abort());
    const signal = AbortSignal.any([ending.signal, late.signal]);
    try {
      const outcome = await askQuotas(collector, credential, { fetch: host.fetch, now: clock.now, endpoints, timeoutMs, signal });
      if (outcome.kind === "ok" || !local || ending.signal.aborted) return outcome;
      const readings = await local.read(credential, clock.now());
      return readings === null ? outcome : { kind: "ok", readings };
    } finally {
      timer.cancel();
    }
  }

  async function report(credential: string, { readings }: Outcome & { readonly kind: "ok" }, observedAt: number): Promise<void> {
    for (const reading of readings) {
      try {
        await host.credentials.report({ ...reading, credential, observedAt, source: "poll" });
      } catch (error) {
        // It was removed meanwhile, or one reading is odd: the others count all the same.
        logger.debug({ err: error, credential, group: reading.group }, "what a provider said of a quota could not be taken over");
      }
    }
  }

  const intervalOf = ({ id }: Collector): number => (isAdaptive ? adaptiveIntervalMs(intervalMs, accounts.meanLeft(id)) : intervalMs);

  function tell({ name, collector: { provider } }: Account, outcome: Outcome, before: Run | null): void {
    const fields = { credential: name, provider };
    if (outcome.kind === "needs-login" && before?.outcome !== "needs-login") {
      logger.warn(
        { code: "QG_QUOTA_LOGIN", ...fields, reason: outcome.reason },
        "a provider does not accept the login of a credential whose quotas it is asked for",
      );
    } else if (outcome.kind === "failed" && before?.failures === TOLD_FAILURES - 1) {
      logger.warn({ ...fields, reason: outcome.reason }, "what is left of a credential's quotas cannot be read; what was known last stays");
    } else if (outcome.kind === "unknown" && before?.outcome !== "unknown") {
      logger.info({ ...fields, reason: outcome.reason }, "a provider says nothing of a credential's quotas");
    } else if (outcome.kind === "ok" && before && (before.outcome === "needs-login" || before.failures >= TOLD_FAILURES)) {
      logger.info(fields, "a credential's quotas can be read again");
    }
  }

  function pause(account: Account, ms: number): Promise<void> {
    if (ms < 1) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = clock.timer(ms, done);
      account.hurry = done;
      ending.signal.addEventListener("abort", done, { once: true });
      function done(): void {
        timer.cancel();
        ending.signal.removeEventListener("abort", done);
        account.hurry = null;
        resolve();
      }
    });
  }

  host.every(TICK_MS, tick);
  tick();

  return {
    status: () => [...accounts.all.values()].map((account) => statusOf(account, clock)),

    async refresh(name) {
      accounts.follow();
      const wanted = name === undefined ? [...accounts.all.values()] : [accounts.all.get(name)];
      const left: Account[] = [];
      for (const account of wanted) {
        if (!account) {
          const near = hint(name ?? "", accounts.all.keys());
          throw new ConfigError([`refresh: no collector asks about a credential ${(name ?? "").slice(0, 64)}${near}`]);
        }
        if (account.running === null) {
          account.wantedAt = clock.now();
          account.dueAt = clock.monotonic();
          account.isForced = true;
        }
        account.hurry?.();
        left.push(account);
      }
      start();
      // Those that wait for a place come as others end.
      for (const account of left) {
        const waits = (): boolean => account.isForced && account.running === null && accounts.all.get(account.name) === account;
        while (waits() && busy() > 0) await Promise.race(works);
        await account.running;
      }
    },

    async stop() {
      ending.abort();
      // At the same time: a question may wait for an app that is being started.
      await Promise.all([...works, local?.close()]);
    },
  };
}

function runAfter(outcome: Outcome, { at, login, failures, before }: Pick<Run, "at" | "login" | "failures"> & { readonly before: Run | null }): Run {
  const isOk = outcome.kind === "ok";
  // Quotas that count for no model say nothing about how soon it is worth asking.
  const ratios = isOk ? outcome.readings.filter(({ models }) => models?.length !== 0).map(({ remainingRatio }) => remainingRatio) : [];
  const left = isOk ? (ratios.length === 0 ? null : Math.min(...ratios)) : (before?.left ?? null);
  return {
    outcome: outcome.kind,
    login,
    reason: outcome.kind === "ok" ? null : outcome.reason,
    left,
    failures,
    at,
    seenAt: isOk ? at : (before?.seenAt ?? null),
    nextAt: at,
  };
}

function statusOf({ name, collector, run, dueAt, running }: Account, clock: PluginHost["clock"]): CollectorStatus {
  return {
    credential: name,
    collector: collector.id,
    outcome: run?.outcome ?? "waiting",
    reason: run?.reason ?? null,
    askedAt: run?.at ?? null,
    seenAt: run?.seenAt ?? null,
    nextAt: running === null ? Math.max(clock.now(), Math.ceil(clock.now() + dueAt - clock.monotonic())) : null,
  };
}
