/**
 * Who works on which key, kept as records: exact among all processes that share the store, because each step is one conditional write. A claim belongs to a
 * process, and a process shows by a record of its own that it lives. When that has run out by the store's own time, nobody can know any more what became of
 * its requests: their keys say so, and what their owner writes later does not count.
 */
import type { Logger } from "../../core/logger.ts";
import type { RecordStore } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";

/** What stands below it is the business of {@link Claims}. */
export const CLAIMS = "idempotency/key/";
const OWNERS = "idempotency/owner/";
/** How long a process counts as alive after its last sign. */
const LEASE_MS = 30_000;
const RENEW_MS = 10_000;
/** How often a store that is away is tried. */
const RETRY_MS = 1_000;
/** Endings that wait for the store. The oldest is dropped: its key then stays in progress until this process ends. */
const MAX_WAITING = 10_000;
/** A record that says "free" is only a trace of who could not delete it under a condition. */
const FREED_TTL_MS = 1;
/** Somebody else was faster each time. */
const MOST_LOOKS = 100;

/** An answer as it is kept. A list of chunks is a stream; all bytes are in base64. */
export interface KeptAnswer {
  readonly status: number;
  /** Alternating names and values. */
  readonly headers: readonly string[];
  readonly body: string | readonly string[];
}

/** Why an answer that was charged cannot be given again. */
export type Lost = "partial" | "too_large" | "dropped" | "crashed";

export type Ending = { readonly state: "answered"; readonly answer: KeptAnswer } | { readonly state: "lost"; readonly why: Lost };

interface About {
  /** What was asked for. */
  readonly digest: string;
  readonly requestId: string;
}

/** What stands in a key's record. */
export type Kept = { readonly state: "free" } | (About & ({ readonly state: "open"; readonly id: string; readonly owner: string } | Ending));

/** The right to answer for a key. */
export interface Claim extends About {
  readonly key: string;
  readonly id: string;
  readonly version: number;
}

export type Taken =
  | { readonly state: "taken"; readonly claim: Claim }
  | { readonly state: "open" }
  /** The key stands for something else. */
  | { readonly state: "mismatch" }
  | (Ending & About);

export interface ClaimsOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How long a key is remembered. */
  readonly ttlMs: number;
  /** Names this process; nobody else has it. */
  readonly owner: string;
}

export interface Claims {
  /** Takes the key for a request (`id` is unique), or tells what stands there. Rejects with `store_unavailable`. */
  take(place: string, about: About & { readonly id: string }): Promise<Taken>;
  /** Null = nothing was charged: the key is free again. Never rejects: a store that is away is tried until it is back. */
  end(claim: Claim, ending: Ending | null): Promise<void>;
  /** Calls `fn` when something happens to the key. Returns a function that stops it. */
  watch(place: string, fn: () => void): () => void;
  close(): Promise<void>;
}

const FREE: Kept = { state: "free" };

interface Waiting {
  readonly id: string;
  /** Absent = nobody knows whether it was written. */
  readonly version: number | undefined;
  readonly value: Kept;
}

export function claims({ records, clock, logger, ttlMs, owner }: ClaimsOptions): Claims {
  /** Ids of what is under way here. */
  const open = new Set<string>();
  /** By record key. */
  const waiting = new Map<string, Waiting>();
  let renewedAt = -Infinity;
  let renewer: Timer | undefined;
  let retrier: Timer | undefined;
  let isRetrying = false;
  let isClosed = false;

  async function renew(): Promise<void> {
    const askedAt = clock.monotonic();
    await records.put(OWNERS + owner, {}, { ttlMs: LEASE_MS });
    renewedAt = askedAt;
  }

  function onRenew(): void {
    if (isClosed || (open.size === 0 && waiting.size === 0)) {
      renewer = undefined;
      return;
    }
    renew().catch((error: unknown) => logger.debug({ err: error }, "this process cannot show that it lives; trying again"));
    renewer?.refresh();
  }

  async function beAlive(): Promise<void> {
    if (clock.monotonic() - renewedAt >= RENEW_MS) await renew();
    renewer ??= clock.timer(RENEW_MS, onRenew);
  }

  async function isHeld(key: string, { id, owner: holder }: { readonly id: string; readonly owner: string }): Promise<boolean> {
    if (holder === owner) return open.has(id) || waiting.has(key);
    return (await records.get(OWNERS + holder)) !== undefined;
  }

  async function look(key: string, about: About & { readonly id: string }): Promise<Taken | null> {
    const found = await records.get(key);
    const kept = found?.value as Kept | undefined;
    if (found === undefined || kept === undefined || kept.state === "free") {
      await beAlive();
      const mine: Kept = { state: "open", owner, ...about };
      const version = await records.put(key, mine, { ttlMs, ...(found ? { ifVersion: found.version } : { ifAbsent: true }) });
      return version === undefined ? null : { state: "taken", claim: { key, version, ...about } };
    }
    if (kept.digest !== about.digest) return { state: "mismatch" };
    if (kept.state !== "open") return kept;
    if (await isHeld(key, kept)) return { state: "open" };
    const { digest, requestId } = kept;
    const lost: Kept = { state: "lost", why: "crashed", digest, requestId };
    // Under this version: the owner may be late and not dead, and then one of the two comes first.
    await records.put(key, lost, { ttlMs, ifVersion: found.version });
    return null;
  }

  function later(key: string, ending: Waiting): void {
    // Whoever has the claim knows what became of it; a twin only knows that it did not get it.
    if (ending.version === undefined && waiting.get(key)?.version !== undefined) return;
    if (waiting.size >= MAX_WAITING) waiting.delete(waiting.keys().next().value as string);
    waiting.set(key, ending);
    if (!isClosed) retrier ??= clock.timer(RETRY_MS, onRetry);
  }

  /** Stops at the first that fails: the store is away. */
  async function retry(): Promise<void> {
    for (const [key, one] of [...waiting]) {
      const { id, version, value } = one;
      const known = version ?? (await versionOf(key, id));
      if (known !== undefined) await write(key, value, known);
      // Another ending may have come meanwhile.
      if (waiting.get(key) === one) waiting.delete(key);
    }
  }

  async function versionOf(key: string, id: string): Promise<number | undefined> {
    const found = await records.get(key);
    const kept = found?.value as Kept | undefined;
    return kept?.state === "open" && kept.id === id ? found?.version : undefined;
  }

  function onRetry(): void {
    retrier?.refresh();
    if (isRetrying) return;
    isRetrying = true;
    retry()
      .catch((error: unknown) => logger.debug({ err: error }, "the ends of requests with an Idempotency-Key cannot be written yet"))
      .finally(() => {
        isRetrying = false;
        if (waiting.size > 0 && !isClosed) return;
        retrier?.cancel();
        retrier = undefined;
      });
  }

  const write = (key: string, value: Kept, version: number): unknown =>
    records.put(key, value, { ifVersion: version, ttlMs: value.state === "free" ? FREED_TTL_MS : ttlMs });

  return {
    async take(place, about) {
      const key = CLAIMS + place;
      // Before it is written, so that a twin in this process never takes it for a dead one's.
      open.add(about.id);
      let isTaken = false;
      try {
        for (let looks = 0; looks < MOST_LOOKS; looks += 1) {
          const taken = await look(key, about);
          if (taken === null) continue;
          isTaken = taken.state === "taken";
          return taken;
        }
        return { state: "open" };
      } catch (error) {
        // It may have been written, and nothing was sent: given back once the store answers.
        later(key, { id: about.id, version: undefined, value: FREE });
        throw error;
      } finally {
        if (!isTaken) open.delete(about.id);
      }
    },

    async end({ key, id, version, digest, requestId }, ending) {
      const about = { digest, requestId };
      try {
        await write(key, ending ? { ...about, ...ending } : FREE, version);
      } catch (error) {
        logger.debug({ err: error }, "the end of a request with an Idempotency-Key waits for the store");
        // What may wait long must be small: that it was charged is kept, its answer is not.
        later(key, { id, version, value: ending ? { ...about, state: "lost", why: ending.state === "lost" ? ending.why : "dropped" } : FREE });
      }
      open.delete(id);
    },

    watch: (place, fn) => records.watch(CLAIMS + place, fn),

    async close() {
      isClosed = true;
      renewer?.cancel();
      retrier?.cancel();
      try {
        await retry();
        // Whoever asks for what is still open is told at once.
        if (renewedAt !== -Infinity) await records.delete(OWNERS + owner);
      } catch (error) {
        logger.warn({ err: error, keys: waiting.size }, "the ends of requests with an Idempotency-Key could not be written: their keys stay charged");
      }
    },
  };
}
