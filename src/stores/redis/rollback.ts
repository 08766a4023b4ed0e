import type { Clock } from "../../core/time.ts";

/** What a crash may take back without being called a loss: an append-only file is behind by a second or two, a replica by its lag. */
const TOLERATED_MS = 5000;

interface Mark {
  readonly count: number;
  /** Monotonic, ms. */
  readonly atMs: number;
}

export interface RollbackOptions {
  readonly clock: Clock;
  /** The server holds a state in which the count was at most `oldest`, and it had been `latest` already. Called again with the next beat if it rejects. */
  readonly onRollback: (oldest: number, latest: number) => Promise<void>;
}

/**
 * A server that restarts from a snapshot (or a replica that was far behind) has all keys, as they were some time ago: its counters have forgotten what
 * was spent since. A count that every beat of every process raises gives it away, because it has gone back, too. Returns what is to be told of each count.
 */
export function rollbackWatch({ clock, onRollback }: RollbackOptions): (count: number) => void {
  let old: Mark | undefined;
  let recent: Mark | undefined;
  let lost: { readonly oldest: number; readonly latest: number } | undefined;

  function tell(): void {
    const told = lost;
    if (told === undefined) return;
    onRollback(told.oldest, told.latest).then(
      () => {
        if (lost === told) lost = undefined;
      },
      () => {},
    );
  }

  return (count) => {
    const mark = { count, atMs: clock.monotonic() };
    if (old !== undefined && recent !== undefined && count <= old.count) {
      lost = { oldest: old.count, latest: recent.count };
      old = undefined;
      recent = undefined;
    } else if (recent === undefined || mark.atMs - recent.atMs >= TOLERATED_MS) {
      old = recent;
      recent = mark;
    }
    tell();
  };
}
