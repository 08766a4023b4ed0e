import type { Admin } from "../../src/core/admin.ts";
import { eventEmitter, type Events } from "../../src/core/events.ts";
import type { CredentialControl, Plugin, PluginCredentials, PluginHost } from "../../src/core/plugin.ts";
import type { RecordStore } from "../../src/core/store.ts";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { pluginSet, type PluginSet } from "../../src/plugin-set.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";

/** What the pool was asked for, in order. */
export function fakeControl(): CredentialControl & { readonly asked: string[] } {
  const asked: string[] = [];
  const note =
    <T>(plugin: string, what: string, answer: T) =>
    (...args: readonly unknown[]): T => {
      asked.push(`${plugin} ${what} ${JSON.stringify(args)}`);
      return answer;
    };
  return {
    asked,
    forPlugin: (plugin): PluginCredentials => ({
      list: note(plugin, "list", []),
      get: note(plugin, "get", undefined),
      upsert: note(plugin, "upsert", undefined),
      remove: note(plugin, "remove", false),
      disable: note(plugin, "disable", Promise.resolve()),
      enable: note(plugin, "enable", Promise.resolve(true)),
      report: note(plugin, "report", Promise.resolve()),
      refresher: note(plugin, "refresher", () => undefined),
    }),
    strategy: (name) => void asked.push(`strategy ${name}`),
    provider: ({ id }) => void asked.push(`provider ${id}`),
    drop: (name) => void asked.push(`drop ${name}`),
  };
}

export interface PluginKit {
  readonly clock: TestClock;
  readonly logger: ReturnType<typeof keptLogger>;
  readonly events: Events;
  /** Of the store. */
  readonly records: RecordStore;
  /** Of the ledger's store. */
  readonly kept: RecordStore;
  readonly control: ReturnType<typeof fakeControl>;
  /** `<plugin> <part>` of each failure that was counted. */
  readonly failures: string[];
  start(plugins: readonly Plugin[], options?: GuardOptions): Promise<PluginSet>;
}

export function pluginKit(more: Partial<Pick<PluginKit, "clock" | "records" | "kept">> = {}): PluginKit {
  const clock = more.clock ?? testClock();
  const logger = keptLogger();
  const events = eventEmitter(logger);
  const records = more.records ?? memoryRecords(clock.now, logger);
  const kept = more.kept ?? memoryRecords(clock.now, logger);
  const control = fakeControl();
  const failures: string[] = [];
  const admin = { bans: () => [], keys: { list: () => Promise.resolve([]) }, orgs: {}, limits: {} } as unknown as Admin;
  return {
    clock,
    logger,
    events,
    records,
    kept,
    control,
    failures,
    start: (plugins, options = {}) =>
      pluginSet({
        options: resolveOptions({ ...options, plugins }),
        clock,
        logger,
        events,
        admin,
        records,
        kept,
        control,
        metrics: null,
        failed: (plugin, part) => void failures.push(`${plugin} ${part}`),
      }),
  };
}

/** The host of a plugin that does nothing by itself. */
export async function hosted(
  kit: PluginKit,
  name = "probe",
  options: GuardOptions = {},
): Promise<{ readonly host: PluginHost; readonly set: PluginSet }> {
  let host: PluginHost | undefined;
  const set = await kit.start([{ name, setup: (given) => void (host = given) }], options);
  return { host: host as PluginHost, set };
}

/** Lets what is already decided happen: no time passes. */
export const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
