// What a gateway does while its store fails: every row of the policy, for every way in which a store can fail.
import { afterEach, describe, expect, test } from "vitest";
import { GuardError, type GuardOptions } from "quotaguard";
import { testClock, type TestClock } from "quotaguard/testing";
import { publicHealth } from "../../src/cli/public-health.ts";
import { keptLogger } from "../core/context-kit.ts";
import { chat, KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";
import { DRIVER_ERROR, faultyStore, type FaultyStore, type StoreFault as Fault } from "../../src/testing/faulty-store.ts";

type LimitInput = NonNullable<GuardOptions["limits"]>[number];

const MINUTES_15 = 15 * 60_000;
const FAULTS: readonly Fault[] = ["refuses", "throws", "reply lost", "hangs", "late"];

let gateway: TestGateway;
let clock: TestClock;
let store: FaultyStore;
let logger: ReturnType<typeof keptLogger>;
let isEnded = false;
afterEach(async () => {
  store.recover();
  if (isEnded) await gateway.upstream.close();
  else await gateway.close();
  isEnded = false;
});

interface StartOptions {
  readonly processes?: number;
  readonly as?: "store" | "ledger";
  readonly isBounded?: boolean;
}

async function start(limits: readonly LimitInput[], { processes, as = "store", isBounded = false }: StartOptions = {}): Promise<void> {
  clock = testClock();
  store = faultyStore({ clock, ...(processes === undefined ? {} : { nodes: processes }) });
  logger = keptLogger();
  gateway = await testGateway({
    limits,
    clock,
    [as]: isBounded ? { ...store, isBounded } : store,
    logger,
    monitoring: { prometheusEnabled: true },
    models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }],
  });
  // What is said of the options is not our subject.
  logger.lines.length = 0;
}

const bucket = (more: object = {}): LimitInput => ({
  name: "tokens",
  scope: "user",
  unit: "tokens",
  bucket: { capacity: 10_000, refillPerSec: 0 },
  ...more,
});
const rpm = (limit: number, more: object = {}): LimitInput => ({
  name: "rpm",
  scope: "user",
  unit: "requests",
  window: { limit, per: "hour" },
  ...more,
});
const money = (limit: number, more: object = {}): LimitInput => ({
  name: "money",
  scope: "user",
  unit: "usd",
  window: { limit, per: "day" },
  ...more,
});

interface Answer {
  readonly status: number;
  readonly code: string | null;
  readonly limit: string | null;
  readonly retryAfter: string | null;
  readonly text: string;
}

async function read(response: Response): Promise<Answer> {
  const text = await response.text();
  const { error } = JSON.parse(text) as { error?: { code: string; limit?: string } };
  return { status: response.status, code: error?.code ?? null, limit: error?.limit ?? null, retryAfter: response.headers.get("retry-after"), text };
}

const how = (name: string): number => store.asked.filter((each) => each === name).length;

/** Asks, and lets the time pass that a store may take to answer, once the request has come there. */
async function ask(fault: Fault, where = "limits.reserve", body: Record<string, unknown> = {}): Promise<Answer> {
  const before = how(where);
  const answer = chat(gateway.url, { max_tokens: 50, ...body }).then(read);
  if (fault === "hangs" || fault === "late") {
    let isOver = false;
    const over = answer.then(() => (isOver = true));
    await expect.poll(() => isOver || how(where) > before).toBe(true);
    clock.advance(1_000);
    await Promise.race([over, new Promise(setImmediate)]);
  }
  return answer;
}
const statuses = async (count: number, fault: Fault = "refuses"): Promise<number[]> => {
  const found: number[] = [];
  for (let i = 0; i < count; i += 1) found.push((await ask(fault)).status);
  return found;
};

const left = async (): Promise<number> => (await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens;
const health = () => gateway.guard.admin.health();
const settled = async (): Promise<void> => {
  await expect.poll(() => health().openRequests).toBe(0);
};
const sent = (): number => gateway.upstream.log.length;

/** Time passes for the outbox and the probes, until nothing waits. */
async function backAgain(): Promise<void> {
  store.recover();
  await expect
    .poll(() => {
      clock.advance(1_000);
      return [health().waitingSettlements, health().storeState?.state];
    })
    .toEqual([0, "ok"]);
}

async function metric(name: string): Promise<number | undefined> {
  const { text = "" } = (await gateway.guard.metrics()) ?? {};
  const line = text.split("\n").find((each) => each.startsWith(`quotaguard_${name} `));
  return line === undefined ? undefined : Number(line.split(" ").at(-1));
}

const told = (): string[] =>
  logger.lines
    .filter(({ level }) => level === "warn" || level === "error")
    .map(({ fields, message }) => (typeof fields["code"] === "string" ? fields["code"] : message));

describe.each(FAULTS)("a store that %s", (fault) => {
  const WRONG_CODES = [400, 401, 403, 429];

  test("hard limit: closed, 503 with Retry-After, nothing sent and nothing charged anywhere", async () => {
    await start([bucket(), money(1), rpm(100)]);
    store.fail(fault, "limits");
    const answer = await ask(fault);
    expect(answer).toMatchObject({ status: 503, code: "store_unavailable", limit: "money", retryAfter: "1" });
    expect(WRONG_CODES).not.toContain(answer.status);
    expect(sent()).toBe(0);
    await settled();
    expect(await metric('store_errors_total{op="reserve",mode="deny"}')).toBe(1);
    await store.deliver();
    await backAgain();
    expect([await left(), gateway.guard.admin.limits.list().length]).toEqual([10_000, 3]);
    expect((await ask("refuses")).status).toBe(200);
  });

  test("abuse limit: served, by this process's part of the limit", async () => {
    await start([rpm(7)], { processes: 3 });
    store.fail(fault, "limits");
    expect(await statuses(3, fault)).toEqual([200, 200, 429]);
    expect(await metric('store_errors_total{op="reserve",mode="local"}')).toBe(3);
    await settled();
    await store.deliver();
    await backAgain();
    // What was let through meanwhile is not counted twice.
    expect(await statuses(8)).toEqual([200, 200, 200, 200, 200, 200, 200, 429]);
  });

  test("soft money: open, and closed when it has gone uncounted for a quarter of an hour; open again with the store", async () => {
    await start([money(1, { onStoreError: "allow" })]);
    store.fail(fault, "limits", "records");
    expect((await ask(fault)).status).toBe(200);
    await settled();
    expect(await metric('store_errors_total{op="reserve",mode="allow"}')).toBe(1);
    clock.advance(MINUTES_15 - 10_000);
    expect((await ask(fault)).status).toBe(200);
    clock.advance(10_000);
    expect(await ask(fault)).toMatchObject({ status: 503, code: "store_unavailable", limit: "money", retryAfter: "5" });
    await settled();
    await store.deliver();
    await backAgain();
    expect((await ask("refuses")).status).toBe(200);
  });

  test("shadow limit: refuses nothing, however long it lasts", async () => {
    await start([money(0.000_001, { mode: "shadow" }), bucket({ mode: "shadow", onStoreError: "deny" }), rpm(1, { mode: "shadow" })]);
    store.fail(fault, "limits", "records");
    expect(await statuses(2, fault)).toEqual([200, 200]);
    clock.advance(MINUTES_15);
    expect((await ask(fault)).status).toBe(200);
    await settled();
  });

  test("intent: closed, nothing sent, the budget given back, and nothing can be served", async () => {
    await start([bucket()]);
    store.fail(fault, "ledger");
    expect(await ask(fault, "ledger.intent")).toMatchObject({ status: 503, code: "store_unavailable", retryAfter: "1" });
    await settled();
    expect([sent(), await left()]).toEqual([0, 10_000]);
    expect(await metric('store_errors_total{op="intent",mode="deny"}')).toBe(1);
    expect([health().status, publicHealth(gateway.guard.admin).status]).toEqual(["unavailable", 503]);
    await store.deliver();
    await backAgain();
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 200, body: { status: "healthy", store_state: "ok" } });
    expect((await ask("refuses")).status).toBe(200);
  });

  test("settle: the client has its answer; what it used is charged once, as soon as the store is back", async () => {
    await start([bucket()]);
    store.fail(fault, "limits.settle");
    const answer = await ask(fault, "limits.settle");
    expect(answer.status).toBe(200);
    await expect.poll(() => health().waitingSettlements).toBe(1);
    await settled();
    expect(await metric("waiting_settlements")).toBe(1);
    await store.deliver();
    await backAgain();
    const { inputTokens, outputTokens } = gateway.upstream.totals();
    expect(await left()).toBe(10_000 - inputTokens - outputTokens);
    expect(await metric("waiting_settlements")).toBe(0);
  });
});

test("a ledger beside the store may hang as well", async () => {
  await start([bucket()], { as: "ledger" });
  store.fail("hangs", "ledger");
  expect(await ask("hangs", "ledger.intent")).toMatchObject({ status: 503, code: "store_unavailable", retryAfter: "1" });
  await settled();
  expect([sent(), await left(), health().status]).toEqual([0, 10_000, "unavailable"]);
  await backAgain();
  expect((await ask("refuses")).status).toBe(200);
});

/** The code of the error that a call ends with. */
const endOf = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    () => "done",
    (error: unknown) => (error as { code?: unknown }).code,
  );

test("records of a ledger that hangs keep nobody waiting", async () => {
  await start([bucket()], { as: "ledger" });
  store.fail("hangs", "records");
  const end = endOf(gateway.guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 20_000 }));
  await expect.poll(() => how("records.put")).toBeGreaterThan(0);
  clock.advance(1_000);
  expect(await end).toBe("store_unavailable");
});

test("a report does not wait for a ledger that waits for its database", async () => {
  await start([bucket()], { as: "ledger", isBounded: true });
  store.fail("hangs", "ledger.flush");
  const end = endOf(gateway.guard.admin.usage());
  await expect.poll(() => how("ledger.flush")).toBeGreaterThan(0);
  clock.advance(5_000);
  expect(await end).toBe("store_unavailable");
});

test("money that is counted here is closed after a quarter of an hour, too", async () => {
  await start([money(1, { onStoreError: "local" })]);
  store.fail("refuses", "limits", "records");
  expect((await ask("refuses")).status).toBe(200);
  clock.advance(MINUTES_15);
  expect(await ask("refuses")).toMatchObject({ status: 503, code: "store_unavailable", limit: "money" });
  // Shadow money never is: it would have been refused before.
  await gateway.close();
  await start([money(1, { onStoreError: "local", mode: "shadow" })]);
  store.fail("refuses", "limits", "records");
  expect((await ask("refuses")).status).toBe(200);
  clock.advance(MINUTES_15);
  expect((await ask("refuses")).status).toBe(200);
});

test("money that is let through is metered all the same", async () => {
  await start([money(0.000_1, { onStoreError: "allow" })]);
  store.fail("refuses", "limits");
  const seen: number[] = [];
  gateway.guard.events.on("would-refuse", ({ limit, available }) => void seen.push(limit === "money" ? available : -1));
  expect(await statuses(4)).toEqual([200, 200, 200, 200]);
  await settled();
  expect(seen.length).toBeGreaterThan(0);
  expect(await metric('decisions_total{limit="money",outcome="would_refuse"}')).toBe(seen.length);
});

describe("limits of one request with several policies", () => {
  test.each<readonly [string, readonly LimitInput[], number]>([
    ["deny before local", [bucket({ onStoreError: "deny" }), rpm(5)], 503],
    ["local before deny", [rpm(5), bucket({ onStoreError: "deny" })], 503],
    ["allow and deny", [bucket({ onStoreError: "allow" }), rpm(5, { onStoreError: "deny" })], 503],
    ["local and allow", [bucket({ onStoreError: "allow" }), rpm(5)], 200],
    ["deny that only watches, and local", [bucket({ onStoreError: "deny", mode: "shadow" }), rpm(5)], 200],
  ])("%s: %#", async (_name, limits, status) => {
    await start(limits);
    store.fail("refuses", "limits");
    expect(await statuses(2)).toEqual([status, status]);
    if (status === 503) {
      store.recover();
      // Nothing of it was counted here.
      store.fail("refuses", "limits.peek");
      expect(await statuses(5)).toEqual([200, 200, 200, 200, 200]);
    }
  });
});

describe("a request that is larger than this process's part", () => {
  test("but not than the limit: it is the store that is missing", async () => {
    await start([bucket()], { processes: 500 });
    store.fail("refuses", "limits");
    expect(await ask("refuses")).toMatchObject({ status: 503, code: "store_unavailable", limit: "tokens", retryAfter: "1" });
    store.recover();
    expect((await ask("refuses")).status).toBe(200);
  });

  test("and than the limit, can never pass", async () => {
    await start([bucket()], { processes: 500 });
    store.fail("refuses", "limits");
    expect(await ask("refuses", "", { max_tokens: 20_000 })).toMatchObject({ status: 400, code: "budget_too_small", limit: "tokens" });
  });

  test("is shortened where the limit says so", async () => {
    await start([bucket({ whenShort: "shorten", estimate: "ceiling" })], { processes: 200 });
    store.fail("refuses", "limits");
    expect((await ask("refuses", "", { max_tokens: 5_000 })).status).toBe(200);
    await settled();
    const { body } = await gateway.upstream.received(1);
    const { max_tokens: cap } = JSON.parse(body.toString()) as { max_tokens: number };
    expect(cap).toBeLessThanOrEqual(50);
  });

  test("cannot be: one process alone has the whole limit", async () => {
    await start([rpm(7)]);
    expect(await statuses(1)).toEqual([200]);
    store.fail("refuses", "limits");
    expect(await statuses(8)).toEqual([200, 200, 200, 200, 200, 200, 200, 429]);
  });
});

describe("lost counters", () => {
  test("close what must not be guessed; all else is served, and it is no outage", async () => {
    await start([money(1), rpm(100)]);
    store.loseCounters();
    expect(await ask("refuses")).toMatchObject({ status: 503, code: "store_unavailable", limit: "money", retryAfter: "1" });
    expect(health().storeState).toMatchObject({ state: "rebuilding", since: clock.now() });
    expect(await metric("store_degraded")).toBe(1);
    // Per user: somebody else may have other limits.
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 200, body: { store_state: "rebuilding" } });
    expect(told()).not.toContain("QG_STORE_DEGRADED");
    store.findCounters();
    expect((await ask("refuses")).status).toBe(200);
    expect([await metric("store_degraded"), health().storeState]).toEqual([0, { state: "ok", since: null, reason: null }]);
  });

  test("do not concern requests without such a limit", async () => {
    await start([money(1, { onStoreError: "local" }), rpm(100)]);
    store.loseCounters();
    expect(await statuses(3)).toEqual([200, 200, 200]);
  });

  test("of a limit that counts everybody: nothing can be served", async () => {
    await start([money(1, { scope: "global" })]);
    store.loseCounters();
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 503, body: { status: "unhealthy", store_state: "rebuilding" } });
  });
});

describe("what operators see", () => {
  test("one line when it begins and one when it is over, whatever the traffic; and for how long, and how many went without", async () => {
    await start([money(1), rpm(1_000)]);
    store.fail("refuses", "limits", "records");
    const since = clock.now();
    expect(new Set(await statuses(30))).toEqual(new Set([503]));
    expect(health().storeState).toEqual({ state: "degraded", since, reason: "the store is away" });
    expect(await metric("store_degraded")).toBe(1);
    clock.advance(60_000);
    await new Promise(setImmediate);
    await statuses(5);
    expect(told()).toEqual(["QG_STORE_DEGRADED"]);
    store.recover();
    // Nobody asks, and two seconds are enough.
    for (let i = 0; i < 4; i += 1) {
      clock.advance(500);
      await new Promise(setImmediate);
    }
    expect([health().storeState?.state, await metric("store_degraded")]).toEqual(["ok", 0]);
    expect(told()).toEqual(["QG_STORE_DEGRADED"]);
    const back = logger.lines.filter(({ fields }) => fields["code"] === "QG_STORE_BACK");
    expect(back.map(({ fields }) => fields["decisions"])).toEqual([35]);
  });

  test("/health answers 200 while something can be served, 503 while a limit that counts everybody must not be guessed", async () => {
    await start([money(1)]);
    store.fail("refuses", "limits");
    await statuses(1);
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 200, body: { status: "healthy", store_state: "degraded" } });
    await gateway.close();
    await start([money(1, { scope: "global" }), rpm(5)]);
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 200, body: { store_state: "ok" } });
    store.fail("refuses", "limits");
    await statuses(1);
    expect(publicHealth(gateway.guard.admin)).toMatchObject({ status: 503, body: { status: "unhealthy", store_state: "degraded" } });
    await backAgain();
    expect(publicHealth(gateway.guard.admin).status).toBe(200);
  });

  test("no address and no secret of the store: not in answers, health or metrics", async () => {
    await start([bucket({ onStoreError: "deny" })]);
    store.fail("throws", "limits", "records", "ledger");
    const answer = await ask("throws");
    const shown = [answer.text, JSON.stringify(health()), JSON.stringify(publicHealth(gateway.guard.admin)), (await gateway.guard.metrics())?.text];
    for (const secret of ["hunter2", "10.0.0.7", DRIVER_ERROR, KEY, UPSTREAM_KEY]) expect(shown.join("\n")).not.toContain(secret);
    expect(health().storeState?.reason).toBe("the store failed");
  });
});

test("numbers that cannot be stored are not set, and nothing is left of them", async () => {
  await start([]);
  store.fail("refuses", "records");
  await expect(gateway.guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 5 })).rejects.toMatchObject({ code: "store_unavailable" });
  expect(gateway.guard.admin.limits.list()).toEqual([]);
  store.recover();
  expect((await ask("refuses")).status).toBe(200);
  expect(await gateway.guard.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 5 })).toMatchObject({ capacity: 5 });
  expect((await ask("refuses")).status).toBe(400);
});

test("the end does not wait for a store that never answers, and says so", async () => {
  await start([bucket()]);
  store.fail("hangs", "limits", "records", "ledger.flush");
  expect((await ask("hangs")).status).toBe(200);
  await settled();
  const end: { error?: unknown } = {};
  const closing = gateway.guard.close().catch((error: unknown) => (end.error = error));
  let waitedMs = 0;
  for (; end.error === undefined && waitedMs < 60_000; waitedMs += 1_000) {
    clock.advance(1_000);
    await new Promise(setImmediate);
  }
  await closing;
  await expect(gateway.close()).rejects.toBe(end.error);
  isEnded = true;
  expect(waitedMs).toBeLessThanOrEqual(12_000);
  expect(GuardError.is(end.error) && end.error.code).toBe("store_unavailable");
  expect(String(end.error)).toContain("the ledger has not taken its last rows in time");
});

test("a client that leaves while its reservation is on the way leaves nothing behind", async () => {
  await start([bucket()]);
  store.fail("late", "limits.reserve");
  const leaving = new AbortController();
  const pending = chat(gateway.url, { max_tokens: 50 }, { signal: leaving.signal });
  await expect.poll(() => how("limits.reserve")).toBe(1);
  leaving.abort();
  await expect(pending).rejects.toThrow();
  await settled();
  store.recover();
  await store.deliver();
  await expect.poll(() => how("limits.release")).toBe(1);
  expect([sent(), await left()]).toEqual([0, 10_000]);
});
