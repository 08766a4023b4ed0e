// On the database alone, and through a gateway that runs.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { usage, type UsageFlags } from "../../src/cli/usage.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { rowOf } from "../contracts/ledger-rows.ts";
import { endChildren, folder, quotaguard, serving, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";

const ADMIN = "admin-key-for-tests-0001";
const DAY_MS = 86_400_000;

let place: Folder;
beforeEach(async () => {
  place = folder();
  place.write("quotaguard.yaml", yaml());
  const store = sqliteStore(`${place.path}/quota.db`);
  await store.ready();
  const at = Date.UTC(2026, 2, 5, 12);
  const rows = [
    rowOf("a", { at, scopes: { org: "acme", role: "dev" }, rawNanoUsd: 1_500_000_000, billedNanoUsd: 1_500_000_000 }),
    rowOf("b", { at: at + 2 * DAY_MS, model: "=1+1", scopes: { org: "acme" }, rawNanoUsd: 750_000_000, billedNanoUsd: 750_000_000 }),
    rowOf("c", {
      at: at + 2 * DAY_MS,
      key: "bob",
      model: "o3\u001b[2J",
      scopes: { org: "beta" },
      state: "refused",
      usage: null,
      rawNanoUsd: 0,
      billedNanoUsd: 0,
    }),
    rowOf("d", { at: Date.now(), scopes: { org: "now" }, billedNanoUsd: null, rawNanoUsd: null }),
  ];
  for (const row of rows) store.ledger.close(row);
  await store.ledger.flush();
  await store.close();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = ""): string => `store: { url: "sqlite:./quota.db" }
credentials:
  - { name: main, api_key: sk-upstream-1, base_url: "http://127.0.0.1:9" }
${more}`;

/** What it prints, in this process. */
async function run(flags: UsageFlags): Promise<string> {
  const written: string[] = [];
  const stdout = vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  try {
    expect(await usage({ config: `${place.path}/quotaguard.yaml`, ...flags }, Date.now())).toBe(0);
  } finally {
    stdout.mockRestore();
  }
  return written.join("");
}

const MARCH = { from: "2026-03-05", to: "2026-03-08" };

test("without anything it is this month by day, with a bar for each and a total", async () => {
  const { code, stdout, stderr } = await quotaguard(["usage"], { cwd: place.path }).ended;
  expect([code, stderr]).toEqual([0, ""]);
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/^day +requests +input +output +USD$/);
  expect(lines[1]).toMatch(new RegExp(`^${new Date().toISOString().slice(0, 7)}-01 `));
  expect(lines.at(-2)).toMatch(/^total +1 +123 +57 +0\.0000$/);
  expect(lines.at(-1)).toBe("1 of the requests were without a price, which are in no sum of money");
});

test("a time, groups and filters are as asked for, the dearest first, and no name moves the cursor", async () => {
  expect(await run(MARCH)).toBe(
    `${[
      "day         requests  input  output     USD",
      `2026-03-05         1    123      57  1.5000  ${"█".repeat(24)}`,
      "2026-03-06         0      0       0  0.0000",
      `2026-03-07         2    123      57  0.7500  ${"█".repeat(12)}`,
      "total              3    246     114  2.2500",
      "1 of the requests were refused by a limit or a rule",
    ].join("\n")}\n`,
  );
  const stdout = await run({ ...MARCH, groupBy: "model,org" });
  expect(
    stdout
      .split("\n")
      .slice(1, 4)
      .map((line) => line.split(/ {2,}/).slice(0, 2)),
  ).toEqual([
    ["gpt-4o", "acme"],
    ["=1+1", "acme"],
    ["o3�[2J", "beta"],
  ]);
  expect(await run({ ...MARCH, groupBy: "key", scope: ["role=dev"], org: "acme" })).toMatch(/^alice +1 /m);
  expect(await run({ to: "2026-03-06" })).toMatch(/^2026-03-01 .*\n(?:.*\n){3}2026-03-05 +1 /m);
  expect(await run({ ...MARCH, tag: "none", groupBy: "key" })).toBe(
    "nothing was used since 2026-03-05 and before 2026-03-08 by tag=none; look at the name, or ask for an earlier time with --from\n",
  );
});

test("blanks around names are nobody's name", async () => {
  expect(await run({ ...MARCH, groupBy: "model, org" })).toBe(await run({ ...MARCH, groupBy: "model,org" }));
});

test("a script gets JSON or CSV, and the same from a gateway that runs", async () => {
  const alone = await run({ ...MARCH, groupBy: "model", json: true });
  expect(JSON.parse(alone)).toMatchObject({
    usage: [
      { group: { model: "=1+1" }, requests: 1, billedUsd: 0.75, billedNanoUsd: "750000000" },
      { group: { model: "gpt-4o" }, requests: 1, billedUsd: 1.5 },
      { group: { model: "o3\u001b[2J" }, refused: 1 },
    ],
  });
  const csv = await run({ ...MARCH, groupBy: "model", csv: true });
  expect(csv.split("\r\n").slice(0, 2)).toEqual([
    "model,requests,refused,estimated,unpriced,inputTokens,cacheReadTokens,cacheWriteTokens,outputTokens,reasoningTokens,totalTokens,rawUsd,billedUsd",
    "'=1+1,1,0,0,0,123,20,3,57,7,180,0.750000000,0.750000000",
  ]);
  place.write("quotaguard.yaml", yaml(`server: { port: ${await freePort()}, master_key: sk-master-for-tests-1 }\nmanagement: { key: ${ADMIN} }\n`));
  const { url } = await serving([], { cwd: place.path });
  expect(await run({ ...MARCH, groupBy: "model", json: true })).toBe(alone);
  const asked = await fetch(`${url}/v0/management/usage/ledger?from=2026-03-05&to=2026-03-08&group_by=model`, {
    headers: { authorization: `Bearer ${ADMIN}` },
  });
  expect(await asked.json()).toEqual(JSON.parse(alone));
});

test.each<[UsageFlags, string]>([
  [{ groupBy: "modle" }, "did you mean model?"],
  [{ from: "yesterday" }, "from: expected a date such as"],
  [{ scope: ["role"] }, "expected scope=value"],
  [{ scope: ["rolle=dev"] }, "did you mean role?"],
  [{ json: true, csv: true }, "not both"],
  [{ groupBy: "org,,user" }, "--group-by: a name is missing"],
])("%j ends with a reason", async (flags, message) => {
  await expect(run(flags)).rejects.toMatchObject({ exitCode: 2, message: expect.stringContaining(message) });
});

test("-h says what it shows by itself, and flags that it does not know are refused", async () => {
  const [help, wrong] = await Promise.all(
    [
      ["usage", "-h"],
      ["usage", "--orgs", "acme"],
    ].map((args) => quotaguard(args, { cwd: place.path }).ended),
  );
  expect(help?.stdout.replaceAll(/\s+/g, " ")).toContain("of this month (UTC) by day, unless told otherwise");
  expect([wrong?.code, wrong?.stderr]).toEqual([2, expect.stringContaining("Did you mean --org?")]);
});
