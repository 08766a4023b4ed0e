import type { Context, Recorder, Reservation } from "./core/context.ts";
import type { Lease } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { LedgerIntent, LedgerRow, LedgerState } from "./core/ledger.ts";
import { nanoToUsd } from "./core/money.ts";
import type { Charge, Ledger, Unit } from "./core/store.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { BudgetWatch } from "./middleware/budgets.ts";

/** Writes what happened to each request: its ledger row, its metrics, its events. The only place that knows all three. */
export function recorder(ledger: Ledger, metrics: Metrics | null): Recorder {
  return {
    intent(ctx, lease) {
      if (ctx.attempts === 1) metrics?.overhead("admission", (ctx.services.clock.monotonic() - ctx.startedAt) / 1_000);
      return ledger.intent(intentRow(ctx, lease));
    },
    attempt(ctx, lease, status, code) {
      metrics?.attempt(lease.credential.name, lease.model, status);
      const { events } = ctx.services;
      if (!events.has("attempt")) return;
      events.emit("attempt", { requestId: ctx.requestId, credential: lease.credential.name, model: lease.model, status, code });
    },
    close(ctx) {
      // Listing models costs nothing and is nobody's bill.
      if (ctx.attempts === 0 && !ctx.reservations && !ctx.failure) return;
      const row = closedRow(ctx);
      // Strangers are counted, not written down: their number is theirs to choose.
      if (row.code !== "unauthenticated" && row.code !== "auth_conflict") ledger.close(row);
      metrics?.request(row);
      const { events } = ctx.services;
      if (!events.has("request")) return;
      events.emit("request", {
        requestId: ctx.requestId,
        scopes: row.scopes,
        model: row.model,
        servedModel: row.servedModel,
        credential: row.credential,
        attempts: row.attempts,
        usage: row.usage,
        costUsd: row.billedNanoUsd === null ? null : nanoToUsd(row.billedNanoUsd),
        code: row.code,
        status: row.status,
      });
    },
  };
}

/** Tells metrics and listeners what budgets decided. */
export function budgetWatch(metrics: Metrics | null): BudgetWatch {
  /** The lowest standing of each limit since the last scrape: a gauge of thousands of users can only show who is worst off. */
  const lowest = new Map<string, { unit: Unit; left: number }>();
  metrics?.onScrape(() => {
    for (const [limit, { unit, left }] of lowest) metrics.bucketRemaining(limit, unit, left);
    lowest.clear();
  });

  function reserved({ charges, limits }: Reservation, sign: 1 | -1): void {
    for (let i = 0; i < charges.length; i += 1) {
      const { unit, amount } = charges[i] as Charge;
      metrics?.reserved(limits[i]?.name ?? "", unit, sign * amount);
    }
  }

  return {
    held(reservation, standings) {
      if (!metrics) return;
      reserved(reservation, 1);
      for (let i = 0; i < reservation.limits.length; i += 1) {
        const { name } = reservation.limits[i] as { name: string };
        const left = standings[i]?.available;
        metrics.decision(name, "allowed");
        const known = lowest.get(name);
        if (left !== undefined && (!known || left < known.left)) lowest.set(name, { unit: (reservation.charges[i] as Charge).unit, left });
      }
    },
    short: (limit, outcome) => metrics?.decision(limit, outcome),
    storeFailed: (mode) => metrics?.storeError("reserve", mode),
    settled(ctx, reservation, ending) {
      if (metrics) reserved(reservation, -1);
      if (typeof ending === "string") return;
      const { events } = ctx.services;
      for (let i = 0; i < reservation.charges.length; i += 1) {
        const { unit, amount } = reservation.charges[i] as Charge;
        const actual = ending[unit];
        if (actual === undefined || actual <= amount) continue;
        // What goes beyond the hold is debt: the one way a budget can be passed, so it is always told.
        const limit = reservation.limits[i]?.name ?? "";
        metrics?.debt(limit, unit, actual - amount);
        if (events.has("debt")) events.emit("debt", { requestId: ctx.requestId, limit, unit, amount: actual - amount });
      }
      if (events.has("settled")) events.emit("settled", { requestId: ctx.requestId, scopes: ctx.scopes ?? NO_SCOPES, amounts: ending, provenance: ctx.provenance });
    },
  };
}

const NO_SCOPES = Object.freeze({});
const NOTHING_HELD = Object.freeze({});

function intentRow(ctx: Context, lease: Lease | undefined): LedgerIntent {
  const call = ctx.knownCall;
  const { principal, services } = ctx;
  return {
    id: ctx.id,
    requestId: ctx.requestId,
    at: services.clock.now(),
    key: principal && principal.kind !== "host" ? principal.name : null,
    scopes: ctx.scopes ?? NO_SCOPES,
    route: ctx.route,
    dialect: call?.dialect ?? null,
    model: call?.model ?? null,
    servedModel: lease?.model ?? null,
    provider: lease?.credential.provider ?? null,
    credential: lease?.credential.name ?? null,
    stream: call?.stream ?? false,
    held: heldBy(ctx),
  };
}

function heldBy(ctx: Context): LedgerIntent["held"] {
  const { reservations } = ctx;
  if (!reservations) return NOTHING_HELD;
  return reservations.length === 1 ? (reservations[0] as { held: LedgerIntent["held"] }).held : Object.assign({}, ...reservations.map(({ held }) => held));
}

/** A request that never reached a provider was refused; what it was charged tells the rest. */
function stateOf(ctx: Context): LedgerState {
  const { charged } = ctx;
  if (charged?.kind === "usage") return "settled";
  if (charged?.kind === "nothing") return ctx.attempts > 0 ? "released" : "refused";
  if (charged) return "estimated";
  return ctx.failure || !ctx.reservations ? "refused" : "estimated";
}

function closedRow(ctx: Context): LedgerRow {
  const { charged, outcome, services } = ctx;
  const now = services.clock.monotonic();
  const metered = charged?.kind === "usage" ? charged : null;
  const state = stateOf(ctx);
  const held = heldBy(ctx).usd ?? null;
  return {
    ...intentRow(ctx, ctx.lease),
    // The row is dated by its start.
    at: Math.round(services.clock.now() - (now - ctx.startedAt)),
    state,
    status: outcome?.status ?? 0,
    code: outcome?.code ?? null,
    latencyMs: now - ctx.startedAt,
    firstByteMs: ctx.firstByteAt === undefined ? null : ctx.firstByteAt - ctx.startedAt,
    attempts: ctx.attempts,
    usage: metered?.usage ?? null,
    provenance: metered?.provenance ?? (state === "estimated" ? "estimated" : "void"),
    rawNanoUsd: metered ? metered.rawNanoUsd : state === "estimated" ? held : 0,
    billedNanoUsd: metered ? metered.billedNanoUsd : state === "estimated" ? held : 0,
    limit: GuardError.is(outcome?.error) ? (outcome.error.limit ?? null) : null,
  };
}
