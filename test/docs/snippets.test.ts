// Every code fence of the documentation does what its page says: programs run, `curl` lines get the answers that are shown, configuration loads, TypeScript
// has the right types, and commands exist. The notation is in CONTRIBUTING.md, "Documentation".
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { optionsSchema } from "../../src/options/schema.ts";
import { optionTree, type OptionNode } from "../../src/options/tree.ts";
import { fakeUpstream } from "../../src/testing/index.ts";
import { testServer } from "../setup/test-server.ts";
import { documentPages, fencesOf, pageText } from "./fences.ts";
import { printedBy, programText, rehearse } from "./rehearsal.ts";
import { commandsOf, scenesOf, type Scene } from "./scenes.ts";
import { ROOT, secretsOf, stage } from "./stage.ts";

const run = promisify(execFile);

const upstream = await fakeUpstream();
const servers = { redis: await testServer("redis"), postgres: await testServer("postgres") };
const place = stage({
  env: {
    OPENAI_API_KEY: "sk-not-a-real-key",
    OPENAI_BASE_URL: `${upstream.url}/v1`,
    QUOTAGUARD_SECRET_KEY: "qg_a-secret-that-all-nodes-of-the-docs-share",
  },
  // A number of a database and a schema of their own: other tests use the same servers.
  servers: {
    redis: servers.redis === undefined ? {} : { REDIS_URL: `${servers.redis.replace(/\/\d*$/, "")}/13` },
    postgres:
      servers.postgres === undefined
        ? {}
        : { DATABASE_URL: `${servers.postgres}${servers.postgres.includes("?") ? "&" : "?"}schema=quotaguard_docs` },
  },
});
afterAll(async () => {
  place.remove();
  await upstream.close();
});

const fences = documentPages().flatMap(fencesOf);
const scenes = documentPages().flatMap((page) => scenesOf(fencesOf(page)));
const named = scenes.map((scene, index) => ({ name: `${scene.page}:${scene.line}`, scene, index }));
const lacks = ({ given }: Scene): boolean => given.some((name) => (name === "redis" || name === "postgres") && servers[name] === undefined);

/** Anybody can say that a snippet cannot be run. */
const MOST_NOT_RUN = 5;

describe("snippets", () => {
  test(`no more than ${MOST_NOT_RUN} are not run`, () => {
    const left = fences.filter(({ notRun }) => notRun !== null).map(({ page, line, notRun }) => `${page}:${line} ${notRun}`);
    expect(left.length, left.join("\n")).toBeLessThanOrEqual(MOST_NOT_RUN);
  });

  describe.each(named.filter(({ scene }) => scene.program || scene.steps.length > 0))("$name", { concurrent: true }, ({ scene, index }) => {
    test.skipIf(lacks(scene))("does what the page says", { timeout: 90_000 }, async () => {
      const { problems } = await rehearse(scene, place, index);
      expect(problems.join("\n\n")).toBe("");
    });
  });

  test("TypeScript has the types that the pages say", { timeout: 120_000 }, async () => {
    const typed = named.filter(({ scene }) => scene.program?.language === "ts");
    const [shared, alone] = [typed.filter(({ scene }) => !isGlobal(scene)), typed.filter(({ scene }) => isGlobal(scene))];
    const groups = [shared, ...alone.map((one) => [one])];
    const complaints = await Promise.all(groups.map((group, index) => typeComplaints(group, index)));
    expect(complaints.join("")).toBe("");
  });
});

/** What a module declares for everybody would hold for the snippets of other pages, too. */
const isGlobal = ({ program }: Scene): boolean => /declare (?:module|global)/.test(program?.code ?? "");

async function typeComplaints(group: typeof named, number: number): Promise<string> {
  if (group.length === 0) return "";
  const folder = join(place.path, `types-${number}`);
  mkdirSync(folder);
  for (const { scene, index } of group)
    writeFileSync(join(folder, `${scene.page.replaceAll(/\W/g, "-")}-${scene.line}-${index}.ts`), programText(scene));
  const strict = { target: "ES2023", lib: ["ES2024"], module: "NodeNext", strict: true, skipLibCheck: true, noEmit: true, types: ["node"] };
  const settings = {
    ...strict,
    allowImportingTsExtensions: true,
    customConditions: ["@quotaguard/source"],
    experimentalDecorators: true,
    emitDecoratorMetadata: true,
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: settings, include: ["*.ts"] }));
  const compiler = join(ROOT, "node_modules/@typescript/native/bin/tsc");
  const said = await run(process.execPath, [compiler, "-p", folder], { cwd: folder }).then(
    () => "",
    (error: unknown) => printedBy(error),
  );
  // The library's own sources are `npm run check`'s business.
  const lines = said.split("\n").filter((line) => line !== "" && !/^(?:\.\.|\s)/.test(line));
  return lines.map((line) => `${line}\n`).join("");
}

describe("configuration", () => {
  test.each(
    fences.filter(({ language, notRun }) => language === "yaml" && notRun === null).map((fence) => ({ ...fence, at: `${fence.page}:${fence.line}` })),
  )("$at loads", ({ code, at, line }) => {
    const folder = join(place.path, `config-${at.replaceAll(/\W/g, "-")}`);
    mkdirSync(folder);
    const path = join(folder, "quotaguard.yaml");
    writeFileSync(path, code);
    const urls = {
      REDIS_URL: "redis://127.0.0.1:6379",
      DATABASE_URL: "postgres://127.0.0.1:5432/app",
      QUOTAGUARD_SECRET_KEY: "qg_a-secret-that-is-long-enough",
    };
    const { warnings } = loadConfig({ path, cwd: folder, env: { ...secretsOf(code), ...urls, OPENAI_API_KEY: "sk-none" } });
    expect(warnings, `line ${line}`).toEqual([]);
  });
});

test("docs/options.md has every option", () => {
  const page = pageText("docs/options.md");
  const names = ({ options, item, value }: OptionNode): readonly string[] => [
    ...[...options].flatMap(([name, below]) => [name, ...names(below)]),
    ...[item, value].flatMap((below) => (below ? names(below) : [])),
  ];
  const asInFile = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const missing = names(optionTree(optionsSchema)).filter((name) => !new RegExp(`\\b${asInFile(name)}\\b`).test(page));
  expect(missing).toEqual([]);
});

describe("commands", () => {
  const { scripts, peerDependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as Readonly<
    Record<string, Readonly<Record<string, string>>>
  >;
  const commands = fences.flatMap(({ page, line, language, code, notRun }) =>
    language === "sh" && notRun === null ? commandsOf(code).map((command) => ({ at: `${page}:${line}`, command })) : [],
  );
  const inline = documentPages().flatMap((page) =>
    [...pageText(page).matchAll(/`((?:npm (?:run |start|test|install)|npx quotaguard |quotaguard [a-z]+)[^`\n]*)`/g)].map(([, command = ""]) => ({
      at: page,
      command,
    })),
  );
  const told = [...commands, ...inline];

  test("npm scripts exist", () => {
    for (const { at, command } of told) {
      const name = /^npm (?:run (?<script>[\w:-]+)|(?<word>start|test)\b)/.exec(command)?.groups;
      if (name) expect(scripts, `${at}: ${command}`).toHaveProperty([name["script"] ?? name["word"] ?? ""]);
    }
  });

  test("what is to be installed is what the package asks for", () => {
    const known = new Set(["quotaguard", "openai", "ai", "@ai-sdk/openai", ...Object.keys(peerDependencies ?? {})]);
    for (const { at, command } of told) {
      const [, list] = /^npm install (.*)$/.exec(command) ?? [];
      for (const name of list?.split(/\s+/).filter((word) => !word.startsWith("-")) ?? []) expect(known, `${at}: ${command}`).toContain(name);
    }
  });

  test("the command line has what the pages use", { timeout: 60_000 }, async () => {
    const used = new Map<string, Set<string>>();
    for (const { command } of told) {
      const [, name, rest = ""] = /^(?:npx )?quotaguard ((?:(?:keys|limits|prices) )?[a-z]+)(.*)$/.exec(command) ?? [];
      if (name === undefined) continue;
      const flags = used.get(name) ?? new Set<string>();
      used.set(name, flags);
      for (const [flag] of rest.replace(/\s#.*$/, "").matchAll(/--[a-z][\w-]*/g)) flags.add(flag);
    }
    for (const [name, flags] of used) {
      const { stdout } = await run(process.execPath, [
        "--conditions=@quotaguard/source",
        join(ROOT, "src/cli/main.ts"),
        ...name.split(" "),
        "--help",
      ]);
      expect(stdout).toContain(`Usage: quotaguard ${name}`);
      for (const flag of flags) expect(stdout, `quotaguard ${name}`).toContain(flag);
    }
  });
});

describe("pages", () => {
  const slug = (heading: string): string =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .trim()
      .replaceAll(/\s/g, "-");
  const anchors = (text: string): ReadonlySet<string> => new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => slug(heading)));

  test.each(documentPages())("%s: its links lead somewhere", (page) => {
    const text = pageText(page).replaceAll(/^```[\s\S]*?^```$/gm, "");
    for (const [, target = ""] of text.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? page : join(page, "..", path).replaceAll("\\", "/");
      const there = path === "" || !file.endsWith(".md") ? null : pageText(file);
      if (path !== "" && there === null) expect(() => readFileSync(join(ROOT, file)), `${page}: ${target}`).not.toThrow();
      if (anchor !== undefined) expect(anchors(there ?? text), `${page}: ${target}`).toContain(anchor);
    }
  });

  test("each can be reached from the README", () => {
    const reached = new Set(["README.md"]);
    for (const page of reached) {
      for (const [, target = ""] of pageText(page).matchAll(/\]\((?!https?:)([^)#\s]+\.md)[^)]*\)/g))
        reached.add(join(page, "..", target).replaceAll("\\", "/"));
    }
    expect(documentPages().filter((page) => !reached.has(page))).toEqual([]);
  });
});
