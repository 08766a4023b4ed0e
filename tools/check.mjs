// `npm run check`: everything about the project that is not a test. One line per check, and a failing tool's own words below.
// `node tools/check.mjs --only types,lint` runs a part of it.
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));
const bin = join(root, "node_modules", ".bin");
const onWindows = process.platform === "win32";

/** What no file of the project may hold. The patterns do not match their own text. */
const FORBIDDEN = [
  [/(?<![\w.~])\/(?:work|root)\/[\w.-]/, "a path of one machine"],
  [/(?<![\w.~])\/(?:home|Users)\/(?!runner\/|linuxbrew\/)[\w.-]+\//, "a path of one machine"],
  [/\b(?:registry|npm|packages)\.[a-z0-9-]+\.(?:org|com|dev|io|net)\b/i, "a registry host"],
  [/\b(?:co-authored-by|generated (?:by|with)):? *\[?(?:claude|chatgpt|copilot|cursor|gemini)\b/i, "a mark of a tool that wrote it"],
];
const TEXT_LIMIT_BYTES = 2_000_000;

/** Runs a program without a shell, with the project's own programs first on PATH. Never rejects. */
function run(file, args) {
  return new Promise((resolve) => {
    const env = { ...process.env, PATH: `${bin}${onWindows ? ";" : ":"}${process.env.PATH ?? ""}`, NO_COLOR: "1", FORCE_COLOR: "0" };
    // npm and the linked programs are .cmd files on Windows, and those need a shell.
    const child = spawn(file, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"], shell: onWindows });
    let output = "";
    let stdout = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => (output += chunk));
    child.once("error", (error) => resolve({ ok: false, output: `cannot run ${file}: ${error.message}`, stdout }));
    child.once("close", (code) => resolve({ ok: code === 0, output, stdout }));
  });
}

/** Over once `dist` is whole, if it is built at all: who follows imports into it must not find half of it. */
let built = Promise.resolve();

async function buildDist() {
  const cleaned = await run("node", ["tools/clean.mjs", "dist"]);
  return cleaned.ok ? run("tsc", ["-p", "tsconfig.build.json"]) : cleaned;
}

/**
 * Build, then look at the very archive that would be published. Not by `npm run build`: its pre-script may install, and replacing node_modules
 * under the other checks is no part of a check.
 */
async function checkPackage() {
  const building = buildDist();
  built = building;
  const build = await building;
  if (!build.ok) return build;
  const folder = mkdtempSync(join(tmpdir(), "quotaguard-pack-"));
  try {
    const packed = await run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder]);
    if (!packed.ok) return packed;
    const archive = join(folder, readdirSync(folder)[0]);
    const results = await Promise.all([
      run("publint", ["run", archive, "--strict"]),
      run("attw", [archive, "--profile", "esm-only", "--no-definitely-typed", "--no-emoji"]),
    ]);
    return { ok: results.every((result) => result.ok), output: results.map((result) => result.output).join("\n") };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A lockfile that lost a platform's binaries installs here and breaks for everybody else; one with URLs binds everybody to one registry. */
async function checkLockfile() {
  const lockfile = readFileSync(join(root, "package-lock.json"), "utf8");
  const urls = lockfile.split("\n").filter((line) => line.includes('"resolved"') && !line.includes('"resolved": "node_modules/'));
  const dryRun = await run("npm", ["ci", "--dry-run", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]);
  const problems = [];
  if (urls.length > 0)
    problems.push(`package-lock.json names ${urls.length} download URLs; .npmrc has the setting that leaves them out: install again`);
  if (!dryRun.ok || /\bMissing\b/.test(dryRun.output)) problems.push(dryRun.output);
  return { ok: problems.length === 0, output: problems.join("\n") };
}

/** The files that belong to the project: git's list, or without git everything that .gitignore leaves. */
async function projectFiles() {
  const git = await run("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
  if (git.ok) return git.stdout.split("\0").filter((file) => file !== "");
  const ignored = readFileSync(join(root, ".gitignore"), "utf8")
    .split("\n")
    .map((line) => line.replace(/\/$/, ""));
  const walk = (folder) =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      if (entry.name === ".git" || ignored.includes(entry.name)) return [];
      const path = join(folder, entry.name);
      return entry.isDirectory() ? walk(path) : [relative(root, path)];
    });
  return walk(root);
}

async function checkText() {
  const findings = [];
  for (const file of await projectFiles()) {
    const path = join(root, file);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile() || stat.size > TEXT_LIMIT_BYTES) continue;
    const text = readFileSync(path, "utf8");
    if (text.includes("\0")) continue;
    const lines = text.split("\n");
    for (const [pattern, what] of FORBIDDEN) {
      const at = lines.findIndex((line) => pattern.test(line));
      if (at >= 0) findings.push(`${file}:${at + 1} holds ${what}: ${pattern.exec(lines[at])?.[0]}`);
    }
  }
  return { ok: findings.length === 0, output: findings.join("\n") };
}

// The slow ones first, so that the short ones fill the gaps.
const CHECKS = {
  package: checkPackage,
  lint: () => built.then(() => run("oxlint", ["--type-aware"])),
  unused: () => run("knip", ["--no-progress", "--no-config-hints"]),
  lockfile: checkLockfile,
  types: () => run("tsc", ["--noEmit"]),
  docs: () => run("node", ["tools/api-reference.mjs", "--check"]),
  format: () => run("oxfmt", ["--check", "."]),
  text: checkText,
};

async function runChecks(names) {
  const waiting = [...names];
  let failed = 0;
  const worker = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      const startedAt = performance.now();
      const { ok, output } = await CHECKS[name]();
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      console.log(
        `${ok ? "ok    " : "FAILED"} ${name.padEnd(9)} ${seconds.padStart(5)} s${ok ? "" : `\n${output.trimEnd().replace(/^/gm, "    ")}`}`,
      );
      if (!ok) failed += 1;
    }
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), names.length) }, worker));
  console.log(failed === 0 ? `all ${names.length} checks passed` : `${failed} of ${names.length} checks failed`);
  return failed === 0;
}

function chosenChecks() {
  const all = Object.keys(CHECKS);
  const { values } = parseArgs({ options: { only: { type: "string" } } });
  const names = values.only === undefined ? all : values.only.split(",").map((name) => name.trim());
  const unknown = names.filter((name) => !all.includes(name));
  if (unknown.length > 0) throw new Error(`no check is called ${unknown.join(", ")}; there are ${all.toSorted().join(", ")}`);
  return names;
}

try {
  process.exitCode = (await runChecks(chosenChecks())) ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
