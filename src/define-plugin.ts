import { ConfigError } from "./core/errors.ts";
import type { Plugin } from "./core/plugin.ts";
import { pluginProblem } from "./options/plugins.ts";

/**
 * Says that a value is a plugin: checks it, and returns that very value with the type it has. Whatever it carries besides `name` and `setup` is its API for
 * the host's code; the guard calls only `setup`.
 *
 * `setup(host)` runs once the store is ready and before `ready()` resolves; the plugins of a list one after another, in its order. It has 30 s. A throw stops
 * the start: `ready()` rejects with `plugin_failed`, which names the plugin and has the cause. What it returns is called when the guard closes, in reverse
 * order, with 5 s of time (after at most 5 s for running timers); by then no listener, timer or route of the plugin begins any more, and everything else of `host` still works.
 *
 * @throws ConfigError for a name or a `setup` that cannot be used.
 * @example
 * function spending() {
 *   const usd = new Map<string, number>();
 *   return definePlugin({
 *     name: "spending",
 *     setup(host) {
 *       host.on("request", ({ scopes, costUsd }) => {
 *         const user = scopes.user ?? "nobody";
 *         usd.set(user, (usd.get(user) ?? 0) + (costUsd ?? 0));
 *       });
 *       host.route("/report", () => jsonAnswer(Object.fromEntries(usd)));
 *       host.every(60_000, async () => void (await host.records.put("report", Object.fromEntries(usd))));
 *     },
 *     of: (user: string) => usd.get(user) ?? 0,
 *   });
 * }
 * const spent = spending();
 * const guard = createGuard({ plugins: [spent] });
 * spent.of("alice");
 */
export function definePlugin<P extends Plugin>(plugin: P): P {
  const problem = pluginProblem(plugin);
  if (problem !== null) throw new ConfigError([`definePlugin: ${problem}`]);
  return plugin;
}
