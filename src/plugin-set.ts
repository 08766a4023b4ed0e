/** The plugins of a guard: set up one after another, torn down in reverse. Loaded only where there is one. */
import { closeAll } from "./core/close-all.ts";
import { GuardError } from "./core/errors.ts";
import type { Plugin } from "./core/plugin.ts";
import { secretBox, type SecretBox } from "./core/secret-box.ts";
import type { Clock } from "./core/time.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { pluginHost, type HostedPlugin, type PluginHostParts } from "./plugin-host.ts";
import { pluginRoutes, type PluginRoutes } from "./plugin-routes.ts";
import { secretKey } from "./secret-key.ts";
import { undiciTransport, type Transport } from "./upstream/transport.ts";

const SETUP_MS = 30_000;
const TEARDOWN_MS = 5_000;

export interface PluginSetParts extends Pick<
  PluginHostParts,
  "clock" | "logger" | "events" | "admin" | "records" | "kept" | "control" | "metrics" | "failed"
> {
  readonly options: ResolvedOptions;
}

export interface PluginSet {
  readonly routes: PluginRoutes;
  /** Never rejects. */
  close(): Promise<void>;
}

interface SetUp {
  readonly plugin: Plugin;
  readonly hosted: HostedPlugin;
  /** What `setup` returned. */
  readonly teardown: unknown;
}

/** @throws GuardError `plugin_failed` that names the plugin, with the cause; by then those before it are torn down. */
export async function pluginSet({ options, ...parts }: PluginSetParts): Promise<PluginSet> {
  const { clock } = parts;
  const routes = pluginRoutes();
  let box: SecretBox | undefined;
  let transport: Transport | undefined;
  const shared: PluginHostParts = {
    ...parts,
    routes,
    routeDeadlineMs: options.server.requestTimeoutMs,
    box: () => (box ??= secretBox(secretKey(options), "plugin-secrets")),
    // Of its own, whatever the host replaced: only here it is certain that each address is checked.
    transport: () => (transport ??= undiciTransport({ connectTimeoutMs: options.resilience.connectTimeoutMs, clock })),
  };
  const running: SetUp[] = [];
  let closing: Promise<void> | undefined;

  async function tearDownAll(): Promise<void> {
    for (const { plugin, hosted, teardown } of running.toReversed()) await tearDown(clock, plugin, hosted, teardown);
    await closeAll([() => transport?.close()]);
  }
  const close = (): Promise<void> => (closing ??= tearDownAll());

  for (const plugin of options.plugins) {
    const hosted = pluginHost(plugin.name, shared);
    try {
      running.push({ plugin, hosted, teardown: await setUp(clock, plugin, hosted) });
    } catch (error) {
      parts.failed(plugin.name, "setup");
      await tearDown(clock, plugin, hosted, undefined);
      await close();
      const why = error instanceof Error ? error.message : String(error);
      throw new GuardError("plugin_failed", `the plugin ${plugin.name} could not be set up: ${why}`, { cause: error });
    }
  }
  return { routes, close };
}

async function setUp(clock: Clock, plugin: Plugin, hosted: HostedPlugin): Promise<unknown> {
  const setting = Promise.resolve(hosted.host).then((host) => plugin.setup(host) as unknown);
  let isLate = false;
  const late = (): Error => {
    isLate = true;
    return new Error(`its setup did not end within ${SETUP_MS / 1_000} s; it should return as soon as it can work, and go on by itself`);
  };
  // One that ends later has opened something all the same.
  setting
    .then(
      (teardown) => (isLate && typeof teardown === "function" ? call(teardown) : undefined),
      () => {},
    )
    .catch((error: unknown) => hosted.failed("teardown", error));
  return within(clock, SETUP_MS, setting, late);
}

/**
 * Nothing new begins and what runs ends, then the plugin's own teardown, then its host is shut. Each of the first two has its own deadline: a timer that
 * hangs must not keep the plugin from closing what it has open. What fails is logged.
 */
async function tearDown(clock: Clock, plugin: Plugin, hosted: HostedPlugin, teardown: unknown): Promise<void> {
  async function inTime(work: Promise<void>, what: string): Promise<void> {
    try {
      await within(clock, TEARDOWN_MS, work, () => new Error(`${what} did not end within ${TEARDOWN_MS / 1_000} s and is left behind`));
    } catch (error) {
      hosted.failed("teardown", error);
    }
  }
  await inTime(hosted.quiet(), `a timer of the plugin ${plugin.name}`);
  if (typeof teardown === "function") await inTime(call(teardown), `the plugin ${plugin.name}`);
  hosted.end();
}

const call = async (teardown: object): Promise<void> => void (await (teardown as () => unknown)());

function within<T>(clock: Clock, ms: number, work: Promise<T>, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = clock.timer(ms, () => reject(late()));
    work.then(resolve, reject).finally(() => timer.cancel());
  });
}
