// The folder in which snippets run: it has the project's packages and the project itself installed, and lies outside of it.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, cpSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export interface Stage {
  readonly path: string;
  /** Of each snippet; nothing else of the test run's own environment is passed on. */
  readonly env: Readonly<Record<string, string>>;
  /** Variables of the real servers, by the name that a page gives them. */
  readonly servers: Readonly<Record<string, Readonly<Record<string, string>>>>;
  remove(): void;
}

/** A value for each variable that a text reads: long enough for a key, and no two alike. */
export function secretsOf(text: string): Readonly<Record<string, string>> {
  const names = [...text.matchAll(/\$\{?([A-Z][A-Z0-9_]*)\b|process\.env\.([A-Z][A-Z0-9_]*)/g)].map((match) => (match[1] ?? match[2]) as string);
  return Object.fromEntries(
    names.filter((name) => !/URL$|^OPENAI_|^KEY$/.test(name)).map((name) => [name, `qg_value-of-${name.toLowerCase().replaceAll("_", "-")}`]),
  );
}

export function stage({ env, servers }: Pick<Stage, "env" | "servers">): Stage {
  const path = mkdtempSync(join(tmpdir(), "quotaguard-docs-"));
  writeFileSync(join(path, "package.json"), JSON.stringify({ private: true, type: "module" }));
  const modules = join(path, "node_modules");
  mkdirSync(modules);
  for (const name of readdirSync(join(ROOT, "node_modules"))) {
    if (!name.startsWith(".")) symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
  }
  symlinkSync(ROOT, join(modules, "quotaguard"), "dir");
  cpSync(fileURLToPath(new URL("surroundings.ts", import.meta.url)), join(path, "surroundings.ts"));
  // Each snippet loads the whole library: compiled once is enough.
  return { path, env: { ...env, NODE_COMPILE_CACHE: join(path, "compiled") }, servers, remove: () => rmSync(path, { recursive: true, force: true }) };
}
