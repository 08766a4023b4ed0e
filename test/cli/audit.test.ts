// The command as a real process, on databases that a real gateway has written, and that somebody has changed.
import { randomUUID } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, quotaguard, serving, type Ended, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";
import { testServer } from "../setup/test-server.ts";
import { sqlOn } from "../stores/postgres-kit.ts";

const ADMIN = "admin-key-for-tests-0001";
const MASTER = "master-key-for-tests-0001";
const UPSTREAM_KEY = "sk-upstream-secret-canary-1";
const url = await testServer("postgres");

// Each command is a process that loads everything anew.
vi.setConfig({ testTimeout: 60_000 });

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

const yaml = (server: string, more: string): string => `server: { master_key: ${MASTER}, ${server} }
credentials:
  - { name: main, api_key: ${UPSTREAM_KEY}, base_url: ${upstream.url} }
models:
  - { name: gpt-4o-mini, price: { input_per_mtok: 2, output_per_mtok: 8 } }
limits:
  - { name: all-month, scope: global, unit: usd, window: { limit: 100, per: month, time_zone: UTC } }
${more}`;

const SQLITE = 'store: { url: "sqlite:./quota.db" }\n';

const run = (...args: readonly string[]): Promise<Ended> => quotaguard(["audit", ...args], { cwd: place.path }).ended;

/** So many requests through a gateway of its own, which is gone afterwards. Returns the ids of their answers. */
async function requests(count: number): Promise<readonly string[]> {
  const { child, url: gateway } = await serving([], { cwd: place.path });
  const ids: string[] = [];
  for (let i = 0; i < count; i += 1) ids.push(await ask(gateway));
  child.kill("SIGTERM");
  expect((await child.ended).code).toBe(0);
  return ids;
}

async function ask(gateway: string): Promise<string> {
  const response = await fetch(`${gateway}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${MASTER}` },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] }),
  });
  await response.text();
  expect(response.status).toBe(200);
  return response.headers.get("x-request-id") as string;
}

function sqlite(text: string): void {
  const db = new DatabaseSync(`${place.path}/quota.db`);
  db.exec(text);
  db.close();
}

describe("on a SQLite file", () => {
  test("clean books: exit 0, one line", async () => {
    place.write("quotaguard.yaml", yaml("port: 0", SQLITE));
    await requests(3);
    const { code, stdout, stderr } = await run();
    expect([code, stdout, stderr]).toEqual([0, "3 rows, 3 as their seals say: nothing is wrong\n", ""]);
    expect(JSON.parse((await run("--json")).stdout)).toMatchObject({
      ok: true,
      rows: 3,
      violations: [],
      more: 0,
      seals: { intact: 3, altered: 0, unsealed: 0, foreign: 0 },
      unchecked: [],
    });
  });

  test("one altered row: exit 1, and its name", async () => {
    place.write("quotaguard.yaml", yaml("port: 0", SQLITE));
    const [, id] = await requests(3);
    // Still a row that balances, for a little less.
    sqlite(
      `update quotaguard_ledger set raw_nano_usd = 1, billed_nano_usd = 1, price_version = 'rules:0', held = '{"usd":1}' where request_id = '${id}'`,
    );
    const { code, stdout } = await run();
    expect(code).toBe(1);
    expect(stdout).toMatch(new RegExp(`^seal +.*the row of request ${id} \\(.+\\) is not what was written: it was altered in the database$`, "m"));
    expect(stdout).toMatch(/^3 rows, 2 as their seals say: 1 violation\n$/m);
    const json = JSON.parse((await run("--json")).stdout) as { violations: unknown[] };
    expect(json).toMatchObject({ ok: false, rows: 3, violations: [{ invariant: "seal", requestId: id }], seals: { intact: 2, altered: 1 } });
    // Outside the time that is asked for nothing is wrong.
    expect((await run("--from", "2099-01-01")).stdout).toBe("0 rows, 0 as their seals say: nothing is wrong\n");
  });

  test("a cost that is not what its prices say is named, with its numbers; a row without a seal is counted", async () => {
    place.write("quotaguard.yaml", yaml("port: 0", SQLITE));
    const [id] = await requests(1);
    sqlite(`update quotaguard_ledger set raw_nano_usd = raw_nano_usd - 1, billed_nano_usd = billed_nano_usd - 1, digest = null`);
    const { code, stdout } = await run();
    expect(code).toBe(1);
    expect(stdout).toMatch(
      new RegExp(`^I1 +.*request ${id} \\(.+\\) costs \\d+ nanoUSD and is billed \\d+; by its prices its usage costs \\d+ and is billed \\d+$`, "m"),
    );
    expect(stdout).toContain(
      "not checked: 1 rows may have been altered: they were written without a secret key\n1 rows, 0 as their seals say: 1 violation\n",
    );
  });

  test.each<[string, readonly string[], RegExp]>([
    ["a date that is none", ["--from", "yesterday"], /^from: expected a date such as/],
    ["a year alone", ["--to", "2026"], /^to: expected a date such as/],
    ["an end before the beginning", ["--from", "2026-12-01", "--to", "2026-01-01"], /^to: must be later than from/],
    ["an unknown flag", ["--form", "2026-01-01"], /unknown option '--form'/],
    ["no such file", ["--config", "none.yaml"], /none\.yaml/],
  ])("%s: exit 2, no stack", async (_what, args, message) => {
    place.write("quotaguard.yaml", yaml("port: 0", SQLITE));
    const { code, stdout, stderr } = await run(...args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/^ +at /m);
  });
});

test("through a gateway that runs, also when only its memory has the rows", async () => {
  const port = await freePort();
  place.write("quotaguard.yaml", yaml(`port: ${port}`, `store: { url: memory }\nmanagement: { key: ${ADMIN} }\n`));
  const { url: gateway } = await serving([], { cwd: place.path });
  await ask(gateway);
  const { code, stdout } = await run();
  expect([code, stdout]).toEqual([
    0,
    "not checked: 1 rows may have been altered: they were written without a secret key\n1 rows, 0 as their seals say: nothing is wrong\n",
  ]);
});

test.skipIf(url === undefined)("on Postgres: exit 1 for an altered row, 0 once it is as it was", async () => {
  const name = `qg_audit_${randomUUID().replaceAll("-", "")}`;
  await sqlOn(url as string, `create database ${name}`);
  onTestFinished(async () => void (await sqlOn(url as string, `drop database ${name} with (force)`)));
  const own = new URL(url as string);
  own.pathname = `/${name}`;
  place.write("quotaguard.yaml", yaml("port: 0", `${SQLITE}ledger: { url: "${own.href}" }\nsecrets: { key: "a-secret-key-of-the-operator-0001" }\n`));
  const [id] = await requests(2);
  const tables = await sqlOn(own.href, "select table_schema as schema from information_schema.tables where table_name = 'quotaguard_ledger'");
  const ledger = `"${String(tables[0]?.schema)}".quotaguard_ledger`;
  await sqlOn(own.href, `update ${ledger} set served_model = 'cheaper' where request_id = $1`, [id]);
  const altered = await run();
  expect([altered.code, altered.stdout]).toEqual([1, expect.stringContaining(`the row of request ${id} (`)]);
  await sqlOn(own.href, `update ${ledger} set served_model = 'gpt-4o-mini' where request_id = $1`, [id]);
  expect((await run()).stdout).toBe("2 rows, 2 as their seals say: nothing is wrong\n");
});
