import { randomUUID } from "node:crypto";

import { onTestFinished } from "vitest";

import { GuardError } from "../../../src/core/errors.ts";
import type { Logger } from "../../../src/core/logger.ts";
import type { Store } from "../../../src/core/store.ts";
import { redisStore, type RedisStoreOptions, type RedisStoreSource } from "../../../src/stores/redis/index.ts";
import { ownTime } from "../../helpers/own-time.ts";

export interface LogLine {
  readonly level: keyof Logger;
  readonly fields: { readonly code?: string; readonly server?: string; readonly err?: Error };
  readonly message: string;
}

export interface Log {
  readonly logger: Logger;
  readonly lines: readonly LogLine[];
  codes(): readonly string[];
  /** Resolves when a line with this code has been written so often. */
  has(code: string, times?: number): Promise<void>;
}

/** A logger that remembers, and wakes who waits for a line. */
export function log(): Log {
  const lines: LogLine[] = [];
  const waiters = new Set<() => void>();
  const write =
    (level: keyof Logger) =>
    (fields: object, message: string): void => {
      lines.push({ level, fields, message });
      for (const wake of waiters) wake();
    };
  const codes = (): string[] => lines.map(({ fields }) => fields.code ?? "").filter((code) => code !== "");
  return {
    logger: { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") },
    lines,
    codes,
    has(code, times = 1) {
      return new Promise((resolve) => {
        const look = (): void => {
          if (codes().filter((each) => each === code).length < times) return;
          waiters.delete(look);
          resolve();
        };
        waiters.add(look);
        look();
      });
    },
  };
}

/** Of one test alone on a shared server. */
export const ownPartition = (): string => `test-${randomUUID()}`;

/** A store that is ready, closed when the test is over. */
export async function readyStore(source: RedisStoreSource, options: RedisStoreOptions = {}): Promise<Store> {
  const store = redisStore(source, options);
  onTestFinished(async () => {
    await store.close();
  });
  await store.ready();
  return store;
}

/** What a call failed with, and after how many ms: by the clock, and as this process had them. */
export async function failureOf(call: () => unknown): Promise<{ readonly error: GuardError; readonly ms: number; readonly ownMs: number }> {
  const startMs = performance.now();
  const sinceAsked = ownTime();
  try {
    await call();
  } catch (error) {
    if (!GuardError.is(error)) throw error;
    return { error, ms: performance.now() - startMs, ownMs: sinceAsked() };
  }
  throw new Error("the call succeeded");
}

/** Calls until it succeeds. Returns the result, and after how many ms. Each call waits for a turn of the event loop, none sleeps. */
export async function eventually<T>(call: () => Promise<T> | T): Promise<{ readonly result: T; readonly ms: number }> {
  const startMs = performance.now();
  for (;;) {
    try {
      const result = await call();
      return { result, ms: performance.now() - startMs };
    } catch (error) {
      if (!GuardError.is(error)) throw error;
      await new Promise((resolve) => void setImmediate(resolve));
    }
  }
}
