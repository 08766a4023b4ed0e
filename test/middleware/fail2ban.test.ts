import { describe, expect, test } from "vitest";
import type { Context, Principal } from "../../src/core/context.ts";
import { GuardError, type ErrorCode } from "../../src/core/errors.ts";
import { sequence } from "../../src/core/step.ts";
import type { AuthMode } from "../../src/middleware/auth.ts";
import { penalties } from "../../src/pool/penalties.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { strikeStore } from "../../src/stores/strikes.ts";
import { contextWith, kit } from "../core/context-kit.ts";
import {
  ALICE,
  BAN_MS,
  banned,
  BOB,
  ELSEWHERE,
  fail2banKit,
  failing,
  HERE,
  KEYS,
  MASTER,
  MINUTE,
  mistake,
  PREFIX,
  WRONG,
  wrong,
} from "./fail2ban-kit.ts";

describe("wrong keys", () => {
  test("ban their address with exactly the try that is one too many", async () => {
    const { sendAll, refusal, told, fail2ban, logger, clock } = fail2banKit();
    const since = clock.now();
    expect(await sendAll(5)).toEqual([...wrong(3), ...banned(2)]);
    expect(told).toEqual([{ credential: null, model: null, client: `ip:${HERE}`, code: 401, until: since + BAN_MS }]);
    expect(fail2ban.bans()).toEqual([{ client: `ip:${HERE}`, code: 401, since, until: since + BAN_MS }]);
    expect(logger.lines).toMatchObject([{ level: "warn", fields: { client: `ip:${HERE}` }, message: "a client is banned" }]);
    clock.advance(1_500);
    expect(await refusal()).toMatchObject({ code: "banned", status: 403, retryAfterMs: BAN_MS - 1_500 });
  });

  test.each<[string, string | null, string]>([
    ["an unknown key", WRONG, "unauthenticated"],
    ["no key at all", null, "unauthenticated"],
    ["a key too long to be one", "k".repeat(600), "unauthenticated"],
  ])("are %s", async (_name, key, code) => {
    const { sendAll, send } = fail2banKit();
    expect([...(await sendAll(3, { key })), await send()]).toEqual([code, code, code, "banned"]);
  });

  test("are two different keys at once, and what is no key at all", async () => {
    for (const headers of [{ authorization: `Bearer ${ALICE}`, "x-api-key": BOB }, { authorization: "Basic eDp5" }]) {
      const { entry, services, send } = fail2banKit({ maxAttempts: 1 });
      const codes: unknown[] = [];
      for (let i = 0; i < 2; i += 1) {
        const ctx = contextWith(services, { address: HERE, headers });
        try {
          await entry(ctx);
        } catch (error) {
          ctx.failure = error as GuardError;
        }
        await ctx.close({ status: 0, code: null, error: null });
        codes.push(ctx.failure?.code);
      }
      expect([codes[1], await send()]).toEqual(["banned", "banned"]);
      expect(codes[0]).toMatch(/^(?:auth_conflict|unauthenticated)$/);
    }
  });

  test("count within the window only", async () => {
    const { sendAll, send, clock } = fail2banKit();
    await sendAll(2);
    clock.advance(MINUTE);
    expect(await sendAll(2)).toEqual(wrong(2));
    clock.advance(MINUTE - 1);
    expect([await send(), await send()]).toEqual(["unauthenticated", "banned"]);
  });

  test("count for each address by itself, and for all of one /56 together", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(2);
    await sendAll(2, { address: ELSEWHERE });
    expect([await send(), await send(), await send({ address: ELSEWHERE })]).toEqual(["unauthenticated", "banned", "unauthenticated"]);
    for (const host of ["1", "2:1", "ff:1"]) await send({ address: `2001:db8:1:${host}::1` });
    expect(await send({ address: "2001:db8:1:7::9" })).toBe("banned");
    expect(await send({ address: "2001:db8:1:107::9" })).toBe("unauthenticated");
  });

  test("count although the client does not wait for the answer", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(3, { leaves: true });
    expect(await send()).toBe("banned");
  });

  test("count although the connection is gone when the answer is", async () => {
    let isOpen = true;
    const { sendAll, send } = fail2banKit({}, { kind: "custom", authenticate: () => ((isOpen = false), null) });
    await sendAll(2);
    isOpen = true;
    await send({ address: () => (isOpen ? HERE : null), leaves: true });
    expect([isOpen, await send()]).toEqual([false, "banned"]);
  });

  test("of the host's own function count alike, whether it answers at once or later", async () => {
    for (const authenticate of [() => null, () => Promise.resolve(null)]) {
      const { sendAll } = fail2banKit({}, { kind: "custom", authenticate });
      expect(await sendAll(4)).toEqual([...wrong(3), "banned"]);
    }
  });

  test("that were still looked up when the ban began do not count after it", async () => {
    const asked = Promise.withResolvers<null>();
    const answers: (Promise<null> | null)[] = [asked.promise];
    const { send, sendAll, clock } = fail2banKit({ windowMs: 100 * BAN_MS }, { kind: "custom", authenticate: () => answers.shift() ?? null });
    const waiting = send();
    await sendAll(3);
    asked.resolve(null);
    expect(await waiting).toBe("unauthenticated");
    clock.advance(BAN_MS);
    expect(await sendAll(4)).toEqual([...wrong(3), "banned"]);
  });

  test("from nowhere ban nobody", async () => {
    const { sendAll, bans } = fail2banKit();
    expect(await sendAll(10, { address: null })).toEqual(wrong(10));
    expect(bans.isEmpty).toBe(true);
  });

  test("that end at the same time ban once", async () => {
    const { send, told } = fail2banKit();
    const codes = await Promise.all(Array.from({ length: 20 }, () => send()));
    expect(codes).toEqual(wrong(20));
    expect([await send(), told.length]).toEqual(["banned", 1]);
  });

  test("whose count comes late from a slow store prolong nothing", async () => {
    const from = kit();
    const counts = [Promise.withResolvers<number>(), Promise.withResolvers<number>()] as const;
    const waiting = counts.map(({ promise }) => promise);
    const strikes = { strike: () => waiting.shift() as Promise<number>, clear: () => undefined };
    const { send, told, fail2ban } = fail2banKit({ maxAttempts: 1, strikes }, KEYS, from);
    const sent = [send(), send()] as const;
    counts[0].resolve(1);
    await sent[0];
    const before = fail2ban.bans();
    from.clock.advance(1);
    counts[1].resolve(2);
    await sent[1];
    expect([before.length, told.length, fail2ban.bans()]).toEqual([1, 1, before]);
  });
});

describe("a ban", () => {
  test("ends to the millisecond, and whoever comes back begins anew", async () => {
    const { sendAll, send, clock, bans } = fail2banKit({ windowMs: 100 * BAN_MS });
    await sendAll(3);
    clock.advance(BAN_MS - 1);
    expect(await send()).toBe("banned");
    clock.advance(1);
    expect(await sendAll(4)).toEqual([...wrong(3), "banned"]);
    clock.advance(BAN_MS);
    expect(bans.isEmpty).toBe(true);
  });

  test("is not prolonged by what is tried meanwhile, and that does not count later", async () => {
    const { sendAll, clock } = fail2banKit({ windowMs: 100 * BAN_MS });
    await sendAll(3);
    clock.advance(BAN_MS - 1);
    await sendAll(50);
    clock.advance(1);
    expect(await sendAll(3)).toEqual(wrong(3));
  });

  test("without an end stays until a person lifts it, and names no time", async () => {
    const { sendAll, refusal, fail2ban, clock, told } = fail2banKit({ banMs: null });
    await sendAll(3);
    clock.advance(400 * 24 * 60 * MINUTE);
    const error = (await refusal()) as GuardError;
    expect([error.code, error.retryAfterMs]).toEqual(["banned", undefined]);
    expect(error.message).toMatch(/ask the operator to lift the ban$/);
    expect(told).toMatchObject([{ until: null }]);
    expect([fail2ban.lift(`ip:${HERE}`), fail2ban.lift(`ip:${HERE}`), fail2ban.lift("ip:nobody")]).toEqual([true, false, false]);
    expect([fail2ban.bans(), await sendAll(3)]).toEqual([[], wrong(3)]);
  });

  test("that finds no room among longer ones is not announced", async () => {
    const from = kit();
    const { clock, logger } = from;
    const bans = penalties({ records: memoryStore({ clock }).records, prefix: PREFIX, clock, logger, maxEntries: 1 });
    bans.set(`ip:${ELSEWHERE}`, { code: 401, since: clock.now(), until: null });
    const { sendAll, told, fail2ban } = fail2banKit({ bans }, KEYS, from);
    expect(await sendAll(5)).toEqual(wrong(5));
    expect([told, fail2ban.bans().map(({ client }) => client)]).toEqual([[], [`ip:${ELSEWHERE}`]]);
  });

  test("says what to do, and no key", async () => {
    const { sendAll, refusal, logger } = fail2banKit();
    await sendAll(3);
    await sendAll(3, mistake());
    const messages = [(await refusal())?.message, (await refusal(mistake()))?.message];
    expect(messages[0]).toMatch(/wrong keys came from this address.*come back when the ban is over/);
    expect(messages[1]).toMatch(/this key sent too many requests.*come back when the ban is over/);
    expect(JSON.stringify([messages, logger.lines])).not.toMatch(/canary|qg-key/);
  });

  test("is told to whoever counts bans", async () => {
    const counted: string[] = [];
    const { sendAll } = fail2banKit({ onBan: (client) => void counted.push(client) });
    await sendAll(9);
    await sendAll(9, mistake());
    expect(counted).toEqual([`ip:${HERE}`, "key:alice"]);
  });
});

describe("a right key from a banned address", () => {
  test("passes by default, so that a guest locks out nobody behind the same router", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(3);
    expect([await send({ key: ALICE }), await send({ key: MASTER }), await send(), await send({ address: ELSEWHERE })]).toEqual([
      "served",
      "served",
      "banned",
      "unauthenticated",
    ]);
  });

  test("is not even looked at with `refuse`", async () => {
    const seen: unknown[] = [];
    const authenticate = (key: string | null) => (seen.push(key), key === ALICE ? { name: "alice" } : null);
    const { sendAll, refusal } = fail2banKit({ validKeys: "refuse" }, { kind: "custom", authenticate });
    await sendAll(3);
    const before = seen.length;
    expect([(await refusal({ key: ALICE }))?.code, seen.length - before]).toEqual(["banned", 0]);
    expect(await refusal({ key: ALICE, address: ELSEWHERE })).toBeNull();
  });

  test("still answers for its own mistakes", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(3);
    await sendAll(3, mistake());
    expect([await send({ key: ALICE }), await send({ key: BOB })]).toEqual(["banned", "served"]);
  });
});

/** Every code that a request can end with, and whether a known key that goes on with it is banned. */
const BANS: Readonly<Record<ErrorCode, boolean>> = {
  unauthenticated: false,
  auth_conflict: false,
  forbidden: true,
  model_not_allowed: true,
  banned: false,
  body_invalid: true,
  scope_invalid: true,
  model_not_found: true,
  budget_too_small: false,
  model_not_priced: false,
  not_found: true,
  method_not_allowed: true,
  body_too_large: true,
  unsupported_encoding: true,
  budget_exhausted: false,
  all_credentials_limited: false,
  idempotency_in_progress: false,
  idempotency_mismatch: false,
  untranslatable: true,
  no_credential: false,
  store_unavailable: false,
  overloaded: false,
  upstream_unreachable: false,
  upstream_protocol: false,
  upstream_timeout: false,
  upstream_refused: false,
  internal: false,
  plugin_failed: false,
};

describe("a known key", () => {
  test.each(Object.entries(BANS) as [ErrorCode, boolean][])("that goes on with %s is banned: %s", async (code, isBanned) => {
    const { sendAll, send, bans, clock } = fail2banKit();
    await sendAll(3, { key: ALICE, behind: failing(code) });
    expect(await send({ key: ALICE })).toBe(isBanned ? "banned" : "served");
    if (isBanned) expect(bans.get("key:alice", clock.now())).toMatchObject({ code: new GuardError(code, "").status });
  });

  test.each([
    [400, true],
    [413, true],
    [422, true],
    [401, false],
    [402, false],
    [403, false],
    [404, false],
    [408, false],
    [409, false],
    [429, false],
    [500, false],
    [502, false],
    [503, false],
    [529, false],
  ])("whose requests a provider refuses with %s is banned: %s", async (status, isBanned) => {
    const { sendAll, send } = fail2banKit();
    const refused = failing("upstream_refused", { status });
    const behind = (ctx: Context): void => {
      // The provider finds the request wrong whatever the status: what does not count, does not count all the same.
      ctx.fault = "request";
      refused();
    };
    await sendAll(3, { key: ALICE, behind });
    expect(await send({ key: ALICE })).toBe(isBanned ? "banned" : "served");
  });

  test("whose provider's refusals are passed on as they are is banned too; a host's own 400 is the host's", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(3, { key: ALICE, behind: (ctx) => void Object.assign(ctx, { attempts: 1, fault: "request" }) });
    expect(await send({ key: ALICE })).toBe("banned");
    const answering = (ctx: Context) => void ctx.close({ status: 400, code: null, error: null });
    expect(await sendAll(9, { key: BOB, behind: answering })).toEqual(Array(9).fill("served"));
  });

  test("whose request met an account that cannot pay made no mistake, though the provider answers 400", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(9, { key: ALICE, behind: (ctx) => void Object.assign(ctx, { attempts: 1, fault: "credential" }) });
    expect(await send({ key: ALICE })).toBe("served");
  });

  test("is refused wherever it comes from, and nobody else is", async () => {
    const { sendAll, send, told } = fail2banKit();
    await sendAll(3, mistake());
    expect(await Promise.all([HERE, ELSEWHERE, null].map((address) => send({ key: ALICE, address })))).toEqual(banned(3));
    expect([await send({ key: BOB }), await send()]).toEqual(["served", "unauthenticated"]);
    expect(told).toMatchObject([{ client: "key:alice", code: 400 }]);
  });

  test("counts its mistakes wherever they come from", async () => {
    const { send } = fail2banKit();
    for (const address of [HERE, ELSEWHERE, "2001:db8::1"]) await send(mistake(ALICE, address));
    expect(await send({ key: ALICE })).toBe("banned");
  });

  test("that leaves in mid-request made no mistake", async () => {
    const { sendAll, send } = fail2banKit();
    await sendAll(9, { ...mistake(), leaves: true });
    expect(await send({ key: ALICE })).toBe("served");
  });

  test("that is banned while it waits for its turn does not get in", async () => {
    const asked = Promise.withResolvers<{ name: string }>();
    const answers = [asked.promise, { name: "u7" }, { name: "u7" }, { name: "u7" }];
    const { send, sendAll } = fail2banKit({}, { kind: "custom", authenticate: () => answers.shift() ?? null });
    const waiting = send({ key: "x" });
    await sendAll(3, mistake("x"));
    asked.resolve({ name: "u7" });
    expect(await waiting).toBe("banned");
  });
});

describe("who is never banned", () => {
  test.each<[string, AuthMode, string | null, Principal["kind"]]>([
    ["the master key", KEYS, MASTER, "master"],
    ["the host behind its own auth", { kind: "host" }, null, "host"],
  ])("%s", async (_name, mode, key, kind) => {
    const { sendAll, bans } = fail2banKit({}, mode);
    const kinds: unknown[] = [];
    const behind = (ctx: Context): never => (kinds.push(ctx.principal?.kind), failing("body_invalid")());
    expect(await sendAll(9, { key, behind })).toEqual(Array(9).fill("body_invalid"));
    expect([bans.isEmpty, new Set(kinds)]).toEqual([true, new Set([kind])]);
  });

  test("a call in this process", async () => {
    const { services, fail2ban, bans } = fail2banKit({ maxAttempts: 1 });
    const ctx = contextWith(services);
    void fail2ban(ctx);
    ctx.principal = { kind: "host", name: "in-process", scopes: {}, models: null, mayAssertScopes: false };
    ctx.failure = new GuardError("body_invalid", "x");
    await ctx.close({ status: 400, code: "body_invalid", error: ctx.failure });
    expect(bans.isEmpty).toBe(true);
  });

  test("but whom the host's function names is", async () => {
    const { sendAll } = fail2banKit({}, { kind: "custom", authenticate: () => ({ name: "u7" }) });
    expect(await sendAll(4, mistake("x"))).toEqual(["body_invalid", "body_invalid", "body_invalid", "banned"]);
  });
});

describe("while our own store is away", () => {
  test("a wrong key that cannot be looked up never counts", async () => {
    for (const fault of [new GuardError("store_unavailable", "keys cannot be read"), new GuardError("internal", "x")]) {
      let isAway = true;
      const authenticate = (): Promise<null> => (isAway ? Promise.reject(fault) : Promise.resolve(null));
      const { sendAll } = fail2banKit({}, { kind: "custom", authenticate });
      expect(await sendAll(9)).toEqual(Array(9).fill(fault.code));
      isAway = false;
      expect(await sendAll(4)).toEqual([...wrong(3), "banned"]);
    }
  });

  test("nobody new is banned, known bans hold, and it is logged once each way", async () => {
    let isAway = false;
    const from = kit();
    const real = strikeStore({ clock: from.clock });
    const away = new Error("gone");
    const strikes = {
      ...real,
      strike: (key: string, windowMs: number) => (isAway ? Promise.reject(away) : real.strike(key, windowMs)),
    };
    const { sendAll, send, logger } = fail2banKit({ strikes }, KEYS, from);
    await sendAll(3);
    isAway = true;
    expect(await sendAll(9, { address: ELSEWHERE })).toEqual(wrong(9));
    expect(await send()).toBe("banned");
    isAway = false;
    expect(await sendAll(4, { address: ELSEWHERE })).toEqual([...wrong(3), "banned"]);
    expect(logger.lines.map(({ level, message }) => `${level} ${message}`)).toEqual([
      "warn a client is banned",
      "warn wrong keys and mistakes of clients cannot be counted now; known bans hold",
      "info wrong keys and mistakes of clients are counted again",
      "warn a client is banned",
    ]);
  });
});

describe("a request that nobody has anything against", () => {
  test("costs one shared function and no promise", () => {
    const { services, fail2ban } = fail2banKit();
    const [first, second] = [contextWith(services, { address: HERE }), contextWith(services, { address: ELSEWHERE })];
    const hooks: unknown[] = [];
    for (const ctx of [first, second]) {
      ctx.after = (hook) => void hooks.push(hook);
      expect(fail2ban(ctx)).toBeUndefined();
    }
    expect([hooks.length, hooks[0]]).toEqual([2, hooks[1]]);
    expect(first.gate).toBe(second.gate);
    expect((hooks[0] as (ctx: Context) => unknown)(first)).toBeUndefined();
  });

  test("that passes two of these steps is counted once", async () => {
    const { services, fail2ban, send } = fail2banKit({ maxAttempts: 2 });
    const ctx = contextWith(services, { address: HERE });
    void sequence(fail2ban, fail2ban)(ctx);
    ctx.failure = new GuardError("unauthenticated", "x");
    await ctx.close({ status: 401, code: "unauthenticated", error: ctx.failure });
    expect([await send(), await send()]).toEqual(["unauthenticated", "banned"]);
  });
});
