import type { DatabaseSync } from "node:sqlite";

import type { Rule } from "../../core/store.ts";
import type { Clock } from "../../core/time.ts";
import { LATE_MS, SPARE_MS, TOMBSTONE_MS, type LimitBackend, type Reservation } from "../../limits/backend.ts";
import { decodeReservation, decodeState, encodeReservation, encodeState } from "../../limits/codec.ts";
import { exactKinds, limitEngine, type LimitEngine } from "../../limits/engine.ts";
import type { Kind, Kinds, LimitState } from "../../limits/kind.ts";
import { transactor } from "./dialect.ts";
import { storeUnavailable } from "./trouble.ts";

/**
 * `expires_at` of a state: from when on it says no more than its absence (null = never); of a reservation: when its hold runs out, or when its
 * tombstone (state `closed`) may go.
 */
export const LIMIT_TABLES = `
create table if not exists quotaguard_limit_state (
  key text primary key not null,
  state text not null,
  expires_at integer
) without rowid;
create index if not exists quotaguard_limit_state_expires_at on quotaguard_limit_state (expires_at) where expires_at is not null;
create table if not exists quotaguard_reservation (
  op_id text primary key not null,
  state text not null check (state in ('held', 'expired', 'closed')),
  expires_at integer not null,
  body text not null
) without rowid;
create index if not exists quotaguard_reservation_due on quotaguard_reservation (state, expires_at);
`;

/** Rows that one sweep deletes of each sort, so that it never blocks for long. */
const PURGE_ROWS = 1000;

/**
 * Atomic limits in SQLite: one write transaction per verb, so that several processes on one file count as one. Time is the host's wall clock,
 * read under the write lock: the states outlive the process and with it every monotonic clock.
 *
 * The tables of {@link LIMIT_TABLES} must exist before the first verb.
 */
export function sqliteLimits(db: DatabaseSync, clock: Clock, kinds: Kinds = exactKinds): LimitEngine {
  // Prepared at the first verb: the tables may be made after the store.
  let prepared: { readonly engine: LimitEngine; readonly transact: <T>(fn: () => T) => T } | undefined;

  function inTransaction<T>(verb: (engine: LimitEngine) => T): T {
    try {
      prepared ??= prepare(db, clock, kinds);
      const { engine, transact } = prepared;
      return transact(() => verb(engine));
    } catch (error) {
      // Out of range is the caller's mistake, everything else is the database's.
      if (error instanceof RangeError) throw error;
      throw storeUnavailable(error);
    }
  }

  return {
    reserve: (opId, charges, ttlMs) => inTransaction((engine) => engine.reserve(opId, charges, ttlMs)),
    settle: (opId, actual) => inTransaction((engine) => engine.settle(opId, actual)),
    release: (opId) => inTransaction((engine) => engine.release(opId)),
    extend: (opId, ttlMs) => inTransaction((engine) => engine.extend(opId, ttlMs)),
    lapse: (opId) => inTransaction((engine) => engine.lapse(opId)),
    expire: (most) => inTransaction((engine) => engine.expire(most)),
    peek: (limits) => inTransaction((engine) => engine.peek(limits)),
  };
}

interface ReservationRow {
  readonly state: "held" | "expired" | "closed";
  readonly expires_at: number;
  readonly body: string;
}

function prepare(db: DatabaseSync, clock: Clock, kinds: Kinds) {
  const readState = db.prepare("select state from quotaguard_limit_state where key = ?");
  const writeState = db.prepare(
    `insert into quotaguard_limit_state (key, state, expires_at) values (?, ?, ?)
     on conflict (key) do update set state = excluded.state, expires_at = excluded.expires_at`,
  );
  const purgeStates = db.prepare(
    `delete from quotaguard_limit_state where key in
     (select key from quotaguard_limit_state where expires_at <= ? limit ${PURGE_ROWS})`,
  );
  const readReservation = db.prepare("select state, expires_at, body from quotaguard_reservation where op_id = ?");
  const writeReservation = db.prepare(
    `insert into quotaguard_reservation (op_id, state, expires_at, body) values (?, ?, ?, ?)
     on conflict (op_id) do update set state = excluded.state, expires_at = excluded.expires_at, body = excluded.body`,
  );
  const moveReservation = db.prepare("update quotaguard_reservation set state = ?, expires_at = ? where op_id = ?");
  const readOverdue = db.prepare(
    `select op_id, expires_at, body from quotaguard_reservation
     where state = 'held' and expires_at <= ? and expires_at > ? order by expires_at, op_id limit ?`,
  );
  const purgeReservations = db.prepare(
    `delete from quotaguard_reservation where op_id in
     (select op_id from quotaguard_reservation where state = ? and expires_at <= ? limit ${PURGE_ROWS})`,
  );

  /** The states that the running verb has read. */
  const read = new Map<string, LimitState | undefined>();

  /** The time of the running verb, read under its lock. */
  let time = 0;

  function write(state: LimitState): void {
    const kind: Kind<Rule, LimitState> = kinds[state.kind];
    const lapsesAt = kind.lapsesAt(state);
    writeState.run(state.key, encodeState(state), Number.isSafeInteger(lapsesAt) ? lapsesAt : null);
  }

  const backend: LimitBackend = {
    now() {
      read.clear();
      time = Math.floor(clock.now());
      return time;
    },
    wall: () => time,

    state({ key }) {
      if (read.has(key)) return read.get(key);
      const row = readState.get(key);
      const state = row === undefined ? undefined : decodeState(key, String(row.state));
      read.set(key, state);
      return state;
    },
    insert: write,
    save: write,

    find(opId, now) {
      const row = readReservation.get(opId) as unknown as ReservationRow | undefined;
      if (row === undefined) return undefined;
      if (row.state === "closed") return now < row.expires_at ? "closed" : undefined;
      return now < row.expires_at + LATE_MS ? decodeReservation(row.body, row.expires_at, row.state === "expired") : undefined;
    },
    open(opId, reservation) {
      writeReservation.run(opId, "held", reservation.expiresAt, encodeReservation(reservation));
    },
    update(opId, { expired, expiresAt }) {
      moveReservation.run(expired ? "expired" : "held", expiresAt, opId);
    },
    close(opId, now) {
      writeReservation.run(opId, "closed", now + TOMBSTONE_MS, "");
    },
    overdue(now, most) {
      // What may go is deleted here: the sweeper is nobody's request.
      purgeStates.run(now - SPARE_MS);
      purgeReservations.run("closed", now);
      purgeReservations.run("expired", now - LATE_MS - SPARE_MS);
      purgeReservations.run("held", now - LATE_MS - SPARE_MS);
      const rows = readOverdue.all(now, now - LATE_MS, most) as unknown as (ReservationRow & { readonly op_id: string })[];
      return rows.map((row): readonly [string, Reservation] => [row.op_id, decodeReservation(row.body, row.expires_at, false)]);
    },
  };
  return { engine: limitEngine(backend, kinds), transact: transactor(db) };
}
