import { ConfigError } from "./core/errors.ts";
import type { PluginCounter } from "./core/plugin.ts";
import type { Metrics } from "./metering/metrics.ts";

/** Of one plugin. */
const MOST_COUNTERS = 16;
const NAME = /^[a-z][a-z0-9_]{0,57}_total$/;
const LABEL = /^[a-z][a-z0-9_]{0,31}$/;
const MOST_LABELS = 4;
/** A label's value is somebody's word. */
const MOST_VALUE = 128;

/** Counters that a plugin adds to the guard's metrics. */
export function pluginCounters(
  plugin: string,
  metrics: Pick<Metrics, "counter"> | null,
): (name: string, help: string, labels: readonly string[]) => PluginCounter {
  const names = new Set<string>();
  return function counter(name, help, labels) {
    const refuse = (why: string): never => {
      throw new ConfigError([`the plugin ${plugin}: counter ${name.slice(0, 64)}: ${why}`]);
    };
    if (!NAME.test(name)) refuse("its name must be lower case with _, and end in _total");
    if (typeof help !== "string" || help === "") refuse("needs a line that says what it counts");
    if (labels.length > MOST_LABELS || !labels.every((label) => LABEL.test(label)) || new Set(labels).size < labels.length)
      refuse(`takes at most ${MOST_LABELS} labels, each once, lower case with _`);
    if (names.has(name)) refuse("there is one of this name already");
    if (names.size >= MOST_COUNTERS) refuse(`the plugin has ${MOST_COUNTERS} already`);
    const add = metrics ? (metrics.counter(name, help, labels) ?? refuse("there is one of this name already")) : null;
    names.add(name);
    return (values) => {
      if (values.length !== labels.length) refuse(`takes ${labels.length} values, one for each label`);
      add?.(values.map((value) => value.slice(0, MOST_VALUE)));
    };
  };
}
