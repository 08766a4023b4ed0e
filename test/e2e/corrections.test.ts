import express from "express";
import { afterEach, expect, test } from "vitest";
import { contextOf, createGuard, type GuardOptions, type RequestQuota } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";
import { chat, gatewayOptions, listen, testGateway } from "../helpers/app.ts";

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

/** A route that holds 100 tokens and hands its quota to the test; `during` runs before the response ends. */
async function route(during: (quota: RequestQuota) => void) {
  const guard = createGuard({
    scopes: () => ({ user: "alice" }),
    limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } }],
    monitoring: { prometheusEnabled: true },
  });
  cleanups.push(() => guard.close());
  const debts: unknown[] = [];
  guard.events.on("debt", (debt) => debts.push(debt));
  let quota: RequestQuota | undefined;
  const app = express().get("/", guard.budgets({ cost: { tokens: 100 } }), (req, res) => {
    quota = contextOf(req);
    during(quota);
    res.send("ok");
  });
  const listening = await listen(app);
  cleanups.push(() => listening.close());
  await (await fetch(listening.url)).text();
  await expect.poll(() => guard.admin.health().openRequests).toBe(0);
  return {
    quota: quota as RequestQuota,
    debts,
    tokens: async () => (await guard.admin.bucket({ scope: "user", id: "alice" })).tokens,
    held: async () => /reserved_units\{[^}]*\} (\S+)/.exec((await guard.metrics())?.text ?? "")?.[1],
  };
}

test("usage that becomes known after the response replaces the estimate once, and the hold is counted down once", async () => {
  const { quota, debts, tokens, held } = await route(() => {});
  expect([await tokens(), await held()]).toEqual([900, "0"]);
  quota.meter({ inputTokens: 30 });
  expect([await tokens(), await held()]).toEqual([970, "0"]);
  quota.meter({ inputTokens: 500 });
  expect([await tokens(), await held(), debts]).toEqual([970, "0", []]);
});

test("what was metered in time is not settled, nor told as debt, a second time", async () => {
  const { quota, debts, tokens, held } = await route((own) => own.meter({ inputTokens: 150 }));
  expect([await tokens(), debts.length]).toEqual([850, 1]);
  quota.meter({ inputTokens: 10 });
  expect([await tokens(), await held(), debts.length]).toEqual([850, "0", 1]);
});

test("a transport that throws gives its credential back", async () => {
  const upstream = await fakeUpstream();
  cleanups.push(() => upstream.close());
  const transport: NonNullable<GuardOptions["transport"]> = {
    send() {
      throw new Error("no sockets left");
    },
    close: () => Promise.resolve(),
  };
  const gateway = await testGateway(gatewayOptions(upstream, { transport }));
  cleanups.push(() => gateway.close());
  expect((await chat(gateway.url)).status).toBe(500);
  expect(gateway.guard.admin.health().credentials.map(({ inFlight }) => inFlight)).toEqual([0]);
});
