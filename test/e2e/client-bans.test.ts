// Clients that guess keys or send nonsense are kept out, by the address that cannot be made up and by the name of their key.
import express from "express";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, memoryStore, type GuardOptions } from "quotaguard";
import { chat, gatewayOptions, KEY, listen, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";
import { endChildren, folder, serving } from "../helpers/child.ts";
import { ADMIN, closeLater, databasePath, endAccounts, movedClock, PATIENTLY, provider, quiet, replyOf, type Reply } from "./accounts-kit.ts";

const SECOND = 1_000;
const ATTACKER = "203.0.113.5";
const NEIGHBOUR = "203.0.113.6";
const MASTER = "master-key-for-tests-1";

type ClientRules = Exclude<Exclude<GuardOptions["fail2ban"], boolean | undefined>["clients"], boolean | undefined>;

afterEach(endAccounts);

interface Kit {
  readonly clock: ReturnType<typeof movedClock>;
  readonly gateway: TestGateway;
  /** A chat completion, and the gateway done with it. `from` is what X-Forwarded-For says. */
  ask(key: string, from?: string, body?: Record<string, unknown>): Promise<Reply>;
  /** Statuses of several wrong keys. */
  guess(count: number, from?: string): Promise<readonly number[]>;
  manage(method: string, path?: string): Promise<{ readonly status: number; readonly body: Record<string, unknown> }>;
}

/** A gateway behind one proxy that it trusts, unless `trust` says otherwise. */
async function started(
  clients: ClientRules | true = { maxAttempts: 3, window: "1m", banDuration: "15m" },
  more: GuardOptions = {},
  trust: unknown = 1,
): Promise<Kit> {
  const clock = movedClock();
  const options: GuardOptions = {
    clock,
    management: { key: ADMIN },
    fail2ban: { clients },
    auth: {
      masterKey: MASTER,
      keys: [
        { name: "alice", key: KEY, models: ["gpt-4o*"] },
        { name: "bob", key: OTHER_KEY },
      ],
    },
    ...more,
  };
  const gateway = closeLater(await testGateway(options, (app) => app.set("trust proxy", trust)));
  const kit: Kit = {
    clock,
    gateway,
    async ask(key, from, body = {}) {
      const reply = await replyOf(chat(gateway.url, body, { key, headers: from === undefined ? {} : { "x-forwarded-for": from } }));
      await quiet(gateway.guard);
      return reply;
    },
    async guess(count, from) {
      const statuses: number[] = [];
      for (let i = 0; i < count; i += 1) statuses.push((await kit.ask(`qg-a-guess-number-${i}`, from)).status);
      return statuses;
    },
    async manage(method, path = "") {
      const response = await fetch(`${gateway.url}/llm/v0/management/client-bans${path}`, { method, headers: { authorization: `Bearer ${ADMIN}` } });
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    },
  };
  return kit;
}

const bansOf = async (kit: Kit) => (await kit.manage("GET")).body["bans"] as readonly Record<string, unknown>[];

describe("wrong keys", () => {
  test("get their address banned after exactly as many as allowed; then no answer tells a wrong key from another", async () => {
    const kit = await started();
    const events: unknown[] = [];
    kit.gateway.guard.events.on("ban", (event) => events.push(event));
    expect(await kit.guess(6, ATTACKER)).toEqual([401, 401, 401, 403, 403, 403]);
    const banned = await kit.ask("qg-one-more-guess", ATTACKER);
    expect(banned).toMatchObject({ code: "banned", retryAfter: 900 });
    expect(banned.headers.get("x-should-retry")).toBe("false");
    expect(banned.text).not.toContain("qg-one-more-guess");
    const until = kit.clock.now() + 900 * SECOND;
    expect(events).toEqual([{ credential: null, model: null, client: `ip:${ATTACKER}`, code: 401, until }]);
    expect(await bansOf(kit)).toEqual([
      { client: `ip:${ATTACKER}`, code: 401, since: new Date(kit.clock.now()).toISOString(), until: new Date(until).toISOString() },
    ]);
    expect(await kit.guess(2, NEIGHBOUR)).toEqual([401, 401]);
    expect(kit.gateway.upstream.log).toHaveLength(0);
  });

  test("count on every path that wants a key, and with two different keys at once", async () => {
    const kit = await started();
    const headers = { "x-forwarded-for": ATTACKER };
    const list = await fetch(`${kit.gateway.url}/llm/v1/models`, { headers: { ...headers, authorization: "Bearer qg-wrong" } });
    expect(list.status).toBe(401);
    const two = await fetch(`${kit.gateway.url}/llm/v1/models`, { headers: { ...headers, authorization: `Bearer ${KEY}`, "x-api-key": OTHER_KEY } });
    expect(two.status).toBe(400);
    await quiet(kit.gateway.guard);
    expect(await kit.guess(2, ATTACKER)).toEqual([401, 403]);
  });

  test("far apart do not count together, and a ban ends when it said", async () => {
    const kit = await started({ maxAttempts: 3, window: "1m", banDuration: "10s" });
    for (let i = 0; i < 9; i += 1) {
      expect(await kit.guess(1, ATTACKER)).toEqual([401]);
      kit.clock.advance(31 * SECOND);
    }
    kit.clock.advance(60 * SECOND);
    expect(await kit.guess(4, ATTACKER)).toEqual([401, 401, 401, 403]);
    kit.clock.advance(9 * SECOND);
    // Nor does it grow while it lasts.
    expect(await kit.guess(1, ATTACKER)).toEqual([403]);
    kit.clock.advance(SECOND);
    expect(await kit.guess(3, ATTACKER)).toEqual([401, 401, 401]);
  });

  test("leave whoever has a valid key behind the same address alone, unless the operator wants it otherwise", async () => {
    const passing = await started();
    await passing.guess(4, ATTACKER);
    expect((await passing.ask(KEY, ATTACKER)).status).toBe(200);
    expect((await passing.ask(MASTER, ATTACKER)).status).toBe(200);

    const refusing = await started({ maxAttempts: 3, banDuration: "15m", validKeys: "refuse" });
    await refusing.guess(4, ATTACKER);
    expect(await refusing.ask(KEY, ATTACKER)).toMatchObject({ status: 403, code: "banned", retryAfter: 900 });
    expect((await refusing.ask(KEY, NEIGHBOUR)).status).toBe(200);
  });
});

describe("the address", () => {
  test("behind a trusted proxy it is what the proxy saw, whatever the client wrote before it", async () => {
    const kit = await started();
    await kit.guess(3, `198.51.100.1, ${ATTACKER}`);
    expect(await kit.guess(1, `198.51.100.2, ${ATTACKER}`)).toEqual([403]);
    // The one whose address was made up is not banned for it.
    expect(await kit.guess(1, "198.51.100.1")).toEqual([401]);
    expect(await kit.guess(1, `${ATTACKER}, ${NEIGHBOUR}`)).toEqual([401]);
  });

  test("behind named proxies, the last one that is none of them", async () => {
    const kit = await started(undefined, {}, ["loopback", "10.0.0.0/8"]);
    await kit.guess(3, `198.51.100.1, ${ATTACKER}, 10.1.2.3`);
    expect(await kit.guess(1, `${ATTACKER}, 10.9.9.9`)).toEqual([403]);
    expect((await bansOf(kit))[0]).toMatchObject({ client: `ip:${ATTACKER}` });
  });

  test.each([
    ["nobody is trusted", false],
    ["everybody would be trusted", true],
  ])("is the connection's where %s: no header escapes a ban, and none bans a stranger", async (_what, trust) => {
    const kit = await started(undefined, {}, trust);
    await kit.guess(1, ATTACKER);
    await kit.guess(1, NEIGHBOUR);
    await kit.guess(1, "198.51.100.1");
    expect(await kit.guess(1, "198.51.100.2")).toEqual([403]);
    expect((await bansOf(kit)).map(({ client }) => client)).toEqual(["ip:127.0.0.1"]);
    expect((await kit.ask(KEY)).status).toBe(200);
  });

  test("is a household's in IPv6, and IPv4 within it is IPv4", async () => {
    const kit = await started();
    for (const address of ["2001:db8:0:100::1", "2001:db8:0:1ab::2", "2001:DB8:0:1ff:1:2:3:4"]) await kit.guess(1, address);
    expect(await kit.guess(1, "2001:db8:0:1cd::9")).toEqual([403]);
    expect(await kit.guess(1, "2001:db8:0:200::1")).toEqual([401]);
    await kit.guess(3, `::ffff:${ATTACKER}`);
    expect(await kit.guess(1, ATTACKER)).toEqual([403]);
  });
});

describe("a known key", () => {
  const WRONG_MODEL = { model: "claude-opus" };

  test("is banned for its own mistakes, wherever it comes from; other keys are not", async () => {
    const kit = await started();
    for (let i = 0; i < 3; i += 1) expect((await kit.ask(KEY, ATTACKER, WRONG_MODEL)).code).toBe("model_not_allowed");
    for (const from of [ATTACKER, NEIGHBOUR]) expect(await kit.ask(KEY, from)).toMatchObject({ status: 403, code: "banned" });
    expect((await kit.ask(OTHER_KEY, ATTACKER)).status).toBe(200);
    const [ban] = await bansOf(kit);
    expect(ban).toMatchObject({ client: "key:alice", code: 403 });
    expect(JSON.stringify(await bansOf(kit))).not.toContain(KEY);
    // And the address has done nothing wrong.
    expect(await kit.guess(1, ATTACKER)).toEqual([401]);
    kit.clock.advance(900 * SECOND);
    expect((await kit.ask(KEY, ATTACKER)).status).toBe(200);
  });

  test("is banned for what the provider refuses as wrong in itself", async () => {
    const kit = await started();
    kit.gateway.upstream.script({ status: 400 });
    for (let i = 0; i < 3; i += 1) expect((await kit.ask(KEY)).status).toBe(400);
    expect((await kit.ask(KEY)).code).toBe("banned");
    expect(kit.gateway.upstream.log).toHaveLength(3);
  });

  test.each([500, 429, 401, 403])("is not banned for a provider that answers %i", async (status) => {
    const kit = await started();
    kit.gateway.upstream.script({ status });
    for (let i = 0; i < 6; i += 1) expect((await kit.ask(KEY)).code).not.toBe("banned");
    expect(await bansOf(kit)).toEqual([]);
  });

  test("is not banned for having used up its budget", async () => {
    const kit = await started(undefined, { limits: [{ name: "global", scope: "global", unit: "requests", window: { limit: 1, per: "hour" } }] });
    const statuses: number[] = [];
    for (let i = 0; i < 6; i += 1) statuses.push((await kit.ask(KEY)).status);
    expect(statuses).toEqual([200, 429, 429, 429, 429, 429]);
    expect(await bansOf(kit)).toEqual([]);
  });

  test("is not banned for anything that happened while our own store was away", async () => {
    const store = memoryStore();
    const away = () => {
      throw new GuardError("store_unavailable", "away");
    };
    const kit = await started(undefined, {
      store: { ...store, limits: { ...store.limits, reserve: away } },
      limits: [{ name: "global", scope: "global", unit: "requests", window: { limit: 100, per: "hour" }, onStoreError: "deny" }],
    });
    for (let i = 0; i < 6; i += 1) expect(await kit.ask(KEY)).toMatchObject({ status: 503, code: "store_unavailable" });
    expect(await bansOf(kit)).toEqual([]);
  });

  test("of the operator is never banned", async () => {
    const kit = await started();
    for (let i = 0; i < 6; i += 1) await kit.ask(MASTER, undefined, { model: "" });
    expect((await kit.ask(MASTER)).status).toBe(200);
    expect(await bansOf(kit)).toEqual([]);
  });
});

describe("operators", () => {
  test("list and lift, over HTTP and in code", async () => {
    const kit = await started({ maxAttempts: 2, banDuration: "permanent" }, { monitoring: { prometheusEnabled: true } });
    await kit.guess(2, ATTACKER);
    await kit.guess(2, "2001:db8::1");
    const names = ["ip:2001:db8::/56", `ip:${ATTACKER}`];
    expect((await bansOf(kit)).map(({ client, until }) => `${String(client)} until ${String(until)}`).toSorted()).toEqual(
      names.map((name) => `${name} until null`),
    );
    expect((await kit.ask("qg-a-guess", ATTACKER)).retryAfter).toBeNull();
    expect(await kit.manage("DELETE", `/${encodeURIComponent(`ip:${ATTACKER}`)}`)).toEqual({ status: 200, body: { lifted: 1 } });
    expect((await kit.manage("DELETE", `/${encodeURIComponent(`ip:${ATTACKER}`)}`)).status).toBe(404);
    expect(await kit.guess(1, ATTACKER)).toEqual([401]);
    expect(kit.gateway.guard.admin.liftClientBan("ip:2001:db8::/56")).toBe(true);
    expect(kit.gateway.guard.admin.clientBans()).toEqual([]);
    expect((await kit.gateway.guard.metrics())?.text).toMatch(/^quotaguard_bans_total 2$/m);
    expect((await kit.gateway.guard.metrics())?.text).toMatch(/^quotaguard_unbans_total 2$/m);
  });

  test("switch it off", async () => {
    for (const fail2ban of [false, { clients: false }] as const) {
      const kit = await started(undefined, { fail2ban });
      expect(await kit.guess(30, ATTACKER)).toEqual(Array(30).fill(401));
    }
  });

  test("get twenty tries in a minute and fifteen minutes by default", async () => {
    const kit = await started(true);
    expect(await kit.guess(21, ATTACKER)).toEqual([...(Array(20).fill(401) as number[]), 403]);
    expect((await kit.ask("qg-a-guess", ATTACKER)).retryAfter).toBe(900);
  });
});

test("a ban survives a restart on the same database, until its time is over", async () => {
  const store = { url: `sqlite:${databasePath()}` };
  const first = await started(undefined, { store });
  await first.guess(3, ATTACKER);
  await first.gateway.close();
  const again = await started(undefined, { store });
  again.clock.advance(14 * 60 * SECOND);
  expect(await again.guess(1, ATTACKER)).toEqual([403]);
  again.clock.advance(60 * SECOND);
  expect(await again.guess(1, ATTACKER)).toEqual([401]);
});

test("guesses that come all at once end in one ban", async () => {
  const kit = await started({ maxAttempts: 20 });
  const all = await Promise.all(Array.from({ length: 200 }, (_, i) => kit.ask(`qg-a-guess-number-${i}`, ATTACKER)));
  expect(all.filter(({ status }) => status === 401).length).toBeGreaterThanOrEqual(20);
  expect(await kit.guess(1, ATTACKER)).toEqual([403]);
  expect(await bansOf(kit)).toHaveLength(1);
});

test("a server of its own goes by the proxies that its configuration names", async () => {
  const upstream = await provider();
  const place = folder();
  place.write(
    "quotaguard.yaml",
    `
server: { port: 0, trust_proxy: 1 }
store: { url: memory }
keys: [{ name: alice, key: ${KEY} }]
fail2ban: { clients: { max_attempts: 2, ban_duration: 15m } }
credentials: [{ name: a, provider: openai-compatible, base_url: "${upstream.url}" }]
`,
  );
  try {
    const { url } = await serving([], { cwd: place.path });
    const ask = (key: string, from: string): Promise<Reply> =>
      replyOf(
        fetch(`${url}/v1/chat/completions`, {
          method: "POST",
          headers: { authorization: `Bearer ${key}`, "x-forwarded-for": `198.51.100.1, ${from}` },
          body: JSON.stringify({ model: "gpt-4o", messages: [] }),
        }),
      );
    // The last of them is judged once its answer is out.
    for (let i = 0; i < 2; i += 1) expect((await ask("qg-a-guess", ATTACKER)).status).toBe(401);
    await expect.poll(async () => (await ask("qg-a-guess", ATTACKER)).status, PATIENTLY).toBe(403);
    expect((await ask("qg-a-guess", NEIGHBOUR)).status).toBe(401);
    expect((await ask(KEY, ATTACKER)).status).toBe(200);
  } finally {
    await endChildren();
    place.remove();
  }
});

test("composed by hand on a route of the host's own, it keeps out the same clients", async () => {
  const upstream = await provider();
  const guard = closeLater(
    createGuard(
      gatewayOptions(upstream, { clock: movedClock(), fail2ban: { clients: { maxAttempts: 3, banDuration: "15m", validKeys: "refuse" } } }),
    ),
  );
  const app = express();
  app.set("trust proxy", 1);
  app.post("/api/v1/chat/completions", guard.fail2ban(), guard.auth(), guard.scopes(), guard.budgets(), guard.credentials(), guard.proxy());
  app.use("/llm", guard.handler());
  await guard.ready();
  const { url } = closeLater(await listen(app));
  const ask = async (path: string, key: string, from: string): Promise<number> => {
    const reply = await replyOf(
      fetch(url + path, {
        method: "POST",
        headers: { authorization: `Bearer ${key}`, "x-forwarded-for": from },
        body: JSON.stringify({ model: "gpt-4o", messages: [] }),
      }),
    );
    await quiet(guard);
    return reply.status;
  };
  const [mine, mounted] = ["/api/v1/chat/completions", "/llm/v1/chat/completions"];
  expect([await ask(mine, "qg-one", ATTACKER), await ask(mounted, "qg-two", ATTACKER), await ask(mine, "qg-three", ATTACKER)]).toEqual([
    401, 401, 401,
  ]);
  for (const path of [mine, mounted]) expect([await ask(path, KEY, ATTACKER), await ask(path, KEY, NEIGHBOUR)]).toEqual([403, 200]);
});
