// Runs the command line and the examples as real processes, and waits for what they print instead of for time.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const MAIN = join(ROOT, "src/cli/main.ts");

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Child {
  readonly pid: number;
  /** What matches in the first lines of either stream that do, printed already or still to come. Rejects when the process ends before. */
  lines(pattern: RegExp, count: number): Promise<readonly string[]>;
  line(pattern: RegExp): Promise<string>;
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<Ended>;
}

export interface ChildOptions {
  readonly cwd: string;
  /** Nothing of the test run's own environment but PATH is passed on. */
  readonly env?: Readonly<Record<string, string>>;
}

const running = new Set<Child>();

function run(file: string, args: readonly string[], { cwd, env = {} }: ChildOptions): Child {
  const path = [join(ROOT, "node_modules/.bin"), process.env["PATH"] ?? ""].join(delimiter);
  const child = spawn(file, args, { cwd, env: { PATH: path, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const lines: string[] = [];
  const watchers = new Set<() => void>();
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => (texts[name] += text));
    createInterface({ input: child[name] }).on("line", (line) => {
      lines.push(line);
      for (const look of watchers) look();
    });
  }
  let over = false;
  const ended = once(child, "close").then(([code, signal]): Ended => {
    over = true;
    running.delete(handle);
    for (const look of watchers) look();
    return { code: code as number | null, signal: signal as NodeJS.Signals | null, ...texts };
  });
  const handle: Child = {
    pid: child.pid ?? 0,
    ended,
    kill: (signal) => void child.kill(signal),
    lines: (pattern, count) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = lines.flatMap((line) => pattern.exec(line)?.[0] ?? []);
          if (found.length < count && !over) return;
          watchers.delete(look);
          if (found.length >= count) resolve(found.slice(0, count));
          else reject(new Error(`the process ended after ${found.length} of ${count} lines like ${pattern}\n${texts.stdout}\n${texts.stderr}`));
        };
        watchers.add(look);
        look();
      }),
    line: async (pattern) => (await handle.lines(pattern, 1))[0] as string,
  };
  running.add(handle);
  return handle;
}

/** Runs code as a module of a project that has the package installed. */
export const script = (code: string, options: ChildOptions): Child =>
  run(process.execPath, ["--conditions=@quotaguard/source", "--input-type=module", "-e", code], options);

/** `quotaguard <args>`, from the source. */
export const quotaguard = (args: readonly string[], options: ChildOptions): Child =>
  run(process.execPath, ["--conditions=@quotaguard/source", MAIN, ...args], options);

/** A command as a shell would run it. */
export const shell = (command: string, options: ChildOptions): Child => run("bash", ["-c", command], options);

/** Ends what a failed test left behind. */
export async function endChildren(): Promise<void> {
  const left = [...running];
  for (const child of left) child.kill("SIGKILL");
  await Promise.all(left.map(({ ended }) => ended));
}

export interface Folder {
  readonly path: string;
  write(name: string, text: string): string;
  remove(): void;
}

export function folder(): Folder {
  const path = mkdtempSync(join(tmpdir(), "quotaguard-test-"));
  return {
    path,
    write(name, text) {
      const file = join(path, name);
      writeFileSync(file, text);
      return file;
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** What `serve --json` prints first. */
export interface Serving {
  readonly child: Child;
  readonly url: string;
}

/** Starts `serve --json` and resolves once it listens. */
export async function serving(args: readonly string[], options: ChildOptions): Promise<Serving> {
  const child = quotaguard(["serve", "--json", ...args], options);
  const { url } = JSON.parse(await child.line(/.*"url":.*/)) as { url: string };
  return { child, url };
}
