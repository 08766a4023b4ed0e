// Reads the source tree and holds it to the floors, homes and habits of CONTRIBUTING.md, so that the design cannot erode unnoticed.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path/posix";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

/** Path below src/ -> text. */
type Tree = ReadonlyMap<string, string>;

interface Import {
  readonly specifier: string;
  readonly kind: "value" | "type" | "dynamic";
}

interface Module {
  readonly path: string;
  /** First folder, or the file's own name when it lies in src/ itself. */
  readonly area: string;
  /** Without comments, with the strings. */
  readonly code: string;
  /** Without comments and without what strings and regular expressions hold. */
  readonly bare: string;
  readonly lines: number;
  readonly imports: readonly Import[];
}

const FLOOR_1 = ["dialects", "limits", "pool", "resilience", "metering"];
const BELOW_4 = ["core", ...FLOOR_1, "stores", "http", "upstream", "middleware", "plugins"];
/** `root` stands for every file that lies in src/ itself, apart from index.ts: guard.ts, options.ts and the other parts of the composition root. */
const FLOOR_4 = ["root", "options", "management", "config"];

/** Area -> what it may import besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  ...Object.fromEntries(FLOOR_1.map((area) => [area, ["core"]])),
  stores: ["core", "limits"],
  plugins: ["core"],
  http: ["core", "dialects"],
  upstream: ["core", "dialects"],
  middleware: ["core", "http", "upstream", ...FLOOR_1],
  ...Object.fromEntries(FLOOR_4.map((area) => [area, [...BELOW_4, ...FLOOR_4]])),
  ...Object.fromEntries(["index.ts", "nest", "cli", "testing"].map((area) => [area, [...BELOW_4, ...FLOOR_4]])),
};

/** Where each third-party package (and node:sqlite) may be imported, by the kind of the import. An absent kind is nowhere. */
const HOMES: Readonly<Record<string, Partial<Record<Import["kind"], RegExp>>>> = {
  express: everywhere(/^(management|cli)\//),
  // The home is the transport; the connector and egress beside it may know its types, and egress its values.
  undici: { value: /^upstream\/(transport|egress)\b/, type: /^upstream\//, dynamic: /^upstream\/(transport|egress)\b/ },
  zod: everywhere(/^(options\.ts|(options|config|management|middleware|plugins|cli)\/)/),
  yaml: everywhere(/^config\//),
  commander: everywhere(/^cli\//),
  kysely: everywhere(/^stores\/(sql|sqlite|postgres)\//),
  "lru-cache": everywhere(/^(stores\/(memory|strikes)\b|middleware\/auth\b)/),
  "prom-client": { type: /^(guard|metering\/)/, dynamic: /^(guard|open-stores)\b/ },
  "@pydantic/genai-prices": { dynamic: /^config\/price-book\.ts$/ },
  "gpt-tokenizer": { dynamic: /^limits\/tokenizer\.ts$/ },
  pino: everywhere(/^cli\//),
  "@smithy/eventstream-codec": { type: /^dialects\/kiro\/frames\.ts$/, dynamic: /^dialects\/kiro\/frames\.ts$/ },
  "eventsource-parser": everywhere(/^(dialects|testing)\//),
  "http-proxy-middleware": everywhere(/^middleware\/passthrough\b/),
  "rate-limiter-flexible": everywhere(/^stores\/strikes\b/),
  ioredis: everywhere(/^stores\/redis\//),
  pg: everywhere(/^stores\/postgres\//),
  grammy: everywhere(/^plugins\/telegram\//),
  "@nestjs/common": everywhere(/^nest\//),
  "@nestjs/core": everywhere(/^nest\//),
  rxjs: everywhere(/^nest\//),
  "node:sqlite": everywhere(/^stores\/sqlite\//),
};

const MOST_LINES = 400;

function everywhere(home: RegExp): Record<Import["kind"], RegExp> {
  return { value: home, type: home, dynamic: home };
}

// In this order: what begins first wins, so a quote inside a comment or a comment mark inside a string is left alone.
const TOKENS =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`|(?<=(?:^|[(,=:[!&|?{};]|=>|\breturn)\s*)\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*/gm;

const isComment = (token: string): boolean => token.startsWith("//") || token.startsWith("/*");

const IMPORT = /^\s*(?:import|export)\s+(type\s+)?(?:([\w$*{][^;"']*?)\s*\bfrom\s*)?["']([^"']+)["']/gm;
const DYNAMIC_IMPORT = /\bimport\s*\(\s*["'`]([^"'`]+)["'`]/g;

/** `import { type A, type B } from` brings no value either. */
function bringsOnlyTypes(clause: string | undefined): boolean {
  const names = /^\{([^}]*)\}$/
    .exec(clause?.trim() ?? "")?.[1]
    ?.split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  return names !== undefined && names.length > 0 && names.every((name) => name.startsWith("type "));
}

function read(path: string, text: string): Module {
  const code = text.replace(TOKENS, (token) => (isComment(token) ? token.replace(/[^\n]/g, " ") : token));
  const bare = code.replace(TOKENS, (token) => (token.startsWith("`") ? templateCode(token) : `""`));
  const imports: Import[] = [];
  for (const [, type, clause, specifier] of code.matchAll(IMPORT)) {
    imports.push({ specifier: specifier as string, kind: type !== undefined || bringsOnlyTypes(clause) ? "type" : "value" });
  }
  for (const [, specifier] of code.matchAll(DYNAMIC_IMPORT)) imports.push({ specifier: specifier as string, kind: "dynamic" });
  const folder = path.split("/")[0] as string;
  const area = path.includes("/") || path === "index.ts" ? folder : "root";
  return { path, area, code, bare, lines: text.replace(/\n$/, "").split("\n").length, imports };
}

/** What a template literal computes: its text is no code, its substitutions are. */
const templateCode = (token: string): string => `"" ${[...token.matchAll(/\$\{([^}]*)\}/g)].map((match) => match[1]).join(" ")}`;

const isOurs = (specifier: string): boolean => specifier.startsWith(".");

const target = (from: Module, specifier: string): string => join(dirname(from.path), specifier);

const packageOf = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");

/** `middleware/auth.ts` and everything in `middleware/auth/` are one middleware. */
const middlewareOf = (path: string): string => (path.split("/")[1] ?? "").replace(/\.ts$/, "");

function* floorProblems(module: Module): Generator<string> {
  const allowed = MAY_IMPORT[module.area];
  if (!allowed) {
    yield `the folder ${module.area}/ is on no floor`;
    return;
  }
  for (const { specifier } of module.imports) {
    if (!isOurs(specifier)) continue;
    const path = target(module, specifier);
    const area = path.includes("/") || path === "index.ts" ? (path.split("/")[0] as string) : "root";
    if (area !== module.area && !allowed.includes(area)) yield `floors: ${module.area} must not import ${path}`;
    if (module.area === "middleware" && area === "middleware" && middlewareOf(path) !== middlewareOf(module.path)) {
      yield `floors: a middleware must not import another one (${path})`;
    }
  }
}

function* homeProblems(module: Module): Generator<string> {
  for (const { specifier, kind } of module.imports) {
    if (isOurs(specifier)) continue;
    const name = specifier.startsWith("node:") ? specifier : packageOf(specifier);
    const homes = HOMES[name];
    if (!homes && name.startsWith("node:")) continue;
    if (module.area === "core") yield `homes: core imports no third-party library (${name})`;
    else if (!homes) yield `homes: ${name} has no home; give it one in this test and in CONTRIBUTING.md`;
    else if (!homes[kind]?.test(module.path)) yield `homes: ${name} does not live here (${kind} import)`;
  }
}

function* habitProblems({ path, bare, code, lines }: Module): Generator<string> {
  const folders = path.split("/");
  const file = folders.pop() as string;
  if (![...folders, file.replace(/(\.d)?\.ts$/, "")].every((name) => /^[a-z0-9]+(-[a-z0-9]+)*$/.test(name)))
    yield "names: files and folders are kebab-case";
  if (/^(utils?|types|helpers?)\.ts$/.test(file)) yield "names: name a file after its main export";
  if (lines > MOST_LINES) yield `size: ${lines} lines, at most ${MOST_LINES}`;
  if (/(?:[:<|&,([]|=>|\bas|\bextends|\bis|=)\s*any\b(?!\s*[:(.])/.test(bare)) yield "types: any";
  if (/^\s*export\s+default\b/m.test(bare) || /\bexport\s*\{[^}]*\bas\s+default\b/.test(bare)) yield "exports: no default export";
  if (/^\s*export\s*(type\s*)?\*/m.test(bare)) yield "exports: no export *, name what is exported";
  if (!/^(config|cli)\//.test(path)) {
    if (/\bprocess\s*(\?\.|\.)\s*env\b|\bprocess\s*\[|\{[^}]*\benv\b[^}]*\}\s*=\s*process\b|\bimport\.meta\.env\b/.test(bare))
      yield "environment: process.env is read in config/ and cli/ only";
    if (/\bimport\s*\{[^}]*\benv\b[^}]*\}\s*from\s*["'](node:)?process["']/.test(code))
      yield "environment: process.env is read in config/ and cli/ only";
    if (/\bconsole\s*(\?\.|\.|\[)/.test(bare)) yield "output: console is used in config/ and cli/ only";
  }
}

/** Unfinished work is looked for in comments and strings too. */
const UNFINISHED = /\b(TODO|FIXME|XXX)\b/;

/** The imports between our own modules, of types too: a cycle of types is a cycle of ideas. */
function cycles(modules: ReadonlyMap<string, Module>): string[] {
  const found: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    const at = trail.indexOf(path);
    if (at >= 0) found.push(`${path}: cycle: ${[...trail.slice(at), path].join(" -> ")}`);
    if (at >= 0 || done.has(path)) return;
    const module = modules.get(path);
    for (const { specifier } of module?.imports ?? []) {
      if (module && isOurs(specifier)) visit(target(module, specifier), [...trail, path]);
    }
    done.add(path);
  };
  for (const path of modules.keys()) visit(path, []);
  return found;
}

/** Every violation, as `file: rule: what`. */
function violationsOf(tree: Tree): string[] {
  const modules = new Map([...tree].map(([path, text]) => [path, read(path, text)]));
  const found: string[] = [];
  for (const module of modules.values()) {
    for (const problem of [...floorProblems(module), ...homeProblems(module), ...habitProblems(module)]) found.push(`src/${module.path}: ${problem}`);
    const mark = UNFINISHED.exec(tree.get(module.path) ?? "");
    if (mark) found.push(`src/${module.path}: unfinished: ${mark[0]}`);
  }
  return [...found, ...cycles(modules).map((cycle) => `src/${cycle}`)];
}

const SOURCE = fileURLToPath(new URL("../src/", import.meta.url));

function sourceTree(): Tree {
  const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).map((path) => path.replaceAll("\\", "/"));
  return new Map(
    files
      .filter((path) => path.endsWith(".ts"))
      .toSorted()
      .map((path) => [path, readFileSync(join(SOURCE, path), "utf8")]),
  );
}

describe("the source tree", () => {
  it("keeps its floors, homes and habits", () => {
    const tree = sourceTree();
    expect(tree.size).toBeGreaterThan(20);
    expect(violationsOf(tree)).toEqual([]);
  });

  // Types only would do for a development dependency, yet a user's compiler reads our declarations with their imports.
  it("imports only what its users get with it", () => {
    const manifest = JSON.parse(readFileSync(join(SOURCE, "../package.json"), "utf8")) as Record<string, Record<string, string> | undefined>;
    const installed = new Set(Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }));
    const imported = [...sourceTree()].flatMap(([path, text]) => read(path, text).imports.map(({ specifier }) => specifier));
    const packages = new Set(imported.filter((specifier) => !isOurs(specifier) && !specifier.startsWith("node:")).map(packageOf));
    expect(packages.size).toBeGreaterThan(8);
    expect([...packages].filter((name) => !installed.has(name))).toEqual([]);
  });
});

describe("the checker itself", () => {
  const clean: Record<string, string> = {
    "core/scope.ts": `export const scope = 1; // anything goes, even any kind of "quote, or import("zod")\n/*\nimport express from "express";\n*/\n`,
    "limits/plan.ts": `import { scope } from "../core/scope.ts";\nexport const many: readonly number[] = [scope];\n`,
    "limits/tokenizer.ts": `export const exact = async () => (await import("gpt-tokenizer/model/gpt-4o")).encode;`,
    "stores/memory-limits.ts": `import { LRUCache } from "lru-cache";\nimport { many } from "../limits/plan.ts";\nexport const cache = new LRUCache({ max: many.length });`,
    "metering/metrics.ts": `import type { Registry } from "prom-client";\nexport type R = Registry;`,
    "upstream/connector.ts": `import { type buildConnector } from "undici";\nexport type C = buildConnector.connector;`,
    "http/open.ts": `import { quote } from "./render.ts";\nexport type Open = typeof quote;`,
    "http/render.ts": "export const quote = /[\"'`]/; export const text = `export default any ${1}`; export const s = 'console.log process.env';",
    "middleware/auth/keys.ts": `import { scope } from "../../core/scope.ts";\nexport const keys = [scope];`,
    "middleware/auth.ts": `import { keys } from "./auth/keys.ts";\nimport { z } from "zod";\nexport const auth = z.array(z.any()).parse(keys);`,
    "config/env.ts": `export const env = process.env; console.error("…");`,
    "guard.ts": `import { auth } from "./middleware/auth.ts";\nimport { env } from "./config/env.ts";\nexport const guard = { auth, env, any: 1 };`,
    "index.ts": `export { guard } from "./guard.ts";\nexport type {\n  R,\n} from "./metering/metrics.ts";\n`,
    "cli/main.ts": `import { Command } from "commander";\nimport { guard } from "../guard.ts";\nnew Command().action(() => console.log(guard));`,
  };
  const withFile = (path: string, text: string): Tree => new Map(Object.entries({ ...clean, [path]: text }));

  it("finds nothing in a clean tree", () => {
    expect(violationsOf(new Map(Object.entries(clean)))).toEqual([]);
  });

  it.each([
    ["floors: core must not import limits/plan.ts", "core/call.ts", `import { many } from "../limits/plan.ts";`],
    ["homes: core imports no third-party library (zod)", "core/scope.ts", `import { z } from "zod";`],
    ["floors: pool must not import metering/metrics.ts", "pool/pool.ts", `import type { R } from "../metering/metrics.ts";`],
    ["floors: stores must not import http/render.ts", "stores/memory.ts", `export { quote } from "../http/render.ts";`],
    ["floors: http must not import upstream/connector.ts", "http/open.ts", `import "../upstream/connector.ts";`],
    ["floors: plugins must not import limits/plan.ts", "plugins/telegram/index.ts", `import { many } from "../../limits/plan.ts";`],
    ["floors: a middleware must not import another one (middleware/auth.ts)", "middleware/budgets.ts", `import { auth } from "./auth.ts";`],
    ["floors: middleware must not import stores/memory-limits.ts", "middleware/proxy.ts", `const m = await import("../stores/memory-limits.ts");`],
    ["floors: http must not import guard.ts", "http/open.ts", `import {\n  guard,\n} from "../guard.ts";`],
    ["floors: management must not import cli/main.ts", "management/router.ts", `import { main } from "../cli/main.ts";`],
    ["floors: testing must not import index.ts", "testing/index.ts", `export { guard } from "../index.ts";`],
    ["the folder gateway/ is on no floor", "gateway/open.ts", `export const a = 1;`],
    ["homes: express does not live here (value import)", "http/open.ts", `import express from "express";`],
    ["homes: express does not live here (type import)", "http/open.ts", `import type { Request } from "express";`],
    ["homes: undici does not live here (value import)", "upstream/connector.ts", `import { Pool } from "undici";`],
    ["homes: gpt-tokenizer does not live here (value import)", "limits/tokenizer.ts", `import { encode } from "gpt-tokenizer";`],
    ["homes: prom-client does not live here (value import)", "metering/metrics.ts", `import { Registry } from "prom-client";`],
    ["homes: node:sqlite does not live here (value import)", "stores/memory.ts", `import { DatabaseSync } from "node:sqlite";`],
    ["homes: left-pad has no home", "http/open.ts", `import left from "left-pad";`],
    ["names: files and folders are kebab-case", "http/openRequest.ts", `export const a = 1;`],
    ["names: name a file after its main export", "http/utils.ts", `export const a = 1;`],
    ["size: 401 lines", "http/open.ts", "\n".repeat(MOST_LINES + 1)],
    ["types: any", "http/open.ts", `export const a = (b: any) => b;`],
    ["types: any", "http/open.ts", `export const a = JSON.parse("1") as any;`],
    ["types: any", "http/open.ts", `export const a: Record<string, any> = {};`],
    ["exports: no default export", "http/open.ts", `export default 1;`],
    ["exports: no default export", "http/open.ts", `const a = 1;\nexport { a as default };`],
    ["exports: no export *", "http/open.ts", `export * from "./render.ts";`],
    ["environment: process.env", "http/open.ts", `export const a = process.env["A"];`],
    ["environment: process.env", "http/open.ts", "export const a = `${process.env.A}`;"],
    ["environment: process.env", "http/open.ts", `import { env } from "node:process";`],
    ["output: console", "http/open.ts", `console.warn("a");`],
    ["unfinished: TODO", "http/open.ts", `// TODO: later`],
  ])("finds %s in %s", (problem, path, text) => {
    expect(violationsOf(withFile(path, text))).toEqual([expect.stringContaining(`src/${path}: ${problem}`)]);
  });

  it("finds a cycle, also one of types", () => {
    const tree = new Map([
      ["core/a.ts", `import { b } from "./b.ts";`],
      ["core/b.ts", `import { c } from "./c.ts";`],
      ["core/c.ts", `import type { A } from "./a.ts";`],
    ]);
    expect(violationsOf(tree)).toEqual(["src/core/a.ts: cycle: core/a.ts -> core/b.ts -> core/c.ts -> core/a.ts"]);
  });
});
