// The commands as real processes: on the database alone, and through a gateway that runs.
import { readdirSync, readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, quotaguard, serving, type Ended, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";

const ADMIN = "admin-key-for-tests-0001";
const UPSTREAM_KEY = "sk-upstream-secret-canary-1";

let upstream: FakeUpstream;
let place: Folder;
beforeAll(async () => {
  upstream = await fakeUpstream({ keys: [UPSTREAM_KEY] });
});
afterAll(() => upstream.close());
beforeEach(() => {
  place = folder();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = ""): string => `store: { url: "sqlite:./quota.db" }
credentials:
  - { name: main, api_key: ${UPSTREAM_KEY}, base_url: ${upstream.url} }
limits:
  - { name: org-hour, scope: org, unit: requests, window: { limit: 1, per: hour } }
${more}`;

const run = (...args: readonly string[]): Promise<Ended> => quotaguard(args, { cwd: place.path }).ended;

async function json(...args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await run(...args, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function statusOf(url: string, key: string): Promise<number> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] }),
  });
  await response.text();
  return response.status;
}

describe("without a gateway", () => {
  test("the first key and its organisation are made in the database; the server that starts then knows it, and nobody can read it", async () => {
    place.write("quotaguard.yaml", yaml("server: { port: 0 }\n"));
    const refused = await run("serve");
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining("quotaguard keys create --org dev")]);
    const made = await run("keys", "create", "--org", "dev");
    expect([made.code, made.stderr]).toEqual([0, ""]);
    const [key = "", note] = made.stdout.split("\n");
    expect(key).toMatch(/^qg_[A-Za-z0-9_-]{49}$/);
    expect(note).toBe("the key of dev; it is not shown again");
    for (const file of readdirSync(place.path)) expect(readFileSync(`${place.path}/${file}`, "latin1")).not.toContain(key.slice(8, 46));
    const { url } = await serving([], { cwd: place.path });
    expect([await statusOf(url, key), await statusOf(url, key)]).toEqual([200, 429]);
    expect((await run("check")).stdout).toContain("1 key made at run time");
  });

  test("keys are listed in a table, rotated and revoked", async () => {
    place.write("quotaguard.yaml", yaml());
    const made = await json("keys", "create", "alice", "--org", "acme", "--scope", "user=alice", "--models", "gpt-*,o3", "--expires", "2099-01-01");
    expect(made).toMatchObject({
      name: "alice",
      org: "acme",
      scopes: { org: "acme", user: "alice" },
      models: ["gpt-*", "o3"],
      expiresAt: "2099-01-01T00:00:00.000Z",
    });
    const next = await json("keys", "rotate", "alice", "--overlap", "24h");
    expect(next.key).not.toBe(made.key);
    const { stdout } = await run("keys", "list");
    const [head, row] = stdout.split("\n");
    expect(head).toMatch(/^name +key +scopes +models +created +expires +last used$/);
    expect(row).toMatch(/^alice +qg_.{5}… \(the one before until .+Z\) +user=alice org=acme +gpt-\*, o3 +\d{4}-\d\d-\d\d +2099-01-01 +never$/);
    for (const { key } of [made, next]) expect(stdout).not.toContain((key as string).slice(8));
    expect((await run("keys", "revoke", "alice")).code).toBe(0);
    expect((await run("keys", "list")).stdout).toBe("no key was made; quotaguard keys create makes one\n");
  });

  test("limits are listed, set and reset", async () => {
    place.write("quotaguard.yaml", yaml());
    expect((await run("limits", "set", "org-hour", "acme", "--limit", "5", "--until", "2099-01-01")).stdout).toBe(
      "org-hour  acme  5 until 2099-01-01T00:00:00.000Z\n",
    );
    expect(await json("limits", "list")).toMatchObject({ limits: [{ name: "org-hour", limit: 1, values: [{ value: "acme", limit: 5 }] }] });
    expect((await run("limits", "list")).stdout).toMatch(/^org-hour +org +requests +window +enforce +1$/m);
    expect((await run("limits", "reset", "org-hour", "acme")).code).toBe(0);
    expect(await json("limits", "list")).toMatchObject({ limits: [{ values: [] }] });
  });

  test("a whole limit is changed, listed and reset", async () => {
    place.write("quotaguard.yaml", yaml());
    expect((await run("limits", "set", "org-hour", "--mode", "enforce", "--enforce-from", "2099-01-01", "--limit", "7")).stdout).toBe(
      "org-hour  enforce from 2099-01-01T00:00:00.000Z  7\n",
    );
    expect((await run("limits", "list")).stdout).toMatch(
      /^org-hour +org +requests +window +enforce from 2099-01-01T00:00:00\.000Z +7 +mode, enforceFrom, limit$/m,
    );
    expect((await run("limits", "reset", "org-hour")).stdout).toBe("org-hour is as configured again\n");
    expect((await run("limits", "reset", "org-hour")).code).toBe(1);
  });

  test.each<[string, readonly string[], number, RegExp]>([
    ["no name", ["keys", "create"], 2, /give the key a name, or an organisation/],
    ["a name that is none", ["keys", "create", "a b"], 2, /^name: must be 1 to 64/],
    ["a scope that is none", ["keys", "create", "a", "--scope", "user"], 2, /--scope user: expected scope=value/],
    ["no such key", ["keys", "rotate", "alcie"], 1, /there is no key alcie/],
    ["nothing to revoke", ["keys", "revoke", "alice"], 1, /there is no key of this name/],
    ["a model that is none", ["keys", "create", "a", "--models", "gpt-4o,,o3"], 2, /^--models: a name is missing/],
    ["a value that is empty", ["limits", "set", "org-hour", "", "--limit", "1"], 2, /^org-hour: the value is empty/],
    ["an empty value to reset", ["limits", "reset", "org-hour", ""], 2, /^org-hour: the value is empty/],
    ["no such limit", ["limits", "set", "org-hours", "acme", "--limit", "1"], 1, /there is no limit org-hours; did you mean org-hour\?/],
    ["a number that is none", ["limits", "set", "org-hour", "acme", "--limit", "many"], 2, /limit: many is not a number/],
    ["no number", ["limits", "set", "org-hour", "acme"], 2, /^limit: is required/],
    ["another mode for one value", ["limits", "set", "org-hour", "acme", "--mode", "shadow"], 2, /^--mode, --enforce-from: are for the whole limit/],
    ["an end for all values", ["limits", "set", "org-hour", "--limit", "1", "--until", "2099-01-01"], 2, /^--until: is for one value/],
    ["a mode that is none", ["limits", "set", "org-hour", "--mode", "off"], 2, /^mode: /],
    ["no limit to report", ["limits", "shadow", "org-hours"], 1, /there is no limit org-hours/],
    ["an unknown flag", ["keys", "create", "--ogr", "a"], 2, /unknown option '--ogr'/],
  ])("%s: one line, no stack", async (_what, args, code, message) => {
    place.write("quotaguard.yaml", yaml());
    const ended = await run(...args);
    expect([ended.code, ended.stdout]).toEqual([code, ""]);
    expect(ended.stderr).toMatch(message);
    expect(ended.stderr).not.toMatch(/^ +at /m);
  });

  test("what only memory would keep is not made", async () => {
    place.write("quotaguard.yaml", yaml().replace("sqlite:./quota.db", "memory"));
    const { code, stderr } = await run("keys", "create", "alice");
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^ledger\.url: is memory, and no gateway answers at http:\/\/127\.0\.0\.1:8318/)]);
  });
});

test("a limit that watches tells whom it would have refused, is switched on, and refuses", async () => {
  const port = await freePort();
  place.write(
    "quotaguard.yaml",
    yaml(`server: { port: ${port} }\nmanagement: { key: ${ADMIN} }\n`).replace("per: hour }", "per: hour }, mode: shadow"),
  );
  const { url } = await serving([], { cwd: place.path });
  const made = async (org: string): Promise<string> => {
    const headers = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
    const response = await fetch(`${url}/v0/management/keys`, { method: "POST", headers, body: JSON.stringify({ name: org, org }) });
    return ((await response.json()) as { key: string }).key;
  };
  const [acme, globex] = [await made("acme"), await made("globex")];
  for (const key of [acme, acme, acme, globex, globex]) expect(await statusOf(url, key)).toBe(200);
  const { stdout } = await run("limits", "shadow", "org-hour");
  expect(stdout).toMatch(/^org-hour would have refused 3 requests since /);
  expect(stdout).toMatch(/^acme +2 +█{20} +\S+Z +\S+Z +1 of 0 requests$/m);
  expect(stdout).toMatch(/^globex +1 +█{10} +\S+Z/m);
  await json("limits", "set", "org-hour", "--mode", "enforce");
  expect(await statusOf(url, acme)).toBe(429);
});

test("a gateway that runs is asked, also when only its memory keeps what is made", async () => {
  const port = await freePort();
  place.write("quotaguard.yaml", yaml(`server: { port: ${port} }\nmanagement: { key: ${ADMIN} }\n`).replace("sqlite:./quota.db", "memory"));
  const { url } = await serving([], { cwd: place.path });
  const { key } = (await json("keys", "create", "--org", "acme")) as { key: string };
  expect([await statusOf(url, key), await statusOf(url, key)]).toEqual([200, 429]);
  await json("limits", "set", "org-hour", "acme", "--limit", "2");
  expect([await statusOf(url, key), await statusOf(url, key)]).toEqual([200, 429]);
  await json("keys", "revoke", "acme");
  expect(await statusOf(url, key)).toBe(401);
  place.write("other.yaml", yaml(`server: { port: ${port} }\nmanagement: { key: another-admin-key-0001 }\n`));
  const wrong = await run("keys", "list", "--config", "other.yaml");
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("does not accept management.key")]);
});
