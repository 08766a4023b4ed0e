// Four gateways, one Redis, one upstream that keeps its own books: what is charged is what the provider would bill, to the token.
import { join } from "node:path";

import { expectConserved, fakeUpstream } from "quotaguard/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { BucketView, HealthView } from "../../src/core/admin.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { folder } from "../helpers/child.ts";
import { contradictions, requestOf, trueTokens, truthOf } from "./kit/checker.ts";
import { figures, percentile } from "./kit/figures.ts";
import { fleet, GATEWAY } from "./kit/fleet.ts";
import type { GatewayPlan } from "./kit/gateway.ts";
import { chaosSeed } from "./kit/random.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";
import { ask, type RequestsPlan, type Seen } from "./kit/requests.ts";

const GATEWAYS = 4;
const WORKERS = 64;
const DURATION_MS = 15_000;
/** Bounds the load: two cores serve gateways, clients, upstream and Redis. */
const THINK_MS = 500;
const USERS = 40;
const TEAMS = 4;
const CAPACITY = 1_000_000_000;
/** Requests of one user: a narrow limit, so that a good part is refused. */
const REQUESTS = { capacity: 40, refillPerSec: 4 };
const STREAM_PART = 0.3;
const ROUNDS = 25;

let redis: RedisProcess;
beforeAll(async () => {
  redis = await redisProcess();
});
afterAll(() => redis.stop());

describe(`${GATEWAYS} gateways with ${WORKERS} clients each on one Redis`, () => {
  test("charge every scope what the upstream would bill, and admit no request too many", async () => {
    const upstream = await fakeUpstream({ logLimit: 1_000_000 });
    const files = folder();
    onTestFinished(async () => {
      await upstream.close();
      files.remove();
    });
    const ledger = join(files.path, "ledger.db");
    const tokens = { unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 }, estimate: "expected", onStoreError: "deny" } as const;
    const plan: GatewayPlan = {
      upstream: upstream.url,
      options: {
        store: { url: redis.url },
        ledger: { url: `sqlite:${ledger}` },
        limits: [
          { name: "user-tokens", scope: "user", ...tokens },
          { name: "team-tokens", scope: "team", ...tokens },
          { name: "all-tokens", scope: "global", ...tokens },
          { name: "user-requests", scope: "user", unit: "requests", bucket: REQUESTS, onStoreError: "deny" },
          { name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 100 }, onStoreError: "deny" },
        ],
      },
    };
    const seed = chaosSeed();
    const { members, all } = await fleet(GATEWAYS, GATEWAY);
    await all("open", plan);

    const from = Date.now();
    const requests: Omit<RequestsPlan, "url" | "seed"> = {
      workers: WORKERS,
      durationMs: DURATION_MS,
      users: USERS,
      teams: TEAMS,
      streamPart: STREAM_PART,
      thinkMs: THINK_MS,
    };
    const histories = await Promise.all(members.map((member, index) => member.ask<Seen[]>("load", { ...requests, seed: seed + index })));
    const seconds = (Date.now() - from) / 1_000;
    const history = histories.flat();
    // A settlement that Redis did not take at once is delivered by the outbox.
    await expect
      .poll(async () => (await all<HealthView>("health")).map(({ openRequests, waitingSettlements }) => openRequests + waitingSettlements), {
        timeout: 10_000,
      })
      .toEqual(members.map(() => 0));

    const truth = truthOf(upstream.log);
    const wrong: string[] = [];
    for (const [scope, ids] of [
      ["global", ["all"]],
      ["team", Array.from({ length: TEAMS }, (_, team) => `t${team}`)],
      ["user", Array.from({ length: USERS }, (_, user) => `u${user}`)],
    ] as const) {
      const billed = trueTokens(history, truth, scope);
      for (const id of ids) {
        const address = scope === "global" ? { scope } : { scope, id };
        const { tokens: left } = await (members[0] as (typeof members)[number]).ask<BucketView>("bucket", address);
        if (CAPACITY - left !== (billed.get(id) ?? 0))
          wrong.push(`${scope} ${id}: charged ${CAPACITY - left}, the upstream bills ${billed.get(id) ?? 0}`);
      }
    }
    const tooMany: string[] = [];
    const arrivedOf = Map.groupBy(
      history.filter(({ requestId }) => truth.has(requestId)),
      ({ scopes }) => scopes["user"] as string,
    );
    const mayHave = REQUESTS.capacity + REQUESTS.refillPerSec * ((Date.now() - from) / 1_000);
    for (const [user, arrived] of arrivedOf) if (arrived.length > mayHave) tooMany.push(`${user}: ${arrived.length} of ${mayHave}`);

    const uncaught = (await all<string[]>("uncaught")).flat();
    const logs = (await all<readonly { message: string }[]>("logs")).flat();
    await all("close");
    const rows = sqliteStore(ledger);
    await rows.ready();
    const written = await rows.ledger.list({ limit: history.length + 1 });
    await rows.close();

    const served = history.filter(({ status }) => status === 200);
    figures("fleet of gateways", {
      seed,
      "requests/s": history.length / seconds,
      statuses: Object.fromEntries([...Map.groupBy(history, ({ status }) => status)].map(([status, some]) => [status, some.length])),
      "p50 ms": percentile(
        served.map(({ ms }) => ms),
        0.5,
      ),
      "p99 ms": percentile(
        served.map(({ ms }) => ms),
        0.99,
      ),
      "tokens billed": trueTokens(history, truth, "global").get("all") ?? 0,
      rows: written.length,
      "log lines": logs.length,
    });
    expect(wrong).toEqual([]);
    expect(tooMany).toEqual([]);
    expect(contradictions({ history, rows: written })).toEqual([]);
    await expectConserved({ rows: written, upstreams: [upstream], requestOf });
    expect(written.filter(({ state }) => state === "unknown" || state === "estimated")).toEqual([]);
    expect(uncaught).toEqual([]);
    expect(served.length).toBeGreaterThan(USERS * REQUESTS.capacity * 0.5);
    expect(history.filter(({ status }) => status === 429).length).toBeGreaterThan(0);
    // Nobody was told anything but yes, no, or that the store is away.
    expect(history.filter(({ status, code }) => status !== 200 && code !== "budget_exhausted" && code !== "store_unavailable")).toEqual([]);
  });

  test.each([
    ["hear of it", "&*"],
    ["hear nothing, because their user may use no channel", "resetchannels"],
  ])("decide by a limit's new number as soon as it is set, when they %s", async (_, channels) => {
    const client = redis.client();
    await client.call("ACL", "SETUSER", "other", "reset", "on", ">secret", "~*", "+@all", channels);
    client.disconnect();
    const upstream = await fakeUpstream();
    const files = folder();
    onTestFinished(async () => {
      await upstream.close();
      files.remove();
    });
    const { members, all } = await fleet(GATEWAYS, GATEWAY);
    const plan = (store: string): GatewayPlan => ({
      upstream: upstream.url,
      options: {
        store: { url: store },
        ledger: { url: `sqlite:${join(files.path, "ledger.db")}` },
        limits: [
          {
            name: "user-tokens",
            scope: "user",
            unit: "tokens",
            bucket: { capacity: CAPACITY, refillPerSec: 0 },
            estimate: "expected",
            onStoreError: "deny",
          },
        ],
      },
    });
    const others = `redis://other:secret@127.0.0.1:${redis.port}`;
    const urls = await Promise.all(members.map((one, index) => one.ask<string>("open", plan(index === 0 ? redis.url : others))));
    const wrong: string[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const user = `${channels === "&*" ? "hearing" : "deaf"}${round}`;
      const everywhere = (): Promise<Seen[]> => Promise.all(urls.map((url) => ask({ url, scopes: { user } })));
      for (const { status } of await everywhere()) if (status !== 200) wrong.push(`round ${round}: ${status} before`);
      await (members[0] as (typeof members)[number]).ask("setCapacity", { id: user, capacity: 1 });
      for (const [index, { status, code }] of (await everywhere()).entries()) {
        // By the old number it would be exhausted: the counter itself is lowered already.
        if (code !== "budget_too_small") wrong.push(`round ${round}: gateway ${index} answers ${status} ${code} after`);
      }
    }
    figures("new numbers", { channels, rounds: ROUNDS, gateways: GATEWAYS, wrong: wrong.length });
    await all("close");
    expect(wrong).toEqual([]);
  });
});
