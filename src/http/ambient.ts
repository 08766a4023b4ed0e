import { AsyncLocalStorage } from "node:async_hooks";
import type { EventEmitter } from "node:events";
import type { Context } from "../core/context.ts";

/**
 * The request that code runs for, found without being handed on: how an SDK deep inside a handler knows whose budgets it touches. One for each guard, so
 * nobody takes over the scopes of another guard's request. It costs nothing before somebody makes an in-process client.
 */
export interface Ambient {
  /** Whether the guard has in-process clients. */
  readonly isOn: boolean;
  /** From now on requests are remembered. A client that is made while a handler begins still belongs to that handler's request. */
  switchOn(): void;
  /** The request that the running code belongs to. */
  current(): Context | undefined;
  /** Runs `fn`, and all that follows from it, for this request. */
  run<T>(ctx: Context, fn: () => T): T;
  /** {@link Ambient.run}; also what the emitters tell later belongs to the request. */
  enter(ctx: Context, emitters: readonly EventEmitter[], fn: () => void): void;
}

export function ambientRequests(): Ambient {
  let storage: AsyncLocalStorage<Context> | undefined;
  /** Whose handler is being started, as long as nothing is remembered. */
  let starting: Context | undefined;

  function run<T>(ctx: Context, fn: () => T): T {
    if (storage) return storage.run(ctx, fn);
    const before = starting;
    starting = ctx;
    try {
      return fn();
    } finally {
      starting = before;
      // Switched on on the way: what the caller does next is not this request's any more.
      (storage as AsyncLocalStorage<Context | undefined> | undefined)?.enterWith(before);
    }
  }

  /** Sockets tell of a request in a context of their own, so a handler that goes on from `req.on("end")` would be lost. */
  function bind(emitter: EventEmitter, ctx: Context): void {
    const emit = emitter.emit.bind(emitter) as (...args: unknown[]) => boolean;
    emitter.emit = (...args: unknown[]): boolean => (storage as AsyncLocalStorage<Context>).run(ctx, emit, ...args);
  }

  return {
    get isOn() {
      return storage !== undefined;
    },
    switchOn() {
      if (storage) return;
      storage = new AsyncLocalStorage();
      if (starting) storage.enterWith(starting);
    },
    current: () => storage?.getStore(),
    run,
    enter(ctx, emitters, fn) {
      // A second part on the same route runs inside the first one's.
      if (storage && storage.getStore() !== ctx) for (const emitter of emitters) bind(emitter, ctx);
      run(ctx, fn);
    },
  };
}
