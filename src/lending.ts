/** Everything about lending credentials that needs a store: health, limits, choice, and how operators see it. */
import type { BlockView, CredentialView, ReservationView } from "./core/admin.ts";
import type { Services } from "./core/context.ts";
import type { Credential } from "./core/credential.ts";
import { nanoToUsd } from "./core/money.ts";
import type { Store } from "./core/store.ts";
import type { StrategyFunction } from "./core/strategy.ts";
import { hasSameProof, liftReplaced } from "./credential-marks.ts";
import { credentialSlots } from "./credential-slots.ts";
import { credentialViews } from "./credential-views.ts";
import type { Holds } from "./limits/holds.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { allowance, type Allowance } from "./pool/allowance.ts";
import { expiry, type Expiry } from "./pool/expiry.ts";
import { credentialHealth } from "./pool/health.ts";
import type { Offers } from "./pool/offers.ts";
import type { Pauses } from "./pool/pauses.ts";
import { credentialPool, type Pool } from "./pool/pool.ts";
import { choosingSettings, type ChoosingSettings } from "./pool/choosing-settings.ts";
import { quotaFacts, showsRoom, type QuotaFacts } from "./pool/quota-facts.ts";
import type { Candidate } from "./pool/candidate.ts";
import { quotaLevel } from "./pool/quota-level.ts";
import { quotaReader, type QuotaReader } from "./quota-reader.ts";
import { quotaGate } from "./pool/quota-gate.ts";
import { spend } from "./pool/spend.ts";
import { hostStrategy } from "./pool/strategies/host-strategy.ts";
import { lateStrategy } from "./pool/strategies/late-strategy.ts";
import type { StrategyParts } from "./pool/strategies/strategy-parts.ts";
import { sticky } from "./pool/strategies/sticky.ts";
import { reservationViews } from "./reservation-views.ts";

/** A strategy of a host's that fails does so at each request: it is counted each time, and said once in a while. */
const COMPLAINT_MS = 60_000;

export interface Lending {
  readonly pool: Pool;
  readonly pauses: Pick<Pauses, "get" | "set" | "end">;
  readonly quotas: QuotaFacts;
  /** Takes over what answers tell of quotas, whoever asked. */
  readonly readQuotas: QuotaReader;
  /** Thresholds and policy, which may be changed while it runs. */
  readonly choosing: ChoosingSettings;
  readonly expiry: Expiry;
  /** What is left for a candidate, net of what is lent. */
  readonly allowance: Allowance;
  credentials(): readonly CredentialView[];
  reservations(): readonly ReservationView[];
  bans(): readonly BlockView[];
  /** Cooldowns and open circuit breakers. */
  cooldowns(): readonly BlockView[];
  lift(reason: "banned" | "cooling", credential: string, model: string | null): number;
  /** Takes somebody's strategy into use; `name` is what it is counted under. */
  chooseBy(name: string, fn: StrategyFunction): void;
  /** Calls `listener` for each token that a provider no longer takes; the last one given counts. */
  onUnauthorized(listener: (credential: Credential) => void): void;
  close(): void;
}

export interface LendingParts {
  readonly options: ResolvedOptions;
  readonly services: Services;
  readonly store: Store;
  /** Takes over while the store is away. */
  readonly local: Store;
  /** How many processes share the limits now. */
  readonly nodes: () => number;
  readonly holds: Holds;
  readonly offers: Offers;
  readonly metrics: Metrics | null;
}

export async function lending({ options, services, store, local, nodes, holds, offers, metrics }: LendingParts): Promise<Lending> {
  const { clock, logger, events, pricer } = services;
  const { models, fail2ban, resilience, router, server } = options;
  const { credentials } = offers;
  let unauthorized: (credential: Credential) => void = () => undefined;
  const expired = expiry({ credentials, clock });
  const quotas = quotaFacts({
    records: store.records,
    clock,
    logger,
    changed: (name) => health.quotaSeen(name, (model, since) => showsRoom(quotas.of(name), model, since)),
  });
  const spent = spend({ facts: quotas, credentials, clock, ttlMs: router.reservation.ttlMs });
  const gate = quotaGate({ facts: quotas, spend: spent, clock });
  const choosing = choosingSettings(router.choosing);
  const left = allowance({ facts: quotas, spend: spent, clock, ignoreEstimated: () => choosing.current.ignoreEstimated });
  const health = credentialHealth({
    clock,
    logger,
    events,
    records: store.records,
    strikes: store.strikes,
    fail2ban,
    breaker: resilience.circuitBreaker,
    expiry: expired,
    onBan: () => metrics?.ban("began"),
    onLift: () => metrics?.ban("ended"),
    onUnauthorized: (credential) => unauthorized(credential),
    isCurrent(credential) {
      const now = credentials.find(credential.name);
      return now !== undefined && hasSameProof(now, credential);
    },
  });
  // What is known of quotas may end cooldowns.
  await health.load();
  await quotas.load();
  await liftReplaced({ credentials, records: store.records, health, logger });
  const slots = credentialSlots({
    store: store.limits,
    local: local.limits,
    nodes,
    holds,
    clock,
    logger,
    models,
    defaultModelRpm: server.defaultModelsRpm,
    degraded: () => metrics?.storeError("reserve", "local"),
  });
  const costUsd: StrategyParts["costUsd"] = ({ credential, model, name: known }, usage) => {
    const cost = pricer.cost(known, credential.name, usage) ?? pricer.cost(model, credential.name, usage);
    return cost && nanoToUsd(cost.rawNanoUsd);
  };
  const late = lateStrategy(router.strategy, { allowance: left, settings: choosing, clock, costUsd, preferred: offers.preferred });
  const mayStay = (candidate: Candidate): boolean => {
    const standing = left.isQuiet ? null : left.of(candidate);
    return standing === null || quotaLevel(standing.remainingRatio, null, choosing.current.thresholds) !== "critical";
  };
  const strategy = router.sticky === null ? late : sticky({ strategy: late, ttlMs: router.sticky.ttlMs, now: clock.monotonic, mayStay });
  const pool = credentialPool({
    offers,
    health,
    slots,
    strategy,
    gate,
    now: clock.now,
    ...(metrics ? { rejected: metrics.selectionRejected } : {}),
  });
  const reservations = reservationViews({ credentials, quotas, spent, now: clock.now });
  const views = credentialViews({ offers, models, pool, health, slots, gate, quotasOf: reservations.quotasOf, choosing });

  function chooseBy(name: string, fn: StrategyFunction): void {
    let complainedAt = -Infinity;
    late.use(
      hostStrategy({
        fn,
        inFlight: pool.inFlight,
        remainingRatio: (candidate) => left.of(candidate)?.remainingRatio ?? null,
        costUsd,
        failed(error) {
          metrics?.strategyFailed(name);
          const now = clock.monotonic();
          if (now - complainedAt < COMPLAINT_MS) return;
          complainedAt = now;
          logger.warn({ err: error, strategy: name }, "a strategy of the host's failed; credentials are taken in turn until it answers");
        },
      }),
    );
  }
  if (typeof router.strategy === "function") chooseBy("router", router.strategy);

  /** Whether it still is the account that what is stored was held against. One after the other, so that the last key is the one that is remembered. */
  let lifting: Promise<void> = Promise.resolve();
  const unwatch = credentials.onChange((name, before, now) => {
    slots.changed(name, before, now);
    if (!now) health.forget(name);
    else {
      metrics?.knowModels(now.models ?? []);
      if (!before || !hasSameProof(before, now)) {
        lifting = lifting.then(() => liftReplaced({ credentials: [now], records: store.records, health, logger }));
      }
    }
  });

  const shown = new Set<string>();
  metrics?.onScrape(() => {
    const blocks = health.blocks();
    const breakers = new Map(health.breakers().map(({ credential, state }) => [credential, state]));
    const isKeptOut = (name: string, reason: string): boolean => blocks.some((block) => block.credential === name && block.reason === reason);
    const gone = new Set(shown);
    for (const { name, state, quotas: facts } of views.all()) {
      shown.add(name);
      gone.delete(name);
      metrics.credential(name, {
        ready: state === "ready",
        banned: isKeptOut(name, "banned"),
        cooling: state === "cooling" || isKeptOut(name, "cooling"),
        limited: state === "limited",
        paused: state === "paused",
        breaker: breakers.get(name) ?? "closed",
      });
      metrics.quotas(name, facts);
    }
    for (const name of gone) {
      shown.delete(name);
      metrics.credential(name, null);
      metrics.quotas(name, []);
    }
  });

  return {
    pool,
    pauses: health.pauses,
    quotas,
    readQuotas: quotaReader(quotas, clock),
    choosing,
    expiry: expired,
    allowance: left,
    credentials: views.all,
    reservations: reservations.all,
    bans: () => views.blocks("banned"),
    cooldowns: () => views.blocks("cooling"),
    lift: health.lift,
    chooseBy,
    onUnauthorized: (listener) => void (unauthorized = listener),
    close() {
      unwatch();
      health.close();
      quotas.close();
    },
  };
}
