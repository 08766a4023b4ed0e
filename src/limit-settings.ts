/** Limits as operators see and set them, whole and value by value. */
import type { AdoptRule } from "./adopt-rule.ts";
import { GuardError } from "./core/errors.ts";
import { LIMIT_SETTINGS, type LimitAdmin, type LimitValueInput, type LimitValueView, type LimitView } from "./core/limit-admin.ts";
import { hint } from "./core/nearest.ts";
import { scopesFrom, type ScopeInput } from "./core/scope.ts";
import type { Clock } from "./core/time.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import { plannedFor, type PlannedLimit } from "./limits/plan.ts";
import { belongsToOrg, type CompiledLimit, type LimitRegistry, type RuntimeNumbers } from "./limits/registry.ts";
import type { RuntimeSettings } from "./limits/settings.ts";
import { changedSettings, limitNumbers } from "./options/limit-numbers.ts";
import type { ShadowReports } from "./shadow-reports.ts";

export interface LimitSettingsParts {
  readonly registry: LimitRegistry;
  /** All limits, also those of parts that no request has reached yet. */
  readonly declared: () => Iterable<LimitDefinition>;
  readonly adopt: AdoptRule;
  readonly reports: ShadowReports;
  readonly clock: Clock;
}

export function limitSettings({ registry, declared, adopt, reports, clock }: LimitSettingsParts): LimitAdmin {
  function all(): readonly CompiledLimit[] {
    for (const limit of declared()) registry.add(limit);
    return registry.all();
  }

  function named(name: string): CompiledLimit {
    const known = all();
    const found = registry.get(name);
    if (found) return found;
    const names = known.map((limit) => limit.name);
    throw new GuardError("not_found", `there is no limit ${name.slice(0, 64)}${hint(name, names)}`);
  }

  /** The state of a bucket goes on with the rule that holds now. */
  async function follow(planned: PlannedLimit): Promise<void> {
    const { limit, key, label } = planned;
    const { unit, kind } = limit.definition;
    if (!("bucket" in kind)) return;
    // A function is asked by requests only.
    if (typeof kind.bucket.capacity === "function" && registry.numbers(limit.name, label)?.limit === undefined) return;
    const rule = await limit.rule(label, { scopes: {}, principal: undefined, req: undefined as never }, clock.now());
    if (rule?.kind === "bucket") await adopt({ key, unit, rule }, 0);
  }

  const shown = (limit: CompiledLimit): LimitView => viewOf(limit, registry.settings(limit.name) ?? {}, registry.numbersOf(limit.name));

  return {
    list: () => all().map(shown),

    async set(name, value, given) {
      const limit = named(name);
      const planned = placeOf(limit, value);
      const numbers = limitNumbers(limit.definition, given, clock.now());
      await registry.set(name, planned.label, numbers);
      await follow(planned);
      return valueView(planned.label, numbers);
    },

    async update(name, given) {
      const { definition, onlySet } = named(name);
      await registry.change(name, (before) => {
        const next = changedSettings(definition, before, given);
        if (onlySet && (next.limit !== undefined || next.refillPerSec !== undefined))
          throw new GuardError("body_invalid", `limit: ${name} exists for single values only; set its numbers for one of them`, { param: "limit" });
        return next;
      });
      return shown(named(name));
    },

    async reset(name, value) {
      const limit = named(name);
      if (value === undefined) return registry.resetSettings(name);
      const planned = placeOf(limit, value);
      if (!registry.numbers(name, planned.label)) return false;
      await registry.set(name, planned.label, undefined);
      await follow(planned);
      return true;
    },

    async shadow(name) {
      const { definition } = named(name);
      const { unit, mode, enforceFrom = null } = definition;
      return { name, unit, mode, enforceFrom, ...(await reports.read(name, unit)) };
    },
  };
}

function viewOf({ name, definition }: CompiledLimit, settings: RuntimeSettings, values: readonly (readonly [string, RuntimeNumbers])[]): LimitView {
  const { kind, scope, unit, mode, enforceFrom = null } = definition;
  const set = LIMIT_SETTINGS.filter((setting) => settings[setting] !== undefined);
  const common = { name, scope, unit, mode, enforceFrom, set, values: values.map(([label, numbers]) => valueView(label, numbers)) };
  const numberOf = (limit: unknown): number | null => (typeof limit === "number" ? limit : null);
  if ("bucket" in kind) return { ...common, kind: "bucket", limit: numberOf(kind.bucket.capacity), refillPerSec: kind.bucket.refillPerSec };
  if ("window" in kind) return { ...common, kind: "window", limit: numberOf(kind.window.limit) };
  return { ...common, kind: "concurrency", limit: numberOf(kind.concurrency.limit) };
}

function valueView(value: string, { limit, refillPerSec, until }: RuntimeNumbers): LimitValueView {
  return { value, limit: limit ?? null, ...(refillPerSec === undefined ? {} : { refillPerSec }), until };
}

const invalid = (message: string): GuardError => new GuardError("body_invalid", `value: ${message}`, { param: "value" });

/** The counter of a value, as a request with these scopes finds it. */
function placeOf(limit: CompiledLimit, value: LimitValueInput): PlannedLimit {
  const { scope } = limit.definition;
  const given: Readonly<Record<string, ScopeInput>> = typeof value === "string" ? scopesIn(value, scope) : value;
  if (typeof given !== "object" || given === null) throw invalid("expected text, or the values by scope");
  const known = belongsToOrg(scope) ? [...scope, "org"] : scope;
  for (const name of Object.keys(given))
    if (!known.includes(name)) throw invalid(`limit ${limit.name} does not count by ${name}${hint(name, known)}`);
  const { route, model, ...rest } = given;
  const request = { route: textOf(route), model: textOf(model), key: null };
  const found = plannedFor(limit, checkedScopes(rest), request);
  if ("missing" in found) throw invalid(`limit ${limit.name} counts by ${scope.join(" and ")}; ${found.missing} has no value`);
  return found;
}

/** `acme/alice:gpt-4o`: an organisation before the first slash, where values belong to one, then the values in the order of the scopes. */
function scopesIn(text: string, scope: readonly string[]): Readonly<Record<string, string>> {
  if (scope.length === 1 && scope[0] === "global") {
    if (text === "all") return {};
    throw invalid("a global limit has one value: all");
  }
  const slash = belongsToOrg(scope) ? text.indexOf("/") : -1;
  const isQualified = slash > 0 && (scope.length === 1 || !text.slice(0, slash).includes(":"));
  const local = isQualified ? text.slice(slash + 1) : text;
  const values = scope.length === 1 ? [local] : local.split(":");
  if (values.length !== scope.length || values.includes("")) {
    throw invalid(`expected ${scope.join(":")}; in code, values that have colons themselves are given by scope: { ${scope.join(", ")} }`);
  }
  return { ...(isQualified ? { org: text.slice(0, slash) } : {}), ...Object.fromEntries(scope.map((name, i) => [name, values[i] as string])) };
}

function checkedScopes(values: Readonly<Record<string, ScopeInput>>): ReturnType<typeof scopesFrom> {
  try {
    return scopesFrom(values);
  } catch (error) {
    throw invalid((error as Error).message);
  }
}

function textOf(value: ScopeInput): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string" && value !== "" && value.length <= 256) return value;
  throw invalid("expected text of at most 256 characters");
}
