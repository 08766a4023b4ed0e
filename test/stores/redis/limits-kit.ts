import { randomUUID } from "node:crypto";
import type { Redis } from "ioredis";
import { GuardError } from "../../../src/core/errors.ts";
import { silentLogger, type Logger } from "../../../src/core/logger.ts";
import type { Continuity, LimitStore } from "../../../src/core/store.ts";
import { redisLimits } from "../../../src/stores/redis/limits.ts";
import type { RedisLink } from "../../../src/stores/redis/link.ts";
import { T, type Harness } from "../../limits/harness.ts";

export type RedisLimits = LimitStore & { readonly continuity: Continuity };

/** A plain connection, so that what is tested is the limits alone. */
export function plainLink(client: Redis, prefix: string, testTime?: () => number): RedisLink {
  const call = async (command: string, ...args: readonly (string | number | Buffer)[]): Promise<unknown> => {
    try {
      return await client.callBuffer(command, ...args);
    } catch (error) {
      throw new GuardError("store_unavailable", "the server said no", { cause: error });
    }
  };
  return {
    prefix,
    testTime,
    call,
    async run(script, keys, args) {
      try {
        return await client.callBuffer("EVALSHA", script.digest, keys.length, ...keys, ...args);
      } catch (error) {
        if (!String(error).includes("NOSCRIPT")) throw new GuardError("store_unavailable", "the server said no", { cause: error });
        return call("EVAL", script.text, keys.length, ...keys, ...args);
      }
    },
  };
}

export const ownPrefix = (): string => `qg:{${randomUUID()}}:`;

export function limitsOn(
  link: RedisLink,
  more: { readonly catchUp?: (version: number) => Promise<void>; readonly logger?: Logger } = {},
): RedisLimits {
  return redisLimits(link, { catchUp: more.catchUp ?? (() => Promise.resolve()), logger: more.logger ?? silentLogger });
}

/** All keys of one prefix. */
export async function keysOf(client: Redis, prefix: string): Promise<string[]> {
  const found: string[] = [];
  // Nothing in a prefix is a pattern: it is an UUID in braces.
  for await (const keys of client.scanStream({ match: `${prefix}*`, count: 1000 })) found.push(...(keys as string[]));
  return found.sort();
}

export async function forget(client: Redis, prefix: string): Promise<void> {
  const keys = await keysOf(client, prefix);
  if (keys.length > 0) await client.del(...keys);
}

/** Everything below a prefix, byte by byte, with the time that is left to each key in ms. */
export async function imageOf(client: Redis, prefix: string): Promise<ReadonlyMap<string, string>> {
  const image = new Map<string, string>();
  for (const key of await keysOf(client, prefix)) {
    const bytes = await client.dumpBuffer(key);
    image.set(key, `${bytes?.toString("hex")} until ${String(await client.call("PEXPIRETIME", key))}`);
  }
  return image;
}

const FORGET_TOMBSTONES = `
for i = 1, #KEYS do
  local text = redis.call('GET', KEYS[i])
  if text and string.byte(text) == 99 and struct.unpack('>d', text, 2) <= tonumber(ARGV[1]) then redis.call('DEL', KEYS[i]) end
end
`;

/**
 * Limits in Redis on a clock that a test moves. What the server's own clock does with tombstones is done by `expire` here: they are many, so they
 * lapse with the key, and a clock that is put back does not find them again.
 */
export function redisHarness(client: Redis): Harness {
  const prefix = ownPrefix();
  let ms = 0;
  const now = (): number => T + ms;
  const store = limitsOn(plainLink(client, prefix, now));
  const opIds = new Set<string>();
  const harness: Harness = {
    store: {
      ...store,
      async settle(opId, actual) {
        opIds.add(opId);
        return store.settle(opId, actual);
      },
      async release(opId) {
        opIds.add(opId);
        return store.release(opId);
      },
      async lapse(opId) {
        opIds.add(opId);
        return store.lapse(opId);
      },
      async expire(most) {
        const expired = await store.expire(most);
        const keys = [...opIds].map((opId) => `${prefix}r:${opId}`);
        await client.eval(FORGET_TOMBSTONES, keys.length, ...keys, now());
        return expired;
      },
    },
    at(value) {
      ms = value;
      return harness;
    },
    now,
    async dump(keys) {
      const states = await Promise.all(keys.map((key) => client.dumpBuffer(`${prefix}s:${key}`)));
      return states.map((state) => state?.toString("hex") ?? "-");
    },
    close: () => forget(client, prefix),
  };
  return harness;
}
