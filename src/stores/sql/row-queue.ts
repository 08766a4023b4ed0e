import type { LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";

/** Rows that may wait for the database. */
export const QUEUE_ROWS = 100_000;
/** The age at which a finished row is committed: the promise is 50 ms, the rest is for a late timer. */
export const ROW_WAIT_MS = 40;
/** With this many finished rows waiting, the next commit takes them along. Fewer commits write fewer pages; more rows block longer. */
export const EAGER_ROWS = 64;

const BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5000;

/** How long to leave the database alone after so many failures on end. */
export const backoffMs = (failures: number): number => Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** failures);

/** What must be known of a row that does not get there. */
type RowHead = Pick<LedgerRow, "id" | "requestId" | "at" | "state">;

/** A finished row that waits, in the form that the database takes. */
export interface QueuedRow<Stored> extends RowHead {
  readonly stored: Stored;
}

/** Made when a row is closed and not when it is written: so each request does its own share, and no turn of the event loop that of a whole batch. */
export const queuedRow = <Stored>({ id, requestId, at, state }: LedgerRow, stored: Stored): QueuedRow<Stored> => ({
  id,
  requestId,
  at,
  state,
  stored,
});

/** Finished rows that wait for the database, oldest first, and what is known about those that did not get there. */
export class RowQueue<Stored> {
  readonly #clock: Clock;
  readonly #logger: Logger;
  rows: QueuedRow<Stored>[] = [];
  /** Refusals that were left out since the queue was full. */
  droppedRefusals = 0;
  /** The rows before this time are not all there (wall clock, ms); null = there is nothing new to note about that. */
  completeFrom: number | null = null;

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    this.#logger = logger;
  }

  /** False = there is no room for it. Refusals cost nobody anything, so they go first; a charged row had its intent admitted while there was room. */
  add(row: QueuedRow<Stored>): boolean {
    if (this.rows.length >= QUEUE_ROWS && !this.#makeRoom(row)) return false;
    this.rows.push(row);
    return true;
  }

  /** A row that will never be stored. A refusal charged nothing, so nobody misses it who adds up what was charged. */
  lose(row: RowHead): void {
    if (row.state === "refused") return;
    this.completeFrom = Math.max(this.completeFrom ?? 0, Number.isSafeInteger(row.at) ? row.at + 1 : this.#clock.now());
  }

  leftOut(row: RowHead, error: unknown): void {
    this.#logger.error({ err: error, id: row.id, requestId: row.requestId }, "a ledger row cannot be stored and was left out");
    this.lose(row);
  }

  #makeRoom(row: RowHead): boolean {
    if (this.droppedRefusals === 0) {
      this.#logger.warn({ rows: this.rows.length }, "the ledger's queue is full: rows of refused requests are dropped and counted");
    }
    if (row.state === "refused") {
      this.droppedRefusals += 1;
      return false;
    }
    const charged = this.rows.filter((queued) => queued.state !== "refused");
    this.droppedRefusals += this.rows.length - charged.length;
    this.rows = charged;
    if (this.rows.length < 2 * QUEUE_ROWS) return true;
    this.#logger.error({ id: row.id, requestId: row.requestId }, "the ledger's queue is full of charged rows: this one is lost");
    this.lose(row);
    return false;
  }
}
