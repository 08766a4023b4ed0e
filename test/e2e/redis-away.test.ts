// A gateway above a Redis of its own that is frozen, killed and started again: decided in time, and back without help.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { publicHealth } from "../../src/cli/public-health.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { keptLogger } from "../core/context-kit.ts";
import { chat, KEY, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";
import { redisProgram } from "../setup/redis.ts";
import { freePort, ServerMissing, serverFolder, startServer, type ServerProcess } from "../setup/server-process.ts";

/** The store's deadline for a call, and what the machine needs beside it. */
const DEADLINE_MS = 250;
const DECIDED_WITHIN_MS = 300;
const BACK_WITHIN_MS = 5_000;
/** Whatever else this machine does: nothing waits longer. */
const NEVER_MS = 1_000;
const ASKED = 9;
/** Those that find out; the others are told at once. */
const FIRST = 3;

const program = await redisProgram().catch((error: unknown) => {
  if (error instanceof ServerMissing) return undefined;
  throw error;
});

describe.skipIf(program === undefined)("a Redis that goes away under a gateway", () => {
  let folder: string;
  let port: number;
  let redis: ServerProcess;
  let gateway: TestGateway;
  let logger: ReturnType<typeof keptLogger>;

  const startRedis = (): Promise<ServerProcess> =>
    startServer({
      name: "Redis",
      file: program?.file ?? "",
      args: ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", folder],
      url: `redis://127.0.0.1:${port}`,
      ready: /ready to accept connections/i,
      folder,
      keepFolder: true,
      stopSignal: "SIGTERM",
      ...(program?.env ? { env: program.env } : {}),
    });

  beforeAll(async () => {
    folder = serverFolder("redis-away");
    port = await freePort();
    redis = await startRedis();
  });
  afterAll(async () => {
    await redis.stop();
  });
  afterEach(async () => {
    await gateway.close();
  });

  async function start(): Promise<void> {
    logger = keptLogger();
    const store = redisStore(redis.url, { deadlineMs: DEADLINE_MS, logger });
    await store.ready();
    const limits: GuardOptions["limits"] = [
      { name: "hard", scope: "team", unit: "tokens", bucket: { capacity: 1_000_000, refillPerSec: 0 }, onStoreError: "deny" },
      { name: "soft", scope: "user", unit: "requests", window: { limit: 1_000, per: "hour" } },
    ];
    gateway = await testGateway({
      limits,
      store,
      logger,
      monitoring: { prometheusEnabled: true },
      auth: {
        keys: [
          { name: "alice", key: KEY, scopes: { team: "data", user: "alice" } },
          { name: "bob", key: OTHER_KEY, scopes: { user: "bob" } },
        ],
      },
    });
    const { close } = gateway;
    gateway = {
      ...gateway,
      async close() {
        await close();
        await store.close();
      },
    };
  }

  /** Alice has a hard limit, bob has none. */
  async function ask(key: string): Promise<{ readonly status: number; readonly code: string | undefined; readonly ms: number }> {
    const startedAt = performance.now();
    const response = await chat(gateway.url, { max_tokens: 5 }, { key });
    const { error } = (await response.json()) as { error?: { code: string } };
    return { status: response.status, code: error?.code, ms: performance.now() - startedAt };
  }

  async function away(): Promise<void> {
    const hard: number[] = [];
    for (let i = 0; i < ASKED; i += 1) {
      const { status, code, ms } = await ask(KEY);
      expect([status, code]).toEqual([503, "store_unavailable"]);
      hard.push(ms);
      expect((await ask(OTHER_KEY)).status).toBe(200);
    }
    const first = hard.slice(0, FIRST).toSorted((a, b) => a - b);
    expect(first[Math.floor(FIRST / 2)]).toBeLessThan(DECIDED_WITHIN_MS);
    expect(Math.max(...hard)).toBeLessThan(NEVER_MS);
    expect(gateway.guard.admin.health().storeState?.state).toBe("degraded");
    expect(publicHealth(gateway.guard.admin).status).toBe(200);
  }

  /** Nobody asks for anything meanwhile. */
  async function backAgain(): Promise<void> {
    await expect.poll(() => gateway.guard.admin.health().storeState?.state, { timeout: BACK_WITHIN_MS, interval: 20 }).toBe("ok");
    expect(await ask(KEY)).toMatchObject({ status: 200 });
    expect(await ask(OTHER_KEY)).toMatchObject({ status: 200 });
    await expect.poll(() => gateway.guard.admin.health(), { timeout: BACK_WITHIN_MS }).toMatchObject({ waitingSettlements: 0, openRequests: 0 });
    const ours = logger.lines.map(({ fields }) => fields["code"]).filter((code) => code === "QG_STORE_DEGRADED" || code === "QG_STORE_BACK");
    expect(ours).toEqual(["QG_STORE_DEGRADED", "QG_STORE_BACK"]);
  }

  const left = async (): Promise<number> => (await gateway.guard.admin.bucket({ scope: "team", id: "data" })).tokens;

  async function spentByAlice(): Promise<number> {
    const rows = await gateway.guard.ledger.list({ scopes: { team: "data" } });
    return rows.reduce((sum, { usage }) => sum + (usage === null ? 0 : usage.inputTokens + usage.outputTokens), 0);
  }

  test("frozen: hard limits are closed within 300 ms, the others served; thawed: as if nothing had been", { timeout: 30_000 }, async () => {
    await start();
    expect((await ask(KEY)).status).toBe(200);
    redis.signal("SIGSTOP");
    await away();
    redis.signal("SIGCONT");
    await backAgain();
    expect(await left()).toBe(1_000_000 - (await spentByAlice()));
  });

  test("killed and started again with what it had written: the same", { timeout: 30_000 }, async () => {
    await start();
    const before = await left();
    expect((await ask(KEY)).status).toBe(200);
    redis.signal("SIGKILL");
    await redis.gone;
    await away();
    redis = await startRedis();
    await backAgain();
    expect(await left()).toBe(before - (await spentByAlice()));
  });
});
