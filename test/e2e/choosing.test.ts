// Which account gets the next request by what is left of its quota, or by what the request will cost there.
import type { GuardOptions, PluginHost } from "quotaguard";
import { afterEach, describe, expect, test } from "vitest";
import { accounts, asking, endAccounts, MODEL, type AccountInput } from "./accounts-kit.ts";

afterEach(endAccounts);

const MINUTE = 60_000;

async function byQuota(given: readonly (string | AccountInput)[], router: GuardOptions["router"] = {}) {
  let host: PluginHost | undefined;
  const plugin = { name: "collector", setup: (own: PluginHost) => void (host = own) };
  const kit = await accounts(given, { router: { strategy: "quota", ...router }, plugins: [plugin] });
  await kit.guard.ready();
  const left = async (percents: Readonly<Record<string, number>>): Promise<void> => {
    for (const [credential, percent] of Object.entries(percents)) {
      const fact = { credential, group: "5h", remainingRatio: percent / 100, resetsAt: null, observedAt: kit.clock.now(), source: "poll" as const };
      await host?.credentials.report(fact);
    }
    // A fact of the same moment must not be worse than the one before.
    kit.clock.advance(1);
  };
  return { kit, left };
}

describe("by what is left", () => {
  test("one account until it is nearly used up, then the other, and not back before the dwell is over", async () => {
    const { kit, left } = await byQuota(["a", "b"]);
    await left({ a: 80, b: 60 });
    expect(await kit.several(3)).toBe("aaa");
    await left({ a: 4 });
    expect(await kit.several(2)).toBe("bb");
    await left({ a: 100 });
    expect(await kit.several(2)).toBe("bb");
    kit.clock.advance(5 * MINUTE);
    expect(await kit.several(2)).toBe("aa");
  });

  test("all of them nearly used up: requests are served, by one after the other", async () => {
    const { kit, left } = await byQuota(["a", "b"]);
    await left({ a: 3, b: 4 });
    expect(await kit.several(2)).toBe("bb");
    await left({ b: 1 });
    expect(await kit.several(2)).toBe("bb");
  });

  test("between the thresholds, too", async () => {
    const { kit, left } = await byQuota(["a", "b"]);
    await left({ a: 8, b: 7 });
    expect(await kit.several(2)).toBe("aa");
  });

  test("priorities are one of its parts, and fallbacks come last", async () => {
    const { kit, left } = await byQuota([{ name: "a", priority: 3 }, { name: "b" }, { name: "c", isFallback: true }]);
    await left({ a: 50, b: 50, c: 100 });
    expect(await kit.several(1)).toBe("a");
    await left({ a: 2 });
    expect(await kit.several(1)).toBe("b");
    await left({ b: 2 });
    expect(await kit.several(1)).toBe("b");
    kit.answer("a", { status: 401 });
    kit.answer("b", { status: 401 });
    expect(await kit.several(1)).toBe("bac");
  });

  test("an account that has no room now sends this request to the next, and the others stay", async () => {
    const { kit, left } = await byQuota([{ name: "a", maxConcurrent: 1 }, "b"]);
    await left({ a: 80, b: 60 });
    let answer: () => void = () => undefined;
    kit.answer("a", () => new Promise((resolve) => (answer = () => resolve({}))));
    const first = kit.ask();
    await expect.poll(() => kit.asked()).toBe("a");
    expect(await kit.several(1)).toBe("b");
    answer();
    await first;
    kit.answer("a", {});
    expect(await kit.several(2)).toBe("aa");
  });

  test("operators see how near the end each account is", async () => {
    const { kit, left } = await byQuota(["a", "b", "c"], { strategy: "fill-first", thresholds: { warning: 50 } });
    await left({ a: 45, b: 4 });
    const { body } = await kit.manage("GET", "credentials");
    expect(body.credentials).toMatchObject([
      { name: "a", level: "warning" },
      { name: "b", level: "critical" },
      { name: "c", level: null },
    ]);
  });
});

describe("by price", () => {
  const models = [
    { name: MODEL, credential: "reader", price: { inputPerMtok: 1, outputPerMtok: 100 } },
    { name: MODEL, credential: "writer", price: { inputPerMtok: 50, outputPerMtok: 1 } },
    { name: MODEL, credential: "twin", price: { inputPerMtok: 50, outputPerMtok: 1 } },
  ];
  const byPrice = () => accounts(["reader", "writer", "twin"], { router: { strategy: "least-cost" }, models });

  test("the cheapest for what the request will use, and equally cheap ones in turn", async () => {
    const kit = await byPrice();
    expect(await kit.several(3, asking(1_000))).toBe("writertwinwriter");
    expect(await kit.several(2, asking(1))).toBe("readerreader");
  });

  test("the next cheapest when it fails", async () => {
    const kit = await byPrice();
    kit.answer("reader", { status: 401 });
    expect(await kit.several(1, asking(1))).toMatch(/^reader(writer|twin)$/);
  });
});
