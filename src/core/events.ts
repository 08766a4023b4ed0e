import { ConfigError, type ErrorCode, type GuardError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { hint } from "./nearest.ts";
import type { Scopes } from "./scope.ts";
import type { Amounts, Unit } from "./store.ts";
import type { Provenance, Usage } from "./usage.ts";

/** What a guard tells its host. Amounts of money are USD here. */
export interface GuardEvents {
  request: {
    readonly requestId: string;
    readonly scopes: Scopes;
    readonly model: string | null;
    readonly servedModel: string | null;
    readonly credential: string | null;
    readonly attempts: number;
    readonly usage: Usage | null;
    readonly costUsd: number | null;
    readonly code: ErrorCode | "client_closed" | null;
    readonly status: number;
    /** The id of the request whose answer this one was given again, for its `Idempotency-Key`. */
    readonly replayOf?: string;
    /** The caller's label for it: that of `guard.fetch({ tag })`. */
    readonly tag?: string;
  };
  refused: { readonly requestId: string; readonly scopes: Scopes; readonly error: GuardError };
  "would-refuse": {
    readonly requestId: string;
    readonly scopes: Scopes;
    readonly limit: string;
    readonly needed: number;
    readonly available: number;
  };
  attempt: {
    readonly requestId: string;
    readonly credential: string;
    readonly model: string;
    readonly status: number | null;
    readonly code: ErrorCode | null;
  };
  settled: { readonly requestId: string; readonly scopes: Scopes; readonly amounts: Amounts; readonly provenance: Provenance };
  /** A credential (for one model, or null = all) or a client was banned. `until` null = until a person lifts it. Wall clock, ms. */
  ban: {
    readonly credential: string | null;
    readonly model: string | null;
    readonly client: string | null;
    readonly code: number;
    readonly until: number | null;
  };
  debt: { readonly requestId: string; readonly limit: string; readonly unit: Unit; readonly amount: number };
}

const NAMES: { readonly [name in keyof GuardEvents]: true } = {
  request: true,
  refused: true,
  "would-refuse": true,
  attempt: true,
  settled: true,
  ban: true,
  debt: true,
};

type Listener<T> = (event: T) => void;

/** A typed emitter whose listeners cannot break a request: a throw is logged. */
export interface Events {
  /** Returns a function that stops it. Throws ConfigError for an event that never comes. */
  on<K extends keyof GuardEvents>(name: K, listener: Listener<GuardEvents[K]>): () => void;
  /** Whether anybody listens: lets the hot path skip building the event. */
  has(name: keyof GuardEvents): boolean;
  emit<K extends keyof GuardEvents>(name: K, event: GuardEvents[K]): void;
}

/** JavaScript may give anything. */
function unknownOf(given: unknown): string {
  const name = String(given);
  return name + hint(name, Object.keys(NAMES));
}

export function eventEmitter(logger: Logger): Events {
  const listeners = new Map<keyof GuardEvents, Set<Listener<never>>>();
  return {
    on(name, listener) {
      if (!Object.hasOwn(NAMES, name)) throw new ConfigError([`on(): there is no event ${unknownOf(name)}`]);
      if (typeof listener !== "function") throw new ConfigError([`on("${name}", listener) needs a function`]);
      let set = listeners.get(name);
      if (!set) listeners.set(name, (set = new Set()));
      set.add(listener);
      return () => void set.delete(listener);
    },
    has(name) {
      const set = listeners.get(name);
      return set !== undefined && set.size > 0;
    },
    emit(name, event) {
      for (const listener of listeners.get(name) ?? []) {
        try {
          const result: unknown = (listener as Listener<typeof event>)(event);
          if (result instanceof Promise) result.catch((error: unknown) => logger.warn({ err: error, event: name }, "an event listener failed"));
        } catch (error) {
          logger.warn({ err: error, event: name }, "an event listener failed");
        }
      }
    },
  };
}
