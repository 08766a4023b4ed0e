import { expect, test } from "vitest";
import { LIMIT, MADE, management } from "./management-kit.ts";

const SHOWN = {
  name: "alice",
  prefix: "qg_kkkkk",
  org: "acme",
  scopes: { org: "acme", user: "alice" },
  models: null,
  mayAssertScopes: false,
  createdAt: "2026-01-01T00:00:00.000Z",
  rotatedAt: null,
  expiresAt: "2027-01-01T00:00:00.000Z",
  lastUsedAt: null,
  previousUntil: null,
};

test("keys are made, listed without what they are, rotated and revoked", async () => {
  const { ask, admin } = await management();
  const body = { name: "alice", org: "acme", scopes: { user: "alice" }, expires: "2027-01-01" };
  expect(await ask("/keys", { body })).toMatchObject({ status: 201, body: { key: MADE, ...SHOWN } });
  const list = await ask("/keys");
  expect(list.body).toEqual({ keys: [SHOWN] });
  expect(list.headers.get("cache-control")).toBe("no-store");
  expect((await ask("/keys/alice/rotate", { body: { overlap: "24h" } })).body).toEqual({
    key: MADE,
    ...SHOWN,
    previousUntil: "2026-01-02T00:00:00.000Z",
  });
  expect((await ask("/keys/alice/rotate", { method: "POST" })).status).toBe(201);
  expect((await ask("/keys/alice", { method: "DELETE" })).body).toEqual({ revoked: "alice" });
  expect(await ask("/keys/alcie", { method: "DELETE" })).toMatchObject({ status: 404, body: { code: "not_found" } });
  expect(admin.calls).toEqual([
    { name: "keys.create", args: [body] },
    { name: "keys.list", args: [] },
    { name: "keys.rotate", args: ["alice", { overlap: "24h" }] },
    { name: "keys.rotate", args: ["alice", {}] },
    { name: "keys.revoke", args: ["alice"] },
    { name: "keys.revoke", args: ["alcie"] },
  ]);
});

test("organisations are made, listed, disabled and enabled", async () => {
  const { ask, admin } = await management();
  const shown = { name: "acme", createdAt: "2026-01-01T00:00:00.000Z", disabledAt: null };
  expect(await ask("/orgs", { body: { name: "globex" } })).toMatchObject({ status: 201, body: { ...shown, name: "globex" } });
  expect((await ask("/orgs")).body).toEqual({ orgs: [shown] });
  expect((await ask("/orgs/acme", { method: "PATCH", body: { disabled: true } })).body).toEqual(shown);
  expect((await ask("/orgs/acme", { method: "PATCH", body: { disabled: false } })).status).toBe(200);
  expect(await ask("/orgs/acme", { method: "PATCH", body: { disabled: "yes" } })).toMatchObject({
    status: 400,
    body: { code: "body_invalid", detail: "disabled: must be true or false" },
  });
  expect(admin.calls.filter(({ name }) => name !== "orgs.list")).toEqual([
    { name: "orgs.create", args: [{ name: "globex" }] },
    { name: "orgs.disable", args: ["acme"] },
    { name: "orgs.enable", args: ["acme"] },
  ]);
});

test("limits are listed, set and reset for one value, whatever characters it has", async () => {
  const { ask, admin } = await management();
  const until = "2026-02-01T00:00:00.000Z";
  expect((await ask("/limits")).body).toEqual({ limits: [{ ...LIMIT, values: [{ value: "acme/alice", limit: 20, until }] }] });
  const value = encodeURIComponent("acme/alice:gpt-4o");
  const put = await ask(`/limits/user-day/values/${value}`, { method: "PUT", body: { limit: 5, until } });
  expect(put.body).toEqual({ value: "acme/alice:gpt-4o", limit: 5, until });
  expect((await ask("/limits/user-day/values/alice", { method: "DELETE" })).body).toEqual({ reset: "alice" });
  expect((await ask("/limits/user-day/values/bob", { method: "DELETE" })).status).toBe(404);
  expect(admin.calls).toEqual([
    { name: "limits.set", args: ["user-day", "acme/alice:gpt-4o", { limit: 5, until }] },
    { name: "limits.reset", args: ["user-day", "alice"] },
    { name: "limits.reset", args: ["user-day", "bob"] },
  ]);
});

test("a whole limit is changed and reset, and tells whom it would have refused", async () => {
  const { ask, admin } = await management();
  const enforceFrom = "2026-02-01T00:00:00.000Z";
  const patched = await ask("/limits/user-day", { method: "PATCH", body: { mode: "enforce", enforceFrom } });
  expect(patched.body).toMatchObject({ name: "user-day", mode: "shadow", enforceFrom, set: ["mode"] });
  expect((await ask("/limits/user-day/settings", { method: "DELETE" })).body).toEqual({ reset: "user-day" });
  expect((await ask("/limits/other/settings", { method: "DELETE" })).status).toBe(404);
  const tally = {
    count: 3,
    firstAt: "2026-01-01T00:00:00.000Z",
    lastAt: "2026-01-02T00:00:00.000Z",
    largest: { needed: 0.5, available: -0.25 },
  };
  expect((await ask("/limits/user-day/shadow")).body).toEqual({
    name: "user-day",
    unit: "usd",
    mode: "shadow",
    enforceFrom: null,
    from: "2025-12-04T00:00:00.000Z",
    count: 6,
    values: [{ value: "acme/alice", ...tally }],
    other: tally,
  });
  expect(admin.calls).toEqual([
    { name: "limits.update", args: ["user-day", { mode: "enforce", enforceFrom }] },
    { name: "limits.reset", args: ["user-day"] },
    { name: "limits.reset", args: ["other"] },
    { name: "limits.shadow", args: ["user-day"] },
  ]);
});

test("nothing of it is there without the key", async () => {
  const { ask, admin } = await management();
  for (const [path, method] of [
    ["/keys", "GET"],
    ["/keys", "POST"],
    ["/keys/alice/rotate", "POST"],
    ["/keys/alice", "DELETE"],
    ["/orgs", "GET"],
    ["/orgs", "POST"],
    ["/orgs/acme", "PATCH"],
    ["/limits", "GET"],
    ["/limits/user-day", "PATCH"],
    ["/limits/user-day/settings", "DELETE"],
    ["/limits/user-day/shadow", "GET"],
    ["/limits/user-day/values/alice", "PUT"],
    ["/limits/user-day/values/alice", "DELETE"],
  ] as const) {
    expect([path, method, (await ask(path, { key: null, method })).status]).toEqual([path, method, 401]);
  }
  expect(admin.calls).toEqual([]);
});
