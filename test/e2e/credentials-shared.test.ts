// What is said of credentials in one process is heard in the others: over a real server, which keeps it while nobody runs.
import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import { silentLogger } from "../../src/core/logger.ts";
import type { Store } from "../../src/core/store.ts";
import { systemClock as clock } from "../../src/core/time.ts";
import { pauses } from "../../src/pool/pauses.ts";
import { quotaFacts } from "../../src/pool/quota-facts.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { testServer } from "../setup/test-server.ts";
import { closeLater, endAccounts, PATIENTLY } from "./accounts-kit.ts";
import { ownTime } from "../helpers/own-time.ts";

const url = await testServer("redis");

afterEach(endAccounts);

describe.skipIf(url === undefined)("on one Redis", () => {
  async function processes() {
    const partition = `test-${randomUUID()}`;
    const open = async (): Promise<Store> => {
      const store = redisStore(url as string, { clock, logger: silentLogger, partition });
      closeLater({ close: async () => store.close() });
      await store.ready();
      return store;
    };
    const parts = { clock, logger: silentLogger };
    return async () => {
      const { records } = await open();
      const [paused, facts] = [pauses({ ...parts, records }), quotaFacts({ ...parts, records })];
      await Promise.all([paused.load(), facts.load()]);
      return { paused, facts };
    };
  }

  test("pauses and quotas are heard within a second, and found by who starts later", async () => {
    const start = await processes();
    const [one, two] = [await start(), await start()];
    const now = Date.now();
    const fact = { credential: "a", group: "5h", remainingRatio: 0.5, resetsAt: now + 60_000, observedAt: now, source: "poll" as const };
    const sinceSaid = ownTime();
    one.paused.set("a", { reason: "billing", since: now, until: null });
    one.facts.report(fact);
    const heard = () => [two.paused.get("a")?.reason, two.facts.of("a")];
    await expect.poll(heard, { ...PATIENTLY, interval: 10 }).toEqual(["billing", [fact]]);
    expect(sinceSaid()).toBeLessThan(1_000);
    two.facts.report({ ...fact, remainingRatio: 0.9, observedAt: now - 1 });
    two.paused.end("a");
    await expect.poll(() => one.paused.isEmpty, PATIENTLY).toBe(true);
    const three = await start();
    expect([three.paused.isEmpty, three.facts.remainingRatio("a"), one.facts.remainingRatio("a")]).toEqual([true, 0.5, 0.5]);
  });
});
