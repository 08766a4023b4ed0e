import { expect, test } from "vitest";
import type { BlockView } from "../../src/core/admin.ts";
import { management } from "./management-kit.ts";

test("bans and cooldowns are listed with their times, null for what only a person ends", async () => {
  const { ask } = await management();
  expect((await ask("/bans")).body).toEqual({
    bans: [
      {
        credential: "main",
        model: "gpt-4o",
        code: 401,
        reason: "too many answers with status 401",
        since: "2026-01-01T00:00:00.000Z",
        until: null,
      },
    ],
  });
  expect((await ask("/cooldowns")).body).toMatchObject({ cooldowns: [{ credential: "main", model: null, until: "2026-01-01T00:05:00.000Z" }] });
  expect((await ask("/client-bans")).body).toEqual({
    bans: [{ client: "ip:203.0.113.7", code: 401, since: "2026-01-01T00:00:00.000Z", until: "2026-01-01T00:15:00.000Z" }],
  });
});

test("bans are lifted and cooldowns cleared, of one model or of all", async () => {
  const { ask, admin } = await management();
  const gone = { method: "DELETE" };
  expect((await ask("/bans/main?model=gpt-4o%2Fmini", gone)).body).toEqual({ lifted: 1 });
  expect((await ask("/bans/main", gone)).body).toEqual({ lifted: 1 });
  expect((await ask("/cooldowns/main", gone)).body).toEqual({ cleared: 2 });
  expect((await ask(`/client-bans/${encodeURIComponent("ip:203.0.113.7")}`, gone)).body).toEqual({ lifted: 1 });
  expect(admin.calls).toEqual([
    { name: "liftBans", args: ["main", "gpt-4o/mini"] },
    { name: "liftBans", args: ["main", null] },
    { name: "clearCooldowns", args: ["main", null] },
    { name: "liftClientBan", args: ["ip:203.0.113.7"] },
  ]);
});

test("a ban that outlived its credential can be lifted, too", async () => {
  const { ask, admin } = await management();
  const [ban] = admin.bans();
  admin.bans = () => [{ ...ban, credential: "removed since" } as BlockView];
  expect(await ask("/bans/removed%20since", { method: "DELETE" })).toMatchObject({ status: 200, body: { lifted: 1 } });
  expect((await ask("/cooldowns/removed%20since", { method: "DELETE" })).status).toBe(404);
});

test.each([
  ["/bans/mian", 404, "not_found"],
  ["/cooldowns/mian", 404, "not_found"],
  ["/client-bans/ip:198.51.100.1", 404, "not_found"],
  ["/bans/main?model=a&model=b", 400, "body_invalid"],
  ["/cooldowns/main?model=", 400, "body_invalid"],
])("DELETE %s is %i %s", async (path, status, code) => {
  const { ask } = await management();
  expect(await ask(path, { method: "DELETE" })).toMatchObject({ status, body: { code } });
});

test("nothing of it is there without the key", async () => {
  const { ask, admin } = await management();
  for (const [path, method] of [
    ["/bans", "GET"],
    ["/bans/main", "DELETE"],
    ["/client-bans", "GET"],
  ] as const) {
    expect((await ask(path, { key: null, method })).status).toBe(401);
  }
  expect(admin.calls).toEqual([]);
});
