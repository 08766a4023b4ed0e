// What the compiler tells a host about limit names and scopes. Each wrong use is a compile error here, and an error at run time too.
import { describe, expect, test } from "vitest";
import {
  createGuard,
  quotaGuard,
  type GuardOptions,
  type LimitOptions,
  type QuotaGuard,
  type RouteBudgetOptions,
  type ScopesInput,
} from "quotaguard";

declare module "quotaguard" {
  interface CustomScopes {
    feature: string;
    plan: "free" | "pro";
  }
}

const options = {
  auth: false,
  store: { url: "memory" },
  scopes: { names: ["feature", "plan"] },
  limits: [
    { name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } },
    { name: "feature-calls", scope: ["feature", "plan"], unit: "requests", window: { limit: 5, per: "minute" } },
  ],
} as const satisfies GuardOptions;

describe("the names of limits", () => {
  test("are known to the guard that has them", async () => {
    const guard = createGuard({
      store: { url: "memory" },
      limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } }],
    });
    guard.budgets({ limits: ["user-day"], cost: 1 });
    // @ts-expect-error -- there is no such limit
    expect(() => guard.budgets({ limits: ["user-dya"], cost: 1 })).toThrow("did you mean user-day?");
    await guard.close();
  });

  test("and to whoever got it from the handler", async () => {
    const { guard } = quotaGuard(options);
    guard.budgets({ limits: ["user-day", "feature-calls"], cost: 1 });
    // @ts-expect-error -- there is no such limit
    expect(() => guard.handler().guard.budgets({ limits: ["feature-cals"] })).toThrow("did you mean feature-calls?");
    await guard.close();
  });

  test("do not keep a route from bringing its own limits", async () => {
    const guard = createGuard(options);
    guard.budgets({ limits: [{ name: "own", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
    guard.budgets({ limits: ["user-day", { name: "own", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }], cost: 1 });
    const kind: unknown = { name: "own-too", scope: "user", unit: "request", window: { limit: 1, per: "hour" } };
    // @ts-expect-error -- no unit is called so
    expect(() => guard.budgets({ limits: [{ name: "own-too", scope: "user", unit: "request", window: { limit: 1, per: "hour" } }] })).toThrow(
      "requests",
    );
    expect(() => guard.budgets({ limits: [kind as LimitOptions] })).toThrow("requests");
    await guard.close();
  });

  test("are any text where nobody wrote them as literals", async () => {
    const loaded: GuardOptions = options;
    const limits: LimitOptions[] = ["a", "b"].map((name) => ({ name, scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }));
    for (const guard of [createGuard(loaded), createGuard({ ...loaded, limits }), createGuard({ ...loaded, limits: [] })]) {
      const any: string = "user-dya";
      expect(() => guard.budgets({ limits: [any] })).toThrow("there is no limit user-dya");
      await guard.close();
    }
  });

  test("do not keep a guard from being any guard", async () => {
    const guard: QuotaGuard = createGuard(options);
    const mount = (given: QuotaGuard, route: RouteBudgetOptions) => given.budgets(route);
    expect(mount(createGuard(options), { limits: ["user-day"], cost: 1 })).toBeTypeOf("function");
    expect(quotaGuard(options).guard satisfies QuotaGuard).toBeTypeOf("object");
    await guard.close();
  });
});

describe("scopes", () => {
  test("are the built-in ones and those that the app declares", async () => {
    const guard = createGuard({ ...options, scopes: { names: ["feature", "plan"], of: () => ({ user: 7n, feature: "search", plan: "pro" }) } });
    guard.budgets({ limits: ["user-day"], cost: 1, scopes: (req) => ({ user: req.url, plan: "free", team: null }) });
    expect(await guard.remaining({ user: "alice", feature: "search", plan: "pro" })).toHaveLength(2);
    await guard.close();
  });

  test("that nobody declares are compile errors wherever they are written", async () => {
    const guard = createGuard(options);
    // @ts-expect-error -- no scope is called so
    await expect(guard.remaining({ usr: "alice" })).rejects.toThrow("unknown scope usr; did you mean user?");
    // @ts-expect-error -- no scope is called so
    guard.budgets({ cost: 1, scopes: () => ({ usr: "alice" }) });
    // @ts-expect-error -- the app says which plans there are
    guard.budgets({ cost: 1, scopes: () => ({ plan: "gold" }) });
    // @ts-expect-error -- no scope is called so
    const wrong: GuardOptions = { scopes: () => ({ featur: "search" }) };
    expect(wrong).toBeTypeOf("object");
    await guard.close();
  });

  test("are the same for clients and jobs in this process", async () => {
    const guard = createGuard(options);
    expect(guard.fetch({ scopes: { user: "alice", plan: "pro" } })).toBeTypeOf("function");
    expect(guard.fetch({ scopes: () => ({ feature: "search" }) })).toBeTypeOf("function");
    // @ts-expect-error -- no scope is called so
    expect(() => guard.fetch({ scopes: { usr: "alice" } })).toThrow("did you mean user?");
    // @ts-expect-error -- there is no such limit
    await expect(guard.run({ scopes: { user: "alice" }, limits: ["user-dya"], cost: 1 }, () => 1)).rejects.toThrow("did you mean user-day?");
    expect(await guard.run({ scopes: { user: "alice" }, limits: ["user-day"], cost: 1 }, () => 1)).toBe(1);
    await guard.close();
  });

  test("may come from a record whose names nobody knows before", async () => {
    const guard = createGuard(options);
    const row: Record<string, string> = { user: "alice" };
    expect((await guard.remaining({ user: row.user })).map(({ name }) => name)).toEqual(["user-day"]);
    const scopes: ScopesInput = { ...row, plan: "pro" };
    expect((await guard.remaining(scopes)).map(({ name }) => name)).toEqual(["user-day"]);
    await guard.close();
  });

  test("of limits are suggested, and checked at the start", () => {
    const limit: LimitOptions = { name: "x", scope: "usr", unit: "requests", window: { limit: 1, per: "hour" } };
    expect(() => createGuard({ store: { url: "memory" }, limits: [limit] })).toThrow("unknown scope usr; did you mean user?");
    expect(() => createGuard(options).budgets({ limits: [{ ...limit, scope: ["plan", "featur"] }] })).toThrow(
      "limits[0].scope[1]: unknown scope featur; did you mean feature?",
    );
  });
});
