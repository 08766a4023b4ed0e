// What would be chosen, and what is chosen: the same, in whatever state.
import { describe, expect, test } from "vitest";
import type { AttemptOutcome, Credential, Lease } from "../../src/core/credential.ts";
import { GuardError } from "../../src/core/errors.ts";
import { QUOTA_SOURCES, type QuotaFact } from "../../src/core/quota-fact.ts";
import { NO_USAGE, type Usage } from "../../src/core/usage.ts";
import { eventEmitter } from "../../src/core/events.ts";
import { silentLogger } from "../../src/core/logger.ts";
import type { StrategyCandidate } from "../../src/core/strategy.ts";
import { credentialSlots } from "../../src/credential-slots.ts";
import { holds } from "../../src/limits/holds.ts";
import { allowance } from "../../src/pool/allowance.ts";
import type { Candidate, Strategy } from "../../src/pool/candidate.ts";
import { choosingSettings } from "../../src/pool/choosing-settings.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import type { FallbackChains } from "../../src/pool/fallback-chains.ts";
import { credentialHealth, type CredentialHealth } from "../../src/pool/health.ts";
import { offers, type ModelEntry } from "../../src/pool/offers.ts";
import { credentialPool, type ModelRequest, type Pool } from "../../src/pool/pool.ts";
import type { Preview } from "../../src/pool/preview.ts";
import { quotaFacts, showsRoom } from "../../src/pool/quota-facts.ts";
import { quotaGate } from "../../src/pool/quota-gate.ts";
import { DEFAULT_THRESHOLDS } from "../../src/pool/quota-level.ts";
import { spend } from "../../src/pool/spend.ts";
import { fillFirst } from "../../src/pool/strategies/fill-first.ts";
import { hostStrategy } from "../../src/pool/strategies/host-strategy.ts";
import { leastCost } from "../../src/pool/strategies/least-cost.ts";
import { quota } from "../../src/pool/strategies/quota.ts";
import { roundRobin } from "../../src/pool/strategies/round-robin.ts";
import { sticky } from "../../src/pool/strategies/sticky.ts";
import type { StrategyParts } from "../../src/pool/strategies/strategy-parts.ts";
import { weighted } from "../../src/pool/strategies/weighted.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { seededRandom } from "../../src/testing/seeded-random.ts";
import { broke, countedStrikes, recordsOn, refused } from "./health-kit.ts";
import { block, credential, NEVER_SENT, numbered, offersOf, poolKit, SERVED } from "./pool-kit.ts";
import { spendKit } from "./spend-kit.ts";
import { choosing } from "./strategies/choosing-kit.ts";

const MODELS = ["m", "n", "p"] as const;
const ASKED = ["m", "m", "m", "n", "best", "alias"] as const;
const WORLDS = 500;
const STEPS = 20;

interface World {
  readonly pool: Pool;
  readonly health: CredentialHealth;
  readonly clock: TestClock;
  readonly isOrdered: boolean;
  readonly credentials: readonly Credential[];
  /** Somebody says what is left of an account. */
  readonly tell: () => void;
  readonly request: (model: string) => ModelRequest;
}

const WINDOWS_MS = [60_000, 5 * 3_600_000, 7 * 24 * 3_600_000] as const;

/** What somebody says of an account's quota: new or old, much or nothing, of a minute or a week, with numbers or without, of one model or of all. */
function randomFact(credentials: readonly Credential[], clock: TestClock, random: () => number): QuotaFact {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const windowMs = pick(WINDOWS_MS);
  const models = pick([undefined, undefined, ["m"], ["p*"]]);
  const source = pick(QUOTA_SOURCES);
  return {
    credential: pick(credentials).name,
    group: `${windowMs}${models?.join() ?? ""}`,
    remainingRatio: source === "error" ? 0 : pick([0, 0.01, 0.04, 0.07, 0.12, random(), random(), random(), 1]),
    resetsAt: pick([null, clock.now() + Math.floor(random() * windowMs)]),
    observedAt: clock.now() - pick([0, 0, 0, 5_000, 20 * 60_000]),
    source,
    ...(models ? { models } : {}),
    ...(random() < 0.7 ? { windowMs } : {}),
    ...pick([{}, { limit: 500, unit: "tokens" }, { limit: 20, unit: "requests" }, { limit: 200, unit: "output_tokens" }] as const),
  };
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
      ...(random() < 0.3 ? { models: [pick(MODELS), pick(MODELS)] } : {}),
    }),
  );
  const models: ModelEntry[] = random() < 0.3 ? [{ name: "m", rpm: 2, tpm: -1 }] : [];
  const chains = pick<FallbackChains>([
    {},
    { m: ["n", "p"] },
    { m: ["c0", "p*", "n"], best: ["m", "p"] },
    { c0: ["c2", "c1", "n"], openai: ["p", "c3"], best: ["p", "n", "m"] },
  ]);
  const set = credentialSet(credentials);
  const offered = offers({ credentials: set, models, aliases: { alias: "m" }, chains });
  const health = credentialHealth({
    clock,
    logger: silentLogger,
    records: recordsOn(clock),
    strikes: countedStrikes(clock),
    events: eventEmitter(silentLogger),
    fail2ban: { maxAttempts: pick([1, 3]), windowMs: 600_000, banMs: pick([null, 60_000]), codes: [401, 500], rules: [] },
    breaker: { failureThreshold: 2, openForMs: 30_000, halfOpen: 1 },
  });
  const quotas = quotaFacts({
    records: recordsOn(clock),
    clock,
    logger: silentLogger,
    changed: (name) => health.quotaSeen(name, (model, since) => showsRoom(quotas.of(name), model, since)),
  });
  const spent = spend({ facts: quotas, credentials: set, clock, ttlMs: pick([30_000, 300_000]) });
  const gate = quotaGate({ facts: quotas, spend: spent, clock });
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
  const settings = choosingSettings({
    thresholds: pick([DEFAULT_THRESHOLDS, { warning: 20, switch: 40, critical: 60, minSafe: 10 }]),
    antiFlapping: { minDwellTimeMs: pick([0, 30_000, 300_000]), cooldownAfterSwitchMs: pick([0, 60_000]), hysteresisMargin: pick([0, 5]) },
    policy: pick(["balanced", "cost", "safety"]),
    policies: [],
    ignoreEstimated: random() < 0.5,
  });
  const left = allowance({ facts: quotas, spend: spent, clock, ignoreEstimated: () => settings.current.ignoreEstimated });
  const dearest = random();
  const parts: StrategyParts = {
    allowance: left,
    settings,
    clock,
    costUsd: ({ key }, { inputTokens }) => (key.startsWith("c1") ? null : (dearest * inputTokens * key.length * (key.charCodeAt(1) % 3)) / 1_000),
    preferred: offered.preferred,
  };
  const strategies: readonly [() => Strategy, boolean][] = [
    [roundRobin, true],
    [fillFirst, true],
    [weighted, false],
    [() => ({ ...fillFirst(), spansPriorities: true }), true],
    [() => leastCost(parts), false],
    [() => quota(parts), false],
    [() => quota(parts), false],
    [
      () =>
        hostStrategy({
          // Somebody's own rule, who has no opinion half of the time.
          fn: (open: readonly StrategyCandidate[]) =>
            open.length % 2 === 0 ? null : (open.toSorted((a, b) => (a.remainingRatio ?? 0) - (b.remainingRatio ?? 0)).at(-1) ?? null),
          inFlight: () => 0,
          remainingRatio: (candidate) => left.of(candidate)?.remainingRatio ?? null,
          costUsd: parts.costUsd,
          failed: () => undefined,
        }),
      false,
    ],
  ];
  const [make, isOrdered] = pick(strategies);
  const isSticky = random() < 0.4;
  const mayStay = (candidate: Candidate): boolean => (left.of(candidate)?.remainingRatio ?? 1) > 0.05;
  const strategy = isSticky ? sticky({ strategy: make(), ttlMs: 60_000, now: clock.monotonic, mayStay }) : make();
  let count = 0;
  return {
    pool: credentialPool({ offers: offered, health, slots, strategy, gate, now: clock.now }),
    health,
    clock,
    // What models on the same accounts share, such as a cursor, moves with each turn; and so does a session's home.
    isOrdered: isOrdered && !isSticky && Object.keys(chains).length === 0,
    credentials,
    tell: () => quotas.report(randomFact(credentials, clock, random)),
    request(model) {
      count += 1;
      const usage: Usage = { ...NO_USAGE, inputTokens: pick([10, 30, 200]), outputTokens: pick([5, 50]) };
      const session = pick([null, "s", "t"]);
      const allowed = pick([null, null, null, ["m", "x"]]);
      return {
        model,
        opId: `op${count}`,
        tokens: () => usage.inputTokens + usage.outputTokens,
        usage: () => usage,
        session: () => session,
        costed: { offer: undefined, principal: { models: allowed } },
        withoutFallbacks: random() < 0.1,
      };
    },
  };
}

const OUTCOMES: readonly AttemptOutcome[] = [SERVED, SERVED, SERVED, refused(401), refused(429), refused(500), broke("upstream_timeout")];

function disturb({ health, clock, credentials, tell }: World, random: () => number): void {
  if (random() < 0.5) tell();
  const name = credentials[Math.floor(random() * credentials.length)]?.name as string;
  const chance = random();
  if (chance < 0.1) health.pauses.set(name, { reason: "somebody says so", since: clock.now(), until: random() < 0.5 ? null : clock.now() + 5_000 });
  else if (chance < 0.2) health.pauses.end(name);
  else if (chance < 0.25) health.lift("banned", name, null);
  else if (chance < 0.6) clock.advance(Math.floor(random() * 20_000));
  else if (chance < 0.65) clock.advance(Math.floor(random() * 40 * 60_000));
}

const told = ({ code, status, message, retryAfterMs, headers }: GuardError): unknown => ({ code, status, message, retryAfterMs, headers });
const namesOf = ({ candidates }: Preview): string[] => candidates.filter(({ rejection }) => !rejection).map(({ candidate }) => candidate.key);

/** What a client that takes one after the other would get: each is given back before the next one is asked for, as at a failover. */
function chosen(pool: Pool, request: ModelRequest): { readonly leases: readonly Lease[]; readonly refusal: GuardError | null } {
  const leases: Lease[] = [];
  try {
    const choice = pool.choose(request);
    for (let lease = choice.next() as Lease | null; lease; lease = choice.next() as Lease | null) {
      leases.push(lease);
      lease.release(NEVER_SENT);
    }
    return { leases, refusal: null };
  } catch (error) {
    if (!GuardError.is(error)) throw error;
    return { leases, refusal: error };
  }
}

/** What somebody gets who asks for one after the other, or for the first one. */
interface Decided {
  readonly names: readonly string[];
  readonly refusal: unknown;
}

/** One world from its beginning; `ask` is called before each decision, `decided` behind it. */
async function live(
  seed: number,
  ask: (world: World, request: ModelRequest) => Promise<void>,
  decided: (decision: Decided, isWhole: boolean, step: number) => void,
): Promise<void> {
  const random = seededRandom(seed);
  const world = worldOf(random);
  const open: Lease[] = [];
  for (let step = 0; step < STEPS; step += 1) {
    disturb(world, random);
    const request = world.request(ASKED[Math.floor(random() * ASKED.length)] as string);
    // Every third time all of them are taken, to see the order.
    const isWhole = random() < 0.3;
    await ask(world, request);
    const { leases, refusal } = isWhole ? chosen(world.pool, request) : first(world.pool, request);
    const names = leases.map(({ credential: { name }, name: model }) => `${name}/${model}`);
    decided({ names, refusal: refusal && told(refusal) }, isWhole, step);
    for (const lease of isWhole ? [] : leases) {
      if (random() < 0.2) open.push(lease);
      else lease.release(OUTCOMES[Math.floor(random() * OUTCOMES.length)] as AttemptOutcome);
    }
    if (random() < 0.3) open.shift()?.release(SERVED);
  }
}

describe("in 10,000 random states", () => {
  test("the preview and the choice agree, and all goes on as if nobody had asked", async () => {
    const seen = new Map<string, number>();
    const note = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
    for (let seed = 1; seed <= WORLDS; seed += 1) {
      const unasked: Decided[] = [];
      await live(
        seed,
        async () => undefined,
        (decision) => unasked.push(decision),
      );
      let preview: Preview | GuardError;
      let isOrdered = false;
      const previewed = ({ pool }: World, request: ModelRequest): Promise<Preview | GuardError> =>
        pool.preview(request).catch((error: unknown) => error as GuardError);
      await live(
        seed,
        async (world, request) => {
          ({ isOrdered } = world);
          preview = await previewed(world, request);
          // Somebody else's question does not matter either.
          await previewed(world, { ...request, model: "n", session: () => "t", costed: { offer: undefined } });
          expect(await previewed(world, request), `seed ${seed}`).toEqual(preview);
        },
        ({ names, refusal }, isWhole, step) => {
          const at = `seed ${seed}, step ${step}`;
          expect({ names, refusal }, at).toEqual(unasked[step]);
          if (GuardError.is(preview)) {
            note(preview.code);
            expect({ names, refusal }, at).toEqual({ names: [], refusal: told(preview) });
            return;
          }
          const expected = namesOf(preview);
          expect(refusal, at).toEqual(preview.refusal && told(preview.refusal));
          if (isWhole && isOrdered) expect(names, at).toEqual(expected);
          else if (isWhole) expect([names[0], names.toSorted()], at).toEqual([expected[0], expected.toSorted()]);
          else expect(names[0], at).toBe(expected[0]);
          const [best] = preview.candidates;
          note(preview.refusal?.code ?? (best?.standsInFor === null ? "served" : "served by a fallback"));
          if (best?.judgement) note(best.judgement.level);
          for (const { rejection } of preview.candidates) if (rejection) note(rejection.reason);
        },
      );
    }
    // The states were worth it.
    const states = ["served", "served by a fallback", "all_credentials_limited", "no_credential", "model_not_found", "model_not_allowed"];
    const reasons = ["cooling", "breaker", "banned", "paused", "limited", "exhausted", "unaffordable"];
    for (const what of [...states, ...reasons, "ok", "high", "critical"]) expect(seen.get(what) ?? 0, what).toBeGreaterThan(30);
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
  const looks: unknown[] = [];
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
  expect(looks).toEqual([new Map(), new Map(), new Map()]);
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
