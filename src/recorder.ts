import type { Context, Recorder, Reservation } from "./core/context.ts";
import type { Lease } from "./core/credential.ts";
import type { LedgerRow, LedgerState } from "./core/ledger.ts";
import { nanoToUsd } from "./core/money.ts";
import { UNITS, type Amounts, type Charge, type Ledger, type Unit } from "./core/store.ts";
import type { LimitCells, Metrics } from "./metering/metrics.ts";
import type { BudgetWatch } from "./middleware/budgets.ts";
import type { ShadowReports } from "./shadow-reports.ts";

/** Writes what happened to each request: its ledger row, its metrics, its events. The only place that knows all three. `closing` sees each row before it is written. */
export function recorder(ledger: Ledger, metrics: Metrics | null, closing: (row: LedgerRow) => void): Recorder {
  return {
    intent(ctx, lease) {
      if (ctx.attempts === 1) metrics?.overhead("admission", (ctx.services.clock.monotonic() - ctx.startedAt) / 1_000);
      return ledger.intent((ctx.row = openRow(ctx, lease)));
    },
    attempt(ctx, lease, status, code) {
      // Only an attempt that is followed by another one is more than the row itself tells.
      if (code !== null) (ctx.failedAttempts ??= []).push({ credential: lease.credential.name, model: lease.model, status, code });
      metrics?.attempt(lease.credential.name, lease.model, status);
      const { events } = ctx.services;
      if (!events.has("attempt")) return;
      events.emit("attempt", { requestId: ctx.requestId, credential: lease.credential.name, model: lease.model, status, code });
    },
    close(ctx) {
      // Listing models costs nothing and is nobody's bill. What was metered is somebody's, also where no limit counts it.
      const isUsed = ctx.attempts > 0 || ctx.reservations !== undefined || ctx.charged?.kind === "usage";
      if (!isUsed && !ctx.failure && ctx.replayOf === undefined) return;
      const row = closeRow(ctx);
      // Strangers are counted, not written down: their number is theirs to choose. A request whose answer is given again has its row.
      if (row.code !== "unauthenticated" && row.code !== "auth_conflict" && ctx.replayOf === undefined) {
        closing(row);
        ledger.close(row);
      }
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
        ...(ctx.replayOf === undefined ? {} : { replayOf: ctx.replayOf }),
        ...(ctx.tag === null ? {} : { tag: ctx.tag }),
      });
    },
  };
}

/** Tells metrics and listeners what budgets decided. */
export function budgetWatch(metrics: Metrics | null, reports: Pick<ShadowReports, "note">): BudgetWatch {
  const cells = new Map<string, LimitCells>();
  function cellsOf(limit: string, unit: Unit): LimitCells {
    let found = cells.get(limit);
    if (!found) cells.set(limit, (found = (metrics as Metrics).limit(limit, unit)));
    return found;
  }

  return {
    held(reservation, standings) {
      if (!metrics) return;
      for (let i = 0; i < reservation.charges.length; i += 1) {
        const { unit, amount } = reservation.charges[i] as Charge;
        const limit = cellsOf((reservation.limits[i] as { name: string }).name, unit);
        limit.allowed.add(1);
        limit.reserved.add(amount);
        const left = standings[i]?.available;
        if (left !== undefined && left < limit.lowest) limit.lowest = left;
      }
    },
    refused: (limit) => metrics?.decision(limit, "refused"),
    wouldRefuse(planned, short) {
      metrics?.decision(planned.name, "would_refuse");
      reports.note(planned.name, planned.label, short);
    },
    storeFailed: (mode) => metrics?.storeError("reserve", mode),
    ended(reservation) {
      if (!metrics) return;
      for (let i = 0; i < reservation.charges.length; i += 1) {
        const { unit, amount } = reservation.charges[i] as Charge;
        cellsOf((reservation.limits[i] as { name: string }).name, unit).reserved.add(-amount);
      }
    },
    settled(ctx, reservation, ending) {
      if (typeof ending === "string") return;
      const { events } = ctx.services;
      for (let i = 0; i < reservation.charges.length; i += 1) {
        const { unit, amount } = reservation.charges[i] as Charge;
        const actual = ending[unit];
        if (actual === undefined || actual <= amount) continue;
        // What goes beyond the hold is debt: the one way a budget can be passed, so it is always told.
        const limit = reservation.limits[i]?.name ?? "";
        metrics?.debt(limit, unit, actual - amount);
        if (events.has("debt")) events.emit("debt", { requestId: ctx.requestId, limit, unit, amount: told(unit, actual - amount) });
      }
      if (events.has("settled"))
        events.emit("settled", {
          requestId: ctx.requestId,
          scopes: ctx.scopes ?? NO_SCOPES,
          amounts: toldAmounts(ending),
          provenance: ctx.provenance,
        });
    },
  };
}

/** Money is nano-USD inside and USD outside. */
const told = (unit: Unit, amount: number): number => (unit === "usd" ? nanoToUsd(amount) : amount);

const toldAmounts = (amounts: Amounts): Amounts => (amounts.usd === undefined ? amounts : { ...amounts, usd: nanoToUsd(amounts.usd) });

const NO_SCOPES = Object.freeze({});
const NOTHING_HELD = Object.freeze({});

type OpenRow = { -readonly [field in keyof LedgerRow]: LedgerRow[field] };

/** One object per request: begun as the intent, completed by {@link closeRow}. Rows are many and long, so nothing is copied. */
function openRow(ctx: Context, lease: Lease | undefined): OpenRow {
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
    model: call?.model ?? ctx.model,
    // What is passed through may be lent under the name of an operation.
    servedModel: call || ctx.model !== null ? (lease?.model ?? null) : null,
    provider: lease?.credential.provider ?? null,
    credential: lease?.credential.name ?? null,
    stream: call?.stream ?? false,
    tag: ctx.tag,
    held: heldBy(ctx),
    state: "intent",
    status: 0,
    code: null,
    latencyMs: 0,
    firstByteMs: null,
    attempts: 0,
    tried: null,
    usage: null,
    provenance: "void",
    rawNanoUsd: null,
    billedNanoUsd: null,
    limit: null,
    priceVersion: null,
  };
}

const heldBy = (ctx: Context): Amounts => largest(ctx.reservations, "held");

/** What stays charged when nobody says what was used. */
const chargedAsHeld = (ctx: Context, row: LedgerRow): Amounts => (ctx.charged?.kind === "input" ? largest(ctx.reservations, "input") : row.held);

const isServed = (reservation: Reservation): boolean => reservation.isServed === true;

function largest(reservations: readonly Reservation[] | undefined, what: "held" | "input"): Amounts {
  if (!reservations) return NOTHING_HELD;
  if (reservations.length === 1) return (reservations[0] as Reservation)[what];
  const most: { [unit in Unit]?: number } = {};
  for (const { [what]: amounts } of reservations)
    for (const unit of UNITS) if (amounts[unit] !== undefined) most[unit] = Math.max(most[unit] ?? 0, amounts[unit]);
  return most;
}

/** A request that never reached a provider was refused; what it was charged tells the rest. */
function stateOf(ctx: Context): LedgerState {
  const { charged } = ctx;
  if (charged?.kind === "usage") return "settled";
  if (charged?.kind === "nothing") return ctx.attempts > 0 || !ctx.failure ? "released" : "refused";
  if (charged) return "estimated";
  return ctx.failure || !ctx.reservations ? "refused" : "estimated";
}

function closeRow(ctx: Context): LedgerRow {
  const row: OpenRow = ctx.row ?? openRow(ctx, ctx.lease);
  const { charged, outcome, startedAt, firstByteAt } = ctx;
  const metered = charged?.kind === "usage" ? charged : null;
  row.state = stateOf(ctx);
  // Of what calls in this process are charged in its place, no estimate stands.
  if (row.state === "estimated" && ctx.reservations?.some(isServed))
    row.held = largest(
      ctx.reservations.filter((each) => !isServed(each)),
      "held",
    );
  const held = row.state === "estimated" ? (chargedAsHeld(ctx, row).usd ?? null) : 0;
  row.status = outcome?.status ?? 0;
  row.code = outcome?.code ?? null;
  row.latencyMs = ctx.services.clock.monotonic() - startedAt;
  row.firstByteMs = firstByteAt === undefined ? null : firstByteAt - startedAt;
  row.attempts = ctx.attempts;
  row.tried = ctx.attempts > 1 && ctx.failedAttempts ? ctx.failedAttempts.slice(0, ctx.attempts - 1) : null;
  row.usage = metered?.usage ?? null;
  row.provenance = metered?.provenance ?? (row.state === "estimated" ? "estimated" : "void");
  row.rawNanoUsd = metered ? metered.rawNanoUsd : held;
  row.billedNanoUsd = metered ? metered.billedNanoUsd : held;
  row.limit = outcome?.error?.limit ?? null;
  row.priceVersion = metered?.priceVersion ?? null;
  return row;
}
