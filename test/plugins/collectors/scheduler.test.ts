import { describe, expect, test } from "vitest";
import type { LocalQuotas } from "../../../src/plugins/collectors/local-server/local-quotas.ts";
import { settled } from "../plugin-kit.ts";
import { account, leftAt, reply, schedulerKit, type SchedulerKit } from "./scheduler-kit.ts";

const MINUTE = 60_000;

const setUp = (...names: readonly string[]): SchedulerKit => {
  const kit = schedulerKit();
  for (const name of names) kit.credentials.set(name, account(name, "codex", `key-${name}`));
  return kit;
};

const never = (): Promise<never> => new Promise(() => undefined);
const lines = (kit: SchedulerKit, level: string): string[] => kit.logger.lines.filter((line) => line.level === level).map(({ message }) => message);
/** When each question was sent, in seconds. */
function timesOf(kit: SchedulerKit, answer: (n: number) => Response): number[] {
  const times: number[] = [];
  kit.provider = () => {
    times.push(Math.round(kit.clock.monotonic() / 1_000));
    return answer(times.length);
  };
  return times;
}

describe("asking", () => {
  test("begins at once and tells the guard what is left, as of when it was asked", async () => {
    const kit = setUp("a");
    const asked = kit.start();
    await settled();
    expect(kit.facts).toEqual([
      expect.objectContaining({ credential: "a", group: "session", remainingRatio: 0.6, source: "poll", observedAt: kit.clock.now() }),
    ]);
    expect(asked.status()).toEqual([
      {
        credential: "a",
        collector: "codex",
        outcome: "ok",
        reason: null,
        askedAt: kit.clock.now(),
        seenAt: kit.clock.now(),
        nextAt: kit.clock.now() + MINUTE,
      },
    ]);
    expect(kit.counted).toEqual(["codex ok"]);
    await asked.stop();
  });

  test.each([
    [0.1, [0, 15, 30, 45, 60]],
    [0.3, [0, 30, 60]],
    [0.6, [0, 60]],
    [0.9, [0]],
  ])("at a base of a minute, with %d left: at the seconds %j of the first", async (left, expected) => {
    const kit = setUp("a");
    const times = timesOf(kit, () => reply(leftAt("", left)));
    const asked = kit.start();
    await kit.pass(70_000);
    expect(times).toEqual(expected);
    await kit.pass(60_000);
    if (left === 0.9) expect(times).toEqual([0, 120]);
    await asked.stop();
  });

  test("does not adapt when it must not", async () => {
    const kit = setUp("a");
    const times = timesOf(kit, () => reply(leftAt("", 0.05)));
    const asked = kit.start({ isAdaptive: false });
    await kit.pass(125_000);
    expect(times).toEqual([0, 60, 120]);
    await asked.stop();
  });

  test("Claude's endpoint, which counts its questions, no more than each five minutes", async () => {
    const kit = schedulerKit();
    kit.credentials.set("max", account("max", "anthropic"));
    const times = timesOf(kit, () => reply({ five_hour: { utilization: 99 } }));
    const asked = kit.start();
    await kit.pass(10 * MINUTE + 5_000);
    expect(times).toEqual([0, 300, 600]);
    await asked.stop();
  });

  test("waits a part of the jitter before each question", async () => {
    const kit = setUp("a");
    const times = timesOf(kit, () => reply(leftAt("", 0.6)));
    const asked = kit.start({ jitterMs: 10_000 });
    await kit.pass(4_000);
    expect(times).toEqual([]);
    await kit.pass(2_000);
    expect(times).toEqual([5]);
    await asked.stop();
  });

  test("never more at one time than there are workers, and everybody in the end", async () => {
    const kit = setUp(...Array.from({ length: 50 }, (_, i) => `a${i}`));
    kit.provider = async (url) => {
      await settled();
      return reply(leftAt(url, 0.6));
    };
    const asked = kit.start({ workers: 3 });
    for (let i = 0; i < 400; i += 1) await settled();
    expect(new Set(kit.asked).size).toBe(50);
    expect(kit.asked).toHaveLength(50);
    expect(kit.load.most).toBe(3);
    await asked.stop();
  });
});

describe("a provider that hangs", () => {
  test("does not hold up others: 49 of 50 accounts are known before it is given up", async () => {
    const kit = schedulerKit();
    for (let i = 0; i < 25; i += 1) kit.credentials.set(`claude-${i}`, account(`claude-${i}`, "anthropic", `sk-ant-oat-${i}`));
    for (let i = 0; i < 24; i += 1) kit.credentials.set(`codex-${i}`, account(`codex-${i}`, "codex", `codex-${i}`));
    kit.credentials.set("hangs", account("hangs", "copilot", "hangs"));
    kit.provider = (url, key) => (key === "hangs" ? never() : reply(leftAt(url, 0.6)));
    const asked = kit.start();
    await kit.pass(5_000);
    expect(asked.status().filter(({ outcome }) => outcome === "ok")).toHaveLength(49);
    await kit.pass(16_000);
    expect(asked.status().find(({ credential }) => credential === "hangs")).toMatchObject({ outcome: "failed", seenAt: null });
    await asked.stop();
  });

  test("with all of its accounts takes its own share of the workers, and is left alone after three", async () => {
    const kit = schedulerKit();
    for (let i = 0; i < 20; i += 1) kit.credentials.set(`hangs-${i}`, account(`hangs-${i}`, "copilot", `hangs-${i}`));
    for (let i = 0; i < 20; i += 1) kit.credentials.set(`codex-${i}`, account(`codex-${i}`, "codex", `codex-${i}`));
    kit.provider = (url, key) => (key.startsWith("hangs") ? never() : reply(leftAt(url, 0.6)));
    const asked = kit.start();
    await kit.pass(3_000);
    expect(asked.status().filter(({ outcome }) => outcome === "ok")).toHaveLength(20);
    await kit.pass(30_000);
    // Four at first, one more for each failure that did not open the breaker.
    expect(kit.asked.filter((key) => key.startsWith("hangs"))).toHaveLength(6);
    expect(lines(kit, "warn")).toContain("a provider does not say what is left of quotas; it is asked less often");
    // One of them tries whether it is back, and the others follow.
    kit.provider = (url) => reply(leftAt(url, 0.6));
    await kit.pass(60_000);
    expect(asked.status().filter(({ outcome }) => outcome === "ok")).toHaveLength(40);
    await asked.stop();
  });
});

describe("failures", () => {
  test("are asked again later and later, and what was seen before stays", async () => {
    const kit = setUp("a");
    const times = timesOf(kit, (n) => (n === 1 ? reply(leftAt("", 0.6)) : reply({}, 500)));
    const asked = kit.start();
    const seenAt = kit.clock.now();
    await kit.pass(20 * MINUTE);
    // Every minute while that is longer than the pause after a failure; then the breaker's pauses, too.
    expect(times.slice(0, 5)).toEqual([0, 60, 120, 180, 300]);
    expect(times.length).toBeLessThan(9);
    expect(asked.status()).toEqual([expect.objectContaining({ outcome: "failed", reason: "status 500", seenAt })]);
    expect(kit.facts).toHaveLength(1);
    const told = lines(kit, "warn").filter((line) => line.startsWith("what is left of a credential's quotas cannot be read"));
    expect(told).toHaveLength(1);
    await asked.stop();
  });

  test("429 waits as long as the provider says", async () => {
    const kit = setUp("a");
    const times = timesOf(kit, (n) => (n === 1 ? reply({}, 429, { "retry-after": "600" }) : reply(leftAt("", 0.6))));
    const asked = kit.start();
    await kit.pass(MINUTE);
    expect(asked.status()).toEqual([expect.objectContaining({ outcome: "limited", nextAt: Date.UTC(2026, 0, 1, 0, 10) })]);
    // Also when a person asks.
    await asked.refresh("a");
    await kit.pass(9 * MINUTE + 5_000);
    expect(times).toEqual([0, 600]);
    await asked.stop();
  });

  test("a login that is refused is told once, asked rarely, and its recovery told once", async () => {
    const kit = setUp("a");
    let isIn = false;
    const times = timesOf(kit, () => (isIn ? reply(leftAt("", 0.6)) : reply({}, 401)));
    const asked = kit.start();
    await kit.pass(46 * MINUTE);
    expect(times).toEqual([0, 900, 1_800, 2_700]);
    expect(asked.status()).toEqual([expect.objectContaining({ outcome: "needs-login", reason: "status 401", seenAt: null })]);
    expect(kit.logger.lines.filter(({ level }) => level === "warn")).toEqual([
      expect.objectContaining({ fields: { code: "QG_QUOTA_LOGIN", credential: "a", provider: "codex", reason: "status 401" } }),
    ]);
    isIn = true;
    await kit.pass(20 * MINUTE);
    expect(lines(kit, "info")).toEqual(["a credential's quotas can be read again"]);
    expect(kit.facts[0]).toMatchObject({ remainingRatio: 0.6 });
    await asked.stop();
  });

  test("an endpoint that is not there is unknown, never 0, and not asked for hours", async () => {
    const kit = setUp("a");
    const times = timesOf(kit, () => reply({}, 404));
    const asked = kit.start();
    await kit.pass(60 * MINUTE);
    expect(times).toEqual([0]);
    expect([asked.status()[0]?.outcome, kit.facts]).toEqual(["unknown", []]);
    await asked.stop();
  });

  test("of the store stop nobody else, and nothing is asked twice because of it", async () => {
    const kit = setUp("a");
    const { put } = kit.records;
    let isAway = true;
    Object.assign(kit.records, {
      put: (...args: Parameters<typeof put>) => {
        if (isAway) throw new Error("away");
        return put(...args);
      },
    });
    const asked = kit.start();
    await kit.pass(10_000);
    expect(kit.asked).toEqual([]);
    isAway = false;
    await kit.pass(16_000);
    expect(kit.asked).toEqual(["key-a"]);
    await asked.stop();
  });
});

describe("credentials that come and go", () => {
  test("are followed", async () => {
    const kit = setUp("a");
    const asked = kit.start();
    await settled();
    kit.credentials.set("b", account("b", "codex", "key-b"));
    kit.credentials.set("other", { ...account("other"), provider: "openai" });
    kit.credentials.set("api-key", account("api-key", "anthropic", "sk-ant-api03-x"));
    await kit.pass(6_000);
    expect(kit.asked).toEqual(["key-a", "key-b"]);
    expect(asked.status().map(({ credential }) => credential)).toEqual(["a", "b"]);
    kit.credentials.delete("a");
    await kit.pass(70_000);
    expect(kit.asked).toEqual(["key-a", "key-b", "key-b"]);
    expect(asked.status().map(({ credential }) => credential)).toEqual(["b"]);
    await asked.stop();
  });

  test("a new login is asked about at once, whatever came of the old one; another priority is none", async () => {
    const kit = setUp("a");
    kit.provider = (url, key) => (key === "key-a" ? reply({}, 401) : reply(leftAt(url, 0.6)));
    const asked = kit.start();
    await kit.pass(10_000);
    kit.credentials.set("a", { ...account("a", "codex", "key-a"), priority: 5 });
    await kit.pass(10_000);
    expect(kit.asked).toEqual(["key-a"]);
    kit.credentials.set("a", account("a", "codex", "key-2"));
    await kit.pass(6_000);
    expect(kit.asked).toEqual(["key-a", "key-2"]);
    expect(asked.status()[0]?.outcome).toBe("ok");
    await asked.stop();
  });

  test("one that is removed while it is asked about leaves nothing", async () => {
    const kit = setUp("a");
    let answer: (response: Response) => void = () => undefined;
    kit.provider = () => new Promise((resolve) => void (answer = resolve));
    const asked = kit.start();
    await settled();
    kit.credentials.delete("a");
    await kit.pass(5_000);
    answer(reply(leftAt("", 0.6)));
    await settled();
    expect([kit.facts, asked.status(), lines(kit, "error")]).toEqual([[], [], []]);
    await asked.stop();
  });
});

describe("processes that share a store", () => {
  test("ask about each account once, and all know what came of it", async () => {
    const one = setUp("a", "b");
    const other = schedulerKit({ clock: one.clock, records: one.records });
    for (const [name, credential] of one.credentials) other.credentials.set(name, credential);
    const first = one.start();
    const second = other.start();
    for (let i = 0; i < 5; i += 1) await one.pass(61_000);
    await one.pass(10_000);
    const all = [...one.asked, ...other.asked];
    expect(all.filter((key) => key === "key-a")).toHaveLength(6);
    expect(all.filter((key) => key === "key-b")).toHaveLength(6);
    expect(second.status()).toEqual(first.status());
    await first.stop();
    await second.stop();
  });

  test("the second goes on when the first is gone", async () => {
    const one = setUp("a");
    const other = schedulerKit({ clock: one.clock, records: one.records });
    other.credentials.set("a", account("a", "codex", "key-a"));
    const first = one.start();
    await settled();
    const second = other.start();
    await settled();
    await first.stop();
    await one.pass(61_000);
    expect(one.asked).toEqual(["key-a"]);
    expect(other.asked).toEqual(["key-a"]);
    await second.stop();
  });

  test("one that is started again does not ask anew", async () => {
    const kit = setUp("a");
    const first = kit.start();
    await settled();
    await first.stop();
    await kit.pass(1_000);
    const again = kit.start();
    await kit.pass(30_000);
    expect(kit.asked).toEqual(["key-a"]);
    expect(again.status()[0]).toMatchObject({ outcome: "ok", askedAt: Date.UTC(2026, 0, 1) });
    await again.stop();
  });

  test("one that is started again with a new login asks at once, whatever came of the old one", async () => {
    const kit = setUp("a");
    kit.provider = (url, key) => (key === "key-a" ? reply({}, 401) : reply(leftAt(url, 0.6)));
    const first = kit.start();
    await settled();
    await first.stop();
    kit.credentials.set("a", account("a", "codex", "key-2"));
    const again = kit.start();
    await settled();
    expect(kit.asked).toEqual(["key-a", "key-2"]);
    expect(again.status()[0]?.outcome).toBe("ok");
    const stored = await kit.records.get("runs/a");
    expect(JSON.stringify(stored)).not.toContain("key-2");
    await again.stop();
  });

  test("what a clock that was wrong has put far ahead holds nobody up", async () => {
    const kit = setUp("a");
    const first = kit.start();
    await settled();
    await first.stop();
    const record = (await kit.records.get("runs/a"))?.value as Readonly<Record<string, unknown>>;
    const at = kit.clock.now() + 24 * 60 * MINUTE;
    await kit.records.put("runs/a", { ...record, at, nextAt: at + MINUTE });
    const again = kit.start();
    await settled();
    expect(kit.asked).toEqual(["key-a", "key-a"]);
    await again.stop();
  });

  test("a record that no version has written is nothing", async () => {
    const kit = setUp("a");
    await kit.records.put("runs/a", { outcome: "ok", at: 5, nextAt: 9e14 });
    const asked = kit.start();
    await settled();
    expect(kit.asked).toEqual(["key-a"]);
    await asked.stop();
  });
});

describe("refresh()", () => {
  test("asks now, and is there when the answer is", async () => {
    const kit = setUp("a", "b");
    const asked = kit.start();
    await kit.pass(10_000);
    await asked.refresh("a");
    expect(kit.asked).toEqual(["key-a", "key-b", "key-a"]);
    await asked.refresh();
    expect(kit.asked).toHaveLength(5);
    await asked.stop();
  });

  test("waits for no jitter, not even for one that has begun", async () => {
    const kit = setUp("a");
    const asked = kit.start({ jitterMs: 30_000 });
    await settled();
    expect(kit.asked).toEqual([]);
    await asked.refresh();
    expect(kit.asked).toEqual(["key-a"]);
    await asked.refresh();
    expect(kit.asked).toEqual(["key-a", "key-a"]);
    await asked.stop();
  });

  test("joins what is under way, and more than there are workers", async () => {
    const kit = setUp(...Array.from({ length: 20 }, (_, i) => `a${i}`));
    kit.provider = async (url) => {
      await settled();
      return reply(leftAt(url, 0.6));
    };
    const asked = kit.start({ workers: 2 });
    await asked.refresh();
    expect(new Set(kit.asked).size).toBe(20);
    expect(asked.status().every(({ outcome }) => outcome === "ok")).toBe(true);
    await asked.stop();
  });

  test("of a credential that nobody asks about says so", async () => {
    const kit = setUp("codex-main");
    const asked = kit.start();
    await expect(asked.refresh("codex-mian")).rejects.toThrow("refresh: no collector asks about a credential codex-mian; did you mean codex-main?");
    await asked.stop();
  });
});

describe("the end", () => {
  test("does not wait for an app that is being started", async () => {
    const kit = setUp("a");
    kit.provider = () => reply({}, 404);
    let isClosed = false;
    let end: () => void = () => undefined;
    const local: LocalQuotas = {
      mostMs: 0,
      read: () => new Promise((resolve) => void (end = () => resolve(null))),
      close: () => {
        isClosed = true;
        end();
        return Promise.resolve();
      },
    };
    const asked = kit.start({}, local);
    await settled();
    await asked.stop();
    expect(isClosed).toBe(true);
  });

  test("gives up what is under way, without a word of it", async () => {
    const kit = setUp("a");
    kit.provider = never;
    const asked = kit.start();
    await settled();
    await asked.stop();
    expect(await kit.records.get("runs/a")).toBeUndefined();
    expect(kit.load.now).toBe(0);
    await kit.pass(5 * MINUTE);
    expect(kit.asked).toEqual(["key-a"]);
    expect(lines(kit, "warn")).toEqual([]);
  });
});

describe("an app's own server", () => {
  test("is asked where the provider says nothing", async () => {
    const kit = setUp("a");
    kit.provider = () => reply({}, 401);
    const local: LocalQuotas = {
      mostMs: 1_000,
      read: () => Promise.resolve([{ group: "session", remainingRatio: 0.25, resetsAt: null }]),
      close: () => Promise.resolve(),
    };
    const asked = kit.start({}, local);
    await settled();
    expect(kit.facts).toEqual([expect.objectContaining({ group: "session", remainingRatio: 0.25 })]);
    expect(asked.status()[0]?.outcome).toBe("ok");
    await asked.stop();
  });
});
