import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { DatabaseSync } from "node:sqlite";

import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";
import { orphanRow, STORED_COLUMNS, unpackIntents } from "../sql/ledger-rows.ts";
import { BEAT_EVERY_MS, machineId, ownerWatch } from "../sql/owner-watch.ts";
import type { RowSealer } from "../sql/row-sealer.ts";
import type { Transact } from "./dialect.ts";

/** Keeps the write lock short when much is to be recovered. */
const PACKS_PER_TRANSACTION = 200;

export const INSERT_ROW = `insert into quotaguard_ledger (${STORED_COLUMNS.map((name) => `"${name}"`).join(", ")})
  values (${STORED_COLUMNS.map(() => "?").join(", ")}) on conflict (id) do nothing`;

export interface Owners {
  /** Names this store's intents; a new one for each opened store. */
  readonly id: string;
  /** Shows that this owner lives. False = another process had declared it dead and closed its intents. Part of the caller's transaction. */
  beat(): boolean;
  /** True when the last beat is so long ago that the next commit should carry one. */
  due(): boolean;
  /** The transaction that carried the last beat failed: the next one carries it again. */
  lapse(): void;
  /** Closes the intents of dead owners as `unknown`, charged as held. Returns how many requests that were. */
  recover(): number;
  /** Closes what this owner itself left open, and signs off. */
  leave(): number;
}

/**
 * Who wrote which intent, and whether it still lives ({@link ownerWatch} judges). A beat travels with each commit that follows a silence, so an
 * owner that was only asleep is alive again before it writes its next intent.
 */
export function owners(db: DatabaseSync, transact: Transact, sealer: RowSealer, clock: Clock, logger: Logger): Owners {
  const id = randomBytes(9).toString("base64url");
  const host = machineId() ?? hostname();
  const findDead = ownerWatch(id, host);
  const renew = db.prepare("update quotaguard_owner set beat = beat + 1 where id = ?");
  const register = db.prepare("insert into quotaguard_owner (id, host, pid, beat) values (?, ?, ?, ?)");
  const unregister = db.prepare("delete from quotaguard_owner where id = ?");
  const everyOwner = db.prepare("select id, host, pid, beat from quotaguard_owner");
  const writers = db.prepare("select distinct owner from quotaguard_intent");
  const packsOf = db.prepare("select seq, body from quotaguard_intent where owner = ? order by seq desc limit ?");
  const deletePack = db.prepare("delete from quotaguard_intent where seq = ?");
  const insertRow = db.prepare(INSERT_ROW);
  let registered = false;
  let beats = 0;
  let beatAtMs = -Infinity;

  function close(owner: string): number {
    let closed = 0;
    for (let more = true; more;) {
      more = transact(() => {
        // The newest first: a request with several attempts has several intents, and the first row of an id stays.
        const packs = packsOf.all(owner, PACKS_PER_TRANSACTION);
        for (const { seq, body } of packs) {
          for (const row of unpackIntents(String(body))) closed += Number(insertRow.run(...sealer.sealed(orphanRow(row))).changes);
          deletePack.run(Number(seq));
        }
        if (packs.length < PACKS_PER_TRANSACTION) unregister.run(owner);
        return packs.length === PACKS_PER_TRANSACTION;
      });
    }
    return closed;
  }

  return {
    id,
    due: () => clock.monotonic() - beatAtMs >= BEAT_EVERY_MS,
    beat() {
      beats += 1;
      beatAtMs = clock.monotonic();
      if (renew.run(id).changes === 1) return true;
      register.run(id, host, process.pid, beats);
      const wasDead = registered;
      registered = true;
      return !wasDead;
    },
    lapse() {
      beatAtMs = -Infinity;
    },
    recover() {
      const entries = everyOwner.all().map((row) => ({
        id: String(row.id),
        host: String(row.host),
        pid: Number(row.pid),
        beat: Number(row.beat),
      }));
      const known = new Set(entries.map((entry) => entry.id));
      const dead = findDead(entries).map((entry) => entry.id);
      // An owner without an entry was declared dead before and had been writing just then.
      for (const { owner } of writers.all()) if (!known.has(String(owner)) && owner !== id) dead.push(String(owner));
      let closed = 0;
      for (const owner of dead) closed += close(owner);
      if (closed > 0) logger.warn({ requests: closed }, "closed the open requests of a process that died: state unknown, charged as held");
      return closed;
    },
    leave: () => close(id),
  };
}
