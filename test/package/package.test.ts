// The archive in the projects of its users: CommonJS, ES modules, TypeScript, Nest 11 and Nest 12. Each starts a small app and calls it.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consumer, type Consumer, type ConsumerOptions } from "./consumer.ts";

const EXPRESS = { express: "^5.0.0" };
const TYPES = { "@types/node": "^24.0.0", "@types/express": "^5.0.0" };
const nest = (major: number) => ({
  ...EXPRESS,
  ...TYPES,
  ...Object.fromEntries(["common", "core", "platform-express"].map((name) => [`@nestjs/${name}`, `^${major}.0.0`])),
  "reflect-metadata": "^0.2.0",
  rxjs: "^7.8.0",
});
const DECORATORS = { experimentalDecorators: true, emitDecoratorMetadata: true };

/** One call passes and the next is refused, at the mounted gateway and on a route with a budget; one call was sent to the provider. */
const WORKS = {
  gateway: [
    [200, "chat.completion"],
    [429, "budget_exhausted"],
  ],
  route: [
    [expect.toSatisfy((status: number) => status === 200 || status === 201), "alice"],
    [429, "budget_exhausted"],
  ],
  sent: 1,
};

/** One after another: the first one fills npm's cache for the others. */
function projects<Name extends string>(options: Readonly<Record<Name, ConsumerOptions>>): Readonly<Record<Name, () => Consumer>> {
  const names = Object.keys(options) as Name[];
  const made = new Map<Name, Consumer>();
  beforeAll(async () => {
    for (const name of names) made.set(name, await consumer(options[name]));
  });
  afterAll(() => {
    for (const project of made.values()) project.remove();
  });
  return Object.fromEntries(names.map((name) => [name, () => made.get(name)])) as Record<Name, () => Consumer>;
}

const made = projects({
  cjs: { type: "commonjs", dependencies: EXPRESS, files: ["app.cjs", "calls.cjs"] },
  esm: { type: "module", dependencies: EXPRESS, files: ["app.mjs", "calls.cjs"] },
  ts: { type: "module", dependencies: { ...EXPRESS, ...TYPES }, files: ["app.ts", "calls.cjs", "calls.d.cts"] },
  nest11: { type: "commonjs", dependencies: nest(11), files: ["nest.ts", "calls.cjs", "calls.d.cts"], compilerOptions: DECORATORS },
  nest12: { type: "module", dependencies: nest(12), files: ["nest.ts", "calls.cjs", "calls.d.cts"], compilerOptions: DECORATORS },
});

async function works(project: Consumer, file: string): Promise<void> {
  const { code, stdout, stderr } = await project.node(file);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(JSON.parse(stdout)).toEqual(WORKS);
}

/** Compiled files stand in `build/`; what was JavaScript already is beside its sources. */
async function compiled(project: Consumer): Promise<void> {
  expect(await project.compile()).toBe("");
  project.write("build/calls.cjs", readFileSync(join(project.path, "calls.cjs"), "utf8"));
}

describe("an app that uses the package", () => {
  test("by require()", async () => works(made.cjs(), "app.cjs"));

  test("by import", async () => works(made.esm(), "app.mjs"));

  test("in TypeScript, with the types of all libraries checked", async () => {
    await compiled(made.ts());
    await works(made.ts(), "build/app.js");
  });

  test.each(["nest11", "nest12"] as const)("in %s, as its decorators are compiled by tsc", async (name) => {
    await compiled(made[name]());
    await works(made[name](), "build/nest.js");
  });
});

describe("what is not installed", () => {
  test("is not asked for: nothing but Express is there", () => {
    const installed = readdirSync(join(made.cjs().path, "node_modules"));
    for (const name of ["ioredis", "pg", "prom-client", "gpt-tokenizer", "@nestjs", "rxjs"]) expect(installed).not.toContain(name);
    expect(installed).toEqual(expect.arrayContaining(["quotaguard", "express"]));
  });

  test.each([
    ["quotaguard/stores/redis", "ioredis"],
    ["quotaguard/stores/postgres", "pg"],
    ["quotaguard/nest", "@nestjs/common"],
  ])("%s names what it lacks", async (specifier, name) => {
    const { code, stderr } = await made.esm().node("--input-type=module", "--eval", `await import("${specifier}")`);
    expect(code).toBe(1);
    expect(stderr).toContain(`Cannot find package '${name}' imported from`);
  });

  test.each([
    [
      "{ store: { url: 'redis://127.0.0.1:1' }, ledger: { url: 'memory' } }",
      "store.url: needs the package ioredis, which is not installed: npm install ioredis",
    ],
    ["{ ledger: { url: 'postgres://127.0.0.1:1/x' } }", "ledger.url: needs the package pg, which is not installed: npm install pg"],
  ])("an option says what to install: %s", async (options, message) => {
    const script = `const { createGuard } = require("quotaguard"); createGuard({ secrets: { key: "qg_long-enough-to-be-a-key" }, ...${options} }).ready().catch((error) => console.log(error.message));`;
    const { stdout } = await made.cjs().node("--eval", script);
    expect(stdout).toContain(message);
  });
});

describe("the archive", () => {
  const inside = (...path: readonly string[]): string => join(made.cjs().path, "node_modules/quotaguard", ...path);

  test("holds the build, the sources and the documents, and nothing else", () => {
    const { files } = JSON.parse(readFileSync(inside("package.json"), "utf8")) as { files: readonly string[] };
    expect(readdirSync(inside()).toSorted()).toEqual([...new Set([...files, "package.json", "README.md", "LICENSE"])].toSorted());
  });

  test("has a command", async () => {
    const { version } = JSON.parse(readFileSync(inside("package.json"), "utf8")) as { version: string };
    expect(await made.cjs().quotaguard("--version")).toMatchObject({ code: 0, stdout: `${version}\n` });
    made.cjs().write("quotaguard.yaml", "limits:\n  - { name: calls, scope: user, unit: request }\n");
    const wrong = await made.cjs().quotaguard("check");
    expect(wrong.code).toBe(2);
    expect(wrong.stdout + wrong.stderr).toContain("quotaguard.yaml:2");
  });
});
