// The package as its users get it: every subpath has its source, its names and its build, and importing the main one loads no optional library.
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const run = promisify(execFile);

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The names that each subpath promises. Types are not listed: they leave nothing at run time. */
const PROMISED: Readonly<Record<string, readonly string[]>> = {
  quotaguard: [
    ...["createGuard", "quotaGuard", "contextOf", "GuardError", "memoryStore", "defineStore", "combineStores", "loadConfig"],
    ...["definePlugin", "jsonAnswer", "usage"],
    ...["auth", "scopes", "fail2ban", "budgets", "idempotency", "credentials", "proxy", "passthrough", "models"],
  ],
  "quotaguard/stores/redis": ["redisStore"],
  "quotaguard/stores/sqlite": ["sqliteStore"],
  "quotaguard/stores/postgres": ["postgresStore"],
  "quotaguard/plugins/collectors": ["collectors"],
  "quotaguard/nest": ["QuotaGuardModule", "QuotaGuardService", "Budget", "SkipBudget", "Quota", "BudgetInterceptor"],
  "quotaguard/nest/testing": ["withMemoryStore"],
  "quotaguard/testing": [
    ...["fakeUpstream", "recordUpstream", "replayUpstream", "storeContract", "testClock", "pacer"],
    ...["faultyStore", "recordingStore", "expectConserved", "ConservationError"],
  ],
};

/** What a host that only imports `quotaguard` must not pay for, and may not even have installed. */
const OPTIONAL = ["ioredis", "pg", "grammy", "@nestjs", "prom-client", "gpt-tokenizer", "@opentelemetry", "express", "node:sqlite"];

interface Manifest {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>;
  readonly bin: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as Manifest;

/** Subpath -> its conditions, without the plain files such as package.json. */
const subpaths = Object.entries(manifest.exports).flatMap(([subpath, value]) => (typeof value === "string" ? [] : [[subpath, value] as const]));

const specifierOf = (subpath: string): string => `quotaguard${subpath.slice(1)}`;

const sourceOf = (built: string): string => built.replace(/^\.\/dist\//, "./src/").replace(/\.js$/, ".ts");

/** Runs a script in a Node of its own and returns what it prints as JSON. */
async function inNode(args: readonly string[], cwd = ROOT): Promise<unknown> {
  const { stdout } = await run(process.execPath, args, { cwd, env: { PATH: process.env["PATH"] } });
  return JSON.parse(stdout) as unknown;
}

describe("package.json", () => {
  it("names a source that exists, and its build, for each subpath", () => {
    for (const [subpath, { "@quotaguard/source": source, default: built }] of subpaths) {
      expect(source, subpath).toBe(sourceOf(built ?? ""));
      expect(existsSync(join(ROOT, source ?? "")), `${subpath}: ${source}`).toBe(true);
    }
    for (const [name, built] of Object.entries(manifest.bin)) expect(existsSync(join(ROOT, sourceOf(built))), `bin ${name}: ${built}`).toBe(true);
  });

  it("has a subpath for each optional part that is built", () => {
    const folders = ["stores", "plugins"].flatMap((parent) => {
      const path = join(ROOT, "src", parent);
      return existsSync(path) ? readdirSync(path).map((name) => `${parent}/${name}`) : [];
    });
    const parts = [...folders, "nest", "testing"].filter((path) => existsSync(join(ROOT, "src", path, "index.ts")));
    expect(subpaths.map(([subpath]) => subpath)).toEqual(expect.arrayContaining(parts.map((path) => `./${path}`)));
  });

  it("promises names for each of its subpaths, and for nothing else", () => {
    expect(subpaths.map(([subpath]) => specifierOf(subpath)).toSorted()).toEqual(Object.keys(PROMISED).toSorted());
  });
});

describe("the source", () => {
  it.each(Object.entries(PROMISED))("exports what %s promises", async (specifier, names) => {
    const script = `console.log(JSON.stringify(Object.keys(await import(${JSON.stringify(specifier)}))))`;
    expect(await inNode(["--conditions=@quotaguard/source", "--input-type=module", "--eval", script])).toEqual(expect.arrayContaining([...names]));
  });

  it("loads no optional library with the main import", async () => {
    const script = `
      import { registerHooks } from "node:module";
      const loaded = [];
      registerHooks({ resolve(specifier, context, next) { const found = next(specifier, context); loaded.push(found.url); return found; } });
      await import("quotaguard");
      console.log(JSON.stringify(loaded));`;
    const loaded = (await inNode(["--conditions=@quotaguard/source", "--input-type=module", "--eval", script])) as string[];
    // The hook must have seen the import itself, or its silence about the rest would mean nothing.
    expect(loaded.some((url) => url.endsWith("/src/index.ts"))).toBe(true);
    const optional = loaded.filter((url) => OPTIONAL.some((name) => url === name || url.includes(`/node_modules/${name}/`)));
    expect(optional).toEqual([]);
  });
});

describe("the build", () => {
  // Inside node_modules, so that the package's own dependencies resolve as they do for a user.
  const cache = join(ROOT, "node_modules", ".cache");
  let app: string;

  beforeAll(async () => {
    mkdirSync(cache, { recursive: true });
    app = mkdtempSync(join(cache, "consumer-"));
    const installed = join(app, "node_modules", "quotaguard");
    mkdirSync(installed, { recursive: true });
    cpSync(join(ROOT, "package.json"), join(installed, "package.json"));
    const compiler = join(ROOT, "node_modules", "@typescript", "native", "bin", "tsc");
    const build = run(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", join(installed, "dist")], { cwd: ROOT });
    await build.catch((error: unknown) => {
      throw new Error(`the build failed:\n${(error as { stdout?: string }).stdout ?? ""}`, { cause: error });
    });
  }, 60_000);

  afterAll(() => rmSync(app, { recursive: true, force: true }));

  it.each(Object.entries(PROMISED))("gives a CommonJS app what %s promises", async (specifier, names) => {
    const script = join(app, "app.cjs");
    writeFileSync(script, `console.log(JSON.stringify(Object.keys(require(process.argv[2]))));`);
    expect(await inNode([script, specifier], app)).toEqual(expect.arrayContaining([...names]));
  });

  it("gives an app one copy of the library, by import and by require", async () => {
    const script = join(app, "app.mjs");
    const same = `
      import { createRequire } from "node:module";
      import { GuardError } from "quotaguard";
      console.log(JSON.stringify(GuardError === createRequire(import.meta.url)("quotaguard").GuardError));`;
    writeFileSync(script, same);
    expect(await inNode([script], app)).toBe(true);
  });

  it("hides what is not exported", async () => {
    const script = join(app, "deep.mjs");
    writeFileSync(script, `console.log(JSON.stringify(await import("quotaguard/dist/guard.js").then(() => "open", (error) => error.code)));`);
    expect(await inNode([script], app)).toBe("ERR_PACKAGE_PATH_NOT_EXPORTED");
  });
});
