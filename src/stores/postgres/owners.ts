import { randomBytes } from "node:crypto";

import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";
import { orphanRow, unpackIntents } from "../sql/ledger-rows.ts";
import { BEAT_EVERY_MS, machineId, type OwnerEntry, ownerWatch } from "../sql/owner-watch.ts";
import type { RowSealer } from "../sql/row-sealer.ts";
import { insertRows, type Owner, rowJson } from "./ledger-writer.ts";
import type { PostgresLink, Session, SqlRow } from "./link.ts";

/** Keeps a transaction within its deadline when much is to be recovered. */
const PACKS_PER_TRANSACTION = 20;

export interface Owners {
  /** Names this store's intents; a new one for each opened store. */
  readonly self: Owner;
  /** True when the last beat is so long ago that the next write should carry one. */
  due(): boolean;
  /** A write with a beat is on its way. */
  beaten(): void;
  /** It failed: the next one carries it again. */
  lapse(): void;
  /** Closes the intents of dead owners as `unknown`, charged as held. Returns how many requests that were. */
  recover(): Promise<number>;
  /** Closes what this owner itself left open, and signs off. */
  leave(): Promise<number>;
}

/**
 * Who wrote which intent, and whether it still lives ({@link ownerWatch} judges; nobody's clock is compared with another's). A beat travels with
 * each write that follows a silence, so an owner that was only asleep is alive again before it writes its next intent. A verdict takes the
 * owner's entry only with the beat that it was judged by: whoever has shown life meanwhile keeps it.
 */
export function owners(link: PostgresLink, sealer: RowSealer, clock: Clock, logger: Logger): Owners {
  const id = randomBytes(9).toString("base64url");
  // Where machines cannot be told apart, only the beat counts.
  const self: Owner = { id, host: machineId() ?? id, pid: process.pid };
  const findDead = ownerWatch(id, self.host);
  const [entries, intents] = [link.table("quotaguard_owner"), link.table("quotaguard_intent")];
  let beatAtMs = -Infinity;

  /** Ends the requests of the packs that `condition` finds, the newest first: of several attempts of one request the first row stays. */
  async function close(condition: string, value: string): Promise<number> {
    let closed = 0;
    for (let more = true; more;) {
      const [packs, rows] = await link.transact(async (session) => {
        const found = await session.query(
          `select seq, body from ${intents} as intent where ${condition} order by seq desc limit ${PACKS_PER_TRANSACTION} for update`,
          [value],
        );
        return [found.rows.length, await end(session, found.rows)];
      });
      closed += rows;
      more = packs === PACKS_PER_TRANSACTION;
    }
    return closed;
  }

  async function end(session: Session, packs: readonly SqlRow[]): Promise<number> {
    if (packs.length === 0) return 0;
    const rows = packs.flatMap(({ body }) => unpackIntents(String(body)).map((row) => rowJson(orphanRow(row), sealer)));
    const { rowCount } = await session.query(insertRows(link, "$1"), [`[${rows.join(",")}]`]);
    await session.query(`delete from ${intents} where seq = any($1::bigint[])`, [packs.map(({ seq }) => seq)]);
    return rowCount;
  }

  return {
    self,
    due: () => clock.monotonic() - beatAtMs >= BEAT_EVERY_MS,
    beaten() {
      beatAtMs = clock.monotonic();
    },
    lapse() {
      beatAtMs = -Infinity;
    },
    async recover() {
      const found = await link.query(`select id, host, pid, beat from ${entries}`, [], () => {});
      for (const dead of findDead(found.map(entryOf))) {
        await link.query(`delete from ${entries} where id = $1 and beat = $2`, [dead.id, dead.beat], () => {});
      }
      // Whoever has no entry was declared dead, just now or before, here or by another process.
      const closed = await close(`owner <> $1 and not exists (select from ${entries} as entry where entry.id = intent.owner)`, id);
      if (closed > 0) logger.warn({ requests: closed }, "closed the open requests of a process that died: state unknown, charged as held");
      return closed;
    },
    async leave() {
      const closed = await close("owner = $1", id);
      await link.query(`delete from ${entries} where id = $1`, [id], () => {});
      return closed;
    },
  };
}

const entryOf = (row: SqlRow): OwnerEntry => ({ id: String(row.id), host: String(row.host), pid: Number(row.pid), beat: Number(row.beat) });
