// What guard.explain says, and what becomes of the very same request.
import express from "express";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createGuard, GuardError, type GuardOptions, type QuotaGuard } from "quotaguard";
import { fakeUpstream, testClock, type FakeUpstream, type TestClock } from "quotaguard/testing";
import { seededRandom } from "../../src/testing/seeded-random.ts";
import { rejectionOf } from "../core/context-kit.ts";
import { chat, KEY, listen, OTHER_KEY, testGateway, type Listening, type TestGateway } from "../helpers/app.ts";

const MODEL = "gpt-4o-mini";
const WORLDS = 80;
const REQUESTS = 8;

let upstream: FakeUpstream;
beforeAll(async () => {
  upstream = await fakeUpstream();
});
afterAll(() => upstream.close());

let ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.toReversed()) await end();
  ends = [];
});

async function gateway(more: Parameters<typeof testGateway>[0], prepare?: Parameters<typeof testGateway>[1]): Promise<TestGateway> {
  const made = await testGateway(more, prepare);
  ends.push(() => made.close());
  return made;
}

type LimitInput = NonNullable<GuardOptions["limits"]>[number];
type CredentialInput = NonNullable<GuardOptions["credentials"]>[number];

function randomOptions(random: () => number, clock: TestClock): GuardOptions {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const some = <T>(values: readonly T[]): T[] => values.filter(() => random() < 0.4);
  const limits: LimitInput[] = some<LimitInput>([
    { name: "user-requests", scope: "user", unit: "requests", window: { limit: pick([2, 5]), per: "minute" } },
    { name: "user-day", scope: "user", unit: "usd", window: { limit: pick([0.01, 0.1]), per: "day" }, whenShort: pick(["refuse", "shorten"]) },
    {
      name: "team-tokens",
      scope: "team",
      unit: "tokens",
      bucket: { capacity: pick([500, 5_000]), refillPerSec: pick([0, 10]) },
      estimate: "expected",
    },
    {
      name: "model-output",
      scope: ["user", "model"],
      unit: "output_tokens",
      window: { limit: 3_000, per: "hour" },
      mode: pick(["enforce", "shadow"]),
    },
    { name: "never", scope: "global", unit: "requests", bucket: { capacity: 6, refillPerSec: 0 } },
    { name: "parallel", scope: "user", unit: "concurrent", concurrency: { limit: pick([1, 0]) } },
  ]);
  const credentials: CredentialInput[] = Array.from({ length: 1 + Math.floor(random() * 3) }, (_, i) => ({
    name: `c${i}`,
    provider: "openai",
    apiKey: `sk-upstream-${i}`,
    baseUrl: upstream.url,
    rpm: pick([-1, -1, 2]),
    priority: pick([0, 0, 1]),
    isFallback: random() < 0.2,
    ...(random() < 0.2 ? { models: ["other"] } : {}),
  }));
  return {
    auth: {
      keys: [
        { name: "alice", key: KEY, scopes: { team: "data", user: "alice" }, ...(random() < 0.1 ? { models: ["other"] } : {}) },
        { name: "bob", key: OTHER_KEY, scopes: { user: "bob", org: "acme" } },
      ],
    },
    credentials,
    limits,
    models: [{ name: MODEL, price: { inputPerMtok: 1, outputPerMtok: 10 } }],
    prices: { book: false },
    router: { strategy: pick(["round-robin", "fill-first", "weighted"]) },
    // A client's address is known to the gateway, and not to who describes a call.
    fail2ban: { clients: false },
    resilience: { maxRetries: 0 },
    monitoring: { prometheusEnabled: false },
    clock,
  };
}

/** What a client can tell of what it got. */
async function seenBy(response: Response, credential: string | null): Promise<unknown> {
  const { error } = (await response.json()) as { error?: { code?: string; message?: string } };
  // What a provider says is not ours to know beforehand.
  if (credential !== null) return { credential };
  return { status: response.status, code: error?.code, message: error?.message, retryAfter: response.headers.get("retry-after") };
}

describe("in random gateways", () => {
  test("what is explained is what then happens", async () => {
    const seen = new Map<string, number>();
    for (let seed = 1; seed <= WORLDS; seed += 1) {
      const random = seededRandom(seed);
      const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
      const clock = testClock();
      const guard = createGuard(randomOptions(random, clock));
      const app = express();
      app.use("/llm", guard.handler());
      await guard.ready();
      const listening = await listen(app);
      try {
        const attempts: string[] = [];
        guard.events.on("attempt", ({ credential }) => attempts.push(credential));
        upstream.script(() => {
          const chance = random();
          if (chance < 0.15) return { status: 429, headers: { "retry-after": "7" } };
          return chance < 0.3 ? { status: 500 } : {};
        });
        for (let i = 0; i < REQUESTS; i += 1) {
          const at = `seed ${seed}, request ${i}`;
          if (random() < 0.4) clock.advance(Math.floor(random() * 30_000));
          if (random() < 0.05) await guard.admin.pause("c0", { reason: "for a test", until: clock.now() + 10_000 });
          const key = pick([KEY, KEY, KEY, OTHER_KEY, "nobodys-key"]);
          const body = {
            model: pick([MODEL, MODEL, MODEL, MODEL, "other"]),
            messages: [{ role: "user", content: "x".repeat(40 * i) }],
            max_tokens: pick([50, 400, 4_000]),
          };
          const explained = await guard.explain({ key, body });
          expect({ ...(await guard.explain({ key, body })), at: 0 }, at).toEqual({ ...explained, at: 0 });
          attempts.length = 0;
          const response = await chat(listening.url, body, { key });
          const { served, status, code, message, retryAfterMs } = explained.outcome;
          const expected = served
            ? { credential: served.credential }
            : { status, code, message, retryAfter: retryAfterMs === null ? null : String(Math.max(1, Math.ceil(retryAfterMs / 1_000))) };
          expect(await seenBy(response, attempts[0] ?? null), at).toEqual(expected);
          const refusing = explained.limits.filter(({ refuses }) => refuses).length;
          expect(refusing > 0, at).toBe(code === "budget_exhausted" || code === "budget_too_small");
          seen.set(code ?? "served", (seen.get(code ?? "served") ?? 0) + 1);
        }
      } finally {
        await listening.close();
        await guard.close();
      }
    }
    for (const what of [
      "served",
      "budget_exhausted",
      "budget_too_small",
      "unauthenticated",
      "model_not_allowed",
      "all_credentials_limited",
      "model_not_found",
    ])
      expect(seen.get(what) ?? 0, what).toBeGreaterThan(2);
  }, 120_000);
});
