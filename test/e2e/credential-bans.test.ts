// Accounts that fail again and again are taken out: for which model, by which errors, how long, and who lets them in again.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { accounts, databasePath, endAccounts, MODEL, quiet, silent, type AccountInput, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const OTHER = "gpt-4o";

type BanRules = Exclude<GuardOptions["fail2ban"], boolean | undefined>;

/** Bans only: neither cooldowns (of the last account there are none) nor the breaker get in the way. */
const rules = (fail2ban: BanRules | true, more: GuardOptions = {}): GuardOptions => ({ fail2ban, resilience: { circuitBreaker: false }, ...more });

async function banning(fail2ban: BanRules | true, names: readonly (string | AccountInput)[] = ["a"], more: GuardOptions = {}): Promise<Accounts> {
  return accounts(names, rules(fail2ban, more));
}

/** Lets an account answer so many requests with these statuses. */
async function suffer(kit: Accounts, statuses: readonly number[], account = "a"): Promise<void> {
  for (const status of statuses) {
    kit.answer(account, status === 200 ? {} : silent(status));
    await kit.ask();
  }
  kit.answer(account, {});
}

/** By model: their order is nobody's business. */
const bansOf = async (kit: Accounts): Promise<readonly Record<string, unknown>[]> => {
  const { bans } = (await kit.manage("GET", "bans")).body as { bans: readonly Record<string, unknown>[] };
  return bans.toSorted((a, b) => (String(a["model"]) < String(b["model"]) ? 1 : -1));
};
const iso = (ms: number): string => new Date(ms).toISOString();

describe("a ban", () => {
  test("comes with the third error of a kind, is about one model of one account, and stays until somebody lifts it", async () => {
    const kit = await banning(true);
    const events: unknown[] = [];
    kit.guard.events.on("ban", (event) => events.push(event));
    const since = kit.clock.now();
    await suffer(kit, [500, 500]);
    expect(events).toEqual([]);
    await suffer(kit, [500]);
    expect(events).toEqual([{ credential: "a", model: MODEL, client: null, code: 500, until: null }]);
    expect(await bansOf(kit)).toEqual([{ credential: "a", model: MODEL, code: 500, reason: expect.any(String), since: iso(since), until: null }]);

    kit.forget();
    const refused = await kit.ask();
    expect(refused).toMatchObject({ status: 503, code: "no_credential", retryAfter: null });
    expect((await kit.ask({ model: OTHER })).status).toBe(200);
    expect(kit.asked()).toBe("a");
    kit.clock.advance(10 * 365 * 24 * 60 * MINUTE);
    expect((await kit.ask()).status).toBe(503);
  });

  test("leaves the account's other models and the model's other accounts alone", async () => {
    const kit = await banning({ maxAttempts: 3, window: "1h" }, ["a", "b"]);
    kit.answer("a", ({ body }) => (body["model"] === MODEL ? silent(500) : {}));
    for (let i = 0; i < 6; i += 1) {
      expect((await kit.ask()).status).toBe(200);
      // Whatever cools down meanwhile may be tried again.
      kit.clock.advance(2 * MINUTE);
    }
    expect(await bansOf(kit)).toMatchObject([{ credential: "a", model: MODEL }]);
    kit.forget();
    expect(await kit.several(4)).toBe("bbbb");
    expect((await kit.several(4, { model: OTHER })).split("").toSorted().join("")).toBe("aabb");
  });

  test("holds for the name that clients use, whatever the account calls the model", async () => {
    const kit = await banning({ maxAttempts: 1 }, ["a"], { models: [{ name: MODEL, model: "deployment-7" }], modelAlias: { fast: MODEL } });
    await suffer(kit, [500]);
    expect(await bansOf(kit)).toMatchObject([{ model: MODEL }]);
    expect((await kit.ask({ model: "fast" })).status).toBe(503);
    expect((await kit.ask({ model: "deployment-7" })).status).toBe(200);
  });

  test("of a time ends by itself, with its counters at zero", async () => {
    const kit = await banning({ maxAttempts: 3, banDuration: "10s", window: "1h" });
    await suffer(kit, [500, 500, 500]);
    const until = kit.clock.now() + 10 * SECOND;
    expect(await bansOf(kit)).toMatchObject([{ until: iso(until) }]);
    expect(await kit.ask()).toMatchObject({ status: 503, code: "no_credential", retryAfter: 10 });
    kit.clock.advance(9 * SECOND);
    expect((await kit.ask()).status).toBe(503);
    kit.clock.advance(SECOND);
    expect(await bansOf(kit)).toEqual([]);
    await suffer(kit, [500, 500]);
    expect(await bansOf(kit)).toEqual([]);
    expect((await kit.ask()).status).toBe(200);
  });

  test("is not touched by answers that were still under way", async () => {
    const kit = await banning({ maxAttempts: 3, banDuration: "1h" });
    const letGo = Promise.withResolvers<void>();
    const open: Promise<unknown>[] = [];
    for (const late of [{}, silent(401)]) {
      kit.answer("a", { ...late, hold: letGo.promise });
      open.push(kit.ask());
      await kit.providers["a"]?.received(open.length);
    }
    await suffer(kit, [500, 500, 500]);
    const before = await bansOf(kit);
    kit.clock.advance(MINUTE);
    letGo.resolve();
    await Promise.all(open);
    await quiet(kit.guard);
    expect(before).toHaveLength(1);
    expect(await bansOf(kit)).toEqual(before);
  });
});

describe("what counts", () => {
  test.each([
    ["three of one code", [500, 500, 500], true],
    ["two of each of two codes", [401, 500, 401, 500], false],
    ["a success in between", [500, 500, 200, 500, 500], false],
    ["codes that are not listed", [404, 404, 404, 404], false],
    ["faults of the request itself", [400, 422, 413, 400, 422, 413, 400, 422, 413], false],
    ["an account that may not or cannot pay", [403, 403, 403], true],
  ] as const)("%s", async (_what, statuses, isBanned) => {
    const kit = await banning(true);
    await suffer(kit, statuses);
    expect((await bansOf(kit)).length === 1).toBe(isBanned);
  });

  test("a model that is gone there, where somebody listed 404; a request's other faults cannot be listed", async () => {
    const kit = await banning({ errorCodes: [404] });
    await suffer(kit, [404, 404, 404]);
    expect(await bansOf(kit)).toMatchObject([{ code: 404 }]);
  });

  test("rules of single codes, with times of their own; a code that has only a rule counts, one that has nothing does not", async () => {
    const option: BanRules = {
      maxAttempts: 3,
      banDuration: "permanent",
      errorCodes: [500],
      errorCodeRules: [
        { code: 429, maxAttempts: 1, banDuration: "10s" },
        { code: 503, maxAttempts: 2 },
        { code: 403, banDuration: "1h" },
      ],
    };
    const verdicts: unknown[] = [];
    for (const statuses of [[429], [500, 500], [500, 500, 500], [503], [503, 503], [403, 403], [403, 403, 403], [401, 401, 401, 401]]) {
      const kit = await banning(option);
      await suffer(kit, statuses);
      const [ban] = await bansOf(kit);
      const until = ban?.["until"];
      verdicts.push(ban === undefined ? "free" : typeof until === "string" ? Date.parse(until) - kit.clock.now() : "for good");
    }
    expect(verdicts).toEqual([10 * SECOND, "free", "for good", "free", "for good", "free", 60 * MINUTE, "free"]);
  });

  test("an account that hangs up is a 502, one that does not answer in time a 504", async () => {
    const kit = await banning({ maxAttempts: 100, errorCodeRules: [502, 504].map((code) => ({ code, maxAttempts: 2 })) }, ["a"], {
      server: { requestTimeout: "30s" },
    });
    for (const how of ["reset", "close"] as const) {
      kit.answer("a", { fault: { at: "start", how } });
      expect((await kit.ask()).status).toBe(502);
    }
    expect(await bansOf(kit)).toMatchObject([{ code: 502 }]);

    kit.answer("a", { fault: { at: "start", how: "hang" } });
    for (let i = 1; i <= 2; i += 1) {
      const pending = kit.ask({ model: OTHER });
      await kit.providers["a"]?.received(2 + i);
      kit.clock.advance(30 * SECOND);
      expect((await pending).status).toBe(504);
    }
    expect(await bansOf(kit)).toMatchObject([{ code: 502 }, { model: OTHER, code: 504 }]);
  });

  test("only what lies within the window", async () => {
    const kit = await banning({ maxAttempts: 3, window: "10m" });
    for (let i = 0; i < 12; i += 1) {
      await suffer(kit, [500]);
      kit.clock.advance(6 * MINUTE);
    }
    expect(await bansOf(kit)).toEqual([]);
    await suffer(kit, [500]);
    kit.clock.advance(MINUTE);
    await suffer(kit, [500, 500]);
    expect(await bansOf(kit)).toHaveLength(1);
  });

  test("nothing, unless somebody asked for bans", async () => {
    const kit = await accounts(["a"], { resilience: { circuitBreaker: false } });
    await suffer(kit, Array<number>(30).fill(500));
    expect(await bansOf(kit)).toEqual([]);
    expect((await kit.ask()).status).toBe(200);
  });

  test("a client that leaves does not", async () => {
    const kit = await banning({ maxAttempts: 1 });
    kit.answer("a", { fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const pending = kit.ask({}, { signal: leaving.signal });
    await kit.providers["a"]?.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await quiet(kit.guard);
    kit.answer("a", {});
    expect((await kit.ask()).status).toBe(200);
  });
});

describe("operators", () => {
  const bannedTwice = async (): Promise<Accounts> => {
    const kit = await banning({ maxAttempts: 1 });
    await suffer(kit, [500]);
    kit.answer("a", silent(503));
    await kit.ask({ model: OTHER });
    kit.answer("a", {});
    expect(await bansOf(kit)).toHaveLength(2);
    return kit;
  };

  test("lift the ban of one model", async () => {
    const kit = await bannedTwice();
    expect(await kit.manage("DELETE", `bans/a?model=${OTHER}`)).toEqual({ status: 200, body: { lifted: 1 } });
    expect(await bansOf(kit)).toMatchObject([{ model: MODEL, code: 500 }]);
    expect([(await kit.ask({ model: OTHER })).status, (await kit.ask()).status]).toEqual([200, 503]);
  });

  test("lift all bans of an account", async () => {
    const kit = await bannedTwice();
    expect(await kit.manage("DELETE", "bans/a")).toEqual({ status: 200, body: { lifted: 2 } });
    expect([(await kit.ask({ model: OTHER })).status, (await kit.ask()).status]).toEqual([200, 200]);
    expect(await kit.manage("DELETE", "bans/a")).toEqual({ status: 200, body: { lifted: 0 } });
  });

  test("start an account anew by that: its old errors no longer count", async () => {
    const kit = await banning({ maxAttempts: 3, window: "1h" });
    await suffer(kit, [500, 500, 500]);
    await kit.manage("DELETE", "bans/a");
    await suffer(kit, [500, 500]);
    expect(await bansOf(kit)).toEqual([]);
    await suffer(kit, [500]);
    expect(await bansOf(kit)).toHaveLength(1);
  });

  test("hear of a name that is none, and need the key", async () => {
    const kit = await bannedTwice();
    expect((await kit.manage("DELETE", "bans/nobody")).status).toBe(404);
    expect((await kit.manage("DELETE", "bans/a?model=")).status).toBe(400);
    const keyless = await fetch(`${kit.gateway.url}/llm/v0/management/bans`);
    expect(keyless.status).toBe(401);
    expect(await bansOf(kit)).toHaveLength(2);
  });

  test("see it in the metrics, also when it is over", async () => {
    const kit = await banning({ maxAttempts: 1, banDuration: "1h" }, ["a", "b"], {
      monitoring: { prometheusEnabled: true },
      models: [{ name: MODEL }],
      resilience: { circuitBreaker: { failureThreshold: 1, openFor: "2h" } },
    });
    const gauges = async () => ({
      bans: (await kit.metric("bans_total"))["{}"],
      unbans: (await kit.metric("unbans_total"))["{}"],
      banned: await kit.metric("credential_banned"),
      breaker: await kit.metric("breaker_state"),
    });
    const both = (a: number, b: number) => ({ '{credential="a"}': a, '{credential="b"}': b });
    expect(await gauges()).toEqual({ bans: 0, unbans: 0, banned: both(0, 0), breaker: both(0, 0) });
    kit.answer("a", silent(500));
    await kit.several(3);
    expect(kit.asked()).toBe("abbb");
    expect(await gauges()).toEqual({ bans: 1, unbans: 0, banned: both(1, 0), breaker: both(2, 0) });
    const rejected = await kit.metric("selection_rejected_total");
    expect(Object.values(rejected).reduce((sum, value) => sum + value, 0)).toBe(2);
    expect(Object.keys(rejected)).toEqual([expect.stringMatching(/^\{reason="(?:banned|breaker)"\}$/)]);

    kit.clock.advance(60 * MINUTE);
    expect(await gauges()).toMatchObject({ bans: 1, unbans: 1, banned: both(0, 0) });
    kit.clock.advance(60 * MINUTE);
    kit.answer("a", {});
    await kit.several(2);
    expect(await gauges()).toMatchObject({ banned: both(0, 0), breaker: both(0, 0) });
    kit.answer("a", silent(500));
    await kit.several(2);
    await kit.manage("DELETE", "bans/a");
    expect(await gauges()).toMatchObject({ bans: 2, unbans: 2 });
  });

  test("see why each candidate was passed over", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b" }, { name: "c", rpm: 1 }, { name: "d" }], {
      monitoring: { prometheusEnabled: true },
      router: { strategy: "fill-first" },
      fail2ban: { maxAttempts: 1, errorCodes: [500] },
      resilience: { circuitBreaker: false, maxRetries: 10 },
    });
    kit.answer("a", silent(500));
    kit.answer("b", { status: 429, headers: { "retry-after": "600" } });
    expect((await kit.ask()).status).toBe(200);
    expect(await kit.several(2)).toBe("dd");
    expect(await kit.metric("selection_rejected_total")).toEqual({
      '{reason="banned"}': 2,
      '{reason="cooling"}': 2,
      '{reason="limited"}': 2,
    });
  });
});

describe("a restart", () => {
  test("with a database changes nothing: permanent bans stay, others end when they would have", async () => {
    const kit = await accounts(
      ["a", "b"],
      rules(
        { maxAttempts: 1, errorCodes: [500], errorCodeRules: [{ code: 503, banDuration: "10m" }] },
        { store: { url: `sqlite:${databasePath()}` }, router: { strategy: "fill-first" } },
      ),
    );
    // One account for each model, so that what is seen is the ban alone.
    kit.answer("a", ({ body }) => (body["model"] === MODEL ? silent(500) : body["model"] === OTHER ? silent(503) : {}));
    await kit.ask();
    await kit.ask({ model: OTHER });
    const before = await bansOf(kit);
    expect(before).toHaveLength(2);
    kit.clock.advance(5 * MINUTE);
    await kit.restart();
    expect(await bansOf(kit)).toEqual(before);
    kit.answer("a", {});
    kit.forget();
    await kit.ask();
    await kit.ask({ model: OTHER });
    expect(kit.asked()).toBe("bb");
    kit.clock.advance(5 * MINUTE);
    kit.forget();
    await kit.ask();
    await kit.ask({ model: OTHER });
    expect(kit.asked()).toBe("ba");
    await kit.manage("DELETE", "bans/a");
    await kit.restart();
    expect(await bansOf(kit)).toEqual([]);
    kit.forget();
    await kit.ask();
    expect(kit.asked()).toBe("a");
  });

  test("without one starts anew", async () => {
    const kit = await banning({ maxAttempts: 1 });
    await suffer(kit, [500]);
    await kit.restart();
    expect(await bansOf(kit)).toEqual([]);
    expect((await kit.ask()).status).toBe(200);
  });
});

test("a ban of one gateway is one for the other on the same database", async () => {
  const kit = await accounts(["a"], rules({ maxAttempts: 1 }, { store: { url: `sqlite:${databasePath()}` } }));
  const second = await kit.another();
  await suffer(kit, [500]);
  expect((await kit.ask()).status).toBe(503);
  // The other one looks for changes as time goes by.
  kit.clock.advance(MINUTE);
  expect((await kit.ask({}, { of: second })).status).toBe(503);
  await kit.manage("DELETE", "bans/a");
  kit.clock.advance(MINUTE);
  expect((await kit.ask({}, { of: second })).status).toBe(200);
});
