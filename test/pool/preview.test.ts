// What would be chosen, and what is chosen: the same, in whatever state.
import { describe, expect, test } from "vitest";
import type { AttemptOutcome, Credential, Lease } from "../../src/core/credential.ts";
import { GuardError } from "../../src/core/errors.ts";
import { eventEmitter } from "../../src/core/events.ts";
import { silentLogger } from "../../src/core/logger.ts";
import type { StrategyCandidate } from "../../src/core/strategy.ts";
import { credentialSlots } from "../../src/credential-slots.ts";
import { holds } from "../../src/limits/holds.ts";
import type { Strategy } from "../../src/pool/candidate.ts";
import { credentialHealth, type CredentialHealth } from "../../src/pool/health.ts";
import type { ModelEntry } from "../../src/pool/offers.ts";
import { credentialPool, type ModelRequest, type Pool } from "../../src/pool/pool.ts";
import type { Preview } from "../../src/pool/preview.ts";
import { quotaGate } from "../../src/pool/quota-gate.ts";
import { fillFirst } from "../../src/pool/strategies/fill-first.ts";
import { hostStrategy } from "../../src/pool/strategies/host-strategy.ts";
import { quota } from "../../src/pool/strategies/quota.ts";
import { roundRobin } from "../../src/pool/strategies/round-robin.ts";
import { weighted } from "../../src/pool/strategies/weighted.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { seededRandom } from "../../src/testing/seeded-random.ts";
import { broke, countedStrikes, recordsOn, refused } from "./health-kit.ts";
import { block, credential, numbered, offersOf, poolKit, SERVED } from "./pool-kit.ts";
import { spendKit } from "./spend-kit.ts";
import { choosing } from "./strategies/choosing-kit.ts";

const MODELS = ["m", "n"] as const;
const WORLDS = 500;
const STEPS = 20;

interface World {
  readonly pool: Pool;
  readonly health: CredentialHealth;
  readonly clock: TestClock;
  readonly isOrdered: boolean;
  readonly credentials: readonly Credential[];
  readonly request: (model: string) => ModelRequest;
}

/** Everything as it is in a gateway, but for the store's server. */
function worldOf(random: () => number): World {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const clock = testClock();
  const credentials = Array.from({ length: 1 + Math.floor(random() * 5) }, (_, i) =>
    credential(`c${i}`, {
      priority: pick([0, 0, 0, 1]),
      isFallback: random() < 0.2,
      weight: pick([1, 1, 3]),
      rpm: pick([-1, -1, 1, 3]),
      tpm: pick([-1, -1, 100]),
      maxConcurrent: pick([-1, -1, 1]),
      ...(random() < 0.2 ? { models: [pick(MODELS)] } : {}),
    }),
  );
  const models: ModelEntry[] = random() < 0.3 ? [{ name: "m", rpm: 2, tpm: -1 }] : [];
  const offered = offersOf(credentials, models);
  const health = credentialHealth({
    clock,
    logger: silentLogger,
    records: recordsOn(clock),
    strikes: countedStrikes(clock),
    events: eventEmitter(silentLogger),
    fail2ban: { maxAttempts: 3, windowMs: 600_000, banMs: pick([null, 60_000]), codes: [401, 500], rules: [] },
    breaker: { failureThreshold: 2, openForMs: 30_000, halfOpen: 1 },
  });
  const { limits } = memoryStore({ clock });
  const slots = credentialSlots({
    store: limits,
    local: memoryStore({ clock }).limits,
    nodes: () => 1,
    holds: holds({ clock, logger: silentLogger, ttlMs: 300_000 }),
    clock,
    logger: silentLogger,
    models,
    defaultModelRpm: -1,
    degraded: () => undefined,
  });
  const strategies: readonly [() => Strategy, boolean][] = [
    [roundRobin, true],
    [fillFirst, true],
    [weighted, false],
    [() => ({ ...fillFirst(), spansPriorities: true }), true],
    [
      () =>
        hostStrategy({
          // Somebody's own rule, who has no opinion half of the time.
          fn: (open: readonly StrategyCandidate[]) => (open.length % 2 === 0 ? null : (open.at(-1) ?? null)),
          inFlight: () => 0,
          remainingRatio: () => null,
          costUsd: () => null,
          failed: () => undefined,
        }),
      true,
    ],
  ];
  const [strategy, isOrdered] = pick(strategies);
  let count = 0;
  return {
    pool: credentialPool({ offers: offered, health, slots, strategy: strategy(), now: clock.now }),
    health,
    clock,
    isOrdered,
    credentials,
    request(model) {
      count += 1;
      return { model, opId: `op${count}`, tokens: () => 30 };
    },
  };
}

const OUTCOMES: readonly AttemptOutcome[] = [SERVED, SERVED, SERVED, refused(401), refused(429), refused(500), broke("upstream_timeout")];

function disturb({ health, clock, credentials }: World, random: () => number): void {
  const name = credentials[Math.floor(random() * credentials.length)]?.name as string;
  const chance = random();
  if (chance < 0.1) health.pauses.set(name, { reason: "somebody says so", since: clock.now(), until: random() < 0.5 ? null : clock.now() + 5_000 });
  else if (chance < 0.2) health.pauses.end(name);
  else if (chance < 0.25) health.lift("banned", name, null);
  else if (chance < 0.6) clock.advance(Math.floor(random() * 20_000));
}

const told = ({ code, status, message, retryAfterMs, headers }: GuardError): unknown => ({ code, status, message, retryAfterMs, headers });
const namesOf = ({ candidates }: Preview): string[] => candidates.filter(({ rejection }) => !rejection).map(({ candidate }) => candidate.key);

/** What a client that takes one after the other would get. */
function chosen(pool: Pool, request: ModelRequest): { readonly leases: readonly Lease[]; readonly refusal: GuardError | null } {
  const choice = pool.choose(request);
  const leases: Lease[] = [];
  try {
    for (let lease = choice.next() as Lease | null; lease; lease = choice.next() as Lease | null) leases.push(lease);
    return { leases, refusal: null };
  } catch (error) {
    if (!GuardError.is(error)) throw error;
    return { leases, refusal: error };
  }
}

describe("in 10,000 random states", () => {
  test("the preview and the choice agree, and the preview has changed nothing", async () => {
    const seen = new Map<string, number>();
    const note = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
    for (let seed = 1; seed <= WORLDS; seed += 1) {
      const random = seededRandom(seed);
      const world = worldOf(random);
      const { pool, isOrdered } = world;
      const open: Lease[] = [];
      for (let step = 0; step < STEPS; step += 1) {
        disturb(world, random);
        const request = world.request(MODELS[Math.floor(random() * MODELS.length)] as string);
        const preview = await pool.preview(request).catch((error: unknown) => error as GuardError);
        if (GuardError.is(preview)) {
          note(preview.code);
          expect(() => pool.choose(request)).toThrow(preview.message);
          continue;
        }
        expect(await pool.preview(request), `seed ${seed}, step ${step}`).toEqual(preview);
        // Every other time all of them are taken, to see the order.
        const isWhole = random() < 0.5;
        const real = isWhole ? chosen(pool, request) : first(pool, request);
        const at = `seed ${seed}, step ${step}`;
        expect(real.refusal && told(real.refusal), at).toEqual(preview.refusal && told(preview.refusal));
        const names = real.leases.map(({ credential: { name }, name: model }) => `${name}/${model}`);
        if (isWhole && isOrdered) expect(names, at).toEqual(namesOf(preview));
        else if (isWhole) expect([names[0], names.toSorted()], at).toEqual([namesOf(preview)[0], namesOf(preview).toSorted()]);
        else expect(names[0], at).toBe(namesOf(preview)[0]);
        note(preview.refusal?.code ?? "served");
        for (const { rejection } of preview.candidates) if (rejection) note(rejection.reason);
        for (const lease of real.leases) {
          if (random() < 0.2) open.push(lease);
          else lease.release(OUTCOMES[Math.floor(random() * OUTCOMES.length)] as AttemptOutcome);
        }
        if (random() < 0.3) open.shift()?.release(SERVED);
      }
    }
    // The states were worth it.
    for (const what of ["served", "all_credentials_limited", "no_credential", "cooling", "breaker", "paused", "limited"])
      expect(seen.get(what) ?? 0, what).toBeGreaterThan(30);
  }, 60_000);
});

function first(pool: Pool, request: ModelRequest): { readonly leases: readonly Lease[]; readonly refusal: GuardError | null } {
  try {
    return { leases: [pool.choose(request).next() as Lease], refusal: null };
  } catch (error) {
    if (!GuardError.is(error)) throw error;
    return { leases: [], refusal: error };
  }
}

test("names why each one is passed over, and until when", async () => {
  const { pool, health, slots, rejected } = poolKit(offersOf(numbered(5)));
  health.blocked.set("1/m", block("cooling", 5_000));
  health.blocked.set("2/m", { ...block("paused", null), note: "on holiday" });
  slots.short.set("3/m", { waitMs: 700, note: "no room in the credential's requests a minute" });
  health.probing.add("4/m");
  const { candidates, refusal } = await pool.preview({ model: "m", opId: "op", tokens: () => 0 });
  expect(refusal).toBeNull();
  expect(candidates.map(({ candidate, rejection }) => [candidate.credential.name, rejection])).toEqual([
    ["5", null],
    ["1", { reason: "cooling", until: 5_000, code: 429, note: null }],
    ["2", { reason: "paused", until: null, code: 429, note: "on holiday" }],
    ["3", { reason: "limited", until: 700, code: 0, note: "no room in the credential's requests a minute" }],
    ["4", { reason: "breaker", until: null, code: 0, note: null }],
  ]);
  expect([rejected, health.left, pool.inFlight("5")]).toEqual([[], [], 0]);
});

test("shows what the strategy makes of each, and asks it only to look", async () => {
  const looks: boolean[] = [];
  const strategy: Strategy = {
    pick(_tier, open, _request, look) {
      looks.push(look);
      return open.at(-1) as (typeof open)[number];
    },
    judge: (tier) => tier.map((_, i) => ({ level: "ok", score: i, parts: { place: i / 2 }, reason: `place ${i}` })),
  };
  const { health, slots } = poolKit(offersOf(numbered(3)));
  const pool = credentialPool({ offers: offersOf(numbered(3)), health, slots, strategy, now: () => 0 });
  const { candidates } = await pool.preview({ model: "m", opId: "op", tokens: () => 0 });
  expect(candidates.map(({ candidate, judgement }) => [candidate.credential.name, judgement?.reason])).toEqual([
    ["3", "place 2"],
    ["2", "place 1"],
    ["1", "place 0"],
  ]);
  expect(looks).toEqual([true, true, true]);
});

// The prior product named the chosen account among its alternatives, and not the best of them, when it stayed where it was.
test("with `quota` on an account that it stays with, the others follow, each once and the best first", async () => {
  const { parts, accounts, clock } = choosing({ "1": { left: 60 }, "2": { left: 50 }, "3": { left: 40 } });
  const { health, slots } = poolKit(offersOf(numbered(3)));
  const pool = credentialPool({ offers: offersOf(numbered(3)), health, slots, strategy: quota(parts), now: () => 0 });
  const request: ModelRequest = { model: "m", opId: "op", tokens: () => 0 };
  (pool.choose(request).next() as Lease).release(SERVED);
  accounts["3"] = { left: 99 };
  clock.advance(1);
  const { candidates } = await pool.preview(request);
  expect(candidates.map(({ candidate }) => candidate.credential.name)).toEqual(["1", "3", "2"]);
  expect((pool.choose(request).next() as Lease).credential.name).toBe("1");
});

test("who is asked in the end, although a guess is against it, is shown as one who may be used", async () => {
  const { seeShare, facts, spent, clock, credentials } = spendKit(["a"]);
  const { pool } = poolKit(offersOf(credentials.all), false, quotaGate({ facts, spend: spent, clock }));
  seeShare(0.2);
  const { candidates, refusal } = await pool.preview({ model: "m", opId: "op", tokens: () => 400_000 });
  expect([candidates.map(({ rejection }) => rejection), refusal]).toEqual([[null], null]);
});

test("a model that nobody offers is refused as the choice refuses it", async () => {
  const { pool } = poolKit(offersOf([credential("a", { models: ["x"] })]));
  await expect(pool.preview({ model: "m", opId: "op", tokens: () => 0 })).rejects.toMatchObject({ code: "model_not_found" });
});
