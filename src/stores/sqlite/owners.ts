import { randomBytes } from "node:crypto";
import { readlinkSync } from "node:fs";
import { hostname } from "node:os";
import type { DatabaseSync } from "node:sqlite";

import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";
import { LEDGER_COLUMNS, orphanRow, rowValues, unpackIntents } from "../sql/ledger-rows.ts";
import type { Transact } from "./dialect.ts";

/** How often an owner shows that it lives. */
export const BEAT_EVERY_MS = 10_000;
/** An owner that we cannot see is dead when its beat has not moved in this many looks after the first one, {@link BEAT_EVERY_MS} apart. */
const SILENT_LOOKS = 3;
/** Keeps the write lock short when much is to be recovered. */
const PACKS_PER_TRANSACTION = 200;

export const INSERT_ROW = `insert into quotaguard_ledger (${LEDGER_COLUMNS.map((name) => `"${name}"`).join(", ")})
  values (${LEDGER_COLUMNS.map(() => "?").join(", ")}) on conflict (id) do nothing`;

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
 * Who wrote which intent, and whether it still lives. How it decides: an owner on this machine whose process is gone is dead at once. Any other
 * (another container, another machine, a process id that the system gave to somebody else) is dead when its beat, a counter, stood still
 * for 30 s while we watched. Looks are counted instead of time: wall clocks differ and jump, and after a pause of the whole machine every
 * owner looks silent; a wrong verdict would close live requests. A beat travels with each commit that follows a silence, so an owner that was only asleep is alive again before it writes its next intent.
 */
export function owners(db: DatabaseSync, transact: Transact, clock: Clock, logger: Logger): Owners {
  const id = randomBytes(9).toString("base64url");
  const host = hostId();
  const renew = db.prepare("update quotaguard_owner set beat = beat + 1 where id = ?");
  const register = db.prepare("insert into quotaguard_owner (id, host, pid, beat) values (?, ?, ?, ?)");
  const unregister = db.prepare("delete from quotaguard_owner where id = ?");
  const everyOwner = db.prepare("select id, host, pid, beat from quotaguard_owner");
  const writers = db.prepare("select distinct owner from quotaguard_intent");
  const packsOf = db.prepare("select seq, body from quotaguard_intent where owner = ? order by seq desc limit ?");
  const deletePack = db.prepare("delete from quotaguard_intent where seq = ?");
  const insertRow = db.prepare(INSERT_ROW);
  const seen = new Map<string, { readonly beat: number; looks: number }>();
  let registered = false;
  let beats = 0;
  let beatAtMs = -Infinity;

  function isDead(owner: string, atHost: string, pid: number, beat: number): boolean {
    if (owner === id) return false;
    if (atHost === host && !processLives(pid)) return true;
    const last = seen.get(owner);
    if (last === undefined || last.beat !== beat) {
      seen.set(owner, { beat, looks: 0 });
      return false;
    }
    last.looks += 1;
    return last.looks >= SILENT_LOOKS;
  }

  function close(owner: string): number {
    let closed = 0;
    for (let more = true; more;) {
      more = transact(() => {
        // The newest first: a request with several attempts has several intents, and the first row of an id stays.
        const packs = packsOf.all(owner, PACKS_PER_TRANSACTION);
        for (const { seq, body } of packs) {
          for (const row of unpackIntents(String(body))) closed += Number(insertRow.run(...rowValues(orphanRow(row))).changes);
          deletePack.run(Number(seq));
        }
        if (packs.length < PACKS_PER_TRANSACTION) unregister.run(owner);
        return packs.length === PACKS_PER_TRANSACTION;
      });
    }
    seen.delete(owner);
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
      const known = new Set<string>();
      const dead: string[] = [];
      for (const row of everyOwner.all()) {
        const owner = String(row.id);
        known.add(owner);
        if (isDead(owner, String(row.host), Number(row.pid), Number(row.beat))) dead.push(owner);
      }
      for (const owner of seen.keys()) if (!known.has(owner)) seen.delete(owner);
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

/** The machine and its process table: inside containers the same number names different processes. */
function hostId(): string {
  try {
    return `${hostname()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return hostname();
  }
}

function processLives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives and belongs to another user.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
