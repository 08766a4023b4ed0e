import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** How often an owner shows that it lives. */
export const BEAT_EVERY_MS = 10_000;
/** An owner that we cannot see is dead when its beat has not moved in this many looks after the first one, {@link BEAT_EVERY_MS} apart. */
const SILENT_LOOKS = 3;

/** A process that writes intents, as it stands in `quotaguard_owner`. */
export interface OwnerEntry {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
  /** Grows while the process lives. */
  readonly beat: number;
}

/**
 * Judges which owners are dead. One on this machine whose process is gone is dead at once. Any other (another container, another machine, a process
 * id that the system gave to somebody else) is dead when its beat, a counter, stood still for 30 s while we watched. Looks are counted instead of
 * time: wall clocks differ and jump, and after a pause of the whole machine every owner looks silent; a wrong verdict would close live requests.
 */
export function ownerWatch(self: string, selfHost: string): <E extends OwnerEntry>(entries: readonly E[]) => readonly E[] {
  const seen = new Map<string, { readonly beat: number; looks: number }>();

  function isDead({ id, host, pid, beat }: OwnerEntry): boolean {
    if (id === self) return false;
    if (host === selfHost && !processLives(pid)) return true;
    const last = seen.get(id);
    if (last === undefined || last.beat !== beat) {
      seen.set(id, { beat, looks: 0 });
      return false;
    }
    last.looks += 1;
    return last.looks >= SILENT_LOOKS;
  }

  return (entries) => {
    const known = new Set(entries.map(({ id }) => id));
    for (const id of seen.keys()) if (!known.has(id)) seen.delete(id);
    return entries.filter(isDead);
  };
}

/**
 * This machine, this start of it, and this table of processes: only where all three are the same does a process id name the same process. Two
 * machines may have one name, and containers of one machine do not see each other's processes. Undefined = it cannot be told.
 */
export function machineId(): string | undefined {
  try {
    return `${hostname()} ${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return undefined;
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
