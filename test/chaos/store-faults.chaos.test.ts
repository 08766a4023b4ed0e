// What a gateway does while its Redis is broken in each of the ways that a Redis can be broken, and how soon it is well again.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";

import type { Redis } from "ioredis";
import { fakeUpstream } from "quotaguard/testing";
import { describe, expect, onTestFinished, test } from "vitest";

import { GuardError } from "../../src/core/errors.ts";
import type { Rule } from "../../src/core/store.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { folder } from "../helpers/child.ts";
import { trueTokens, truthOf } from "./kit/checker.ts";
import { chaosTcp, type ChaosTcp } from "./kit/chaos-tcp.ts";
import { figures, percentile } from "./kit/figures.ts";
import { gateway } from "./kit/gateway.ts";
import { pause } from "./kit/limits-load.ts";
import { openHandles } from "./kit/open-handles.ts";
import { postgresProcess } from "./kit/postgres-process.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";
import { ask, steadyRequests, type Seen } from "./kit/requests.ts";

const FAULT_MS = 3_000;
const FREEZE_MS = 10_000;
const DEADLINE_MS = 250;
const SLACK_MS = 50;
const RECOVERY_MS = 5_000;
/** Requests a second, a third of each kind of limit. */
const PER_SECOND = 45;
/** Requests that are under way when the fault begins. */
const HELD = 10;
const HELD_MARK = "held-by-the-test";
/** Calls a second on a bare store, to see its deadline without HTTP around it. */
const CALLS_PER_SECOND = 100;
const CAPACITY = 1_000_000_000;
/** Lines that an outage may cost: lost and back, of each who can tell. */
const MOST_LINES = 8;
const HANDLES_SLACK = 6;
const LOAD_KEYS = 50_000;
const BUCKET: Rule = { kind: "bucket", capacity: CAPACITY, n: 0, d: 1 };

interface Fault {
  readonly name: string;
  readonly flags?: readonly string[];
  readonly lastsMs?: number;
  /** Where the gateway keeps its rows. Default: a file of its own. */
  readonly ledger?: "postgres";
  /** How long until limits that deny serve again. Default {@link RECOVERY_MS}. */
  readonly recoveryMs?: number;
  /** Nobody should notice it. */
  readonly isHarmless?: boolean;
  /** Takes the user of the gateway's URL from here; default none. */
  readonly user?: string;
  prepare?(redis: RedisProcess, client: Redis): Promise<unknown>;
  /** `wire` is what the stores are connected through; `client` and `redis` are the server itself. */
  begin(redis: RedisProcess, client: Redis, wire: ChaosTcp): Promise<unknown>;
  end(redis: RedisProcess, client: Redis, wire: ChaosTcp): Promise<unknown>;
}

/** By the second, what was acknowledged may be lost when the disk is slow; here every unit is counted. */
const AOF = ["--appendonly", "yes", "--appendfsync", "always"];
const SLOW_LOAD = ["--key-load-delay", "50", "--loading-process-events-interval-bytes", "1024"];

let flushing: NodeJS.Timeout | undefined;

const FAULTS: readonly Fault[] = [
  { name: "frozen (SIGSTOP)", lastsMs: FREEZE_MS, begin: async (redis) => redis.freeze(), end: async (redis) => redis.thaw() },
  { name: "killed, back with its data", flags: AOF, begin: (redis) => redis.kill(), end: (redis) => redis.restart() },
  {
    name: "killed, back empty",
    // The rows are in a file of this process: it makes sure that no other process has rows of its own before it rebuilds.
    recoveryMs: 15_000,
    begin: (redis) => redis.kill(),
    end: (redis) => redis.restart({ empty: true }),
  },
  {
    name: "killed, back empty, with all rows in Postgres",
    ledger: "postgres",
    begin: (redis) => redis.kill(),
    end: (redis) => redis.restart({ empty: true }),
  },
  {
    name: "scripts flushed every 100 ms",
    isHarmless: true,
    begin: async (_redis, client) => void (flushing = setInterval(() => void client.script("FLUSH"), 100)),
    end: async () => clearInterval(flushing),
  },
  { name: "READONLY", begin: (_redis, client) => client.replicaof("127.0.0.1", 1), end: (_redis, client) => client.replicaof("NO", "ONE") },
  {
    name: "LOADING",
    flags: [...AOF, "--enable-debug-command", "local"],
    async prepare(_redis, client) {
      await client.call("DEBUG", "POPULATE", LOAD_KEYS);
      // Only a rewritten log holds these keys.
      await client.bgrewriteaof();
      while (/aof_rewrite_(?:in_progress|scheduled):1/.test(await client.info("persistence"))) await pause(20);
    },
    begin: (redis) => redis.restart({ flags: [...AOF, ...SLOW_LOAD], loading: true }),
    end: async (_redis, client) => {
      while (/loading:1/.test(await client.info("persistence"))) await pause(20);
    },
  },
  { name: "OOM", begin: (_redis, client) => client.config("SET", "maxmemory", "1"), end: (_redis, client) => client.config("SET", "maxmemory", "0") },
  {
    name: "BUSY",
    flags: ["--busy-reply-threshold", "100"],
    async begin(redis) {
      const looper = redis.client();
      void looper.eval("while true do end", 0).catch(() => undefined);
    },
    end: (_redis, client) => client.script("KILL"),
  },
  {
    name: "NOPERM",
    user: "gateway:secret",
    prepare: (_redis, client) => client.call("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all"),
    begin: (_redis, client) => client.call("ACL", "SETUSER", "gateway", "-@scripting"),
    end: (_redis, client) => client.call("ACL", "SETUSER", "gateway", "+@all"),
  },
  {
    name: "behind a wire that swallows everything",
    begin: async (_redis, _client, wire) => wire.set({ blackHole: true }),
    end: async (_redis, _client, wire) => wire.set({ blackHole: false }),
  },
  {
    name: "behind a wire that refuses connections",
    async begin(_redis, _client, wire) {
      wire.set({ refuse: true });
      wire.cut();
    },
    end: async (_redis, _client, wire) => wire.set({ refuse: false }),
  },
  {
    name: "a second away",
    begin: async (_redis, _client, wire) => wire.set({ delayMs: 1_000 }),
    end: async (_redis, _client, wire) => wire.set({ delayMs: 0 }),
  },
  {
    name: "50 ms away",
    isHarmless: true,
    begin: async (_redis, _client, wire) => wire.set({ delayMs: 50 }),
    end: async (_redis, _client, wire) => wire.set({ delayMs: 0 }),
  },
];

const CLIENTS = { deny: { user: "u" }, local: { team: "t" }, allow: { org: "o" } } as const;

describe.each(FAULTS)("Redis $name", (fault) => {
  test("decides by each limit's own rule meanwhile, in time, and is well again by itself", async () => {
    const redis = await redisProcess(fault.flags);
    const upstream = await fakeUpstream({ logLimit: 100_000 });
    const files = folder();
    const postgres = fault.ledger === "postgres" ? await postgresProcess() : null;
    const uncaught: unknown[] = [];
    const note = (error: unknown): void => void uncaught.push(error);
    process.on("unhandledRejection", note);
    const client = redis.client();
    await fault.prepare?.(redis, client);
    const wire = await chaosTcp(redis);
    const url = `redis://${fault.user === undefined ? "" : `${fault.user}@`}127.0.0.1:${wire.port}`;

    const running = await gateway({
      upstream: upstream.url,
      options: {
        store: { url },
        ledger: { url: postgres?.url ?? `sqlite:${join(files.path, "ledger.db")}` },
        monitoring: { prometheusEnabled: true },
        limits: [
          { name: "hard", scope: "user", unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 }, onStoreError: "deny" },
          { name: "soft", scope: "team", unit: "requests", bucket: { capacity: 1_000_000, refillPerSec: 1_000 }, onStoreError: "local" },
          { name: "open", scope: "org", unit: "requests", bucket: { capacity: 1_000_000, refillPerSec: 1_000 }, onStoreError: "allow" },
        ],
      },
    });
    const store = redisStore(url, { partition: randomUUID(), deadlineMs: DEADLINE_MS });
    await store.ready();
    onTestFinished(async () => {
      process.off("unhandledRejection", note);
      redis.thaw();
      clearInterval(flushing);
      await Promise.all([running.close(), store.close()]);
      await Promise.all([wire.close(), upstream.close()]);
      await Promise.all([redis.stop(), postgres?.stop()]);
      files.remove();
    });
    const everything: Seen[] = [];
    const one = async (kind: keyof typeof CLIENTS, mark?: string): Promise<Seen> => {
      const answer = await ask({ url: running.url, scopes: CLIENTS[kind], ...(mark === undefined ? {} : { mark }) });
      everything.push(answer);
      return answer;
    };
    /** Resolves when so many requests have reached the upstream, which lets none of them go before it is told to. */
    async function heldRequests(count: number): Promise<{ answered(): Promise<number[]> }> {
      const { promise: hold, resolve: letGo } = Promise.withResolvers<void>();
      upstream.script(({ body }) => (JSON.stringify(body).includes(HELD_MARK) ? { hold } : undefined));
      const before = upstream.totals().requests;
      const requests = Array.from({ length: count }, () => one("deny", HELD_MARK));
      await expect.poll(() => upstream.log.filter(({ id, body }) => id > before && body.includes(HELD_MARK)).length).toBe(count);
      return {
        async answered() {
          letGo();
          return (await Promise.all(requests)).map(({ status }) => status);
        },
      };
    }
    for (const kind of ["deny", "local", "allow"] as const) expect((await one(kind)).status).toBe(200);
    // Opens the connections that clients and gateway keep, so that what is counted from here on is what a fault leaves behind.
    await (await heldRequests(2 * HELD)).answered();
    const handles = openHandles();
    const linesBefore = running.lines.length;

    const lag = monitorEventLoopDelay({ resolution: 5 });
    lag.enable();
    let turn = 0;
    const seen = { deny: [] as Seen[], local: [] as Seen[], allow: [] as Seen[] };
    const load = steadyRequests(PER_SECOND, async () => {
      const kind = (["deny", "local", "allow"] as const)[(turn += 1) % 3] as keyof typeof CLIENTS;
      const answer = await one(kind);
      seen[kind].push(answer);
      return answer;
    });
    const bare = bareCalls(store, CALLS_PER_SECOND);
    // Admitted before the fault, answered in the middle of it: their settlements have to wait.
    const between = await heldRequests(HELD);
    await fault.begin(redis, client, wire);
    await pause((fault.lastsMs ?? FAULT_MS) / 2);
    expect(await between.answered()).toEqual(Array.from({ length: HELD }, () => 200));
    await pause((fault.lastsMs ?? FAULT_MS) / 2);
    const during = { deny: [...seen.deny], local: [...seen.local], allow: [...seen.allow] };
    await fault.end(redis, client, wire);

    const liftedAt = performance.now();
    const well = async (): Promise<number> => {
      for (;;) {
        if ((await one("deny")).status === 200) return performance.now() - liftedAt;
        if (performance.now() - liftedAt > 4 * RECOVERY_MS) return Number.POSITIVE_INFINITY;
        await pause(50);
      }
    };
    const [recoveryMs, storeRecoveryMs] = await Promise.all([well(), bare.answered(liftedAt, 4 * RECOVERY_MS)]);
    await load.stop();
    const calls = await bare.stop();
    lag.disable();

    const lines = running.lines.slice(linesBefore);
    const failing = calls.filter(({ code }) => code !== null);
    const statuses = (some: readonly Seen[]): Record<string, number> =>
      Object.fromEntries(
        [...Map.groupBy(some, ({ status, code }) => `${status}${code === null ? "" : ` ${code}`}`)].map(([what, all]) => [what, all.length]),
      );
    const errorsMs = failing.map(({ ms }) => ms);
    const lagMs = lag.max / 1e6;
    figures(`Redis ${fault.name}`, {
      deny: statuses(during.deny),
      local: statuses(during.local),
      allow: statuses(during.allow),
      "calls failed": `${failing.length} of ${calls.length}`,
      "error p99 ms": percentile(errorsMs, 0.99),
      "error max ms": Math.max(0, ...errorsMs),
      "loop lag ms": lagMs,
      "well again ms": [recoveryMs, storeRecoveryMs].map(Math.round),
      handles: [handles, openHandles()],
      lines: [...Map.groupBy(lines, ({ code, message }) => code ?? message)].map(([what, some]) => `${some.length}x ${what}`),
    });

    expect(uncaught).toEqual([]);
    for (const { status, code } of [...during.local, ...during.allow]) expect({ status, code }).toEqual({ status: 200, code: null });
    for (const { status, code, retryAfter } of during.deny) {
      if (status === 200) continue;
      expect({ status, code, hasRetryAfter: retryAfter !== null }).toEqual({ status: 503, code: "store_unavailable", hasRetryAfter: true });
    }
    const refused = during.deny.filter(({ status }) => status === 503).length;
    if (fault.isHarmless) {
      expect(refused).toBe(0);
      expect(failing).toEqual([]);
    } else {
      expect(refused).toBeGreaterThan(during.deny.length * 0.5);
      expect(failing.length).toBeGreaterThan(0);
    }
    for (const { code } of failing) expect(code).toBe("store_unavailable");
    expect(Math.max(0, ...errorsMs)).toBeLessThanOrEqual(DEADLINE_MS + SLACK_MS + lagMs);
    expect(recoveryMs).toBeLessThan(fault.recoveryMs ?? RECOVERY_MS);
    expect(storeRecoveryMs).toBeLessThan(RECOVERY_MS);
    expect(lines.length).toBeLessThanOrEqual(MOST_LINES);
    for (const [what, some] of Map.groupBy(lines, ({ code, message }) => code ?? message)) expect([what, some.length <= 2]).toEqual([what, true]);

    // In the end the counter says what the upstream would bill: nothing was charged twice, forgotten, or left held.
    await expect
      .poll(
        async () => {
          const { tokens } = await running.guard.admin.bucket({ scope: "user", id: "u" });
          return CAPACITY - tokens - (trueTokens(everything, truthOf(upstream.log), "user").get("u") ?? 0);
        },
        { timeout: 10_000 },
      )
      .toBe(0);
    await expect.poll(() => running.guard.admin.health().waitingSettlements, { timeout: 10_000 }).toBe(0);
    // The clients' own connections go when they have been idle.
    if (handles !== null) await expect.poll(() => openHandles(), { timeout: 15_000 }).toBeLessThanOrEqual(handles + HANDLES_SLACK);
  });
});

interface Call {
  readonly at: number;
  readonly ms: number;
  /** Null = it was answered. */
  readonly code: string | null;
}

/** Reserves and settles at a steady rate, each timed by itself. */
function bareCalls(store: ReturnType<typeof redisStore>, perSecond: number) {
  const calls: Call[] = [];
  const running = new Set<Promise<void>>();
  let turn = 0;
  async function timed(verb: () => unknown): Promise<void> {
    const at = performance.now();
    let code: string | null = null;
    try {
      await verb();
    } catch (error) {
      code = error instanceof GuardError ? error.code : String(error);
    }
    calls.push({ at, ms: performance.now() - at, code });
  }
  const timer = setInterval(() => {
    turn += 1;
    const opId = `bare${turn}`;
    const charge = { key: "b:bare:all", rule: BUCKET, unit: "tokens", amount: 3, enforce: true } as const;
    const pair = timed(() => store.limits.reserve(opId, [charge], 60_000)).then(() => timed(() => store.limits.settle(opId, { tokens: 1 })));
    running.add(pair);
    void pair.finally(() => running.delete(pair));
  }, 1_000 / perSecond);
  return {
    /** Ms from `since` until a call begun after it was answered. */
    async answered(since: number, patienceMs: number): Promise<number> {
      for (;;) {
        const first = calls.find(({ at, code }) => at > since && code === null);
        if (first) return first.at + first.ms - since;
        if (performance.now() - since > patienceMs) return Number.POSITIVE_INFINITY;
        await pause(20);
      }
    },
    async stop(): Promise<readonly Call[]> {
      clearInterval(timer);
      await Promise.all(running);
      return calls;
    },
  };
}
