// Credentials that plugins bring, change and take away while the gateway runs.
import type { GuardOptions, PluginHost } from "quotaguard";
import { afterEach, describe, expect, test } from "vitest";
import express from "express";
import { digestOf } from "../../src/testing/truth-log.ts";
import { keptLogger } from "../core/context-kit.ts";
import { KEY, listen } from "../helpers/app.ts";
import { PROVIDER_IDS } from "../../src/upstream/providers.ts";
import {
  accounts,
  atOnce,
  closeLater,
  databasePath,
  endAccounts,
  keyOf,
  MODEL,
  ordered,
  PATIENTLY,
  provider,
  quiet,
  silent,
} from "./accounts-kit.ts";

afterEach(endAccounts);

/** A plugin that only hands out what it was given. */
function plugin(name = "mine", setup: (host: PluginHost) => void = () => undefined) {
  const hosts: PluginHost[] = [];
  return {
    value: {
      name,
      setup(host: PluginHost): void {
        hosts.push(host);
        setup(host);
      },
    },
    /** Of the gateway that was started last. */
    get host(): PluginHost {
      return hosts.at(-1) as PluginHost;
    },
  };
}

async function withPlugin(names: readonly string[] = ["a"], more: GuardOptions = {}) {
  const mine = plugin();
  const kit = await ordered(names, { plugins: [mine.value], ...more });
  return { kit, mine };
}

/** An account that no configuration names. */
async function account(name: string) {
  const upstream = await provider({ keys: [keyOf(name)] });
  return { upstream, credential: { name, provider: "openai", apiKey: keyOf(name), baseUrl: upstream.url } };
}

const problem = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as Error).message;
  }
  return "no problem";
};

describe("a credential of a plugin", () => {
  test("is lent as soon as it is there, and to nobody once it is gone", async () => {
    const { kit, mine } = await withPlugin();
    const x = await account("x");
    mine.host.credentials.upsert({ ...x.credential, priority: 5 });
    expect((await kit.ask()).status).toBe(200);
    expect([x.upstream.log.length, kit.asked()]).toEqual([1, ""]);
    expect(kit.health().credentials.map(({ name }) => name)).toEqual(["a", "x"]);
    expect(mine.host.credentials.list()).toEqual(kit.health().credentials);
    expect([mine.host.credentials.remove("x"), mine.host.credentials.remove("x"), mine.host.credentials.remove("a")]).toEqual([true, false, false]);
    expect((await kit.ask()).status).toBe(200);
    expect([x.upstream.log.length, kit.asked()]).toEqual([1, "a"]);
  });

  test("that is replaced leaves running requests with what they were lent, and its numbers count from now on", async () => {
    const { kit, mine } = await withPlugin();
    const [old, next] = [await account("x"), await account("x")];
    const arrived = Promise.withResolvers<void>();
    const open = Promise.withResolvers<void>();
    old.upstream.script(async () => {
      arrived.resolve();
      await open.promise;
      return undefined;
    });
    mine.host.credentials.upsert({ ...old.credential, priority: 5 });
    const running = kit.ask();
    await arrived.promise;
    mine.host.credentials.upsert({ ...next.credential, priority: 5, rpm: 1 });
    expect((await kit.ask()).status).toBe(200);
    expect([old.upstream.log.length, next.upstream.log.length]).toEqual([1, 1]);
    // No room for a second one there.
    await kit.ask();
    expect([next.upstream.log.length, kit.asked()]).toEqual([1, "a"]);
    open.resolve();
    expect((await running).status).toBe(200);
  });

  test("that is replaced by one with another address is dialled there by what is passed through, too", async () => {
    const { kit, mine } = await withPlugin([]);
    const [old, next] = [await account("x"), await account("x")];
    const image = async (): Promise<number> => {
      const response = await fetch(`${kit.gateway.url}/llm/v1/images/generations`, {
        method: "POST",
        headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json" },
        body: JSON.stringify({ model: "gpt-image-1", prompt: "a cat" }),
      });
      await response.arrayBuffer();
      return old.upstream.log.length * 10 + next.upstream.log.length;
    };
    mine.host.credentials.upsert(old.credential);
    expect(await image()).toBe(10);
    mine.host.credentials.upsert(next.credential);
    expect(await image()).toBe(11);
  });

  test("is asked for its models, and they are offered", async () => {
    const { kit, mine } = await withPlugin();
    kit.list("a", ["m-a"]);
    await kit.guard.admin.discoverModels();
    const x = await account("x");
    x.upstream.script(({ method }) => (method === "GET" ? { body: { object: "list", data: [{ id: "m-x", object: "model" }] } } : undefined));
    mine.host.credentials.upsert(x.credential);
    expect(await kit.guard.admin.discoverModels()).toEqual(["m-a", "m-x"]);
    expect(kit.listed("a")).toBe(1);
    expect((await kit.ask({ model: "m-x" })).status).toBe(200);
    expect(kit.asked()).toBe("");
  });

  test("goes with its plugin", async () => {
    const { kit, mine } = await withPlugin(["a"], { store: { url: `sqlite:${databasePath()}` } });
    const x = await account("x");
    mine.host.credentials.upsert(x.credential);
    const before = mine.host;
    await kit.restart();
    expect(kit.health().credentials.map(({ name }) => name)).toEqual(["a"]);
    expect(problem(() => before.credentials.upsert(x.credential))).toMatch(/torn down/);
  });

  test("with another key or address is free of what was held against the old one", async () => {
    const { kit, mine } = await withPlugin(["a"], { fail2ban: { maxAttempts: 1 } });
    const [bad, good] = [await account("x"), await account("x")];
    bad.upstream.script(() => silent(401));
    mine.host.credentials.upsert({ ...bad.credential, priority: 5 });
    await kit.ask();
    const held = () => [kit.credential("x").state, kit.guard.admin.bans().length];
    expect(held()).toEqual(["cooling", 1]);
    expect(kit.credential("x").reason).toBe("refused by the provider with status 401");
    mine.host.credentials.upsert({ ...bad.credential, priority: 5, tier: "pro" });
    await kit.ask();
    expect(held()).toEqual(["cooling", 1]);
    mine.host.credentials.upsert({ ...good.credential, priority: 5 });
    await expect.poll(held, PATIENTLY).toEqual(["ready", 0]);
    await kit.ask();
    expect(good.upstream.log).toHaveLength(1);
  });

  test("that is wrong is refused by the field at fault, and changes nothing", async () => {
    const { kit, mine } = await withPlugin();
    const { credentials } = mine.host;
    const good = { name: "x", provider: "openai", apiKey: "sk-of-x" };
    const cases: readonly (readonly [object, string])[] = [
      [{ name: "a" }, "credential a: name: it belongs to the configuration; give this one another"],
      [{ name: "x y" }, "credential x y: name: must be 1 to 64 characters"],
      [{ provider: "opnai" }, `credential x: provider: expected one of ${PROVIDER_IDS.join(", ")}; did you mean openai?`],
      [{ apiKey: null }, "credential x: apiKey: is required for the provider openai"],
      [{ provider: "openai-compatible" }, "credential x: baseUrl: is required"],
      [{ baseUrl: "http://169.254.169.254/" }, "credential x: baseUrl: 169.254.169.254 is an instance metadata service"],
      [{ rpm: -2 }, "credential x: rpm: must be at least -1"],
      [{ isFalback: true }, "credential x: isFalback: unknown option; did you mean isFallback?"],
      [{ headers: { cookie: "a" } }, "credential x: headers.cookie:"],
      [{ expiresAt: "tomorrow" }, "credential x: expiresAt: expected a number, got a string"],
    ];
    for (const [wrong, message] of cases) expect(problem(() => credentials.upsert({ ...good, ...wrong }))).toContain(message);
    expect(problem(() => credentials.upsert({ ...good, apiKey: "sk-with space-secret" }))).not.toContain("space-secret");
    expect(kit.health().credentials.map(({ name }) => name)).toEqual(["a"]);
  });

  test("belongs to its plugin", async () => {
    const [one, two] = [plugin("one"), plugin("two")];
    await ordered(["a"], { plugins: [one.value, two.value] });
    one.host.credentials.upsert({ name: "x", provider: "openai", apiKey: "sk-of-x" });
    expect(problem(() => two.host.credentials.upsert({ name: "x", provider: "openai", apiKey: "sk" }))).toContain("it belongs to the plugin one");
    expect([two.host.credentials.remove("x"), one.host.credentials.remove("x")]).toEqual([false, true]);
  });

  test("comes and goes under load without a request that fails", async () => {
    const { kit, mine } = await withPlugin();
    const x = await account("x");
    let isOn = false;
    const replies = await atOnce(60, async (i) => {
      if (i % 3 === 0) {
        if (isOn) mine.host.credentials.remove("x");
        else mine.host.credentials.upsert({ ...x.credential, priority: 5 });
        isOn = !isOn;
      }
      return kit.ask();
    });
    expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([200]));
    await quiet(kit.guard);
    mine.host.credentials.remove("x");
    expect(kit.credential("a").inFlight).toBe(0);
  });
});

describe("a pause", () => {
  test("keeps an account out in all processes and after a restart, also as the last one", async () => {
    const store = { url: `sqlite:${databasePath()}` };
    const { kit, mine } = await withPlugin(["a", "b"], { store, monitoring: { prometheusEnabled: true } });
    const { host } = mine;
    const second = await kit.another();
    await host.credentials.disable("a", "billing");
    expect(await kit.several(3)).toBe("bbb");
    expect(kit.credential("a")).toMatchObject({ state: "paused", until: null, reason: "billing" });
    expect((await kit.metric("credential_paused"))['{credential="a"}']).toBe(1);
    const stateOf = (): unknown => {
      kit.clock.advance(100);
      return second.guard.admin.credentials().find(({ name }) => name === "a")?.state;
    };
    await expect.poll(stateOf, PATIENTLY).toBe("paused");
    await kit.ask({}, { of: second });
    expect(kit.counts()).toEqual({ a: 0, b: 4 });
    await host.credentials.disable("b", "an hour off", kit.clock.now() + 3_600_000);
    expect(await kit.ask()).toMatchObject({ status: 503, code: "no_credential", retryAfter: 3_600 });
    await kit.restart();
    expect([kit.credential("a").state, kit.credential("b").state]).toEqual(["paused", "paused"]);
    expect([await mine.host.credentials.enable("a"), await mine.host.credentials.enable("a")]).toEqual([true, false]);
    kit.forget();
    expect(await kit.several(2)).toBe("aa");
  });

  test("is a person's word too", async () => {
    const kit = await ordered();
    const url = `${kit.gateway.url}/llm/v0/management/credentials/a`;
    const patch = (body: object) =>
      fetch(url, {
        method: "PATCH",
        headers: { authorization: "Bearer admin-key-for-tests-0001", "content-type": "application/json" },
        body: JSON.stringify(body),
      });
    expect(await (await patch({ disabled: true, reason: "looking into it" })).json()).toMatchObject({ state: "paused", reason: "looking into it" });
    expect(await kit.several(2)).toBe("bb");
    expect((await patch({ disabled: true, until: "2001-01-01" })).status).toBe(400);
    expect(await (await patch({ disabled: false })).json()).toMatchObject({ state: "ready" });
    expect(await kit.several(2)).toBe("bbaa".slice(2));
    expect(JSON.stringify((await kit.manage("GET", "credentials")).body)).not.toContain("sk-upstream");
  });

  test("keeps our own questions away, too", async () => {
    const { kit, mine } = await withPlugin(["a", "b"]);
    await mine.host.credentials.disable("a", "quiet, please");
    kit.list("b", ["m-b"]);
    expect(await kit.guard.admin.discoverModels()).toEqual(["m-b"]);
    expect([kit.listed("a"), kit.listed("b")]).toEqual([0, 1]);
    await mine.host.credentials.enable("a");
    kit.list("a", ["m-a"]);
    expect(await kit.guard.admin.discoverModels()).toEqual(["m-a", "m-b"]);
  });

  test("of somebody that nobody knows is refused, and so is one without a reason", async () => {
    const { mine } = await withPlugin(["alpha"]);
    await expect(mine.host.credentials.disable("alpa", "x")).rejects.toThrow("there is no credential alpa; did you mean alpha?");
    await expect(mine.host.credentials.disable("alpha", "")).rejects.toThrow(/^reason: /);
  });
});

test("times that no calendar has are refused, so operators can go on looking", async () => {
  const { kit, mine } = await withPlugin(["a"]);
  const { credentials } = mine.host;
  const now = kit.clock.now();
  const fact = { credential: "a", group: "5h", remainingRatio: 1, resetsAt: now + 60_000, observedAt: now, source: "poll" as const };
  await expect(credentials.disable("a", "for good", Number.MAX_SAFE_INTEGER)).rejects.toThrow(/^until: /);
  await expect(credentials.report({ ...fact, observedAt: -1e16 })).rejects.toThrow(/^report: observedAt: /);
  await expect(credentials.report({ ...fact, resetsAt: 1e16 })).rejects.toThrow(/^report: resetsAt: /);
  const upsert = (): void => credentials.upsert({ name: "b", provider: "openai", apiKey: "sk-upstream", expiresAt: Number.MAX_SAFE_INTEGER });
  expect(upsert).toThrow(/expiresAt: /);
  await credentials.disable("a", "until the last day", 8.64e15);
  expect(await kit.manage("GET", "credentials")).toMatchObject({
    status: 200,
    body: { credentials: [{ name: "a", until: "+275760-09-13T00:00:00.000Z" }] },
  });
});

describe("what is left of a quota", () => {
  test("is seen by all processes, by operators and in the metrics, until it is whole again", async () => {
    const store = { url: `sqlite:${databasePath()}` };
    const { kit, mine } = await withPlugin(["a"], { store, monitoring: { prometheusEnabled: true } });
    const { host } = mine;
    const second = await kit.another();
    const now = kit.clock.now();
    const fact = { credential: "a", group: "5h", remainingRatio: 0.25, resetsAt: now + 60_000, observedAt: now, source: "poll" as const };
    await host.credentials.report(fact);
    const shown = { ...fact, remaining: 0.25, ageMs: 0, confidence: 0.9 };
    expect(kit.credential("a").quotas).toEqual([shown]);
    let waitedMs = 0;
    await expect
      .poll(() => {
        kit.clock.advance(100);
        waitedMs += 100;
        return second.guard.admin.credentials()[0]?.quotas;
      }, PATIENTLY)
      .toMatchObject([fact]);
    expect(waitedMs).toBeLessThanOrEqual(1_000);
    expect(await kit.metric("quota_remaining_ratio")).toEqual({ '{credential="a",group="5h"}': 0.25 });
    await expect(host.credentials.report({ ...fact, remainingRatio: 2 })).rejects.toThrow("report: remainingRatio: must be at most 1");
    await expect(host.credentials.report({ ...fact, credential: "b" })).rejects.toThrow("there is no credential b");
    kit.clock.advance(60_000);
    expect([kit.credential("a").quotas, await kit.metric("quota_remaining_ratio")]).toEqual([[], {}]);
  });
});

describe("a refresher", () => {
  const tokenKit = async (answers: (token: string) => boolean) => {
    const { kit, mine } = await withPlugin([]);
    const upstream = await provider();
    const seen: string[] = [];
    upstream.script(({ headers }) => {
      // The fake keeps no key as it is.
      const token = ["old", "new"].find((each) => headers.authorization === digestOf(`Bearer ${each}`)) ?? "another";
      seen.push(token);
      return answers(token) ? undefined : silent(401);
    });
    const put = (apiKey: string, expiresAt: number | null): void =>
      mine.host.credentials.upsert({ name: "x", provider: "openai", apiKey, baseUrl: upstream.url, expiresAt });
    return { kit, mine, seen, put };
  };

  test("is asked once after a 401, and the next request has the new token", async () => {
    const { kit, mine, seen, put } = await tokenKit((token) => token === "new");
    let asked = 0;
    mine.host.credentials.refresher("openai", async () => {
      asked += 1;
      return { apiKey: "new", expiresAt: null };
    });
    put("old", null);
    const first = await kit.ask();
    expect(first.status).toBe(401);
    await expect
      .poll(async () => {
        kit.clock.advance(1);
        return (await kit.ask()).status;
      }, PATIENTLY)
      .toBe(200);
    expect([asked, seen[0], seen.at(-1)]).toEqual([1, "old", "new"]);
  });

  test("renews before the end; an expired token is lent to nobody until it has", async () => {
    const { kit, mine, seen, put } = await tokenKit(() => true);
    let isWell = false;
    const end = mine.host.credentials.refresher("openai", () =>
      isWell ? Promise.resolve({ apiKey: "new", expiresAt: kit.clock.now() + 3_600_000 }) : Promise.reject(new Error("not now")),
    );
    put("old", kit.clock.now() + 60_000);
    expect((await kit.ask()).status).toBe(200);
    kit.clock.advance(60_000);
    expect(await kit.ask()).toMatchObject({ status: 429, code: "all_credentials_limited" });
    expect(kit.credential("x")).toMatchObject({ state: "cooling", reason: "its token has expired; a new one is being asked for" });
    isWell = true;
    await expect
      .poll(async () => {
        kit.clock.advance(10_000);
        return (await kit.ask()).status;
      }, PATIENTLY)
      .toBe(200);
    expect(seen).toEqual(["old", "new"]);
    // Nobody renews it any more: better a refusal of the provider's than one of ours.
    end();
    kit.clock.advance(3_600_000);
    expect([(await kit.ask()).status, seen.length]).toEqual([200, 3]);
  });
});

describe("a strategy of somebody else's", () => {
  const last = (candidates: readonly { readonly name: string }[]) => (candidates.at(-1) ?? null) as never;

  test("is a function in the options, and sees what each call would cost where", async () => {
    const seen: unknown[] = [];
    const kit = await accounts(["a", "b"], {
      models: [
        { name: MODEL, credential: "a", price: { inputPerMtok: 2, outputPerMtok: 2 } },
        { name: MODEL, credential: "b", price: { inputPerMtok: 1, outputPerMtok: 1 } },
      ],
      router: {
        strategy: (candidates, call) => {
          seen.push(call, ...candidates.map((candidate) => ({ ...candidate })));
          return candidates.toSorted((x, y) => (x.costUsd ?? 0) - (y.costUsd ?? 0))[0] ?? null;
        },
      },
    });
    expect(await kit.several(3, { messages: [], max_tokens: 93 })).toBe("bbb");
    expect(seen.slice(0, 3)).toMatchObject([
      { model: MODEL, scopes: { user: "alice" } },
      { name: "a", inFlight: 0, remainingRatio: null, costUsd: 0.0002 },
      { name: "b", costUsd: 0.0001 },
    ]);
  });

  test("is a plugin's by its name, and sees what is left of quotas", async () => {
    const mine = plugin("mine", (host) =>
      host.strategy("fullest", (candidates) => candidates.toSorted((x, y) => (y.remainingRatio ?? 1) - (x.remainingRatio ?? 1))[0] ?? null),
    );
    const kit = await accounts(["a", "b"], { plugins: [mine.value], router: { strategy: "fullest" } });
    const report = (credential: string, remainingRatio: number): Promise<void> =>
      mine.host.credentials.report({ credential, group: "5h", remainingRatio, resetsAt: null, observedAt: kit.clock.now(), source: "poll" as const });
    await report("a", 0.1);
    await report("b", 0.2);
    expect(await kit.several(2)).toBe("bb");
    kit.clock.advance(1);
    await report("b", 0.05);
    expect(await kit.several(2)).toBe("aa");
  });

  test("that fails is counted each time and told once a minute; nobody is refused", async () => {
    const logger = keptLogger();
    const kit = await accounts(["a", "b"], {
      logger,
      monitoring: { prometheusEnabled: true },
      router: {
        strategy: () => {
          throw new Error("broken");
        },
      },
    });
    expect(await kit.several(4)).toBe("abab");
    const told = (): number => logger.lines.filter(({ message }) => message.includes("strategy of the host's failed")).length;
    expect([told(), await kit.metric("strategy_failures_total")]).toEqual([1, { '{strategy="router"}': 4 }]);
    kit.clock.advance(60_000);
    await kit.ask();
    expect(told()).toBe(2);
  });

  test("that no plugin brings stops the start, with the nearest one", async () => {
    const mine = plugin("mine", (host) => host.strategy("cheapest", last));
    await expect(accounts(["a"], { plugins: [mine.value], router: { strategy: "cheepest" } })).rejects.toThrow(
      "router.strategy: expected one of round-robin, fill-first, weighted, least-cost, quota, cheapest; did you mean cheapest?",
    );
  });
});

describe("a provider of a plugin", () => {
  const bring = (host: PluginHost): void =>
    host.provider({
      id: "mine",
      extends: "openai-compatible",
      paths: { chat: "/talk" },
      authorize: (headers, { apiKey }) => void (headers["x-mine"] = apiKey?.reveal() ?? ""),
      classify: (status) => ({ fault: status === 418 ? "credential" : "request", isAccountWide: true, waitMs: null }),
    });
  const configured = (url: string) => [
    { name: "first", provider: "mine", apiKey: "sk-mine", baseUrl: url },
    { name: "a", apiKey: keyOf("a"), baseUrl: url },
  ];

  test("serves credentials of the configuration and of plugins, with its own paths, proof and verdicts", async () => {
    const got: unknown[] = [];
    let status = 200;
    const upstream = closeLater(
      await listen(
        express().use((req, res) => {
          got.push([req.path, req.headers["x-mine"], req.headers.authorization]);
          const choices = [{ index: 0, message: { role: "assistant", content: "hi" }, finish_reason: "stop" }];
          res
            .status(status)
            .json({ id: "1", object: "chat.completion", choices, usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } });
        }),
      ),
    );
    const mine = plugin("mine", bring);
    const kit = await accounts([], { plugins: [mine.value], credentials: configured(upstream.url), router: { strategy: "fill-first" } });
    expect(kit.health().credentials.map(({ name }) => name)).toEqual(["first", "a"]);
    await kit.ask();
    expect(got[0]).toEqual(["/talk", "sk-mine", undefined]);
    status = 418;
    await kit.ask();
    expect(kit.credential("first")).toMatchObject({ state: "cooling" });
    mine.host.credentials.upsert({ name: "x", provider: "mine", apiKey: "sk-x", baseUrl: upstream.url, priority: 5 });
    status = 200;
    await kit.ask();
    expect(got.at(-1)).toEqual(["/talk", "sk-x", undefined]);
  });

  test("that nobody brings stops the start, by the option's path", async () => {
    const mine = plugin("mine", bring);
    const credentials = [{ name: "first", provider: "miene", apiKey: "sk", baseUrl: "http://127.0.0.1:1" }];
    await expect(accounts([], { plugins: [mine.value], credentials })).rejects.toThrow(
      `credentials[0].provider: expected one of ${PROVIDER_IDS.join(", ")}, mine; did you mean mine?`,
    );
  });

  test("without plugins is refused at once", () =>
    expect(accounts([], { credentials: configured("http://127.0.0.1:1") })).rejects.toThrow(
      "credentials[0].provider: expected one of openai, openai-compatible",
    ));
});
