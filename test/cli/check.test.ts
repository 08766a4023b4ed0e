import { generateKeyPairSync } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { barOf, barRoom, table } from "../../src/cli/output.ts";
import { spoolFolder, type SpoolFolder } from "../../src/stores/spool/spool-folder.ts";
import { freePort } from "../setup/server-process.ts";
import { endChildren, folder, quotaguard, ROOT, shell, type Folder } from "../helpers/child.ts";

const KEYS = [
  "qg-key-of-alice-0001",
  "master-key-for-tests-1",
  "admin-key-for-tests-0001",
  "sk-upstream-secret-canary-1",
  "header-secret-canary",
  "proxy-password-canary",
];
const [KEY, MASTER, ADMIN, UPSTREAM_KEY] = KEYS as [string, string, string, string];

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

interface Report {
  readonly ok: boolean;
  readonly config: string;
  readonly warnings: readonly string[];
  readonly options: readonly { readonly path: string; readonly value: string; readonly source: string }[];
  readonly checks: readonly { readonly what: string; readonly ok: boolean; readonly detail: string }[];
}

const yaml = (more = ""): string => `server: { master_key: ${MASTER} }
store: { url: "sqlite:./quota.db" }
management: { key: ${ADMIN} }
keys:
  - { name: alice, key: ${KEY}, scopes: { user: alice } }
credentials:
  - name: main
    api_key: ${UPSTREAM_KEY}
    base_url: ${upstream.url}
    headers: { x-team: header-secret-canary }
${more}`;

async function check(file: string, env: Readonly<Record<string, string>> = {}) {
  place.write("quotaguard.yaml", file);
  const { code, stdout, stderr } = await quotaguard(["check", "--json"], { cwd: place.path, env }).ended;
  for (const secret of KEYS) expect(stdout + stderr).not.toContain(secret);
  return { code, ...(JSON.parse(stdout) as Report) };
}

describe("check", () => {
  test("tells of rows that wait in files for the ledger, and takes none of them", async () => {
    const url = `postgres://127.0.0.1:${await freePort()}/quota`;
    const path = join(place.path, "kept");
    const left = await Promise.all(
      [`${new URL(url).host}/quota public`, "another ledger"].map(async (ledger) => {
        const spools = spoolFolder({ path, ledger });
        const file = await spools.create();
        await file.append("a line\n");
        await file.close();
        await spools.release(file.path);
        return spools;
      }),
    );
    const broken = await (left[0] as SpoolFolder).create();
    await broken.close();
    const aside = await (left[0] as SpoolFolder).setAside(broken.path);
    const files = readdirSync(path).toSorted();
    const more = `ledger: { url: "${url}", spool: { path: ./kept } }\nsecrets: { key: a-secret-key-for-tests-1 }\n`;
    const { warnings, options } = await check(yaml(more));
    expect(warnings.filter((line) => line.startsWith("ledger.spool"))).toEqual([
      expect.stringContaining(`1 file (7 bytes) in ${path}, not yet in the ledger`),
      expect.stringContaining(`1 file (7 bytes) in ${path} of another ledger.url`),
      expect.stringContaining(aside),
    ]);
    expect(options).toContainEqual({ path: "ledger.spool.max_time", value: "15m", source: "default" });
    expect(readdirSync(path).toSorted()).toEqual(files);
  });

  test("everything works: exit 0, every effective value with its source", async () => {
    place.write("quota.db", "");
    const report = await check(yaml(), { QUOTAGUARD_PORT: "8400" });
    expect(report.code).toBe(0);
    expect(report).toMatchObject({ ok: true, config: `${place.path}/quotaguard.yaml`, warnings: [] });
    expect(report.options).toEqual(
      expect.arrayContaining([
        { path: "server.port", value: "8400", source: "env QUOTAGUARD_PORT" },
        { path: "server.master_key", value: "[redacted]", source: "quotaguard.yaml:1" },
        { path: "server.shutdown_timeout", value: "30s", source: "default" },
        { path: "store.url", value: `sqlite:${place.path}/quota.db`, source: "quotaguard.yaml:2" },
        { path: "keys[0].key", value: "[redacted]", source: "quotaguard.yaml:5" },
        { path: "credentials[0].api_key", value: "[redacted]", source: "quotaguard.yaml:8" },
        { path: "credentials[0].headers.x-team", value: "[redacted]", source: "quotaguard.yaml:10" },
        // What `serve` takes unless told otherwise.
        { path: "monitoring.prometheus_enabled", value: "true", source: "default" },
      ]),
    );
    expect(report.checks).toEqual([
      { what: "client auth", ok: true, detail: "1 key and a master key" },
      { what: "store", ok: true, detail: `opens (sqlite:${place.path}/quota.db)` },
      { what: "credential main", ok: true, detail: `answers (${upstream.url})` },
    ]);
  });

  test("leaves nothing behind: a database is made by the server, as its own user", async () => {
    const fresh = await check(yaml().replace("./quota.db", "./data/new/quota.db"));
    expect([fresh.code, fresh.checks[1]]).toEqual([
      0,
      { what: "store", ok: true, detail: `is made at the first start (${place.path}/data/new/quota.db)` },
    ]);
    const both = await check(`${yaml()}ledger: { url: "sqlite:./rows.db" }\n`);
    expect(both.checks.slice(1, 3)).toEqual([
      { what: "store", ok: true, detail: `is made at the first start (${place.path}/quota.db)` },
      { what: "ledger", ok: true, detail: `is made at the first start (${place.path}/rows.db)` },
    ]);
    expect(readdirSync(place.path)).toEqual(["quotaguard.yaml"]);
    const none = await check(yaml().replace("./quota.db", ":memory:"));
    expect(none.checks[1]?.detail).toBe("opens (sqlite::memory:)");
  });

  test("a database that could not be made is told with what to do", async () => {
    place.write("taken", "a file");
    const { code, checks } = await check(yaml().replace("./quota.db", "./taken/quota.db"));
    expect(code).toBe(1);
    expect(checks[1]).toEqual({
      what: "store",
      ok: false,
      detail: expect.stringMatching(/taken\/quota\.db".*a part of the path is a file, not a folder/),
    });
  });

  test.each([
    ["with a key for the management API", `management: { key: ${ADMIN} }`, "fail2ban: { ban_duration: permanent }", 0],
    ["that end by themselves", "", "fail2ban: { ban_duration: 1h }", 0],
    ["that nobody could lift", "", "fail2ban: { ban_duration: permanent }", 1],
    ["for one status that nobody could lift", "", "fail2ban: { ban_duration: 1h, error_code_rules: [{ code: 500, ban_duration: permanent }] }", 1],
    ["of clients that nobody could lift", "", "fail2ban: { ban_duration: 1h, clients: { ban_duration: permanent } }", 1],
  ])("bans %s", async (_what, management, bans, count) => {
    const { warnings } = await check(yaml(`${bans}\n`).replace(`management: { key: ${ADMIN} }`, management));
    expect(warnings).toHaveLength(count);
    for (const line of warnings) expect(line).toMatch(/^fail2ban: .* a restart, .* set QUOTAGUARD_MANAGEMENT_KEY/);
  });

  test("who may call: a master key alone is not called 0 keys", async () => {
    const { checks } = await check(yaml().replace(/keys:\n.*\n/, ""));
    expect(checks[0]).toEqual({ what: "client auth", ok: true, detail: "a master key" });
    const keys = await check(yaml().replace(`server: { master_key: ${MASTER} }`, ""));
    expect(keys.checks[0]).toEqual({ what: "client auth", ok: true, detail: "1 key" });
  });

  test("keys in a ledger that is away are not called none", async () => {
    const ledger = `ledger: { url: "postgres://127.0.0.1:${await freePort()}/quota" }\nsecrets: { key: a-secret-key-for-tests-1 }\n`;
    const { checks } = await check(
      yaml(ledger)
        .replace(/keys:\n.*\n/, "")
        .replace(`server: { master_key: ${MASTER} }`, ""),
    );
    expect(checks[0]).toEqual({ what: "client auth", ok: false, detail: expect.stringContaining("cannot be read: see store and ledger") as string });
  });

  test("another secret key than stored keys were made with, or no key file any more: said now, and not by the start", async () => {
    place.write("quotaguard.yaml", yaml());
    await quotaguard(["keys", "create", "bob"], { cwd: place.path }).ended;
    expect((await check(yaml())).code).toBe(0);
    const other = await check(yaml("secrets: { key: another-secret-key-for-tests-1 }\n"));
    const told = {
      what: "secrets.key",
      ok: false,
      detail: expect.stringMatching(/is another one than .* set secrets\.replaces to [0-9a-f]{16}/) as string,
    };
    expect([other.code, other.checks]).toEqual([1, expect.arrayContaining([told])]);
    const mark = /[0-9a-f]{16}/.exec(other.checks.find(({ what }) => what === "secrets.key")?.detail ?? "")?.[0];
    expect((await check(yaml(`secrets: { key: another-secret-key-for-tests-1, replaces: "${mark}" }\n`))).code).toBe(0);
    rmSync(join(place.path, "quota.db.key"));
    const lost = await check(yaml());
    expect([lost.code, lost.checks.find(({ what }) => what === "secrets.key")?.detail]).toEqual([1, expect.stringContaining("the key file")]);
    expect(existsSync(join(place.path, "quota.db.key"))).toBe(false);
  }, 60_000);

  test.each<[string, (path: string) => void, RegExp]>([
    ["a file", (path) => writeFileSync(path, ""), /is not a folder/],
    ["a folder of everybody", (path) => (mkdirSync(path), chmodSync(path, 0o777)), /others may write into the folder .*: chmod go-w it/],
  ])("a spool that could not be kept (%s) is told before it is needed", async (_what, make, problem) => {
    make(join(place.path, "kept"));
    const more = `ledger: { url: "postgres://127.0.0.1:${await freePort()}/quota", spool: { path: ./kept } }\nsecrets: { key: a-secret-key-for-tests-1 }\n`;
    const { checks } = await check(yaml(more));
    expect(checks).toContainEqual({ what: "ledger.spool", ok: false, detail: expect.stringMatching(problem) as string });
  });

  test("a wrong provider key is told as such", async () => {
    const { code, checks } = await check(yaml().replace(UPSTREAM_KEY, "sk-some-other-key"));
    expect(code).toBe(1);
    expect(checks.at(-1)).toMatchObject({ what: "credential main", ok: false, detail: expect.stringMatching(/status 401: the key is not accepted/) });
  });

  test("a provider that cannot be reached", async () => {
    const port = await freePort();
    const { code, checks } = await check(
      yaml(`  - { name: gone, provider: openai-compatible, base_url: "http://127.0.0.1:${port}", proxy_url: null }\n`),
    );
    expect(code).toBe(1);
    expect(checks.filter(({ ok }) => !ok)).toEqual([{ what: "credential gone", ok: false, detail: expect.stringContaining("ECONNREFUSED") }]);
  });

  test("a provider without a list: a service account is asked for its token, and a key is believed", async () => {
    const server = createServer((req, res) => {
      res.setHeader("content-type", "application/json");
      res.end(req.url === "/token" ? JSON.stringify({ access_token: "ya29.canary", expires_in: 3_600 }) : "{}");
    });
    await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
    const at = (path: string): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`;
    const privateKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" });
    const account = (path: string): string =>
      JSON.stringify({ type: "service_account", project_id: "p", client_email: "c@p.test", private_key: privateKey, token_uri: at(path) });
    const { code, checks } = await check(
      yaml(
        `  - { name: vertex, provider: vertex-ai, service_account: ${account("/token")} }\n` +
          `  - { name: lost, provider: vertex-ai, service_account: ${account("/other")} }\n` +
          `  - { name: azure, provider: azure, api_key: k-canary, base_url: "${at("")}" }\n` +
          `  - { name: codex, provider: codex, api_key: k-canary, base_url: "${at("")}" }\n`,
      ),
    );
    server.close();
    server.closeAllConnections();
    expect(code).toBe(1);
    expect(checks.slice(-4)).toEqual([
      { what: "credential vertex", ok: true, detail: "its account gets an access token" },
      { what: "credential lost", ok: false, detail: expect.stringContaining("no access token was issued") },
      { what: "credential azure", ok: true, detail: "not asked: azure has no list of an account's models" },
      { what: "credential codex", ok: true, detail: "not asked: codex has no list of an account's models" },
    ]);
    expect(JSON.stringify(checks)).not.toMatch(/canary|PRIVATE/);
  });

  test("a limit in USD where nothing has a price", async () => {
    const limits = "limits:\n  - { name: day, scope: user, unit: usd, window: { limit: 1, per: day } }\n";
    const { code, checks } = await check(yaml(`${limits}prices: { book: false }\n`));
    expect(code).toBe(1);
    expect(checks.filter(({ ok }) => !ok)).toEqual([{ what: "limit day", ok: false, detail: expect.stringContaining("model_not_priced") }]);
    const priced = await check(yaml(`${limits}models:\n  - { name: gpt-4o, price: { input_per_mtok: 1, output_per_mtok: 2 } }\n`));
    expect(priced.code).toBe(0);
    expect((await check(yaml(limits))).code).toBe(0);
  });

  test("prices by rule or from a file are prices; a file that cannot be read is told", async () => {
    const limited = yaml("limits: [{ name: user-day, scope: user, unit: usd, window: { limit: 5, per: day } }]\n");
    const price = "{ input_per_mtok: 1, output_per_mtok: 1 }";
    expect((await check(`${limited}prices: { rules: [{ price: ${price} }] }\n`)).ok).toBe(true);
    const broken = await check(`${limited}prices: { files: [gone.json] }\n`);
    expect(broken.checks.filter(({ ok }) => !ok)).toMatchObject([
      { what: expect.stringContaining("gone.json"), detail: expect.stringContaining("ENOENT") },
    ]);
  });

  test("a fallback chain that names nobody is a warning, with the nearest name", async () => {
    const file = yaml(
      "    models: [gpt-4o, gpt-4o-mini]\nrouter: { fallback_chains: { gpt-4o: [gpt-4o-mini, gpt-4o-mni] }, sticky: { by: [session, user], ttl: 1m } }",
    );
    const { code, warnings, options } = await check(file);
    expect([code, warnings]).toEqual([
      0,
      ["the fallback chain of gpt-4o: nobody offers gpt-4o-mni now, and no credential is called so; did you mean gpt-4o-mini?"],
    ]);
    expect(options.filter(({ path }) => /sticky|fallback_chains/.test(path)).map(({ path, value }) => [path, value])).toEqual([
      ["router.sticky.by", "session, user"],
      ["router.sticky.ttl", "1m"],
      ["router.fallback_chains.gpt-4o", "gpt-4o-mini, gpt-4o-mni"],
    ]);
  });

  test("nobody may call, nothing can be served, and the store does not open: all are told at once", async () => {
    place.write("junk.db", "this is not a database".repeat(50));
    const { code, checks } = await check('store: { url: "sqlite:./junk.db" }\n');
    expect(code).toBe(1);
    expect(checks.filter(({ ok }) => !ok).map(({ what }) => what)).toEqual(["client auth", "credentials", "store"]);
    expect(checks.at(-1)?.detail).toContain("store.url");
  });

  test("a wrong file: exit 2 and the problems", async () => {
    place.write("quotaguard.yaml", yaml("limts: []\n"));
    const { code, stdout, stderr } = await quotaguard(["check"], { cwd: place.path }).ended;
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("quotaguard.yaml:11:1: limts: unknown option; did you mean limits?");
  });

  test("the table: aligned, without colours in a pipe, no secret in it", async () => {
    place.write("quotaguard.yaml", yaml());
    const { code, stdout } = await quotaguard(["check"], { cwd: place.path, env: { QUOTAGUARD_PROT: "1" } }).ended;
    expect(code).toBe(0);
    for (const secret of KEYS) expect(stdout).not.toContain(secret);
    expect(stdout).not.toContain("\u001b[");
    const lines = stdout.split("\n");
    expect(lines[0]).toBe(`${place.path}/quotaguard.yaml`);
    const at = lines[1]?.indexOf("source") ?? 0;
    const rows = lines.slice(2, lines.indexOf(""));
    expect(rows.length).toBeGreaterThan(40);
    for (const row of rows) expect(row.slice(at - 2)).toMatch(/^ {2}(?:default|env \w+|quotaguard\.yaml:\d+)$/);
    expect(stdout).toMatch(/^warn {2}configuration +env QUOTAGUARD_PROT: unknown variable, ignored; did you mean QUOTAGUARD_PORT\?$/m);
    expect(stdout).toMatch(/^ok {4}store +is made/m);
    expect(lines.at(-2)).toBe("everything works");
  });
});

test("a reader that stops reading is no failure", async () => {
  place.write("quotaguard.yaml", yaml());
  const command = `set -o pipefail; "${process.execPath}" --conditions=@quotaguard/source "${ROOT}/src/cli/main.ts" check | head -1`;
  const { code, stdout, stderr } = await shell(command, { cwd: place.path }).ended;
  expect([code, stdout, stderr]).toEqual([0, `${place.path}/quotaguard.yaml\n`, ""]);
});

describe("tables", () => {
  const rows = [
    ["option", "value", "source"],
    ["store.url", "sqlite:/a/very/long/path/that/does/not/fit/anywhere.db", "default"],
    ["keys[0].models", "gpt-4o, gpt-4o-mini, gpt-3.5-turbo-instruct", "file.yaml:12"],
  ];

  test("are as wide as they must be", () => {
    expect(table(rows).split("\n")).toHaveLength(3);
    expect(table(rows).split("\n")[1]).toBe("store.url       sqlite:/a/very/long/path/that/does/not/fit/anywhere.db  default");
  });

  test("bars take what is left beside the cells, and none is better than one on two lines", () => {
    const cells = [
      ["org", "USD"],
      ["acme-with-a-name", "12.5000"],
    ];
    const beside = 16 + 2 + 7 + 2;
    expect([undefined, 0, 120, beside + 10, beside + 4, beside + 3, 10].map((columns) => barRoom(cells, 24, columns))).toEqual([
      24, 24, 24, 10, 4, 0, 0,
    ]);
    expect([barOf(1, 10), barOf(0.001, 10), barOf(0, 10), barOf(1, 0)]).toEqual(["█".repeat(10), "█", "", ""]);
  });

  test.each([80, 60, 40])("fit %i columns, each cell below its head", (columns) => {
    const lines = table(rows, { columns }).split("\n");
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(columns);
    const [, second, third] = ["option", "value", "source"].map((head) => lines[0]?.indexOf(head) ?? 0) as [number, number, number];
    const column = (from: number, to?: number): string =>
      lines
        .slice(1)
        .map((line) => line.slice(from, to).trim())
        .join(" ");
    expect(column(second, third).replaceAll(" ", "")).toBe(
      rows
        .slice(1)
        .map((row) => row[1])
        .join("")
        .replaceAll(" ", ""),
    );
  });

  test("colours do not count as width", () => {
    const plain = table(rows, { columns: 60 });
    const painted = table(rows, { columns: 60, paint: (text) => `\u001b[2m${text}\u001b[22m` });
    // oxlint-disable-next-line no-control-regex -- the escape sequences of colours start with a control character
    expect(painted.replaceAll(/\u001b\[\d+m/g, "")).toBe(plain);
  });
});
