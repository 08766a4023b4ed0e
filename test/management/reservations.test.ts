import { expect, test } from "vitest";
import { management } from "./management-kit.ts";

test("what is lent is listed by credential, times as dates", async () => {
  const { ask, admin } = await management();
  const quota = { group: "5h", remainingRatio: 0.5, openRatio: 0.1, spentRatio: 0.05, remaining: 0.35, observedAt: "2025-12-31T00:00:00.000Z" };
  const lent = { credential: "main", attempts: 2, since: "2026-01-01T00:00:00.000Z", openTokens: 300, spentTokens: 50, quotas: [quota] };
  expect((await ask("/reservations")).body).toEqual({ reservations: [lent] });
  admin.reservations = () => [{ credential: "main", attempts: 0, since: null, openTokens: 0, spentTokens: 9, quotas: [] }];
  expect((await ask("/reservations")).body).toMatchObject({ reservations: [{ attempts: 0, since: null, quotas: [] }] });
  expect((await ask("/reservations", { key: null })).status).toBe(401);
});
