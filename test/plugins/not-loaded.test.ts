// A guard without plugins pays for none: what serves them is loaded with the first one.
import { afterEach, describe, expect, test } from "vitest";
import { endChildren, ROOT, script } from "../helpers/child.ts";

afterEach(endChildren);

/** Runs a guard in a Node of its own and returns what it loaded: paths below src/, and names of packages. */
async function loadedBy(options: string, more = ""): Promise<readonly string[]> {
  const code = `
    import { registerHooks } from "node:module";
    const urls = [];
    registerHooks({ load(url, context, next) { urls.push(url); return next(url, context); } });
    const { createGuard } = await import("quotaguard");
    const guard = createGuard(${options});
    guard.handler(); guard.budgets(); guard.management();
    await guard.ready();
    ${more}
    await guard.close();
    console.log(JSON.stringify(urls));`;
  const { code: status, stdout, stderr } = await script(code, { cwd: ROOT }).ended;
  expect([status, stderr]).toEqual([0, ""]);
  return (JSON.parse(stdout) as string[]).map((url) => /\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1] ?? url.replace(/^.*\/src\//, ""));
}

/** The plugin host, whatever it consists of. */
const HOST = [
  "plugin-set.ts",
  "plugin-host.ts",
  "plugin-records.ts",
  "plugin-secrets.ts",
  "plugin-timers.ts",
  "plugin-routes.ts",
  "guarded-fetch.ts",
  "core/secret-box.ts",
];
const PEERS = ["ioredis", "pg", "prom-client", "gpt-tokenizer", "@nestjs/common", "@nestjs/core", "grammy"];

describe("mounting no plugin", () => {
  test("loads none, and no optional package", async () => {
    const loaded = await loadedBy(`{ auth: false, management: { key: "a-management-key-of-a-test-01" }, limits: [] }`);
    expect(loaded).toContain("guard.ts");
    expect(loaded.filter((module) => HOST.includes(module))).toEqual([]);
    // What is known of its options is read with all others.
    expect(loaded.filter((module) => /^plugins\/.*(?:scheduler|collectors)\.ts$/.test(module))).toEqual([]);
    expect(loaded.filter((module) => PEERS.includes(module))).toEqual([]);
  });

  test("and one of ours that is asked for by name is loaded then", async () => {
    const loaded = await loadedBy(`{ auth: false, plugins: { collectors: true }, limits: [] }`);
    expect(loaded).toContain("plugins/collectors/scheduler.ts");
  });

  test("and the first one brings all of it", async () => {
    const loaded = await loadedBy(`{ auth: false, plugins: [{ name: "mine", setup() {} }], limits: [] }`);
    expect(HOST.filter((module) => !loaded.includes(module))).toEqual([]);
    expect(loaded.filter((module) => PEERS.includes(module))).toEqual([]);
  });
});
