import { hash } from "node:crypto";
import { ConfigError, GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { LIMIT_NUMBERS, type RecordStore, type Rule, type StoredRecord } from "../core/store.ts";
import { isPromise, type Clock, type MaybePromise } from "../core/time.ts";
import { isDynamic, ruleOf, sameCounter, shapeOf, type LimitDefinition, type LimitFacts, type LimitNumbers } from "./limit.ts";
import { withSettings, type RuntimeSettings } from "./settings.ts";

/** Numbers set at run time for one scope value; they outlive a restart in the store. */
export interface RuntimeNumbers extends LimitNumbers {
  /** Wall clock, ms; null = until changed. */
  readonly until: number | null;
}

/** A limit ready for use: names resolved, keys prepared, rules cached. */
export interface CompiledLimit {
  /** As it holds now: with what was set at run time for the whole limit. */
  readonly definition: LimitDefinition;
  readonly name: string;
  /** For people and error bodies: `user`, or `user+model`. */
  readonly scopeLabel: string;
  /** Whether it exists only for values that were set at run time. */
  readonly onlySet: boolean;
  /** The counter's key for encoded scope values. */
  key(values: readonly string[]): string;
  /** The rule in force for a scope value (label as in {@link valueLabel}); null = no limit. */
  rule(label: string, facts: LimitFacts, nowMs: number): MaybePromise<Rule | null>;
  /** False while it only watches. */
  enforcing(nowMs: number): boolean;
}

export interface LimitRegistry {
  /** Grows with each change of numbers or limits, so that plans know when they are stale. */
  readonly version: number;
  all(): readonly CompiledLimit[];
  get(name: string): CompiledLimit | undefined;
  /** Adds a limit, or finds the one of the same name and shape. Throws ConfigError for the same name with another shape. */
  add(definition: LimitDefinition, onlySet?: boolean): CompiledLimit;
  numbers(name: string, label: string): RuntimeNumbers | undefined;
  /** What was set at run time and holds now, by value, in the order of the values. */
  numbersOf(name: string): readonly (readonly [label: string, numbers: RuntimeNumbers])[];
  /** Whether any value of this limit was set at run time, also when the limit itself is not defined. */
  hasNumbers(name: string): boolean;
  /** Sets (undefined = resets) the numbers of one scope value. Resolves once stored. */
  set(name: string, label: string, numbers: RuntimeNumbers | undefined): Promise<void>;
  /** What of the whole limit was set at run time. */
  settings(name: string): RuntimeSettings | undefined;
  /**
   * Sets what `next` makes of the settings before. They count here once it resolves, and elsewhere before the next decision. Rejects with what `next` throws, and
   * with `overloaded` while others change them, too.
   */
  change(name: string, next: (before: RuntimeSettings) => RuntimeSettings): Promise<void>;
  /** The whole limit is as configured again; single values keep their numbers. False = nothing was set. */
  resetSettings(name: string): Promise<boolean>;
  /** Calls `fn` with the name of a limit for which numbers have come in, from whatever process, as soon as they count. The limit itself may not exist here. */
  onNumbers(fn: (name: string) => void): void;
  /** Puts back what was set at run time into a store that has lost it. Does nothing where no other records keep it. */
  restore(): Promise<void>;
  /** Reads what was set before a restart. */
  load(): Promise<void>;
  close(): void;
}

/** How often a change is tried that others get ahead of. */
const MOST_TRIES = 5;

const PLAIN = /^[A-Za-z0-9._@-]{1,64}$/;

/** A scope value as part of a key: itself when harmless, else its digest behind a character that no harmless value has. */
export const encodeValue = (value: string): string => (PLAIN.test(value) ? value : `~${hash("sha256", value, "base64url").slice(0, 22)}`);

const SHARED_SCOPES: ReadonlySet<string> = new Set(["global", "org", "route", "model"]);

/** Whether a limit's values belong to an organisation: two of them may both have an "alice", and those never share a counter. */
export const belongsToOrg = (scopes: readonly string[]): boolean => !scopes.includes("org") && scopes.some((scope) => !SHARED_SCOPES.has(scope));

/** How people write a scope value: `alice`, `acme/alice` within an organisation, `alice:gpt-4o` for a composite. */
export const valueLabel = (org: string | null, values: readonly string[]): string => (org === null ? "" : `${org}/`) + values.join(":");

export interface LimitRegistryOptions {
  readonly records: RecordStore;
  /** Records that outlive those; null = there are none. */
  readonly memo?: RecordStore | null;
  readonly clock: Clock;
  readonly logger: Logger;
}

export function limitRegistry({ records, memo = null, clock, logger }: LimitRegistryOptions): LimitRegistry {
  const limits = new Map<string, CompiledLimit>();
  /** As configured. */
  const defined = new Map<string, { readonly definition: LimitDefinition; readonly onlySet: boolean }>();
  const runtime = new Map<string, RuntimeNumbers>();
  const settings = new Map<string, RuntimeSettings>();
  /** Own writes on their way. What is told of their keys meanwhile may be newer than they are. */
  const writing = new Set<{ readonly key: string; isTold: boolean }>();
  const listeners: ((name: string) => void)[] = [];
  /** While what was set before is being read: what is told meanwhile is newer. */
  let told: Set<string> | undefined;
  let version = 1;

  function inForce(name: string, label: string, nowMs: number): RuntimeNumbers | undefined {
    // Asked for each limit of each request, and usually nothing was set.
    if (runtime.size === 0) return undefined;
    const found = runtime.get(`${name}\n${label}`);
    return found && (found.until === null || found.until > nowMs) ? found : undefined;
  }

  function compile(definition: LimitDefinition, onlySet: boolean): CompiledLimit {
    const prefix = `${shapeOf(definition.kind)}:${encodeValue(definition.name)}`;
    const dynamic = isDynamic(definition.kind);
    const make: MakeRule = (numbers, facts, nowMs) => ruleOf(definition, numbers, facts, nowMs);
    const plain = cachedRule(make, dynamic);
    const isQualified = belongsToOrg(definition.scope);
    const hasOverrides = Object.keys(definition.overrides).length > 0;
    const special = new Map<string, { readonly numbers: LimitNumbers; readonly rule: MakeRule }>();

    function numbersFor(label: string, nowMs: number): LimitNumbers | null {
      const set = inForce(definition.name, label, nowMs);
      if (set?.limit !== undefined || !hasOverrides) return set ?? null;
      const { overrides } = definition;
      const local = isQualified ? label.slice(label.indexOf("/") + 1) : label;
      const named = Object.hasOwn(overrides, label) ? label : local;
      return Object.hasOwn(overrides, named) ? { ...set, limit: overrides[named] as number } : (set ?? null);
    }

    return {
      definition,
      name: definition.name,
      scopeLabel: definition.scope.join("+"),
      onlySet,
      key: (values) => `${prefix}:${values.join(":")}`,
      rule(label, facts, nowMs) {
        const numbers = numbersFor(label, nowMs);
        if (!numbers) return onlySet ? null : plain({}, facts, nowMs);
        let found = special.get(label);
        if (!found || found.numbers.limit !== numbers.limit || found.numbers.refillPerSec !== numbers.refillPerSec) {
          found = { numbers, rule: cachedRule(make, dynamic) };
          special.set(label, found);
        }
        return found.rule(numbers, facts, nowMs);
      },
      enforcing: (nowMs) => definition.mode === "enforce" && (definition.enforceFrom === undefined || definition.enforceFrom <= nowMs),
    };
  }

  function build(name: string): CompiledLimit | undefined {
    const found = defined.get(name);
    if (!found) return undefined;
    const set = settings.get(name);
    const limit = compile(set ? withSettings(found.definition, set) : found.definition, found.onlySet);
    limits.set(name, limit);
    return limit;
  }

  function apply(key: string, value: unknown): void {
    const [name, label] = key.slice(LIMIT_NUMBERS.length).split("\n").map(decodeURIComponent) as [string, string | undefined];
    if (label === undefined) {
      if (value === undefined) settings.delete(name);
      else settings.set(name, value as RuntimeSettings);
      build(name);
    } else if (value === undefined) runtime.delete(`${name}\n${label}`);
    else runtime.set(`${name}\n${label}`, value as RuntimeNumbers);
    version += 1;
  }

  function take(key: string, record: StoredRecord | undefined): void {
    told?.add(key);
    for (const write of writing) if (write.key === key) write.isTold = true;
    apply(key, record?.value);
    const [name] = key.slice(LIMIT_NUMBERS.length).split("\n", 1) as [string];
    for (const listener of listeners) listener(decodeURIComponent(name));
  }

  /** A write counts here once it is stored: unless what is stored by now was told already. */
  async function written<T>(key: string, value: unknown, write: () => MaybePromise<T>): Promise<T> {
    const mine = { key, isTold: false };
    writing.add(mine);
    try {
      const result = await write();
      if (!mine.isTold && result !== undefined) apply(key, value);
      return result;
    } finally {
      writing.delete(mine);
    }
  }

  /** Keeps in the memo what the records say, also when another process writes at the same time. */
  async function remember(key: string): Promise<void> {
    if (!memo) return;
    let seen = await records.get(key);
    for (let n = 0; n < MOST_TRIES; n += 1) {
      if (seen) await memo.put(key, seen.value);
      else await memo.delete(key);
      const now = await records.get(key);
      if (now?.version === seen?.version) return;
      seen = now;
    }
  }

  async function keep(key: string, value: unknown): Promise<void> {
    await written(key, value, () => records.put(key, value));
    await remember(key);
  }

  async function forget(key: string): Promise<void> {
    // In this order what is gone cannot come back.
    await memo?.delete(key);
    await written(key, undefined, () => records.delete(key));
  }

  const settingsKey = (name: string): string => LIMIT_NUMBERS + encodeURIComponent(name);
  const recordKey = (name: string, label: string): string => `${settingsKey(name)}\n${encodeURIComponent(label)}`;
  const stop = records.watch(LIMIT_NUMBERS, take);

  return {
    get version() {
      return version;
    },
    all: () => [...limits.values()],
    get: (name) => limits.get(name),
    add(definition, onlySet = false) {
      const known = limits.get(definition.name);
      if (known) {
        if (sameCounter(known.definition, definition)) return known;
        throw new ConfigError([`limits: ${definition.name} is defined twice with different scope, unit or period; give one of them another name`]);
      }
      defined.set(definition.name, { definition, onlySet });
      version += 1;
      return build(definition.name) as CompiledLimit;
    },
    numbers: (name, label) => inForce(name, label, clock.now()),
    numbersOf(name) {
      const now = clock.now();
      const own = [...runtime].filter(([key, { until }]) => key.startsWith(`${name}\n`) && (until === null || until > now));
      return own.map(([key, numbers]) => [key.slice(name.length + 1), numbers] as const).toSorted(([a], [b]) => (a < b ? -1 : 1));
    },
    hasNumbers: (name) => [...runtime.keys()].some((key) => key.startsWith(`${name}\n`)),
    async set(name, label, numbers) {
      const key = recordKey(name, label);
      if (numbers) await keep(key, numbers);
      else await forget(key);
      logger.info({ limit: name, value: label, numbers: numbers ?? null }, "a limit was changed at run time");
    },
    settings: (name) => settings.get(name),
    async change(name, next) {
      const key = settingsKey(name);
      for (let n = 0; n < MOST_TRIES; n += 1) {
        const found = await records.get(key);
        const value = next(found?.value ?? {});
        const condition = found ? { ifVersion: found.version } : { ifAbsent: true };
        if ((await written(key, value, () => records.put(key, value, condition))) === undefined) continue;
        await remember(key);
        logger.warn({ limit: name, settings: value }, "a limit was changed at run time");
        return;
      }
      throw new GuardError("overloaded", `the limit ${name} is being changed by others; try again`, { retryAfterMs: 1_000 });
    },
    async resetSettings(name) {
      if ((await records.get(settingsKey(name))) === undefined) return false;
      await forget(settingsKey(name));
      logger.warn({ limit: name }, "a limit is as configured again");
      return true;
    },
    onNumbers: (fn) => void listeners.push(fn),
    async restore() {
      for (const { key, value } of (await memo?.list(LIMIT_NUMBERS)) ?? []) await records.put(key, value, { ifAbsent: true });
    },
    async load() {
      const newer = (told = new Set());
      for (const record of await records.list(LIMIT_NUMBERS)) if (!newer.has(record.key)) take(record.key, record);
      told = undefined;
    },
    close: stop,
  };
}

type MakeRule = (numbers: LimitNumbers, facts: LimitFacts, nowMs: number) => MaybePromise<Rule | null>;

/** Keeps the last rule: it changes only when a calendar window turns, or when its number comes from a function. */
function cachedRule(make: MakeRule, dynamic: boolean): MakeRule {
  let last: Rule | null | undefined;
  return (numbers, facts, nowMs) => {
    const isCurrent = last !== undefined && !dynamic && (last?.kind !== "calendar" || (nowMs < last.bounds[2] && nowMs >= last.bounds[1]));
    if (isCurrent) return last as Rule | null;
    const made = make(numbers, facts, nowMs);
    if (isPromise(made)) return made;
    last = made;
    return made;
  };
}
