import { createServer } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, quotaguard, serving, type Folder } from "../helpers/child.ts";

const KEY = "qg-key-of-alice-0001";
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
  upstream.reset();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = "", server = "port: 0", keys = `keys:\n  - { name: alice, key: ${KEY}, scopes: { team: data, user: alice } }\n`): string => `
server: { ${server} }
store: { url: "sqlite:./state/quota.db" }
management: { key: ${ADMIN} }
${keys}credentials:
  - { name: main, provider: openai, api_key: ${UPSTREAM_KEY}, base_url: "${upstream.url}" }
limits:
  - { name: user-tokens, scope: user, unit: tokens, bucket: { capacity: 5000, refill_per_sec: 0 } }
${more}`;

const options = (env: Readonly<Record<string, string>> = {}) => ({ cwd: place.path, env });

const chat = (url: string, body: Record<string, unknown> = {}, key = KEY) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello there" }], ...body }),
  });
const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

describe("serve", () => {
  test("starts from a file and answers everything a server of its own has", async () => {
    place.write("quotaguard.yaml", yaml());
    const { child, url } = await serving([], options());
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);

    const whole = await chat(url);
    expect(await whole.json()).toMatchObject({ object: "chat.completion", choices: [{ message: { content: "You said: hello there" } }] });
    expect(whole.headers.get("ratelimit-policy")).toContain('"user-tokens";q=5000');
    const stream = await (await chat(url, { stream: true })).text();
    expect(stream.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect(upstream.log.every(({ headers }) => headers.authorization === upstream.digest(UPSTREAM_KEY))).toBe(true);

    expect(await (await fetch(url)).json()).toMatchObject({ name: "quotaguard", status: "ok", backend: "sqlite" });
    const health = await fetch(`${url}/health`);
    expect(health.status).toBe(200);
    expect(await health.json()).toMatchObject({ status: "healthy", state: "ok", store: "sqlite", total_credentials: 1 });
    const metrics = await fetch(`${url}/metrics`);
    expect(metrics.headers.get("content-type")).toContain("text/plain");
    expect(await metrics.text()).toContain("quotaguard_requests_total{");

    const { inputTokens, outputTokens } = upstream.totals();
    expect(await (await fetch(`${url}/buckets/user/alice`, bearer(ADMIN))).json()).toMatchObject({
      scope: "user:alice",
      bucket: { tokens: 5_000 - inputTokens - outputTokens, capacity: 5_000 },
    });
    expect((await fetch(`${url}/buckets/user/alice`)).status).toBe(401);
    expect((await fetch(`${url}/buckets/user/alice`, bearer(KEY))).status).toBe(401);
    expect((await fetch(`${url}/v0/management/usage/ledger`, bearer(ADMIN))).status).toBe(200);
    for (const path of ["/nothing", "/v2/nothing", "/buckets", "/config"]) {
      const lost = await fetch(url + path, bearer(ADMIN));
      expect([path, lost.status, lost.headers.get("content-type")]).toEqual([path, 404, expect.stringContaining("application/problem+json")]);
    }
    // Whatever else begins with /v1 is passed through, so it is for clients with a key.
    expect((await fetch(`${url}/v1/nothing`, bearer(ADMIN))).status).toBe(401);
    child.kill("SIGTERM");
    expect(await child.ended).toMatchObject({ code: 0 });
  });

  test("text for people: where it listens, what it uses, and no secret", async () => {
    const file = place.write("mine.yaml", yaml());
    const child = quotaguard(["serve", "--config", "mine.yaml"], options());
    const line = await child.line(/listens on .*/);
    const url = /http:\/\/\S+/.exec(line)?.[0] ?? "";
    expect((await fetch(`${url}/health`)).status).toBe(200);
    await child.line(/try +curl/);
    child.kill("SIGINT");
    const { code, stdout, stderr } = await child.ended;
    expect(code).toBe(0);
    expect(stdout).toContain(`config       ${file}`);
    expect(stdout).toContain(`store        sqlite:${place.path}/state/quota.db`);
    expect(stdout).toContain("credentials  main");
    expect(stdout).toContain("management   /v0/management");
    for (const secret of [KEY, ADMIN, UPSTREAM_KEY]) expect(stdout + stderr).not.toContain(secret);
    expect(stdout).not.toContain("\u001b[");
  });

  test("--json prints one line on standard output; logs and warnings go elsewhere", async () => {
    place.write("quotaguard.yaml", yaml());
    const { child } = await serving([], options({ QUOTAGUARD_PROT: "1" }));
    child.kill("SIGTERM");
    const { stdout, stderr } = await child.ended;
    expect(JSON.parse(stdout)).toEqual({ url: expect.any(String), config: `${place.path}/quotaguard.yaml`, pid: child.pid });
    expect(stderr).toContain("did you mean QUOTAGUARD_PORT?");
  });

  test("flags go before the environment, the environment before the file", async () => {
    place.write("quotaguard.yaml", yaml("", "port: 1, host: 127.0.0.9"));
    const { url, child } = await serving(["--port", "0"], options({ QUOTAGUARD_PORT: "2", QUOTAGUARD_HOST: "127.0.0.1" }));
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:/);
    child.kill("SIGTERM");
    await child.ended;
  });

  test("on every address /metrics needs the management key", async () => {
    place.write("quotaguard.yaml", yaml());
    const { url } = await serving(["--host", "0.0.0.0"], options());
    const local = url.replace("0.0.0.0", "127.0.0.1");
    expect((await fetch(`${local}/metrics`)).status).toBe(401);
    expect((await fetch(`${local}/metrics`, bearer("wrong-key-of-a-stranger"))).status).toBe(401);
    expect((await fetch(`${local}/metrics`, bearer(ADMIN))).status).toBe(200);
  });

  test("metrics_public opens /metrics; without key and permission it is not there", async () => {
    place.write("open.yaml", yaml("monitoring: { metrics_public: true }"));
    const open = await serving(["--config", "open.yaml", "--host", "0.0.0.0"], options());
    expect((await fetch(`${open.url.replace("0.0.0.0", "127.0.0.1")}/metrics`)).status).toBe(200);
    place.write("shut.yaml", yaml().replace(`management: { key: ${ADMIN} }`, ""));
    const shut = await serving(["--config", "shut.yaml", "--host", "0.0.0.0"], options({ QUOTAGUARD_STORE_URL: "memory" }));
    const local = shut.url.replace("0.0.0.0", "127.0.0.1");
    expect((await fetch(`${local}/metrics`)).status).toBe(404);
    expect((await fetch(`${local}/buckets/global`)).status).toBe(404);
    expect((await fetch(`${local}/v0/management/health`, bearer(ADMIN))).status).toBe(404);
  });

  test("a socket that has sent no whole request does not keep a stop waiting", async () => {
    place.write("quotaguard.yaml", yaml());
    const { url, child } = await serving([], options());
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    // Being cut off is what is expected here.
    socket.on("error", () => {});
    socket.write("GET /health HTTP/1.1\r\n");
    child.kill("SIGTERM");
    // Nothing is owed to it.
    expect(await child.ended).toMatchObject({ code: 0 });
    socket.destroy();
  });
});

describe("what keeps it from starting is said once, and what to do about it", () => {
  test("a wrong file: exit 2, every problem on a line of its own, with its place and without a stack", async () => {
    place.write(
      "bad.yaml",
      `server: { port: 99999, hots: x, master_key: short }
store: { url: "mysql://x" }
credentials:
  - { name: main, provider: opnai, api_key: ${UPSTREAM_KEY} }
limits:
  - { name: a, scope: usr, unit: tokenz, bucket: { capacity: -5, refill_per_sec: 1 } }
`,
    );
    const { code, stdout, stderr } = await quotaguard(["serve", "--config", "bad.yaml"], options()).ended;
    expect(code).toBe(2);
    expect(stdout).toBe("");
    const [head, ...problems] = stderr.trimEnd().split("\n");
    expect(head).toBe("The configuration has problems:");
    expect(problems.map((line) => /^ {2}- (bad\.yaml:\d+:\d+: \S+): /.exec(line)?.[1])).toEqual([
      "bad.yaml:1:11: server.port",
      "bad.yaml:1:24: server.hots",
      "bad.yaml:1:33: server.master_key",
      "bad.yaml:2:10: store.url",
      "bad.yaml:4:19: credentials[0].provider",
      "bad.yaml:6:16: limits[0].scope",
      "bad.yaml:6:28: limits[0].unit",
      "bad.yaml:6:52: limits[0].bucket.capacity",
    ]);
    expect(stderr).toContain("did you mean host?");
    expect(stderr).not.toContain(UPSTREAM_KEY);
    expect(stderr).not.toMatch(/^ +at /m);

    const json = await quotaguard(["serve", "--config", "bad.yaml", "--json"], options()).ended;
    expect(json.code).toBe(2);
    expect((JSON.parse(json.stdout) as { problems: string[] }).problems).toHaveLength(8);
  });

  test("a port in use: exit 1, naming server.port", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => void taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    place.write("quotaguard.yaml", yaml("", `port: ${port}`));
    const { code, stderr } = await quotaguard(["serve"], options()).ended;
    expect(code).toBe(1);
    expect(stderr).toBe(`server.port ${port} on 127.0.0.1 is in use; stop what uses it or choose another with --port\n`);
    taken.close();
  });

  test("an address of another machine: exit 1, naming server.host", async () => {
    place.write("quotaguard.yaml", yaml());
    const { code, stderr } = await quotaguard(["serve", "--host", "192.0.2.1"], options()).ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^server\.host 192\.0\.2\.1 is no address of this machine/);
  });

  test.each([
    ["a file that is no database", "junk.db", "the file is not a SQLite database"],
    ["a folder", ".", "it is a folder"],
  ])("a store that is %s: exit 1, naming the setting", async (_what, path, why) => {
    place.write("junk.db", "this is not a database".repeat(50));
    place.write("quotaguard.yaml", yaml().replace("./state/quota.db", path));
    const { code, stdout, stderr } = await quotaguard(["serve"], options()).ended;
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(stderr).toContain("store.url");
    expect(stderr).toContain(why);
  });

  test.each([
    ["no credential", () => yaml().replace(/credentials:\n.*\n/, ""), [], /credentials: none is configured.*OPENAI_API_KEY/],
    [
      "nobody who may call, and no way to let somebody",
      () => yaml("", "port: 0", "").replace(/^management:.*\n/m, ""),
      [],
      /keys: nobody may call.*server\.master_key/,
    ],
    ["a port that is none", () => yaml(), ["--port", "70000"], /--port: 70000 is not a port number/],
    ["an unknown flag", () => yaml(), ["--prot", "0"], /unknown option '--prot'/],
    ["a file that is not there", () => yaml(), ["--config", "gone.yaml"], /--config: there is no file gone\.yaml/],
  ] as const)("%s: exit 2", async (_what, file, args, message) => {
    place.write("quotaguard.yaml", file());
    const { code, stderr } = await quotaguard(["serve", ...args], options()).ended;
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/^ +at /m);
  });

  test("what is mistyped is suggested", async () => {
    expect((await quotaguard(["serve", "--prot", "0"], options()).ended).stderr).toContain("Did you mean --port?");
    const { code, stderr } = await quotaguard(["srve"], options()).ended;
    expect(code).toBe(2);
    expect(stderr).toContain("Did you mean serve?");
  });

  test("--help and --version: exit 0, on standard output", async () => {
    const help = await quotaguard(["serve", "--help"], options()).ended;
    expect([help.code, help.stderr]).toEqual([0, ""]);
    for (const flag of ["--config", "--json", "--no-color", "--host", "--port", "-h"]) expect(help.stdout).toContain(flag);
    const version = await quotaguard(["--version"], options()).ended;
    expect([version.code, version.stdout.trim()]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+/)]);
  });
});
