import { expect, test } from "vitest";
import { eventEmitter } from "../../src/core/events.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { expiry } from "../../src/pool/expiry.ts";
import { credentialHealth } from "../../src/pool/health.ts";
import { offers } from "../../src/pool/offers.ts";
import { pauses } from "../../src/pool/pauses.ts";
import { credentialPool } from "../../src/pool/pool.ts";
import { roundRobin } from "../../src/pool/strategies/round-robin.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger, refusalOf } from "../core/context-kit.ts";
import { countedStrikes, MINUTE, others, recordsOn, refused } from "./health-kit.ts";
import { candidate, choice, credential, lend, setSlots } from "./pool-kit.ts";

function kit() {
  const clock = testClock();
  const logger = keptLogger();
  const records = recordsOn(clock);
  async function start() {
    const table = pauses({ records, clock, logger });
    await table.load();
    return table;
  }
  return { clock, logger, records, start };
}

test("a pause is heard by other processes at once, and found after a restart; so is its end", async () => {
  const { clock, start } = kit();
  const [one, two] = [await start(), await start()];
  one.set("a", { reason: "billing", since: clock.now(), until: null });
  expect(two.blockOf("a")).toMatchObject({ reason: "paused", credential: "a", model: null, note: "billing", until: null });
  expect((await start()).isEmpty).toBe(false);
  expect([two.end("a"), one.get("a"), two.end("a"), (await start()).isEmpty]).toEqual([true, undefined, false, true]);
});

test("the last word counts, also when it is the shorter one", async () => {
  const { clock, start } = kit();
  const [one, two] = [await start(), await start()];
  one.set("a", { reason: "for good", since: clock.now(), until: null });
  two.set("a", { reason: "an hour", since: clock.now(), until: clock.now() + 60 * MINUTE });
  expect(one.get("a")?.reason).toBe("an hour");
  clock.advance(60 * MINUTE - 1);
  expect(one.get("a")).toBeDefined();
  clock.advance(1);
  expect([one.get("a"), two.get("a"), one.isEmpty, (await start()).isEmpty]).toEqual([undefined, undefined, true, true]);
});

test("what is no pause is passed over", async () => {
  const { records, start } = kit();
  await records.put("pause/a", { reason: 7 });
  await records.put("pause/b", "x");
  expect((await start()).isEmpty).toBe(true);
});

const sorted = (names: string): string => names.split("").toSorted().join("");

/** A pool on true health, with two credentials. */
async function pooled() {
  const { clock, logger, records } = kit();
  const set = credentialSet([credential("a"), credential("b")]);
  const expired = expiry({ credentials: set, clock });
  const health = credentialHealth({
    clock,
    logger,
    records,
    strikes: countedStrikes(clock),
    events: eventEmitter(logger),
    fail2ban: null,
    breaker: null,
    expiry: expired,
    isCurrent: (each) => set.find(each.name)?.apiKey === each.apiKey,
  });
  await health.load();
  const rejected: string[] = [];
  const pool = credentialPool({
    offers: offers({ credentials: set, models: [], aliases: {} }),
    health,
    slots: setSlots(),
    strategy: roundRobin(),
    now: clock.now,
    rejected: (reason) => void rejected.push(reason),
  });
  const who = (count = 3): string => Array.from({ length: count }, () => lend(choice(pool))?.credential.name).join("");
  const pause = (name: string, until: number | null = null): boolean => health.pauses.set(name, { reason: "r", since: clock.now(), until });
  return { clock, set, expired, health, pool, rejected, who, pause };
}

test("who is paused is lent to nobody, not as the last one either", async () => {
  const { who, pause, pool, clock, health, rejected } = await pooled();
  pause("a");
  expect(who()).toBe("bbb");
  expect(rejected).toEqual(["paused", "paused", "paused"]);
  pause("b", clock.now() + 5_000);
  expect(refusalOf(() => choice(pool).next())).toMatchObject({ code: "no_credential", retryAfterMs: 5_000 });
  health.pauses.end("a");
  expect(who()).toBe("aaa");
  clock.advance(5_000);
  expect(sorted(who(4))).toBe("aabb");
});

test("a pause goes before what was learnt, and neither lifts the other", async () => {
  const { health, pause } = await pooled();
  const a = candidate("a");
  const pass = health.enter(a);
  if (pass) health.leave(a, pass, refused(429, "capacity", { waitMs: 60_000 }), others);
  pause("a", null);
  expect(health.blockOf(a)?.reason).toBe("paused");
  expect([health.lift("banned", "a", null), health.blocks().map(({ reason }) => reason)]).toEqual([0, ["cooling"]]);
  health.pauses.end("a");
  expect(health.blockOf(a)?.reason).toBe("cooling");
});

test("an expired token is not lent while somebody renews it, and is when nobody does", async () => {
  const { set, clock, expired, health, who, pause } = await pooled();
  set.put("p", credential("b", { expiresAt: clock.now() + MINUTE }));
  let renewing = true;
  expired.renewedBy({ renews: ({ name }) => renewing && name === "b", nextAt: () => clock.now() + 7_000 });
  expect(health.isQuiet).toBe(true);
  clock.advance(MINUTE - 1);
  expect([health.isQuiet, sorted(who(4))]).toEqual([true, "aabb"]);
  clock.advance(1);
  expect([health.isQuiet, who()]).toEqual([false, "aaa"]);
  expect(health.blockOf(candidate("b", "m", { expiresAt: clock.now() }))).toMatchObject({ reason: "cooling", until: clock.now() + 7_000 });
  set.put("p", credential("b", { expiresAt: clock.now() + MINUTE }));
  expect([health.isQuiet, sorted(who(4))]).toEqual([true, "aabb"]);
  clock.advance(MINUTE);
  renewing = false;
  expired.renew();
  expect(sorted(who(4))).toBe("aabb");
  pause("a");
  expect(who()).toBe("bbb");
});

test("what comes back for a key that was replaced says nothing of the new one", async () => {
  const { set, health, pool } = await pooled();
  const lease = lend(pool.choose({ model: "m", opId: "op", tokens: () => 0, credential: "b" }));
  set.put("p", credential("b"));
  lease?.release(refused(401, "credential", { waitMs: MINUTE }));
  expect(health.isQuiet).toBe(true);
  lend(pool.choose({ model: "m", opId: "op2", tokens: () => 0, credential: "b" }))?.release(refused(401, "credential", { waitMs: MINUTE }));
  expect(health.blocks()).toMatchObject([{ credential: "b", reason: "cooling" }]);
});
