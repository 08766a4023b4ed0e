import { randomUUID } from "node:crypto";

import { GuardError } from "../../core/errors.ts";
import type { Continuity, CounterState, Rule } from "../../core/store.ts";
import type { MaybePromise } from "../../core/time.ts";
import { decodeState } from "../../limits/codec.ts";
import { exactKinds } from "../../limits/engine.ts";
import type { Kind, LimitState } from "../../limits/kind.ts";
import { unavailable } from "./batch.ts";
import type { RedisArgument, RedisLink } from "./link.ts";
import { beginScript, claimScript, completeScript, disownScript, metaText, parseMeta, rolledBackScript, type Meta } from "./lua/meta.ts";
import { restoreScript } from "./lua/restore.ts";
import { packState, stateKey } from "./pack.ts";

/** Counters that one call puts back: about a millisecond of the server's time. */
const RESTORE_MOST = 200;

/** Begins the epoch of a history that began with nothing, by a process that had seen none before. */
const FIRST = "first-";

/** What the limits of this process know about the counters of all. */
export interface RedisContinuity extends Continuity {
  /** As it stands in `m`; empty before the beginning. Goes with every reservation. */
  readonly meta: string;
  /** Begins (with nothing seen before) unless that was done. */
  begun(): Promise<void>;
  /** Reads anew what stands in `m`; resolves when the numbers of limits that belong to it are known here. Calls at the same time share one. */
  renew(): Promise<void>;
  /** The server has gone back to an older state, see `rollbackWatch`: closes its counters, unless another process has done so. */
  rolledBack(oldest: number, latest: number): Promise<void>;
}

/**
 * Notices that the server has lost its counters: `m` is gone, or names a history that this process does not know. Whoever sees that first writes a new,
 * closed one; all processes refuse strict charges by it until one of them has rebuilt the counters.
 */
export function redisContinuity(link: RedisLink, catchUp: (version: number) => Promise<void>): RedisContinuity {
  const metaKey = `${link.prefix}m`;
  const lockKey = `${link.prefix}rebuild`;
  const token = randomUUID();
  const watchers = new Set<() => void>();
  let known: Meta | undefined;
  let text = "";
  let beginning: Promise<void> | undefined;
  let renewing: Promise<void> | undefined;

  async function read(isWhole: boolean): Promise<Meta> {
    const epoch = isWhole ? `${FIRST}${randomUUID()}` : randomUUID();
    return owned(understood(await link.run(beginScript, [metaKey], [epoch, isWhole ? "w" : "c"], true)));
  }

  /**
   * A process that knows of nothing takes an emptied server for a new one, and then it looks whole. Whoever has counted here before knows better:
   * nobody has rebuilt anything, so it is closed, for that process too.
   */
  async function owned(meta: Meta): Promise<Meta> {
    if (known === undefined || known.epoch === meta.epoch || !meta.isWhole || !meta.epoch.startsWith(FIRST)) return meta;
    const reply = await link.run(disownScript, [metaKey], [meta.epoch, randomUUID()], true);
    return reply === null ? read(false) : understood(reply);
  }

  function understood(reply: unknown): Meta {
    const found = parseMeta(String(reply));
    if (found) return found;
    throw unavailable(new Error(`the key ${metaKey} holds something else than an epoch and a version: delete it, and the counters are rebuilt`));
  }

  /** The numbers come first: a reservation that names a version must have been worked out with its numbers. */
  async function adopt(meta: Meta): Promise<void> {
    if (known?.epoch !== meta.epoch || known.version !== meta.version) await catchUp(meta.version);
    const isNews = known !== undefined && (known.epoch !== meta.epoch || known.isWhole !== meta.isWhole);
    known = meta;
    text = metaText(meta);
    if (isNews) for (const watcher of watchers) watcher();
  }

  async function begin(lastSeen: string | null): Promise<void> {
    await guarded(async () => adopt(await read(lastSeen === null)));
  }

  return {
    get epoch() {
      return known?.epoch ?? "";
    },
    get isWhole() {
      return known?.isWhole ?? false;
    },
    get meta() {
      return text;
    },

    begin,

    async begun() {
      if (known) return;
      beginning ??= begin(null).finally(() => (beginning = undefined));
      await guarded(() => beginning);
    },

    async renew() {
      renewing ??= read(false)
        .then(adopt)
        .finally(() => (renewing = undefined));
      await guarded(() => renewing);
    },

    rolledBack: (oldest, latest) =>
      guarded(async () => {
        const keys = [metaKey, `${link.prefix}b`, `${link.prefix}x`];
        const reply = await link.run(rolledBackScript, keys, [oldest, latest, randomUUID(), `${link.prefix}r:`], true);
        await adopt(reply === null ? await read(false) : understood(reply));
      }),

    watch(fn) {
      // A wrapper, so that one function can be registered twice.
      const watcher = (): void => fn();
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },

    claim: (ttlMs) => guarded(async () => (await link.run(claimScript, [lockKey], [token, ttlMs], true)) === 1),

    async restore(counters) {
      for (let from = 0; from < counters.length; from += RESTORE_MOST) {
        const some = counters.slice(from, from + RESTORE_MOST);
        const keys = [metaKey, lockKey, ...some.map(({ key }) => stateKey(link.prefix, key))];
        const args = [known?.epoch ?? "", token, link.testTime?.() ?? -1, ...some.flatMap(packed)];
        if ((await guarded(() => link.run(restoreScript, keys, args, true))) === 1) continue;
        throw unavailable(new Error("another process has taken over the rebuilding, or has finished it"));
      }
    },

    async complete() {
      await guarded(async () => {
        const rebuilt = known?.epoch ?? "";
        const reply = await link.run(completeScript, [metaKey, lockKey], [rebuilt, token], true);
        const meta = reply === null ? await read(false) : await owned(understood(reply));
        await adopt(meta);
        if (meta.epoch !== rebuilt)
          throw new GuardError("store_unavailable", "the counters were lost once more while they were being rebuilt: begin again");
      });
    },
  };
}

/** When it lapses, and its bytes. Throws SyntaxError for what is not a state. */
function packed({ key, state }: CounterState): RedisArgument[] {
  const decoded = decodeState(key, state);
  const kind: Kind<Rule, LimitState> = exactKinds[decoded.kind];
  const lapsesAt = kind.lapsesAt(decoded);
  return [Number.isFinite(lapsesAt) ? lapsesAt : -1, packState(decoded)];
}

/** Each caller gets an error of its own, also where several wait for one call. */
async function guarded<T>(fn: () => MaybePromise<T>): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    throw unavailable(error);
  }
}
