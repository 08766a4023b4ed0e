// The server of Antigravity's app on this machine: which process it is, who is logged in, and that its token goes nowhere else.
import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { Secret } from "../../../src/core/secret.ts";
import { systemClock } from "../../../src/core/time.ts";
import { localQuotas, type LocalQuotas, type LocalQuotasOptions } from "../../../src/plugins/collectors/local-server/local-quotas.ts";
import { csrfOf, listeningIn, procMachine, psMachine, type LocalServer, type Machine } from "../../../src/plugins/collectors/local-server/servers.ts";
import { keptLogger } from "../../core/context-kit.ts";
import { folder } from "../../helpers/child.ts";
import { testCertificate } from "../../upstream/certificate.ts";
import { credentialOf, hang, json, NOW, quotaServer, type QuotaServer, type Script } from "./collectors-kit.ts";

const EMAIL = "ada@example.test";
const credential = credentialOf("antigravity", { project: "p-1", email: EMAIL });
const SUMMARY = { response: { groups: [{ displayName: "Gemini", buckets: [{ bucketId: "gemini-5h", remainingFraction: 0.4 }] }] } };

const servers: QuotaServer[] = [];
const made: LocalQuotas[] = [];
afterEach(async () => {
  await Promise.all([...made.splice(0).map((each) => each.close()), ...servers.splice(0).map((each) => each.close())]);
});

/** The app's server, logged in as one after the other. */
function app(emails: readonly string[], summary: unknown = SUMMARY, more: object = {}): Script {
  let asked = 0;
  return (request, res) => {
    if (request.headers["x-codeium-csrf-token"] !== "token-1") return json({}, 403)(request, res);
    if (request.url.endsWith("/RetrieveUserQuotaSummary")) return json(summary)(request, res);
    const email = emails[Math.min(asked, emails.length - 1)];
    asked += 1;
    return json({ userStatus: { email, ...more } })(request, res);
  };
}

async function listening(script: Script): Promise<{ readonly server: QuotaServer; readonly port: number }> {
  const server = await quotaServer(script);
  servers.push(server);
  return { server, port: Number(new URL(server.url).port) };
}

function quotas(
  found: readonly LocalServer[],
  options: Partial<LocalQuotasOptions> = {},
  machine: Machine = { servers: () => Promise.resolve(found) },
) {
  const logger = keptLogger();
  const local = localQuotas({
    options: { port: null, csrf: null, startCmd: null, startTimeoutMs: 2_000, ...options },
    machine,
    clock: systemClock,
    logger,
  });
  made.push(local);
  return local;
}

describe("asking the app", () => {
  test("tells what its account has left, when it is the credential's", async () => {
    const { server, port } = await listening(app([EMAIL.toUpperCase()]));
    const readings = await quotas([{ ports: [port], csrf: "token-1" }]).read(credential, NOW);
    expect(readings).toEqual([expect.objectContaining({ group: "gemini-session", remainingRatio: 0.4, models: ["gemini-*"] })]);
    expect(server.asked.map(({ method, url }) => `${method} ${url.split("/").at(-1)}`)).toEqual([
      "POST GetUserStatus",
      "POST RetrieveUserQuotaSummary",
      "POST GetUserStatus",
    ]);
    expect(server.asked[0]?.headers).toMatchObject({ "connect-protocol-version": "1", "x-codeium-csrf-token": "token-1" });
  });

  test("speaks TLS with a certificate that nobody has signed: its process proves whose it is", async () => {
    const script = app([EMAIL]);
    const server = createTlsServer(testCertificate({ names: ["localhost"] }), (req, res) => {
      req.resume();
      req.on("end", () => script({ method: "POST", url: req.url ?? "", headers: req.headers, body: "" }, res));
    });
    await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    expect(await quotas([{ ports: [port], csrf: "token-1" }]).read(credential, NOW)).toHaveLength(1);
  });

  test.each([
    ["another", ["eve@example.test"]],
    ["another at the end", [EMAIL, "eve@example.test"]],
    ["nobody", [""]],
  ])("is not believed while %s is logged in", async (_who, emails) => {
    const { port } = await listening(app(emails));
    expect(await quotas([{ ports: [port], csrf: "token-1" }]).read(credential, NOW)).toBeNull();
  });

  test("goes on to the app that is the account's", async () => {
    const others = await listening(app(["eve@example.test"]));
    const own = await listening(app([EMAIL]));
    const found = [others, own].map(({ port }) => ({ ports: [port], csrf: "token-1" }));
    expect(await quotas(found).read(credential, NOW)).toHaveLength(1);
  });

  test("nobody is asked for a credential that does not say whose it is, or that is another provider's", async () => {
    const { server, port } = await listening(app([EMAIL]));
    const local = quotas([{ ports: [port], csrf: "token-1" }]);
    expect(await local.read(credentialOf("antigravity", { project: "p-1" }), NOW)).toBeNull();
    expect(await local.read({ ...credentialOf("gemini-cli"), email: EMAIL }, NOW)).toBeNull();
    expect(server.asked).toEqual([]);
  });

  test("of an older server single models are read", async () => {
    const models = [
      { label: "Gemini 3 Pro (High)", modelOrAlias: { model: "MODEL_PLACEHOLDER_M8" }, quotaInfo: { remainingFraction: 0.7 } },
      { label: "Claude Sonnet 4.5", modelOrAlias: { model: "CLAUDE_4_5_SONNET" }, quotaInfo: { resetTime: "2026-01-01T02:00:00Z" } },
    ];
    const { port } = await listening(app([EMAIL], {}, { cascadeModelConfigData: { clientModelConfigs: models } }));
    const readings = await quotas([{ ports: [port], csrf: "token-1" }]).read(credential, NOW);
    expect(readings?.map(({ group, remainingRatio }) => [group, remainingRatio])).toEqual([
      ["claude-gpt", 0],
      ["gemini-pro", 0.7],
    ]);
  });

  test.each<[string, Script]>([
    ["a redirect", json({}, 302, { location: "http://127.0.0.1:1/" })],
    ["a refusal", json({}, 403)],
    ["no JSON", json("<html>")],
    ["the end of the connection", (_asked, res) => void res.destroy()],
    ["a flood", (_asked, res) => void res.writeHead(200).end("x".repeat(3 * 1024 * 1024))],
  ])("%s is no answer", async (_what, script) => {
    const { port } = await listening(script);
    expect(await quotas([{ ports: [port], csrf: "token-1" }]).read(credential, NOW)).toBeNull();
  });

  test("one that hangs is given up after 2 s, and at once when the guard ends", async () => {
    const { port } = await listening(hang);
    const local = quotas([{ ports: [port], csrf: "token-1" }]);
    const asked = local.read(credential, NOW);
    await local.close();
    expect(await asked).toBeNull();
  });

  test("a port and a token of the options are taken as they are; a port alone chooses among those that are found", async () => {
    const { port } = await listening(app([EMAIL]));
    const csrf = new Secret("token-1");
    expect(await quotas([], { port, csrf }).read(credential, NOW)).toHaveLength(1);
    const found = [
      { ports: [port, 1], csrf: "token-1" },
      { ports: [2], csrf: "another" },
    ];
    expect(await quotas(found, { port }).read(credential, NOW)).toHaveLength(1);
    expect(await quotas(found, { port: 2 }).read(credential, NOW)).toBeNull();
    expect(await quotas([{ ports: [port], csrf: "found" }], { csrf }).read(credential, NOW)).toHaveLength(1);
  });
});

describe("an app that does not run", () => {
  /** Notes that it was run, then listens for as long as it lives. */
  const command = (file: string): string =>
    `${process.execPath} -e 'require("fs").appendFileSync(${JSON.stringify(file)}, String(process.pid) + "\\n"); setInterval(() => {}, 1000)'`;

  /** One that nobody has collected yet has ended all the same. */
  const isAlive = (pid: number): boolean => {
    try {
      const isLeftOver = process.platform === "linux" && / Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
      return !isLeftOver && process.kill(pid, 0);
    } catch {
      return false;
    }
  };

  test("is started once by start_cmd, waited for, and ended with the guard", async () => {
    const place = folder();
    onTestFinished(() => place.remove());
    const { port } = await listening(app([EMAIL]));
    const pids = join(place.path, "pids");
    const started = (): string[] =>
      readFileSync(pids, "utf8")
        .trim()
        .split("\n")
        .filter((line) => line !== "");
    writeFileSync(pids, "");
    const machine: Machine = { servers: () => Promise.resolve(started().length > 0 ? [{ ports: [port], csrf: "token-1" }] : []) };
    const local = quotas([], { startCmd: command(pids), startTimeoutMs: 20_000 }, machine);
    expect(await local.read(credential, NOW)).toHaveLength(1);
    const [pid] = started();
    expect(isAlive(Number(pid))).toBe(true);
    writeFileSync(pids, "");
    expect(await local.read(credential, NOW)).toBeNull();
    expect(started()).toEqual([]);
    await local.close();
    await expect.poll(() => isAlive(Number(pid)), { timeout: 5_000 }).toBe(false);
  });

  test("is started where its port and token are known, too", async () => {
    const place = folder();
    onTestFinished(() => place.remove());
    const gone = await quotaServer();
    const port = Number(new URL(gone.url).port);
    await gone.close();
    const pids = join(place.path, "pids");
    writeFileSync(pids, "");
    const local = quotas([], { port, csrf: new Secret("token-1"), startCmd: command(pids), startTimeoutMs: 20_000 });
    const asked = local.read(credential, NOW);
    await expect.poll(() => readFileSync(pids, "utf8"), { timeout: 10_000 }).not.toBe("");
    await local.close();
    expect(await asked).toBeNull();
  });

  test.each([
    ["in the background of a shell that has ended", (run: string) => `${run} & sleep 0.2`],
    ["deaf to being asked to end", (run: string) => `trap '' TERM; ${run.replace("setInterval", 'process.on("SIGTERM", () => {}); setInterval')}`],
  ])("is ended with the guard, also %s", async (_how, written) => {
    const place = folder();
    onTestFinished(() => place.remove());
    const pids = join(place.path, "pids");
    writeFileSync(pids, "");
    const local = quotas([], { startCmd: written(command(pids)), startTimeoutMs: 20_000 });
    const asked = local.read(credential, NOW);
    const pid = (): number => Number(readFileSync(pids, "utf8").split("\n")[0]);
    await expect.poll(pid, { timeout: 10_000 }).toBeGreaterThan(0);
    // Nobody waits any longer for what is being started.
    await local.close();
    expect(await asked).toBeNull();
    await expect.poll(() => isAlive(pid()), { timeout: 1_000 }).toBe(false);
  });

  test("that never listens is waited for no longer than start_timeout", async () => {
    const local = quotas([], { startCmd: "true", startTimeoutMs: 200 });
    expect(await local.read(credential, NOW)).toBeNull();
    expect(local.mostMs).toBeLessThan(20_000);
  });

  test("is not started unless somebody says how", async () => {
    expect(await quotas([]).read(credential, NOW)).toBeNull();
  });
});

describe("processes of Linux", () => {
  const TCP = [
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0",
    "   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 112 1 0 100 0 0 10 0",
    "   2: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 113 1 0 100 0 0 10 0",
    "   3: 0100007F:1F93 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 999 1 0 100 0 0 10 0",
  ].join("\n");

  interface Fake {
    readonly exe: string;
    readonly args: readonly string[];
  }

  function procWith(processes: Readonly<Record<string, Fake>>): string {
    const place = folder();
    onTestFinished(() => place.remove());
    for (const [pid, { exe, args }] of Object.entries(processes)) {
      const own = join(place.path, pid);
      mkdirSync(join(own, "fd"), { recursive: true });
      mkdirSync(join(own, "net"));
      writeFileSync(join(own, "cmdline"), `${args.join("\0")}\0`);
      symlinkSync(exe, join(own, "exe"));
      for (const [fd, inode] of ["111", "112", "113"].entries()) symlinkSync(`socket:[${inode}]`, join(own, "fd", String(fd)));
      writeFileSync(join(own, "net", "tcp"), TCP);
    }
    return place.path;
  }

  const PROGRAM = "/opt/antigravity/bin/language_server_linux_x64";
  const ARGS = [PROGRAM, "--csrf_token", "token-1", "--app_data_dir", "antigravity"];

  test("only the app's own servers, and of their ports those that listen on loopback", async () => {
    const root = procWith({
      "10": { exe: PROGRAM, args: ARGS },
      "11": { exe: "/usr/bin/node", args: ["/usr/bin/node", "language_server.js", "--csrf_token", "x", "antigravity"] },
      "12": { exe: "/opt/other/language_server_linux_x64", args: ["/opt/other/language_server_linux_x64", "--csrf_token", "token-2"] },
      "13": { exe: PROGRAM, args: [...ARGS, "--csrf_token=token-3"] },
      "14": { exe: PROGRAM, args: [PROGRAM] },
      self: { exe: PROGRAM, args: ARGS },
    });
    expect(await procMachine(root).servers()).toEqual([{ csrf: "token-1", ports: [8_080] }]);
    expect(await procMachine(root, 12_345).servers()).toEqual([]);
    expect(await procMachine(join(root, "nothing")).servers()).toEqual([]);
  });

  test("a process of another network is none: its 127.0.0.1 is not ours", async () => {
    const root = procWith({ "10": { exe: PROGRAM, args: ARGS }, "11": { exe: PROGRAM, args: ARGS }, self: { exe: "/usr/bin/node", args: ["node"] } });
    for (const [pid, network] of Object.entries({ "10": "net:[1]", "11": "net:[2]", self: "net:[2]" })) {
      mkdirSync(join(root, pid, "ns"));
      symlinkSync(network, join(root, pid, "ns", "net"));
    }
    expect(await procMachine(root).servers()).toHaveLength(1);
  });

  test("a program that only calls itself so is none", async () => {
    const root = procWith({ "10": { exe: "/usr/bin/python3", args: ARGS } });
    expect(await procMachine(root).servers()).toEqual([]);
  });

  test.runIf(process.platform === "linux")("the port of a process of ours is found in the kernel's own tables", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const inodes = readdirSync("/proc/self/fd").flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? [];
      } catch {
        return [];
      }
    });
    expect(listeningIn(readFileSync("/proc/self/net/tcp", "utf8"), new Set(inodes))).toContain(port);
  });
});

describe("processes of macOS", () => {
  test("ps and lsof tell the same", async () => {
    const program = "/Applications/Anti gravity.app/Contents/Resources/app/extensions/antigravity/bin/language_server_macos_arm";
    const ps = [
      `  501   10 ${program} --enable_lsp --csrf_token token-1 --app_data_dir antigravity`,
      `  502   11 ${program} --csrf_token token-2 --app_data_dir antigravity`,
      "  501   12 grep language_server --csrf_token token-3 antigravity",
    ].join("\n");
    const run = (name: string, args: readonly string[]): Promise<string> =>
      name === "ps" ? Promise.resolve(ps) : Promise.resolve(args.includes("10") ? "p10\nf5\nn127.0.0.1:4711\nf6\nn*:80\n" : "");
    expect(await psMachine(run, 501).servers()).toEqual([{ csrf: "token-1", ports: [4_711] }]);
    expect(await psMachine(() => Promise.reject(new Error("no such program")), 501).servers()).toEqual([]);
  });
});

test("a token that is said twice, or that no header can carry, is none", () => {
  expect(csrfOf(["--csrf_token", "a", "--csrf_token=a"])).toBe("a");
  for (const args of [[], ["--csrf_token"], ["--csrf_token", "a", "--csrf_token", "b"], ["--csrf_token=a b"], ["--csrf_token="]])
    expect(csrfOf(args)).toBeNull();
});
