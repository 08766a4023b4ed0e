import { expect, test } from "vitest";
import type { Credential } from "../src/core/credential.ts";
import type { RefreshedToken } from "../src/core/plugin.ts";
import { Secret } from "../src/core/secret.ts";
import { credentialRefresh, type RefreshFunction } from "../src/credential-refresh.ts";
import { credentialSet } from "../src/pool/credential-set.ts";
import { recordLock } from "../src/record-lock.ts";
import { testClock } from "../src/testing/clock.ts";
import { keptLogger } from "./core/context-kit.ts";
import { MINUTE, recordsOn, shakyRecords } from "./pool/health-kit.ts";
import { credential } from "./pool/pool-kit.ts";

const HOUR = 60 * MINUTE;

/** Everything that needs no timer comes to its end. */
const still = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

function kit(clock = testClock(), records = shakyRecords(recordsOn(clock))) {
  const logger = keptLogger();
  const set = credentialSet([credential("configured", { expiresAt: clock.now() + MINUTE })]);
  const refresh = credentialRefresh({
    credentials: set,
    lock: recordLock({ records, clock }),
    clock,
    logger,
    isOurs: (name) => name !== "configured",
    replace: (old, { apiKey, expiresAt }: RefreshedToken) => void set.put("p", { ...old, apiKey: apiKey as Secret, expiresAt }),
    changed: () => undefined,
  });
  const asked: string[] = [];
  let count = 0;
  /** Gives tokens that last so long. */
  const giving =
    (lifeMs: number | null): RefreshFunction =>
    async ({ name }) => {
      asked.push(name);
      count += 1;
      return { apiKey: new Secret(`t${count}`), expiresAt: lifeMs === null ? null : clock.now() + lifeMs };
    };
  const put = (name: string, lifeMs: number | null, more: Partial<Credential> = {}): void =>
    void set.put("p", credential(name, { expiresAt: lifeMs === null ? null : clock.now() + lifeMs, ...more }));
  const pass = async (ms: number): Promise<number> => {
    clock.advance(ms);
    await still();
    return asked.length;
  };
  const token = (name: string): string | undefined => set.find(name)?.apiKey?.reveal();
  return { clock, records, logger, set, refresh, asked, giving, put, pass, token };
}

test("a token is replaced five minutes before its end, once, and the next one before its own", async () => {
  const { refresh, giving, put, pass, token } = kit();
  refresh.add("openai", giving(HOUR));
  put("a", HOUR);
  expect(await pass(55 * MINUTE - 1)).toBe(0);
  expect([await pass(1), token("a")]).toEqual([1, "t1"]);
  expect(await pass(55 * MINUTE - 2_000)).toBe(1);
  expect([await pass(2_000), token("a")]).toEqual([2, "t2"]);
});

test("one with a short life is replaced at half of what is left, one that is over at once", async () => {
  const { refresh, giving, put, pass } = kit();
  refresh.add("openai", giving(null));
  put("a", 4 * MINUTE);
  put("b", -1);
  expect(await pass(1)).toBe(1);
  expect(await pass(2 * MINUTE - 2)).toBe(1);
  expect(await pass(1)).toBe(2);
  expect(await pass(HOUR)).toBe(2);
});

test("the configuration's, other providers' and endless ones are nobody's to ask for", async () => {
  const { refresh, giving, put, pass } = kit();
  refresh.add("openai", giving(HOUR));
  put("other", MINUTE, { provider: "other" });
  put("endless", null);
  expect(await pass(HOUR)).toBe(0);
});

test("what lasts longer than a timer can wait is asked for in its time", async () => {
  const { refresh, giving, put, pass } = kit();
  refresh.add("openai", giving(null));
  put("a", 30 * HOUR);
  expect(await pass(24 * HOUR)).toBe(0);
  expect(await pass(6 * HOUR - 5 * MINUTE - 1)).toBe(0);
  expect(await pass(1)).toBe(1);
});

test("a 401 asks once for each token, whatever its end", async () => {
  const { set, refresh, giving, put, pass, token } = kit();
  refresh.add("openai", giving(null));
  put("a", null);
  const first = set.find("a") as Credential;
  refresh.unauthorized(first);
  refresh.unauthorized(first);
  expect([await pass(1), token("a")]).toEqual([1, "t1"]);
  // It was sent with the token that is gone.
  refresh.unauthorized(first);
  expect(await pass(HOUR)).toBe(1);
  refresh.unauthorized(set.find("a") as Credential);
  expect([await pass(1), token("a")]).toEqual([2, "t2"]);
});

test("a provider that refuses each new token is asked with growing pauses, until one was good for a while", async () => {
  const { set, refresh, giving, put, pass } = kit();
  refresh.add("openai", giving(100 * HOUR));
  put("a", null);
  const refused = (): void => refresh.unauthorized(set.find("a") as Credential);
  refused();
  expect(await pass(1)).toBe(1);
  for (const [count, ms] of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000].entries()) {
    refused();
    expect(await pass(ms - 1)).toBe(count + 1);
    expect(await pass(1)).toBe(count + 2);
  }
  await pass(10 * MINUTE);
  refused();
  expect(await pass(1)).toBe(13);
});

test("requests that go on being refused do not hurry a refresher that fails", async () => {
  const { set, refresh, asked, put, pass } = kit();
  refresh.add("openai", () => {
    asked.push("failed");
    return Promise.reject(new Error("not now"));
  });
  put("a", null);
  refresh.unauthorized(set.find("a") as Credential);
  expect(await pass(1)).toBe(1);
  refresh.unauthorized(set.find("a") as Credential);
  expect([await pass(500), await pass(500)]).toEqual([1, 2]);
});

test("a failure is tried again with growing pauses; what it says is not repeated in the log", async () => {
  const { refresh, asked, put, pass, logger, giving, token } = kit();
  let fails = true;
  const give = giving(HOUR);
  refresh.add("openai", (each) => {
    if (!fails) return give(each);
    asked.push("failed");
    return Promise.reject(new Error("the answer was {refresh_token: top-secret}"));
  });
  put("a", -1);
  const times: number[] = [];
  for (const ms of [1, 999, 1, 1_999, 1, 3_999, 1]) times.push(await pass(ms));
  expect(times).toEqual([1, 1, 2, 2, 3, 3, 4]);
  fails = false;
  await pass(8_000);
  expect(token("a")).toBe("t1");
  expect(logger.lines).toHaveLength(4);
  expect(JSON.stringify(logger.lines)).not.toContain("top-secret");
  expect(logger.lines[0]?.fields).toMatchObject({ credential: "a", err: { name: "Error" } });
});

test("a refresher that never answers costs a deadline, and what comes late is taken", async () => {
  const { clock, refresh, put, pass, token } = kit();
  const answers: ((given: RefreshedToken) => void)[] = [];
  refresh.add("openai", () => new Promise((resolve) => void answers.push(resolve)));
  put("a", -1);
  await pass(1);
  await pass(29_999);
  expect([answers.length, refresh.nextAt("a")]).toEqual([1, null]);
  await pass(1);
  expect(refresh.nextAt("a")).toBe(clock.now() + 1_000);
  answers[0]?.({ apiKey: new Secret("late"), expiresAt: clock.now() + HOUR });
  await pass(0);
  expect([token("a"), answers.length]).toEqual(["late", 1]);
});

test("one that is late is not asked again while it is still asking, by any process, until its lock ends", async () => {
  const one = kit();
  const two = kit(one.clock, one.records);
  const answers: ((given: RefreshedToken) => void)[] = [];
  const never: RefreshFunction = () => new Promise((resolve) => void answers.push(resolve));
  one.refresh.add("openai", never);
  one.put("a", -1);
  await one.pass(1);
  two.refresh.add("openai", two.giving(HOUR));
  two.put("a", -1);
  for (let s = 0; s < 50; s += 1) await one.pass(1_000);
  expect([answers.length, two.asked.length]).toEqual([1, 0]);
  answers[0]?.({ apiKey: new Secret("late"), expiresAt: one.clock.now() + HOUR });
  await one.pass(0);
  // It has answered, so the next one may.
  expect([one.token("a"), await two.pass(1_000)]).toEqual(["late", 1]);

  const third = kit();
  third.refresh.add("openai", never);
  third.put("b", -1);
  for (let s = 0; s < 62; s += 1) await third.pass(1_000);
  expect(answers).toHaveLength(3);
});

test("one process at a time asks: the other one waits, and then asks for itself", async () => {
  const one = kit();
  const two = kit(one.clock, one.records);
  let answer: (() => void) | undefined;
  const give = one.giving(HOUR);
  one.refresh.add("openai", (each) => new Promise((resolve) => void (answer = () => resolve(give(each)))));
  two.refresh.add("openai", two.giving(HOUR));
  one.put("a", -1);
  two.put("a", -1);
  await one.pass(1);
  expect([answer !== undefined, await two.pass(5_000)]).toEqual([true, 0]);
  answer?.();
  await one.pass(0);
  expect([one.token("a"), await two.pass(1_000)]).toEqual(["t1", 1]);
});

test("what was replaced meanwhile is not put back", async () => {
  const { clock, set, refresh, put, pass, token } = kit();
  let answer: ((given: RefreshedToken) => void) | undefined;
  refresh.add("openai", () => new Promise((resolve) => void (answer = resolve)));
  put("a", -1);
  await pass(1);
  set.put("p", credential("a", { apiKey: new Secret("from elsewhere"), expiresAt: clock.now() + HOUR }));
  answer?.({ apiKey: new Secret("older"), expiresAt: clock.now() + HOUR });
  await pass(0);
  expect(token("a")).toBe("from elsewhere");
});

test("a store that is away is a failure like any other", async () => {
  const { records, refresh, giving, put, pass } = kit();
  refresh.add("openai", giving(HOUR));
  records.state = "rejects";
  put("a", -1);
  expect(await pass(5_000)).toBe(0);
  records.state = "there";
  expect(await pass(10_000)).toBe(1);
});

test("a refresher that ends leaves nothing behind", async () => {
  const { clock, refresh, giving, put, pass, set } = kit();
  const end = refresh.add("openai", giving(HOUR));
  put("a", HOUR);
  expect([clock.pending(), refresh.renews(set.find("a") as Credential), refresh.renews(set.find("configured") as Credential)]).toEqual([
    1,
    true,
    false,
  ]);
  end();
  expect([clock.pending(), refresh.renews(set.find("a") as Credential), await pass(2 * HOUR)]).toEqual([0, false, 0]);
  refresh.add("openai", giving(HOUR));
  set.remove("a");
  expect(clock.pending()).toBe(0);
  put("b", HOUR);
  refresh.close();
  expect([clock.pending(), await pass(2 * HOUR)]).toEqual([0, 0]);
});
