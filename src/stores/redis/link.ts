/** What the parts of the Redis store share: one connection whose calls always end, and scripts that are known by their digest. */

export interface RedisScript {
  readonly name: string;
  readonly text: string;
  /** SHA-1 of the text, as Redis counts it. */
  readonly digest: string;
}

export type RedisArgument = string | number | Buffer;

/**
 * A connection whose calls always end: with the reply, or within the deadline with `GuardError("store_unavailable")`. What the server says no to (OOM,
 * READONLY, LOADING, WRONGTYPE, …) is `store_unavailable` too, never a refusal.
 */
export interface RedisLink {
  /** Begins every key, with the hash tag: `qg:{<partition>}:`. */
  readonly prefix: string;
  /** The time that scripts shall take for the server's own, ms, for tests; undefined = the server's. */
  readonly testTime: (() => number) | undefined;
  /**
   * Runs a script by its digest and loads it where the server does not know it. Texts in the reply are Buffers, integers numbers, nil is null. A
   * script that is `idempotent` is sent once more when the connection broke before the reply and the deadline leaves time for it.
   */
  run(script: RedisScript, keys: readonly string[], args: readonly RedisArgument[], idempotent: boolean): Promise<unknown>;
  /** One command, sent once. Replies as in {@link RedisLink.run}. */
  call(command: string, ...args: readonly RedisArgument[]): Promise<unknown>;
}
