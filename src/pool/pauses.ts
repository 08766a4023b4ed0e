/** Credentials that a person or a plugin keeps out: a word that all processes hear, and that outlives a restart. */
import type { Logger } from "../core/logger.ts";
import type { RecordStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import type { Block } from "./block-table.ts";
import { recordMirror } from "./record-mirror.ts";

/** More than there can be credentials. Beyond it nothing is taken: a pause that is forgotten would lend what somebody has stopped. */
const MAX_PAUSES = 20_000;

/** Times are wall clock, ms. */
export interface Pause {
  readonly reason: string;
  readonly since: number;
  /** Null = until it is resumed. */
  readonly until: number | null;
}

export interface PausesOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface Pauses {
  /** Asked by each request. */
  readonly isEmpty: boolean;
  /** What stands now; undefined = it is not paused. */
  get(credential: string): Pause | undefined;
  blockOf(credential: string): Block | null;
  /** Replaces what stood before. False = too many are paused. */
  set(credential: string, pause: Pause): boolean;
  /** False = it was not paused. */
  end(credential: string): boolean;
  /** Takes over what is stored, and from then on what other processes store. Never rejects. */
  load(): Promise<void>;
  close(): void;
}

export function pauses({ records, clock, logger }: PausesOptions): Pauses {
  const known = new Map<string, Pause>();
  const mirror = recordMirror({ records, prefix: "pause/", clock, logger, standing, heard });

  function get(credential: string): Pause | undefined {
    const pause = known.get(credential);
    if (!pause || pause.until === null || clock.now() < pause.until) return pause;
    // The store's record ends by itself at the same time.
    known.delete(credential);
    return undefined;
  }

  function standing(credential: string): { value: Pause; ttlMs: number | null } | undefined {
    const pause = get(credential);
    return pause && { value: pause, ttlMs: pause.until === null ? null : Math.max(1, Math.ceil(pause.until - clock.now())) };
  }

  /** The last word counts, whoever spoke it. */
  function heard(credential: string, value: unknown): void {
    if (value === undefined) known.delete(credential);
    else if (isPause(value) && (known.has(credential) || known.size < MAX_PAUSES)) known.set(credential, value);
  }

  return {
    get isEmpty() {
      return known.size === 0;
    },
    get,
    blockOf(credential) {
      const pause = get(credential);
      if (!pause) return null;
      const { reason: note, since, until } = pause;
      return { reason: "paused", credential, model: null, code: 0, note, since, until };
    },
    set(credential, pause) {
      if (!known.has(credential) && known.size >= MAX_PAUSES) return false;
      known.set(credential, pause);
      mirror.write(credential);
      return true;
    },
    end(credential) {
      const was = get(credential) !== undefined;
      known.delete(credential);
      if (was) mirror.write(credential);
      return was;
    },
    load: mirror.load,
    close: mirror.close,
  };
}

function isPause(value: unknown): value is Pause {
  if (typeof value !== "object" || value === null) return false;
  const { reason, since, until } = value as Partial<Record<keyof Pause, unknown>>;
  return typeof reason === "string" && Number.isFinite(since) && (until === null || Number.isFinite(until));
}
