import { GuardError } from "../../core/errors.ts";
import type { RecordStore } from "../../core/store.ts";
import type { Clock } from "../../core/time.ts";
import { CLAIMS, type Kept } from "./claims.ts";

export interface ShelfOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  /** Keys at one time. */
  readonly maxKeys: number;
  /** Answers at one time, as bytes of base64. */
  readonly maxBytes: number;
}

interface Answered {
  readonly bytes: number;
  readonly version: number;
  readonly lost: Kept;
}

/**
 * Records in this process's own memory, which has an end. The oldest answers go first, and their keys stay charged; when there are too many keys, requests with
 * new ones are refused: to forget a key would be to charge twice.
 */
export function shelf({ records, clock, maxKeys, maxBytes }: ShelfOptions): RecordStore {
  /** When each key runs out. All have the same time, so the first one is the next. */
  const keys = new Map<string, number>();
  const answers = new Map<string, Answered>();
  let bytes = 0;

  function forget(key: string): void {
    keys.delete(key);
    bytes -= answers.get(key)?.bytes ?? 0;
    answers.delete(key);
  }

  function prune(): void {
    const now = clock.now();
    for (const [key, expiresAt] of keys) {
      if (expiresAt > now) return;
      forget(key);
    }
  }

  function admit(key: string): void {
    prune();
    if (keys.has(key) || keys.size < maxKeys) return;
    const earliest = keys.values().next().value as number;
    throw new GuardError("overloaded", `the memory store keeps ${maxKeys} idempotency keys at one time; use a SQLite or Redis store for more`, {
      retryAfterMs: earliest - clock.now(),
    });
  }

  function remember(key: string, value: Kept, version: number, ttlMs: number): void {
    forget(key);
    if (value.state === "free") return;
    keys.set(key, clock.now() + ttlMs);
    if (value.state !== "answered") return;
    const { digest, requestId, answer } = value;
    const size = typeof answer.body === "string" ? answer.body.length : answer.body.reduce((sum, chunk) => sum + chunk.length, 0);
    answers.set(key, { bytes: size, version, lost: { state: "lost", why: "dropped", digest, requestId } });
    bytes += size;
  }

  async function makeRoom(): Promise<void> {
    for (const [key, { version, lost, bytes: size }] of answers) {
      if (bytes <= maxBytes) return;
      bytes -= size;
      answers.delete(key);
      const expiresAt = keys.get(key) as number;
      await records.put(key, lost, { ifVersion: version, ttlMs: Math.max(1, expiresAt - clock.now()) });
    }
  }

  return {
    ...records,
    async put(key, value, how = {}) {
      if (!key.startsWith(CLAIMS)) return records.put(key, value, how);
      admit(key);
      const version = await records.put(key, value, how);
      if (version === undefined) return undefined;
      remember(key, value as Kept, version, how.ttlMs ?? 0);
      await makeRoom();
      return version;
    },
  };
}
