// Builds and packs once for all tests of this tier, beside the project's own dist/, which other checks may be using.
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** The packed archive. */
    readonly archive: string;
  }
}

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** npm takes these whatever `files` says. */
const ALWAYS = ["package.json", "README.md", "LICENSE"];

export async function setup(project: TestProject): Promise<() => void> {
  const folder = mkdtempSync(join(tmpdir(), "quotaguard-package-"));
  const stage = join(folder, "stage");
  const { files } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { files: readonly string[] };
  for (const name of [...ALWAYS, ...files]) {
    if (name !== "dist" && existsSync(join(ROOT, name))) cpSync(join(ROOT, name), join(stage, name), { recursive: true });
  }
  const compiler = join(ROOT, "node_modules/@typescript/native/bin/tsc");
  await said(run(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", join(stage, "dist")], { cwd: ROOT }));
  const inShell = process.platform === "win32";
  await said(run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder], { cwd: stage, shell: inShell }));
  const name = readdirSync(folder).find((file) => file.endsWith(".tgz"));
  if (name === undefined) throw new Error("npm pack made no archive");
  project.provide("archive", join(folder, name));
  return () => rmSync(folder, { recursive: true, force: true });
}

/** What a failing program says, stands on stdout with some and on stderr with others. */
async function said(running: Promise<unknown>): Promise<void> {
  await running.catch((error: unknown) => {
    const { message, stdout = "", stderr = "" } = error as { message: string; stdout?: string; stderr?: string };
    throw new Error(`${message}\n${stdout}${stderr}`, { cause: error });
  });
}
