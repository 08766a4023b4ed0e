import { expect, test } from "vitest";
import { management } from "./management-kit.ts";

test("credentials are listed as they stand, times as dates", async () => {
  const { ask, admin } = await management();
  const [main] = admin.credentials();
  const fact = {
    credential: "main",
    group: "5h",
    remainingRatio: 0.4,
    resetsAt: Date.UTC(2026, 0, 2),
    observedAt: Date.UTC(2026, 0, 1),
    source: "poll" as const,
    remaining: 0.3,
    models: ["claude-*"],
    windowMs: 18_000_000,
    limit: 200,
    unit: "requests" as const,
    ageMs: 1_000,
    confidence: 0.8,
  };
  admin.credentials = () => [{ ...(main as NonNullable<typeof main>), quotas: [fact], level: "warning" }];
  const shown = {
    name: "main",
    state: "ready",
    until: null,
    reason: null,
    level: "warning",
    quotas: [
      {
        group: "5h",
        remainingRatio: 0.4,
        resetsAt: "2026-01-02T00:00:00.000Z",
        observedAt: "2026-01-01T00:00:00.000Z",
        source: "poll",
        models: ["claude-*"],
        windowMs: 18_000_000,
        limit: 200,
        unit: "requests",
        ageMs: 1_000,
        confidence: 0.8,
        remaining: 0.3,
      },
    ],
  };
  expect((await ask("/credentials")).body).toMatchObject({ credentials: [shown] });
  expect((await ask("/credentials/main")).body).toMatchObject(shown);
});

test("one is paused and lent again", async () => {
  const { ask, admin } = await management();
  const patch = (body: unknown) => ask("/credentials/main", { method: "PATCH", body });
  expect((await patch({ disabled: true, until: "2027-01-01T00:00:00Z", reason: "billing" })).body).toMatchObject({
    name: "main",
    state: "paused",
    until: "2027-01-01T00:00:00.000Z",
    reason: "billing",
  });
  expect((await patch({ disabled: true })).body).toMatchObject({ state: "paused", until: null, reason: "paused by an operator" });
  expect((await patch({ disabled: false })).body).toMatchObject({ state: "ready", reason: null });
  expect(admin.calls).toEqual([
    { name: "pause", args: ["main", { reason: "billing", until: Date.UTC(2027, 0, 1) }] },
    { name: "pause", args: ["main", { reason: "paused by an operator", until: null }] },
    { name: "resume", args: ["main"] },
  ]);
});

test.each<[unknown, string]>([
  [{}, "disabled"],
  [{ disabled: "yes" }, "disabled"],
  [{ disabled: true, until: "tomorrow" }, "until"],
  [{ disabled: true, reson: "x" }, "reson"],
  [{ disabled: false, reason: "x" }, "until and reason go with disabled: true"],
  ["{", "JSON"],
])("%j changes nothing", async (body, named) => {
  const { ask, admin } = await management();
  const answer = await ask("/credentials/main", { method: "PATCH", body });
  expect(answer).toMatchObject({ status: 400, body: { code: "body_invalid" } });
  expect(JSON.stringify(answer.body)).toContain(named);
  expect(admin.calls).toEqual([]);
});

test("somebody unknown is 404, and nothing is there without the key", async () => {
  const { ask, admin } = await management();
  expect((await ask("/credentials/mian")).status).toBe(404);
  expect((await ask("/credentials/mian", { method: "PATCH", body: { disabled: true } })).status).toBe(404);
  for (const [path, method] of [
    ["/credentials", "GET"],
    ["/credentials/main", "PATCH"],
  ] as const)
    expect((await ask(path, { key: null, method })).status).toBe(401);
  expect(admin.calls).toEqual([]);
});
