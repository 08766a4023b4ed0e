import RateLimiterRedis from "rate-limiter-flexible/lib/RateLimiterRedis.js";
import type { StrikeStore } from "../core/store.ts";
import { LocalLimiter, type StrikeStoreOptions } from "./strikes.ts";

/** What counting needs of a server: two calls that end by themselves. */
export interface StrikeServer {
  /** Begins every key. */
  readonly prefix: string;
  /** Runs a script over one key. */
  run(lua: string, key: string, args: readonly string[]): Promise<unknown>;
  delete(key: string): Promise<unknown>;
}

/** The part of an ioredis client that the library uses for what we ask of it. */
interface LibraryClient {
  defineCommand(name: string, definition: { readonly lua: string }): void;
  rlflxIncr(words: readonly string[]): Promise<unknown>;
  del(key: string): Promise<number>;
}

/**
 * Strikes that all processes count together, and each by itself while the server is away: those of that time end with their windows, and are not
 * added to the server's. Windows are whole seconds there, rounded up.
 */
export function sharedStrikes(server: StrikeServer, { clock, maxKeys = 100_000 }: StrikeStoreOptions): StrikeStore {
  const local = new LocalLimiter(clock, maxKeys);
  const limiter = new RateLimiterRedis({
    storeClient: libraryClient(server),
    keyPrefix: `${server.prefix}f`,
    points: 0,
    duration: 0,
    insuranceLimiter: local,
  });
  return {
    async strike(key, windowMs) {
      const { consumedPoints } = await limiter.penalty(key, 1, { customDuration: Math.ceil(windowMs / 1000) });
      return consumedPoints;
    },
    async clear(key) {
      await Promise.all([limiter.delete(key), local.delete(key)]);
    },
  };
}

function libraryClient(server: StrikeServer): LibraryClient {
  let text = "";
  return {
    defineCommand(_name, { lua }) {
      text = lua;
    },
    rlflxIncr: ([key = "", ...args]) => server.run(text, key, args),
    del: async (key) => Number(await server.delete(key)),
  };
}
