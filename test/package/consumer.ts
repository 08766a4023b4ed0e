// An empty project that installs the archive, and runs what a user would run in it.
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { inject } from "vitest";

const run = promisify(execFile);
const PROJECTS = fileURLToPath(new URL("projects/", import.meta.url));
const COMPILER = fileURLToPath(new URL("../../node_modules/@typescript/native/bin/tsc", import.meta.url));

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Consumer {
  readonly path: string;
  /** Runs a file of the project in Node. */
  node(...args: readonly string[]): Promise<Ran>;
  /** The project's own TypeScript settings, by the compiler of this repository. Returns what it complains about. */
  compile(): Promise<string>;
  /** The package's command. */
  quotaguard(...args: readonly string[]): Promise<Ran>;
  write(name: string, text: string): void;
  remove(): void;
}

export interface ConsumerOptions {
  readonly type: "commonjs" | "module";
  readonly dependencies: Readonly<Record<string, string>>;
  /** Files of `projects/` that it begins with. */
  readonly files: readonly string[];
  readonly compilerOptions?: Readonly<Record<string, unknown>>;
}

/** Neither npm's nor vitest's nor Node's own settings of this run; but what the network needs is what it needs here. */
const environment = (): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(?:npm_(?!config_)|NODE_(?!EXTRA_CA_CERTS)|VITEST|TEST$|INIT_CWD$)/.test(name)),
  ),
  // Networks with an authority of their own have it in the system's list.
  NODE_USE_SYSTEM_CA: "1",
});

async function ran(file: string, args: readonly string[], cwd: string): Promise<Ran> {
  try {
    return {
      code: 0,
      ...(await run(file, args, { cwd, env: environment(), timeout: 220_000, shell: process.platform === "win32" && file === "npm" })),
    };
  } catch (error) {
    const { code, stdout = "", stderr = "", message } = error as { code?: unknown; stdout?: string; stderr?: string; message: string };
    if (typeof code !== "number") throw new Error(`${message}\n${stdout}${stderr}`, { cause: error });
    return { code, stdout, stderr };
  }
}

export async function consumer({ type, dependencies, files, compilerOptions = {} }: ConsumerOptions): Promise<Consumer> {
  const path = mkdtempSync(join(tmpdir(), "quotaguard-consumer-"));
  const write = (name: string, text: string): void => writeFileSync(join(path, name), text);
  write(
    "package.json",
    JSON.stringify({ name: "consumer", private: true, type, dependencies: { quotaguard: `file:${inject("archive")}`, ...dependencies } }),
  );
  const strict = { target: "ES2023", module: "NodeNext", strict: true, skipLibCheck: false, outDir: "build", types: ["node"], ...compilerOptions };
  write("tsconfig.json", JSON.stringify({ compilerOptions: strict, include: ["*.ts"] }));
  for (const file of files) cpSync(join(PROJECTS, file), join(path, file));
  const installed = await ran("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", "--no-package-lock"], path);
  const remove = (): void => rmSync(path, { recursive: true, force: true });
  if (installed.code !== 0) remove();
  if (installed.code !== 0) throw new Error(`npm install of ${Object.keys(dependencies).join(", ")} failed\n${installed.stdout}${installed.stderr}`);
  return {
    path,
    write,
    node: (...args) => ran(process.execPath, args, path),
    compile: async () => (await ran(process.execPath, [COMPILER, "-p", "."], path)).stdout,
    quotaguard: (...args) => ran(process.execPath, [join(path, "node_modules/.bin/quotaguard"), ...args], path),
    remove,
  };
}
