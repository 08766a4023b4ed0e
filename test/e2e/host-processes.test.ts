// What a guard sees of its process: other workers, other copies of the package, CommonJS, and a host that gave it no logger.
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { endChildren, folder, ROOT, script, shell, type Ended, type Folder } from "../helpers/child.ts";

// Each test starts processes.
vi.setConfig({ testTimeout: 60_000 });
afterEach(endChildren);

const LIMIT = '{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1000, refillPerSec: 0 } }';

async function ended(run: Promise<Ended>): Promise<Ended> {
  const result = await run;
  if (result.code !== 0) throw new Error(`the process ended with ${result.code}: ${result.stderr}`);
  return result;
}

const codesIn = ({ stderr }: Ended): readonly (string | undefined)[] =>
  [...stderr.matchAll(/\[(QG_[A-Z_]+)\] QuotaGuardWarning/g)].map(([, code]) => code);

/** A folder with the package and Express installed. */
function project(): Folder {
  const place = folder();
  onTestFinished(() => place.remove());
  mkdirSync(join(place.path, "node_modules"));
  for (const [name, path] of [
    ["quotaguard", ROOT],
    ["express", join(ROOT, "node_modules/express")],
  ] as const) {
    symlinkSync(path, join(place.path, "node_modules", name));
  }
  return place;
}

const runFile = (file: string, { path }: Folder): Promise<Ended> => ended(shell(`node --conditions=@quotaguard/source ${file}`, { cwd: path }).ended);

describe("workers of node:cluster", () => {
  /** Two workers with a guard each; the primary ends with them. */
  function clustered(store: string): Promise<Ended> {
    const place = project();
    place.write(
      "app.mjs",
      `import cluster from "node:cluster";
       import { createGuard, memoryStore } from "quotaguard";
       import { sqliteStore } from "quotaguard/stores/sqlite";
       if (cluster.isPrimary) for (let i = 0; i < 2; i += 1) cluster.fork();
       else {
         const guard = createGuard({ ${store} limits: [${LIMIT}] });
         await guard.ready();
         await guard.close();
         cluster.worker.disconnect();
       }`,
    );
    return runFile("app.mjs", place);
  }

  test.each([
    ["the default", ""],
    ["memoryStore()", "store: memoryStore(),"],
  ])("with %s count each for themselves, and are told", async (_name, store) => {
    const result = await clustered(store);
    expect(codesIn(result)).toEqual(["QG_MEMORY_STORE_WORKERS", "QG_MEMORY_STORE_WORKERS"]);
    expect(result.stderr).toContain("sqliteStore(");
  });

  test("with a store that they share are not", async () => {
    expect(codesIn(await clustered('store: sqliteStore("./quota.db"),'))).toEqual([]);
  });

  test("a process that is alone is not", async () => {
    const run = script(
      `import { createGuard } from "quotaguard"; const guard = createGuard({ limits: [${LIMIT}] }); await guard.ready(); await guard.close();`,
      { cwd: ROOT },
    );
    expect((await ended(run.ended)).stderr).toBe("");
  });
});

describe("two copies of the package in one process", () => {
  /** The same sources once more, as npm installs them for somebody who wants another version. */
  function copied(version?: string): string {
    const place = folder();
    onTestFinished(() => place.remove());
    cpSync(join(ROOT, "src"), join(place.path, "src"), { recursive: true });
    cpSync(join(ROOT, "package.json"), join(place.path, "package.json"));
    symlinkSync(join(ROOT, "node_modules"), join(place.path, "node_modules"));
    const file = join(place.path, "src/core/version.ts");
    if (version !== undefined) writeFileSync(file, readFileSync(file, "utf8").replace(/VERSION = "[^"]+"/, `VERSION = "${version}"`));
    return place.path;
  }

  test("know each other's requests, refusals and charges", async () => {
    const run = script(
      `import express from "express";
       import { createGuard, contextOf, GuardError } from "quotaguard";
       const other = await import(process.env.COPY + "/src/index.ts");
       const guards = [createGuard, other.createGuard].map((create) => create({ scopes: () => ({ user: "alice" }), limits: [${LIMIT}] }));
       await Promise.all(guards.map((guard) => guard.ready()));
       const app = express();
       app.post("/metered", guards[0].budgets({ cost: { tokens: 100 } }), (req, res) => {
         other.contextOf(req).meter({ inputTokens: 3, outputTokens: 4 });
         res.json({ sameRequest: other.contextOf(req).requestId === contextOf(req).requestId, isCopy: other.contextOf !== contextOf });
       });
       app.get("/refused", () => { throw new Error("an SDK's", { cause: new other.GuardError("budget_exhausted", "nothing is left", { limit: "user-tokens" }) }); });
       app.use(guards[0].errorHandler());
       const server = app.listen(0, "127.0.0.1");
       await new Promise((resolve) => server.once("listening", resolve));
       const url = "http://127.0.0.1:" + server.address().port;
       const metered = await (await fetch(url + "/metered", { method: "POST" })).json();
       const refused = await fetch(url + "/refused");
       server.closeAllConnections();
       await new Promise((resolve) => server.close(resolve));
       const { tokens } = await guards[0].admin.bucket({ scope: "user", id: "alice" });
       const error = new other.GuardError("internal", "x");
       console.log(JSON.stringify({ metered, status: refused.status, code: (await refused.json()).code, tokens, is: GuardError.is(error) && !(error instanceof GuardError) }));
       await Promise.all(guards.map((guard) => guard.close()));`,
      { cwd: ROOT, env: { COPY: copied() } },
    );
    const result = await ended(run.ended);
    expect(JSON.parse(result.stdout)).toEqual({
      metered: { sameRequest: true, isCopy: true },
      status: 429,
      code: "budget_exhausted",
      tokens: 993,
      is: true,
    });
    expect(codesIn(result)).toEqual([]);
  });

  test.each([
    ["9.1.0", ["QG_TWO_COPIES"]],
    [`${/VERSION = "(\d+\.\d+)/.exec(readFileSync(join(ROOT, "src/core/version.ts"), "utf8"))?.[1]}.999`, []],
  ])("of which the other is %s: told is %j", async (version, codes) => {
    const run = script(
      `import { createGuard } from "quotaguard";
       const other = await import(process.env.COPY + "/src/index.ts");
       for (const create of [createGuard, other.createGuard]) await create({ limits: [${LIMIT}] }).close();`,
      { cwd: ROOT, env: { COPY: copied(version) } },
    );
    const result = await ended(run.ended);
    expect(codesIn(result)).toEqual(codes);
    if (codes.length > 0) expect(result.stderr).toMatch(/versions: \S+, 9\.1\.0/);
  });
});

describe("a host without a logger", () => {
  test("sees on standard error why the guard could not start, what to do, and no secret; requests get 503", async () => {
    const place = folder();
    onTestFinished(() => place.remove());
    const run = script(
      `import { createGuard } from "quotaguard";
       const guard = createGuard({ store: { url: "sqlite:" + process.env.PLACE }, secrets: { key: "canary-secret-key-of-32-characters!!" },
         credentials: [{ name: "main", provider: "openai", apiKey: "sk-canary-key-1" }], auth: false });
       const handler = guard.handler();
       await guard.ready().catch(() => console.log("rejected"));
       await guard.close();`,
      { cwd: ROOT, env: { PLACE: place.path } },
    );
    const result = await ended(run.ended);
    expect(result.stdout).toBe("rejected\n");
    expect(codesIn(result)).toEqual(["QG_START_FAILED"]);
    expect(result.stderr).toMatch(/could not start; every request is answered with 503.*it is a folder: name a file inside it/);
    expect(result.stderr).toContain("guard.ready()");
    expect(result.stderr).not.toContain("canary");
  });
});

describe("a CommonJS app", () => {
  test("gets the package by require(), with a budget on a route", async () => {
    const place = project();
    place.write(
      "app.cjs",
      `const express = require("express");
       const { createGuard, contextOf, GuardError, memoryStore } = require("quotaguard");
       const { sqliteStore } = require("quotaguard/stores/sqlite");
       const guard = createGuard({ store: memoryStore(), scopes: () => ({ user: "alice" }), limits: [${LIMIT}] });
       const app = express();
       app.post("/own", guard.budgets({ cost: { tokens: 600 } }), (req, res) => res.json({ id: typeof contextOf(req).requestId, store: typeof sqliteStore, error: GuardError.is(new Error("x")) }));
       const server = app.listen(0, "127.0.0.1", async () => {
         const post = async () => { const reply = await fetch("http://127.0.0.1:" + server.address().port + "/own", { method: "POST" }); return [reply.status, await reply.json()]; };
         const [first, second] = [await post(), await post()];
         console.log(JSON.stringify([first, second[0], second[1].code]));
         server.closeAllConnections();
         server.close(() => guard.close());
       });`,
    );
    const result = await runFile("app.cjs", place);
    expect(JSON.parse(result.stdout)).toEqual([[200, { id: "string", store: "function", error: false }], 429, "budget_exhausted"]);
    expect(result.stderr).toBe("");
  });
});
