import { beforeEach, describe, expect, test } from "vitest";
import type { Scopes } from "../../src/core/scope.ts";
import type { Charge } from "../../src/core/store.ts";
import { isPromise } from "../../src/core/time.ts";
import type { LimitDefinition } from "../../src/limits/limit.ts";
import { chargeOf, plannedFor, planner, type Planner, type RequestScopes } from "../../src/limits/plan.ts";
import { limitRegistry, type LimitRegistry } from "../../src/limits/registry.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { kit, refusalOf, type Kit } from "../core/context-kit.ts";
import { definition, FACTS } from "./definition-kit.ts";

const REQUEST: RequestScopes = { route: "/v1/chat/completions", model: "gpt-4o", key: "k1" };
let from: Kit;
let registry: LimitRegistry;
beforeEach(() => {
  from = kit();
  registry = limitRegistry({ records: memoryStore({ clock: from.clock }).records, clock: from.clock, logger: from.logger });
});

function planOf(...limits: readonly Partial<LimitDefinition>[]): Planner {
  limits.forEach((limit, i) => registry.add(definition({ name: `l${i}`, ...limit })));
  return planner({ registry, requiredByDefault: false });
}
const keys = (plan: Planner, scopes: Scopes, request = REQUEST): string[] => plan.plan(scopes, request).map(({ key }) => key);

describe("the limits that apply", () => {
  test.each<[readonly string[], Scopes, RequestScopes, string | null]>([
    [["global"], {}, REQUEST, "b:l0:all"],
    [["user"], { user: "alice" }, REQUEST, "b:l0:alice"],
    [["user"], {}, REQUEST, null],
    [["team"], { user: "alice" }, REQUEST, null],
    [["model"], {}, REQUEST, "b:l0:gpt-4o"],
    [["model"], { model: "asserted" }, REQUEST, "b:l0:gpt-4o"],
    [["model"], { model: "asserted" }, { ...REQUEST, model: null }, "b:l0:asserted"],
    [["model"], {}, { ...REQUEST, model: null }, null],
    [["key"], { key: "asserted" }, REQUEST, "b:l0:k1"],
    [["key"], {}, { ...REQUEST, key: null }, null],
    [["user", "model"], { user: "alice" }, REQUEST, "b:l0:alice:gpt-4o"],
    [["user", "model"], {}, REQUEST, null],
    [["feature"], { feature: "search" }, REQUEST, "b:l0:search"],
    [["org"], { org: "acme" }, REQUEST, "b:l0:acme"],
    [["constructor"], { user: "alice" }, REQUEST, null],
    [["__proto__"], { user: "alice" }, REQUEST, null],
  ])("%j of %j", (scope, scopes, request, key) => {
    expect(keys(planOf({ scope }), scopes, request)).toEqual(key === null ? [] : [key]);
  });

  test("are in the order of the registry, with what people call them", () => {
    const plan = planOf({ scope: ["global"] }, { scope: ["user", "model"] }, { scope: ["team"] });
    expect(plan.plan({ user: "alice", team: "data" }, REQUEST).map(({ name, scope, label }) => [name, scope, label])).toEqual([
      ["l0", "global", "all"],
      ["l1", "user+model", "alice:gpt-4o"],
      ["l2", "team", "data"],
    ]);
  });

  test("of one place are those that it names", () => {
    planOf({ scope: ["global"] }, { scope: ["user"] });
    expect(keys(planner({ registry, names: ["l1", "unknown"], requiredByDefault: false }), { user: "alice" })).toEqual(["b:l1:alice"]);
  });

  test("of one place are in the order of its names, and may include those that exist only at run time", () => {
    planOf({ scope: ["global"] }, { scope: ["user"] });
    registry.add(definition({ name: "of-a-route" }));
    registry.add(definition({ name: "set" }), true);
    const keysOf = (andSet: boolean): string[] =>
      keys(planner({ registry, names: ["l1", "l0"], andSet, requiredByDefault: false }), { user: "alice" });
    expect([keysOf(false), keysOf(true)]).toEqual([
      ["b:l1:alice", "b:l0:all"],
      ["b:l1:alice", "b:l0:all", "b:set:alice"],
    ]);
  });

  test("can be asked about one by one, by values alone", () => {
    const limit = registry.add(definition({ name: "l", scope: ["user", "route", "model"] }));
    const values = { user: "alice", route: "/a", model: "m" };
    const nobody: RequestScopes = { route: null, model: null, key: null };
    expect(plannedFor(limit, values, nobody)).toMatchObject({ name: "l", label: "alice:/a:m" });
    expect(plannedFor(limit, { user: "alice", route: "/a" }, nobody)).toEqual({ missing: "model" });
    expect(plannedFor(limit, { model: "m" }, nobody)).toEqual({ missing: "user" });
  });

  test("include those that are added later", () => {
    const plan = planOf({ scope: ["global"] });
    expect(keys(plan, {})).toHaveLength(1);
    registry.add(definition({ name: "later", scope: ["global"] }));
    expect(keys(plan, {})).toHaveLength(2);
  });
});

describe("organisations", () => {
  const plans = (scope: readonly string[]) => planOf({ scope });
  const acme = { org: "acme", user: "alice", team: "data", role: "dev", feature: "x" };
  const globex = { ...acme, org: "globex" };

  test.each([[["user"]], [["team"]], [["role"]], [["feature"]], [["key"]], [["user", "model"]]])("never share a counter of %j", (scope) => {
    const plan = plans(scope);
    const all = [acme, globex, { ...acme, org: undefined }].map(({ org, ...rest }) => keys(plan, org === undefined ? rest : { org, ...rest })[0]);
    expect(new Set(all).size).toBe(3);
  });

  test.each([[["global"]], [["model"]], [["route"]]])("share the counter of %j", (scope) => {
    const plan = plans(scope);
    expect(keys(plan, acme)).toEqual(keys(plan, globex));
  });

  test("that are a scope of the limit themselves are not named twice", () => {
    expect(keys(plans(["org", "user"]), acme)).toEqual(["b:l0:acme:alice"]);
  });

  test("cannot be imitated by a user's name", () => {
    const plan = plans(["user"]);
    const honest = keys(plan, acme)[0];
    for (const user of ["acme:alice", "acme/alice", "acme.alice", "acme\nalice"]) {
      expect(keys(plan, { user })[0]).not.toBe(honest);
      expect(keys(plan, { org: "acme", user })[0]).not.toBe(honest);
    }
  });

  test("are in the label by which run-time numbers are set", () => {
    expect(plans(["user"]).plan(acme, REQUEST)[0]?.label).toBe("acme/alice");
  });
});

describe("a scope that is required", () => {
  const refusal = (required: boolean | undefined, requiredByDefault: boolean) => {
    registry.add(definition({ name: "user-day", required }));
    const plan = planner({ registry, requiredByDefault });
    return () => plan.plan({ team: "data" }, REQUEST);
  };

  test.each<[boolean | undefined, boolean]>([
    [true, false],
    [true, true],
    [undefined, true],
  ])("(limit: %s, place: %s) and absent is refused by name", (required, byDefault) => {
    expect(refusalOf(refusal(required, byDefault))).toMatchObject({
      code: "scope_invalid",
      status: 400,
      scope: "user",
      limit: "user-day",
      message: "limit user-day needs scope user; is your auth before it?",
    });
  });

  test.each<[boolean | undefined, boolean]>([
    [false, true],
    [false, false],
    [undefined, false],
  ])("not (limit: %s, place: %s) and absent means that the limit does not apply", (required, byDefault) => {
    expect(refusal(required, byDefault)()).toEqual([]);
  });
});

describe("a plan", () => {
  test("is made once for scopes that do not change", () => {
    const plan = planOf({ scope: ["user"] });
    const scopes = Object.freeze({ user: "alice" });
    const first = plan.plan(scopes, REQUEST);
    expect(plan.plan(scopes, { ...REQUEST, model: "other" })).toBe(first);
    expect(plan.plan({ user: "alice" }, REQUEST)).not.toBe(first);
  });

  test("tells models, routes and keys apart where a limit does", () => {
    const plan = planOf({ scope: ["model"] });
    const scopes = Object.freeze({});
    const models = Array.from({ length: 200 }, (_, i) => `m${i}`);
    for (const model of [...models, ...models]) expect(plan.plan(scopes, { ...REQUEST, model })[0]?.label).toBe(model);
  });

  test("is made anew when a number was set", async () => {
    const plan = planOf({ scope: ["user"] });
    const scopes = Object.freeze({ user: "alice" });
    const first = plan.plan(scopes, REQUEST);
    await registry.set("l0", "alice", { limit: 5, until: null });
    expect(plan.plan(scopes, REQUEST)).not.toBe(first);
  });
});

describe("a charge", () => {
  const only = (limit: Partial<LimitDefinition>) => {
    registry.add(definition({ name: "only", ...limit }));
    const [planned] = planner({ registry, names: [limit.name ?? "only"], requiredByDefault: true }).plan({ user: "alice" }, REQUEST);
    if (!planned) throw new Error("nothing planned");
    return (amount: number) => chargeOf(planned, amount, FACTS, from.clock.now());
  };

  test("says key, rule, unit, amount and whether it refuses", () => {
    expect(only({})(7)).toEqual({
      key: "b:only:alice",
      rule: { kind: "bucket", capacity: 100, n: 1, d: 1_000 },
      unit: "tokens",
      amount: 7,
      enforce: true,
      strict: true,
    });
    expect(only({ name: "shadow", mode: "shadow" })(7)).toMatchObject({ enforce: false });
  });

  test.each<readonly [Partial<LimitDefinition>, boolean]>([
    [{ name: "deny", onStoreError: "deny" }, true],
    [{ name: "allow", onStoreError: "allow" }, false],
    [{ name: "local", onStoreError: "local" }, false],
    [{ name: "shadow", onStoreError: "deny", mode: "shadow" }, false],
    [{ name: "later", onStoreError: "deny", enforceFrom: 9e12 }, false],
  ])("of %j is strict: %s", (limit, strict) => {
    expect((only(limit)(7) as Charge).strict === true).toBe(strict);
  });

  test("of a limit that is unlimited is none", async () => {
    expect(only({ overrides: { alice: -1 } })(7)).toBeNull();
    expect(await only({ name: "later", kind: { bucket: { capacity: async () => -1, refillPerSec: 1 } } })(7)).toBeNull();
  });

  test("is the same object while nothing in it changed", () => {
    const charge = only({ enforceFrom: from.clock.now() + 5_000 });
    const first = charge(7);
    expect(charge(7)).toBe(first);
    from.clock.advance(5_000);
    expect([charge(7), first]).toMatchObject([{ enforce: true }, { enforce: false }]);
    expect([charge(8), first]).toMatchObject([{ amount: 8 }, { amount: 7 }]);
  });

  test("waits for a limit that does", async () => {
    const charge = only({ kind: { bucket: { capacity: async () => 9, refillPerSec: 1 } } })(7);
    expect(charge !== null && isPromise(charge)).toBe(true);
    expect(await charge).toMatchObject({ rule: { capacity: 9 }, amount: 7 });
  });
});
