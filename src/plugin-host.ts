/** What one plugin may do, and the end of all that it did. */
import type { Admin } from "./core/admin.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import type { Events } from "./core/events.ts";
import type { Logger } from "./core/logger.ts";
import type { CredentialControl, PluginHost } from "./core/plugin.ts";
import type { SecretBox } from "./core/secret-box.ts";
import type { RecordStore } from "./core/store.ts";
import { isPromise, type Clock } from "./core/time.ts";
import { guardedFetch } from "./guarded-fetch.ts";
import type { Metrics } from "./metering/metrics.ts";
import { pluginCounters } from "./plugin-counters.ts";
import { checkKey, pluginRecords } from "./plugin-records.ts";
import { pluginRoute, type PluginRoutes } from "./plugin-routes.ts";
import { pluginSecrets } from "./plugin-secrets.ts";
import { pluginTimers } from "./plugin-timers.ts";
import { recordLock } from "./record-lock.ts";
import type { Transport } from "./upstream/transport.ts";

/** Listeners and watchers of one plugin. */
const MOST_LISTENERS = 1_000;

/** Where a plugin failed, as the metrics call it. */
export type PluginPart = "setup" | "listener" | "timer" | "route" | "watcher" | "teardown";

export interface PluginHostParts {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: Events;
  readonly admin: Admin;
  /** Shared by all processes when the store is. */
  readonly records: RecordStore;
  /** Of the ledger's store. */
  readonly kept: RecordStore;
  /** Throws ConfigError when there is no key. */
  readonly box: () => SecretBox;
  readonly control: CredentialControl;
  readonly routes: PluginRoutes;
  readonly routeDeadlineMs: number;
  readonly transport: () => Transport;
  /** Null = they are off. */
  readonly metrics: Pick<Metrics, "counter"> | null;
  /** Counts. */
  readonly failed: (plugin: string, part: PluginPart) => void;
}

export interface HostedPlugin {
  readonly host: PluginHost;
  readonly failed: (part: PluginPart, error: unknown) => void;
  /** Nothing of it begins any more: listeners, timers, watchers, routes. Resolves when the timers' work has ended. */
  quiet(): Promise<void>;
  /** Takes out the rest. From here on its host refuses. */
  end(): void;
}

export function pluginHost(name: string, parts: PluginHostParts): HostedPlugin {
  const { clock, control, events } = parts;
  const logger = namedLogger(name, parts.logger);
  const ending = new AbortController();
  /** Ends a listener or a watcher. */
  const stops = new Set<() => void>();
  let isOver = false;

  function failed(part: PluginPart, error: unknown): void {
    parts.failed(name, part);
    logger.warn({ code: "QG_PLUGIN_FAILED", err: error, in: part }, `a ${part} of the plugin failed`);
  }

  function alive(): void {
    if (isOver) throw new GuardError("plugin_failed", `the plugin ${name} was torn down, so its host does nothing any more`);
  }

  /** Calls what the plugin gave us; its failures are its own. */
  function shielded<A extends unknown[]>(part: PluginPart, fn: (...args: A) => unknown): (...args: A) => void {
    return (...args) => {
      try {
        const result = fn(...args);
        if (isPromise(result)) result.then(undefined, (error: unknown) => failed(part, error));
      } catch (error) {
        failed(part, error);
      }
    };
  }

  function untilTheEnd(stop: () => void): () => void {
    if (stops.size >= MOST_LISTENERS) {
      stop();
      throw new ConfigError([`the plugin ${name} has ${MOST_LISTENERS} listeners and watchers; stop one before you add another`]);
    }
    const once = (): void => {
      if (stops.delete(once)) stop();
    };
    stops.add(once);
    return once;
  }

  /** A store of the host's may mind: the plugin's own end, and that of the others, comes all the same. */
  function stopAll(): void {
    for (const stop of [...stops]) {
      try {
        stop();
      } catch (error) {
        failed("watcher", error);
      }
    }
  }

  const timers = pluginTimers(name, clock, (error) => failed("timer", error));
  const fetch = guardedFetch({ clock, transport: parts.transport, signal: ending.signal });
  const locks = recordLock({ records: parts.records, clock, owner: name });
  const shieldedRecords: RecordStore = { ...parts.records, watch: (prefix, fn) => parts.records.watch(prefix, shielded("watcher", fn)) };
  const route = { plugin: name, clock, deadlineMs: parts.routeDeadlineMs, failed: (error: unknown) => failed("route", error) };

  const host: PluginHost = {
    logger,
    clock,
    admin: whileAlive(adminWhileAlive(parts.admin, alive), alive),
    records: whileAlive(pluginRecords(name, shieldedRecords, untilTheEnd), alive),
    secrets: whileAlive(pluginSecrets(name, parts.kept, parts.box), alive),
    credentials: whileAlive(control.forPlugin(name), alive),
    on: (event, listener) => untilTheEnd(events.on(event, typeof listener === "function" ? shielded("listener", listener) : listener)),
    route: (path, step, options = {}) => void untilTheEnd(parts.routes.add(pluginRoute(path, step, options, route))),
    every: timers.every,
    lock: async (key, ttlMs) => locks.take(`plugin-locks/${name}/${checkKey(name, key)}`, ttlMs),
    fetch,
    counter: pluginCounters(name, parts.metrics),
    strategy: (strategy, fn) => control.strategy(strategy, fn),
    provider: (row) => control.provider(row),
  };

  return {
    host: whileAlive(host, alive),
    failed,
    async quiet() {
      stopAll();
      await timers.stop();
    },
    end() {
      if (isOver) return;
      isOver = true;
      ending.abort(new GuardError("plugin_failed", `the plugin ${name} was torn down`));
      // What its teardown began.
      stopAll();
      void timers.stop();
      control.drop(name);
    },
  };
}

/** Its parts are objects of their own. */
const adminWhileAlive = (admin: Admin, alive: () => void): Admin => ({
  ...admin,
  keys: whileAlive(admin.keys, alive),
  orgs: whileAlive(admin.orgs, alive),
  limits: whileAlive(admin.limits, alive),
});

/** The same object, whose functions refuse once `alive` throws. What a plugin took out of it before is no way around. */
function whileAlive<T extends object>(target: T, alive: () => void): T {
  const known = new Map<unknown, unknown>();
  return new Proxy(target, {
    get(of, key) {
      const member: unknown = Reflect.get(of, key);
      if (typeof member !== "function") return member;
      let wrapped = known.get(member);
      if (!wrapped) {
        wrapped = (...args: unknown[]): unknown => {
          alive();
          return Reflect.apply(member, of, args) as unknown;
        };
        known.set(member, wrapped);
      }
      return wrapped;
    },
  });
}

function namedLogger(plugin: string, logger: Logger): Logger {
  return {
    debug: (fields, message) => logger.debug({ plugin, ...fields }, message),
    info: (fields, message) => logger.info({ plugin, ...fields }, message),
    warn: (fields, message) => logger.warn({ plugin, ...fields }, message),
    error: (fields, message) => logger.error({ plugin, ...fields }, message),
  };
}
