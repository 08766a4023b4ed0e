/** Everything about lending credentials that needs a store: health, limits, choice, and how operators see it. */
import type { BlockView, CredentialView } from "./core/admin.ts";
import type { Services } from "./core/context.ts";
import type { Store } from "./core/store.ts";
import { liftReplaced } from "./credential-marks.ts";
import { credentialSlots } from "./credential-slots.ts";
import { credentialViews } from "./credential-views.ts";
import type { Holds } from "./limits/holds.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { credentialHealth } from "./pool/health.ts";
import type { Offers } from "./pool/offers.ts";
import { credentialPool, type Pool } from "./pool/pool.ts";
import { strategyOf } from "./pool/strategies/index.ts";

export interface Lending {
  readonly pool: Pool;
  credentials(): readonly CredentialView[];
  bans(): readonly BlockView[];
  /** Cooldowns and open circuit breakers. */
  cooldowns(): readonly BlockView[];
  lift(reason: "banned" | "cooling", credential: string, model: string | null): number;
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
  const { clock, logger, events } = services;
  const { models, fail2ban, resilience, router, server } = options;
  const health = credentialHealth({
    clock,
    logger,
    events,
    records: store.records,
    strikes: store.strikes,
    fail2ban,
    breaker: resilience.circuitBreaker,
    onBan: () => metrics?.ban("began"),
    onLift: () => metrics?.ban("ended"),
  });
  await health.load();
  await liftReplaced({ credentials: offers.credentials, records: store.records, health, logger });
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
  const pool = credentialPool({
    offers,
    health,
    slots,
    strategy: strategyOf(router.strategy),
    now: clock.now,
    ...(metrics ? { rejected: metrics.selectionRejected } : {}),
  });
  const views = credentialViews({ offers, models, pool, health, slots });

  metrics?.onScrape(() => {
    const blocks = health.blocks();
    const breakers = new Map(health.breakers().map(({ credential, state }) => [credential, state]));
    const isKeptOut = (name: string, reason: string): boolean => blocks.some((block) => block.credential === name && block.reason === reason);
    for (const { name, state } of views.all()) {
      metrics.credential(name, {
        ready: state === "ready",
        banned: isKeptOut(name, "banned"),
        cooling: isKeptOut(name, "cooling"),
        limited: state === "limited",
        breaker: breakers.get(name) ?? "closed",
      });
    }
  });

  return {
    pool,
    credentials: views.all,
    bans: () => views.blocks("banned"),
    cooldowns: () => views.blocks("cooling"),
    lift: health.lift,
    close: () => health.close(),
  };
}
