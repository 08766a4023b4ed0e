import type { MaybePromise } from "../core/time.ts";

/** What is used of prom-client: an optional peer, so nothing here imports it, not even its types. */
export interface PromClient {
  readonly Registry: new () => PromRegistry;
  readonly Counter: new (options: PromOptions) => PromCounter;
  readonly Gauge: new (options: PromOptions) => PromGauge;
}

export interface PromRegistry {
  metrics(): Promise<string>;
  getSingleMetric(name: string): unknown;
  /** Takes anything that answers `get()` as prom-client's own metrics do. */
  registerMetric(metric: never): void;
  readonly contentType: string;
}

interface PromOptions {
  readonly name: string;
  readonly help: string;
  readonly labelNames: string[];
  /** Registries of the very same client, whose type is not ours to write down. */
  readonly registers: never;
  readonly collect?: () => void | Promise<void>;
}

type Labels = Record<string, string>;

interface PromCounter {
  reset(): void;
  inc(labels: Labels, value: number): void;
}

interface PromGauge {
  reset(): void;
  set(labels: Labels, value: number): void;
}

/** What a metric answers when it is asked for its samples. */
interface PromSamples {
  readonly name: string;
  readonly help: string;
  readonly type: "histogram";
  readonly aggregator: "sum";
  readonly values: { readonly labels: Readonly<Record<string, string | number>>; readonly value: number; readonly metricName: string }[];
}

/** One series of a counter or gauge. Handed to prom-client only when somebody scrapes: its own `inc` and `observe` cost ten times as much. */
export interface Cell {
  add(amount: number): void;
  /** Of a gauge, `NaN` = there is nothing to show until the next value. */
  set(value: number): void;
}

/** One set of series of a histogram. */
export interface Observer {
  observe(value: number): void;
}

/** Finds the series of these label values, in the order of the family's labels; where there is no room left, that of the overflow. */
export type Family<Child> = (...values: string[]) => Child;

/** A label whose values come from configuration or from outside: they count against the cap, and beyond it they are `other`. */
export const OPEN = Number.POSITIVE_INFINITY;

/** Label names in order, each with the number of values that it can have, or {@link OPEN}. */
export type LabelSpace = Readonly<Record<string, number>>;

export interface SeriesBudget {
  /** `show` turns the kept amount into the exposed one. */
  counter(name: string, help: string, labels: LabelSpace, show?: Show): Family<Cell>;
  gauge(name: string, help: string, labels: LabelSpace, show?: Show): Family<Cell>;
  histogram(name: string, help: string, labels: LabelSpace, buckets: readonly number[]): Family<Observer>;
  /** Called before gauges are read. */
  onScrape(fn: () => MaybePromise<void>): void;
  /** Time series that exist or are set aside for overflow. */
  readonly used: number;
}

export type Show = (value: number, labels: Labels) => number;

const asKept: Show = (value) => value;

/** `+Inf`, `_sum` and `_count` beside the buckets. */
const HISTOGRAM_EXTRAS = 3;

class Tally implements Cell {
  readonly labels: Labels;
  value = 0;

  constructor(labels: Labels) {
    this.labels = labels;
  }

  add(amount: number): void {
    this.value += amount;
  }

  set(value: number): void {
    this.value = value;
  }
}

/** One set of series of a histogram. */
class Distribution implements Observer {
  readonly labels: Labels;
  readonly #bounds: readonly number[];
  /** Per bucket, not yet summed up; the last one is beyond all bounds. */
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(labels: Labels, bounds: readonly number[]) {
    this.labels = labels;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let i = 0;
    while (i < bounds.length && value > (bounds[i] as number)) i += 1;
    this.#counts[i] = (this.#counts[i] as number) + 1;
    this.#sum += value;
  }

  writeTo(values: PromSamples["values"], name: string): void {
    const { labels } = this;
    let count = 0;
    for (let i = 0; i < this.#counts.length; i += 1) {
      count += this.#counts[i] as number;
      values.push({ labels: { le: this.#bounds[i] ?? "+Inf", ...labels }, value: count, metricName: `${name}_bucket` });
    }
    values.push({ labels, value: this.#sum, metricName: `${name}_sum` }, { labels, value: count, metricName: `${name}_count` });
  }
}

/** Makes families that together never have more than `maxSeries` time series. The overflow of each is set aside when the family is made. */
export function seriesBudget(options: {
  readonly client: PromClient;
  readonly registry: PromRegistry;
  readonly prefix: string;
  readonly maxSeries: number;
  readonly overflow: string;
}): SeriesBudget {
  const { client, registry, prefix, maxSeries, overflow } = options;
  const scrapeHooks: (() => MaybePromise<void>)[] = [];
  let scraping: Promise<void> | undefined;
  let used = 0;

  /** prom-client asks all families at once: the hooks run once for all of them. */
  function refresh(): Promise<void> {
    scraping ??= runHooks().finally(() => (scraping = undefined));
    return scraping;
  }

  async function runHooks(): Promise<void> {
    for (const hook of scrapeHooks) {
      try {
        await hook();
      } catch {
        // A scrape must not fail because the store is away: the gauges stay as they were, and the store's errors have a counter of their own.
      }
    }
  }

  function family<Child>(space: LabelSpace, weight: number, make: (labels: Labels) => Child): Family<Child> {
    const names = Object.keys(space);
    const isOpen = names.map((name) => space[name] === OPEN);
    const children = new Map<string, Child>();
    const overflows = new Map<string, Child>();
    const bounded = Object.values(space).reduce((product, count) => (count === OPEN ? product : product * count), 1);
    used += bounded * weight;

    const added = (map: Map<string, Child>, key: string, values: readonly string[]): Child => {
      const child = make(Object.fromEntries(names.map((name, i) => [name, values[i] ?? overflow])));
      map.set(key, child);
      return child;
    };

    function beyond(values: readonly string[]): Child {
      const known = values.map((value, i) => (isOpen[i] ? overflow : value));
      const key = known.join("\n");
      return overflows.get(key) ?? added(overflows, key, known);
    }

    // Without open labels all series are set aside already.
    if (!isOpen.includes(true)) return (...values) => children.get(values.join("\n")) ?? added(children, values.join("\n"), values);
    return function find(...values) {
      const key = values.length === 1 ? (values[0] as string) : values.join("\n");
      const child = children.get(key);
      if (child) return child;
      if (used + weight > maxSeries) return beyond(values);
      // A value that is called like the overflow is the overflow.
      if (values.every((value, i) => !isOpen[i] || value === overflow)) return beyond(values);
      used += weight;
      return added(children, key, values);
    };
  }

  const common = (name: string, help: string, space: LabelSpace): Omit<PromOptions, "collect"> => ({
    name: prefix + name,
    help,
    labelNames: Object.keys(space),
    registers: [registry] as never,
  });

  return {
    counter(name, help, space, show = asKept) {
      const tallies: Tally[] = [];
      const counter = new client.Counter({
        ...common(name, help, space),
        collect() {
          counter.reset();
          for (const { labels, value } of tallies) counter.inc(labels, show(value, labels));
        },
      });
      return family<Cell>(space, 1, (labels) => {
        const tally = new Tally(labels);
        tallies.push(tally);
        return tally;
      });
    },
    gauge(name, help, space, show = asKept) {
      const tallies: Tally[] = [];
      const gauge = new client.Gauge({
        ...common(name, help, space),
        async collect() {
          await refresh();
          gauge.reset();
          for (const { labels, value } of tallies) if (!Number.isNaN(value)) gauge.set(labels, show(value, labels));
        },
      });
      return family<Cell>(space, 1, (labels) => {
        const tally = new Tally(labels);
        tallies.push(tally);
        return tally;
      });
    },
    histogram(name, help, space, buckets) {
      const bounds = [...buckets];
      const distributions: Distribution[] = [];
      const fullName = prefix + name;
      const metric = {
        name: fullName,
        help,
        type: "histogram",
        aggregator: "sum",
        get(): PromSamples {
          const values: PromSamples["values"] = [];
          for (const distribution of distributions) distribution.writeTo(values, fullName);
          return { name: fullName, help, type: "histogram", aggregator: "sum", values };
        },
        // Like our counters, which are written anew at each scrape, it outlives a `resetMetrics()` of the host's registry.
        reset() {},
      } as const;
      registry.registerMetric(metric as never);
      return family<Observer>(space, bounds.length + HISTOGRAM_EXTRAS, (labels) => {
        const distribution = new Distribution(labels, bounds);
        distributions.push(distribution);
        return distribution;
      });
    },
    onScrape: (fn) => void scrapeHooks.push(fn),
    get used() {
      return used;
    },
  };
}
