import { describe, expect, test } from "vitest";
import type { Credential } from "../src/core/credential.ts";
import { eventEmitter } from "../src/core/events.ts";
import { Secret } from "../src/core/secret.ts";
import { liftReplaced } from "../src/credential-marks.ts";
import { credentialHealth } from "../src/pool/health.ts";
import { testClock } from "../src/testing/clock.ts";
import { keptLogger } from "./core/context-kit.ts";
import { countedStrikes, others, recordsOn, refused, shakyRecords } from "./pool/health-kit.ts";
import { candidate, credential } from "./pool/pool-kit.ts";

/** Starts of one gateway after the other on one store. */
function gateway() {
  const clock = testClock();
  const records = shakyRecords(recordsOn(clock));
  const logger = keptLogger();
  async function start(credentials: readonly Credential[]) {
    const fail2ban = { maxAttempts: 1, windowMs: 60_000, banMs: null, codes: [401], rules: [] };
    const health = credentialHealth({
      clock,
      logger,
      records,
      strikes: countedStrikes(clock),
      events: eventEmitter(logger),
      fail2ban,
      breaker: null,
    });
    await health.load();
    await liftReplaced({ credentials, records, health, logger });
    return {
      /** A wrong key, found with one model. */
      fail(name: string): void {
        const who = candidate(name);
        const pass = health.enter(who);
        if (pass) health.leave(who, pass, refused(401, "credential", { isAccountWide: true }), others);
      },
      blocks: () => health.blocks().map((block) => `${block.credential} ${block.reason}`),
    };
  }
  return { start, records, lines: logger.lines };
}

const BOTH = ["a banned", "b banned", "a cooling", "b cooling"];

describe("what is held against a credential", () => {
  const [a, b] = [credential("a"), credential("b")];

  test("stands after a restart with the same key", async () => {
    const { start } = gateway();
    const first = await start([a, b]);
    first.fail("a");
    first.fail("b");
    expect((await start([a, b])).blocks()).toEqual(BOTH);
    expect((await start([b, a])).blocks()).toEqual(BOTH);
  });

  test.each<[string, Partial<Credential>]>([
    ["another key", { apiKey: new Secret("sk-new") }],
    ["another address", { origin: "https://other.example" }],
    ["another path there", { basePath: "/other" }],
    ["another header, which may be its key", { headers: { "api-key": "new" } }],
  ])("is over after a restart with %s, for that one alone, and for good", async (_what, change) => {
    const { start, lines } = gateway();
    const first = await start([a, b]);
    first.fail("a");
    first.fail("b");
    const replaced = credential("a", change);
    expect((await start([replaced, b])).blocks()).toEqual(["b banned", "b cooling"]);
    expect(lines.at(-1)).toMatchObject({ level: "warn", fields: { credential: "a", lifted: 2 } });
    expect((await start([replaced, b])).blocks()).toEqual(["b banned", "b cooling"]);
  });

  test("stands after a restart with other limits or another name for its tier", async () => {
    const { start } = gateway();
    (await start([a])).fail("a");
    expect((await start([credential("a", { rpm: 5, tier: "pro", priority: 3, models: ["x"] })])).blocks()).toHaveLength(2);
  });

  test("stands in a store from before keys were remembered", async () => {
    const { start, records } = gateway();
    (await start([a])).fail("a");
    await records.delete("credential/a");
    expect((await start([credential("a", { apiKey: new Secret("sk-new") })])).blocks()).toHaveLength(2);
  });
});

test("nothing that is stored helps to find a key", async () => {
  const { start, records } = gateway();
  await start([credential("a", { apiKey: new Secret("sk-canary") })]);
  const [record] = await records.list("credential/");
  expect(record?.value).toMatch(/^[\w-]{6}$/);
});

test("a store that is away keeps nobody from starting", async () => {
  const { start, records, lines } = gateway();
  records.state = "rejects";
  expect((await start([credential("a")])).blocks()).toEqual([]);
  expect(lines.map(({ message }) => message)).toContainEqual(expect.stringContaining("whether keys of credentials were replaced"));
});
