// What a reader of the examples does: start one as its npm script does, and paste the lines that it prints.
import { existsSync, readFileSync, symlinkSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { freePort } from "../setup/server-process.ts";
import { endChildren, folder, ROOT, shell, type Child, type Folder } from "../helpers/child.ts";

const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { scripts: Readonly<Record<string, string>> };

let place: Folder;
beforeEach(() => {
  place = folder();
  // The scripts run in the project's folder; here they get a folder of their own for what they write.
  for (const name of ["examples", "package.json", "tsconfig.json"]) symlinkSync(join(ROOT, name), join(place.path, name));
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

/** An npm script's own command. What it ends in is the process that gets the signals. */
const command = (script: string): string => (scripts[script] ?? "false").replace(/(?<=^|&& )node /, "exec node ");

/** Starts an npm script's own command and resolves with the `curl` lines that it prints. */
async function example(script: string, curls: number): Promise<{ readonly child: Child; readonly port: number; readonly lines: readonly string[] }> {
  const port = await freePort();
  const child = shell(command(script), { cwd: place.path, env: { PORT: String(port) } });
  const lines = await child.lines(/curl .*/, curls);
  return { child, port, lines };
}

const pasted = (line: string) => shell(line, { cwd: place.path }).ended;

/** What `curl -i` shows. */
async function answer(line: string): Promise<{ readonly status: number; readonly head: string; readonly body: string }> {
  const { code, stdout } = await pasted(line);
  expect(code).toBe(0);
  const [head = "", ...rest] = stdout.split("\r\n\r\n");
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]), head: head.toLowerCase(), body: rest.join("\r\n\r\n") };
}

describe("npm start", () => {
  test("both lines work as pasted, the host's page stands beside them, and Ctrl-C ends it", async () => {
    const { child, port, lines } = await example("start", 2);
    const [json, streaming] = lines as [string, string];
    const whole = await pasted(json);
    expect(JSON.parse(whole.stdout)).toMatchObject({
      object: "chat.completion",
      choices: [{ message: { content: expect.stringContaining("Hello from my own app") } }],
    });
    const stream = await pasted(streaming);
    expect(stream.stdout.match(/^data: \{/gm)?.length).toBeGreaterThan(8);
    expect(stream.stdout.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect(await (await fetch(`http://127.0.0.1:${port}/`)).text()).toContain("host app's own page");
    expect(existsSync(join(place.path, "data/quotaguard.db"))).toBe(true);

    const more = await answer(json.replace("curl -sN", "curl -si").replace('"model"', '"max_tokens":6000,"model"'));
    expect(more.status).toBe(400);
    expect(JSON.parse(more.body)).toMatchObject({ error: { code: "budget_too_small", limit: "user-tokens" } });

    child.kill("SIGINT");
    expect(await child.ended).toMatchObject({ code: 0, stderr: "" });
  });

  test("its budgets survive a restart: the state is in ./data", async () => {
    const first = await example("start", 2);
    const before = await answer((first.lines[0] as string).replace("-sN", "-si"));
    first.child.kill("SIGTERM");
    await first.child.ended;
    const second = await example("start", 2);
    const after = await answer((second.lines[0] as string).replace("-sN", "-si"));
    const left = ({ head }: typeof before): number => Number(/"team-day";r=(\d+)/.exec(head)?.[1]);
    expect(left(after)).toBeLessThan(left(before));
  });

  test("a port in use is said in one line", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => void taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    const { code, stdout, stderr } = await shell(command("start"), { cwd: place.path, env: { PORT: String(port) } }).ended;
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(new RegExp(`^Port ${port} is in use; .*PORT=\\d+ npm start\\n$`));
    taken.close();
  });
});

describe("npm run example:minimal", () => {
  test("three calls pass, the fourth is a 429", async () => {
    const { lines } = await example("example:minimal", 1);
    const line = lines[0] as string;
    for (let i = 0; i < 3; i += 1) expect(await answer(line)).toMatchObject({ status: 200, body: expect.stringContaining('"chat.completion"') });
    const refused = await answer(line);
    expect(refused.status).toBe(429);
    expect(refused.head).toMatch(/retry-after: \d+/);
    expect(JSON.parse(refused.body)).toMatchObject({ error: { code: "budget_exhausted", limit: "user-minute", scope: "user" } });
  });

  test("it streams as well", async () => {
    const { lines } = await example("example:minimal", 1);
    const { status, body } = await answer((lines[0] as string).replace('"model"', '"stream":true,"model"'));
    expect(status).toBe(200);
    expect(body.trimEnd().endsWith("data: [DONE]")).toBe(true);
  });
});

describe("npm run example:per-route", () => {
  test("a call passes and settles what it used; without a login it is a 400", async () => {
    const { lines } = await example("example:per-route", 2);
    const [alice, nobody] = lines as [string, string];
    const first = await answer(alice);
    expect(first).toMatchObject({ status: 200, body: expect.stringContaining("a long story about quotas") });
    // 0.8 cents are held each time: five calls pass a day of two cents only because each gives back what it did not use.
    for (let i = 0; i < 4; i += 1) expect((await answer(alice)).status).toBe(200);
    const refused = await answer(nobody);
    expect(refused.status).toBe(400);
    expect(refused.head).toContain("application/problem+json");
    expect(JSON.parse(refused.body)).toMatchObject({ code: "scope_invalid", detail: "limit user-day needs scope user; is your auth before it?" });
  });
});

describe("npm run example:composed", () => {
  test("alice gets her model, the batch key is refused it, and the host's middleware ran between the parts", async () => {
    const { child, lines } = await example("example:composed", 2);
    const [alice, batch] = lines as [string, string];
    const passed = await answer(alice);
    expect(passed).toMatchObject({ status: 200, body: expect.stringContaining('"chat.completion"') });
    expect(passed.head).toContain("x-served-by: the host app");
    const refused = await answer(batch);
    expect(refused.status).toBe(403);
    expect(JSON.parse(refused.body)).toMatchObject({ error: { code: "model_not_allowed", param: "model" } });
    expect((await answer(batch.replace('"gpt-4o"', '"gpt-4o-mini"'))).status).toBe(200);
    expect((await answer(alice.replace('"model"', '"stream":true,"model"'))).body.trimEnd().endsWith("data: [DONE]")).toBe(true);
    await child.line(/credential: '(?:first|second)'/);
  });
});

describe("npm run example:plugin", () => {
  test("the plugin counts what is spent, answers on its own route, and remembers it over a restart", async () => {
    const { child, lines } = await example("example:plugin", 2);
    const [draw, status] = lines as [string, string];
    expect(JSON.parse((await answer(status)).body)).toEqual({ user: "alice", usd: 0 });
    expect(JSON.parse((await answer(draw)).body)).toMatchObject({ spentBefore: 0 });
    expect(JSON.parse((await answer(draw)).body)).toMatchObject({ spentBefore: 0.04 });
    const spent = await answer(status);
    expect(spent.status).toBe(200);
    expect(JSON.parse(spent.body)).toEqual({ user: "alice", usd: 0.08 });
    child.kill("SIGINT");
    expect(await child.ended).toMatchObject({ code: 0, stderr: "" });

    const again = await example("example:plugin", 2);
    expect(JSON.parse((await answer(again.lines[1] as string)).body)).toEqual({ user: "alice", usd: 0.08 });
  });
});

describe("npm run example:nest", () => {
  test("the gateway and the guarded route work as pasted, a budget each, and Ctrl-C ends it", async () => {
    const { child, lines } = await example("example:nest", 2);
    const [gateway, route] = lines as [string, string];
    const whole = await pasted(gateway);
    expect(JSON.parse(whole.stdout)).toMatchObject({
      object: "chat.completion",
      choices: [{ message: { content: "You said: Hello from my own app" } }],
    });
    const summary = await pasted(route);
    expect(JSON.parse(summary.stdout)).toEqual({ summary: "You said: Summarise: a long story about quotas" });

    const shown = route.replace("curl -sN", "curl -si");
    const first = await answer(shown);
    expect(first.head).toContain('ratelimit-policy: "user-day"');
    // 0.8 cents are held each time: five calls pass a day of two cents only because each gives back what it did not use.
    for (let i = 0; i < 4; i += 1) expect((await answer(shown)).status).toBe(200);
    expect((await answer(shown.replace("token-of-alice", "a-guess"))).status).toBe(401);
    const more = await answer(gateway.replace("curl -sN", "curl -si").replace('"max_tokens":400', '"max_tokens":4000'));
    expect(more.status).toBe(400);
    expect(JSON.parse(more.body)).toMatchObject({ error: { code: "budget_too_small", limit: "user-day" } });

    child.kill("SIGINT");
    expect(await child.ended).toMatchObject({ code: 0, stderr: "" });
  });

  test("a port in use is said in one line", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => void taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    const { code, stdout, stderr } = await shell(command("example:nest"), { cwd: place.path, env: { PORT: String(port) } }).ended;
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(`Port ${port} is in use; stop what uses it, or choose another: PORT=8319 npm run example:nest`);
    taken.close();
  });
});

test.each(["example:minimal", "example:per-route", "example:composed", "example:plugin"])("%s says so when its port is in use", async (script) => {
  const taken = createServer();
  await new Promise<void>((resolve) => void taken.listen(0, "127.0.0.1", resolve));
  const { port } = taken.address() as AddressInfo;
  const { code, stdout, stderr } = await shell(command(script), { cwd: place.path, env: { PORT: String(port) } }).ended;
  expect([code, stdout]).toEqual([1, ""]);
  expect(stderr).toContain("EADDRINUSE");
  taken.close();
});
