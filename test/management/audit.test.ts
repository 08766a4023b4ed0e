import { expect, test } from "vitest";
import { AUDIT, management } from "./management-kit.ts";

test("the ledger is audited for a time, and times are dates", async () => {
  const { ask, admin } = await management();
  const { status, body } = await ask(`/audit?from=2026-01-01&to=${Date.UTC(2026, 1, 1)}`);
  expect([status, body]).toEqual([
    200,
    { ...AUDIT, from: null, to: "2026-02-01T00:00:00.000Z", next: "2026-01-02T00:00:00.000Z", checkedAt: "2026-01-03T00:00:00.000Z" },
  ]);
  await ask("/audit");
  expect(admin.calls).toEqual([
    { name: "audit", args: [{ from: Date.UTC(2026, 0, 1), to: Date.UTC(2026, 1, 1) }] },
    { name: "audit", args: [{}] },
  ]);
});

test.each(["from=yesterday", "to=", "since=2026-01-01", "to=2026", "from=2026-11-31", "from=5"])("%s is refused", async (query) => {
  const { ask, admin } = await management();
  const { status, body } = await ask(`/audit?${query}`);
  expect([status, body.code, admin.calls]).toEqual([400, "body_invalid", []]);
});

test("a caller that leaves ends its audit", async () => {
  const { url, admin } = await management();
  const leaving = new AbortController();
  const ended = new Promise((resolve) => {
    admin.audit = async ({ signal } = {}) => {
      leaving.abort();
      signal?.addEventListener("abort", resolve);
      await ended;
      return AUDIT;
    };
  });
  const answer = fetch(`${url}/v0/management/audit`, { headers: { authorization: "Bearer mgmt-key-1" }, signal: leaving.signal });
  await expect(answer).rejects.toThrow(/abort/);
  await ended;
});
