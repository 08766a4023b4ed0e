// Collectors in real guards: what providers say is seen by operators, strategies and metrics, and each account is asked about once.
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { createGuard, loadConfig, type GuardOptions, type QuotaGuard, type Store } from "quotaguard";
import { collectors } from "quotaguard/plugins/collectors";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { silentLogger } from "../../src/core/logger.ts";
import { keptLogger } from "../core/context-kit.ts";
import { folder, type Folder } from "../helpers/child.ts";
import { json, quotaServer, type QuotaServer, type Script } from "../plugins/collectors/collectors-kit.ts";
import { testServer } from "../setup/test-server.ts";
import { forget } from "../stores/redis/limits-kit.ts";

const redisUrl = await testServer("redis");
const family = `collectors-${randomUUID()}`;

let place: Folder;
let server: QuotaServer;
let guards: QuotaGuard[] = [];

/** Each provider's own path, with what is left of the account that asks. */
const say =
  (used: number): Script =>
  (asked, res) => {
    if (asked.url === "/api/oauth/usage") return json({ five_hour: { utilization: used }, seven_day_opus: { utilization: 100 } })(asked, res);
    if (asked.url === "/wham/usage")
      return json({ rate_limit: { primary_window: { used_percent: used, limit_window_seconds: 18_000 } } })(asked, res);
    if (asked.url === "/copilot_internal/user")
      return json({ quota_snapshots: { premium_interactions: { percent_remaining: 100 - used } } })(asked, res);
    return json({}, 404)(asked, res);
  };

beforeEach(async () => {
  place = folder();
  server = await quotaServer(say(40));
});
afterEach(async () => {
  for (const guard of guards) await guard.close();
  guards = [];
  await server.close();
  place.remove();
});
afterAll(async () => {
  if (redisUrl === undefined) return;
  const client = new Redis(redisUrl);
  await forget(client, `qg:{${family}`);
  client.disconnect();
});

const endpoints = (): Record<string, string> => ({ claude: server.url, codex: server.url, copilot: server.url });

const credentials = (): NonNullable<GuardOptions["credentials"]> => [
  { name: "max", provider: "anthropic", apiKey: "sk-ant-oat01-canary" },
  { name: "plus", provider: "codex", apiKey: "token-of-codex", accountId: "acct-1" },
  { name: "octo", provider: "copilot", apiKey: "ghu_canary" },
  { name: "plain", provider: "openai", apiKey: "sk-1" },
];

async function guardWith(options: GuardOptions): Promise<QuotaGuard> {
  const guard = createGuard({ auth: false, logger: silentLogger, ...options });
  guards.push(guard);
  await guard.ready();
  return guard;
}

const quotasOf = async (guard: QuotaGuard): Promise<Record<string, string[]>> =>
  Object.fromEntries(
    (await guard.admin.credentials()).map(({ name, quotas }) => [
      name,
      quotas.map(({ group, remainingRatio }) => `${group} ${remainingRatio.toFixed(2)}`),
    ]),
  );

const EXPECTED = { max: ["5h 0.60", "7d_opus 0.00"], plus: ["session 0.60"], octo: ["premium 0.60"], plain: [] };

describe("in one guard", () => {
  test("what is left is with the credentials, counted, and told by status()", async () => {
    const asked = collectors({ endpoints: endpoints(), jitter: 0 });
    await expect(asked.refresh()).rejects.toThrow("collectors: the guard does not run; await guard.ready() first");
    expect(asked.status()).toEqual([]);
    const guard = await guardWith({ credentials: credentials(), plugins: [asked], monitoring: { prometheusEnabled: true } });
    await asked.refresh();
    expect(await quotasOf(guard)).toEqual(EXPECTED);
    expect(asked.status().map(({ credential, collector, outcome }) => `${credential} ${collector} ${outcome}`)).toEqual([
      "max claude ok",
      "plus codex ok",
      "octo copilot ok",
    ]);
    const text = (await guard.metrics())?.text ?? "";
    for (const provider of ["anthropic", "codex", "copilot"]) {
      expect(text).toMatch(new RegExp(`quotaguard_collector_runs_total\\{provider="${provider}",status="ok"\\} [12]`));
    }
    expect(text).toContain('quotaguard_quota_remaining_ratio{credential="max",group="5h"} 0.6');
    expect(server.asked.find(({ url }) => url === "/wham/usage")?.headers).toMatchObject({ "chatgpt-account-id": "acct-1" });
    await expect(asked.refresh("plain")).rejects.toThrow("refresh: no collector asks about a credential plain");
  });

  test("a list of the code's and a map of a file's are the same", async () => {
    const file = place.write(
      "quotaguard.yaml",
      [
        "credentials:",
        "  - { name: plus, provider: codex, api_key: token-of-codex }",
        "plugins:",
        `  collectors: { jitter: 0, endpoints: { codex: "${server.url}/" } }`,
      ].join("\n"),
    );
    const guard = await guardWith(loadConfig({ path: file, env: {}, cwd: place.path }));
    await expect.poll(() => quotasOf(guard), { timeout: 10_000 }).toEqual({ plus: ["session 0.60"] });
  });

  test("a newer answer replaces an older one, and a refused login leaves what was known", async () => {
    const logger = keptLogger();
    const asked = collectors({ endpoints: endpoints(), jitter: 0 });
    const guard = await guardWith({ credentials: credentials(), plugins: [asked], logger });
    await asked.refresh();
    server.answer(say(75));
    await asked.refresh("plus");
    expect((await quotasOf(guard)).plus).toEqual(["session 0.25"]);
    server.answer(json({ error: "token-of-codex" }, 401));
    await asked.refresh();
    expect(await quotasOf(guard)).toEqual({ ...EXPECTED, plus: ["session 0.25"] });
    expect(asked.status().every(({ outcome, seenAt }) => outcome === "needs-login" && seenAt !== null)).toBe(true);
    // It is no ban: requests tell for themselves whether they are let in.
    expect((await guard.admin.credentials()).map(({ state }) => state)).toEqual(["ready", "ready", "ready", "ready"]);
    const told = logger.lines.filter(({ fields }) => fields.code === "QG_QUOTA_LOGIN");
    expect(told.map(({ fields }) => String(fields.credential)).toSorted()).toEqual(["max", "octo", "plus"]);
    expect(JSON.stringify(logger.lines)).not.toMatch(/canary|token-of-codex/);
  });

  test("one value serves one guard", async () => {
    const asked = collectors();
    const guard = await guardWith({ plugins: [asked] });
    const second = createGuard({ auth: false, logger: silentLogger, plugins: [asked] });
    await expect(second.ready()).rejects.toThrow("this value serves another guard already");
    await second.close();
    await guard.close();
    guards = [];
    await guardWith({ plugins: [asked] });
  });

  test("a wrong option is told with its path", () => {
    expect(() => collectors({ interval: "soon", antigravity: { port: 0 } })).toThrow(/collectors: interval: expected a duration[^]*antigravity.port/);
    for (const codex of ["https://a.example/?", "https://a.example#", "https://a.example\\b", "file:///a"])
      expect(() => collectors({ endpoints: { codex } })).toThrow("collectors: endpoints.codex: expected a URL such as");
    expect(() => collectors({ intervall: 5 } as never)).toThrow("intervall");
  });
});

/** One of them for each guard, as processes have it. */
const stores: readonly (readonly [string, () => Store])[] = [
  ["SQLite", () => sqliteStore(`${place.path}/quota.db`)],
  ...(redisUrl === undefined ? [] : [["Redis", () => redisStore(redisUrl, { partition: family })] as const]),
];

describe.each(stores)("two guards that share %s", (_name, storeOf) => {
  test("ask about each account once, and both know", async () => {
    const secrets = { key: "a-secret-key-for-tests-0001" };
    const opened = [storeOf(), storeOf()];
    onTestFinished(async () => void (await Promise.all(opened.map((store) => store.close()))));
    const both = await Promise.all(
      opened.map((store) => {
        const asked = collectors({ endpoints: endpoints(), jitter: 0 });
        return guardWith({ store, ledger: { url: "memory" }, secrets, credentials: credentials(), plugins: [asked] });
      }),
    );
    for (const guard of both) await expect.poll(() => quotasOf(guard), { timeout: 15_000, interval: 50 }).toEqual(EXPECTED);
    expect(server.asked.map(({ url }) => url).toSorted()).toEqual(["/api/oauth/usage", "/copilot_internal/user", "/wham/usage"]);
    for (const guard of both) await guard.close();
    guards = [];
  });
});
