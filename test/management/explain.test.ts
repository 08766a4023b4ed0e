import { expect, test } from "vitest";
import type { ExplainedCall } from "../../src/core/explain.ts";
import { EXPLAINED, management, QUOTAS } from "./management-kit.ts";

const CALL: ExplainedCall = {
  kind: "call",
  at: Date.UTC(2026, 0, 1),
  identity: null,
  scopes: {},
  call: null,
  limits: [
    {
      name: "user-day",
      scope: "user",
      value: "alice",
      unit: "usd",
      mode: "enforce",
      limit: 2,
      needed: 0.5,
      before: 1,
      after: 0.5,
      fits: true,
      refuses: false,
      waitMs: null,
      resetsAt: Date.UTC(2026, 0, 2),
    },
  ],
  candidates: [
    {
      credential: "main",
      provider: "openai",
      model: "gpt-4o",
      priority: 0,
      isFallback: false,
      fallbackFor: null,
      place: null,
      reason: { code: "cooling", message: "at the provider's rate limit or quota", until: Date.UTC(2026, 0, 1, 1) },
      judgement: null,
    },
  ],
  price: null,
  outcome: { served: null, status: 429, code: "all_credentials_limited", message: "later", retryAfterMs: 1 },
};

test("a past request is asked for by its id, a call by what it is, and times are dates", async () => {
  const { ask, admin } = await management();
  expect(await ask("/explain", { body: { id: "r1" } })).toMatchObject({ status: 200, body: { ...EXPLAINED, at: "2026-01-01T00:00:00.000Z" } });
  admin.explained = CALL;
  const question = { key: "alice", model: "gpt-4o", maxTokens: 5 };
  const { body } = await ask("/explain", { body: question });
  expect(body).toEqual({
    ...CALL,
    at: "2026-01-01T00:00:00.000Z",
    limits: [{ ...CALL.limits[0], resetsAt: "2026-01-02T00:00:00.000Z" }],
    candidates: [{ ...CALL.candidates[0], reason: { ...CALL.candidates[0]?.reason, until: "2026-01-01T01:00:00.000Z" } }],
  });
  expect(admin.calls).toEqual([
    { name: "explain", args: ["r1"] },
    { name: "explain", args: [question] },
  ]);
});

test.each([{ id: 7 }, { id: "r1", model: "gpt-4o" }, { headers: {}, url: "/v1/chat/completions", body: {} }])("%j is refused", async (body) => {
  const { ask, admin } = await management();
  const { status, body: said } = await ask("/explain", { body });
  expect([status, said.code, admin.calls]).toEqual([400, "body_invalid", []]);
});

test("nobody asks without the key", async () => {
  const { ask, admin } = await management();
  expect((await ask("/explain", { key: null, body: { id: "r1" } })).status).toBe(401);
  expect((await ask("/quotas", { key: null })).status).toBe(401);
  expect(admin.calls).toEqual([]);
});

test("quotas are listed with dates", async () => {
  const { ask } = await management();
  const [group] = QUOTAS.quotas;
  expect((await ask("/quotas")).body).toEqual({
    quotas: [{ ...QUOTAS, quotas: [{ ...group, resetsAt: "2026-01-01T05:00:00.000Z", observedAt: "2026-01-01T00:00:00.000Z" }] }],
  });
});
