// Runs one scene: its program in a Node of its own, in a folder of its own, and the page's own `curl` lines against it.
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import ts from "typescript";
import { answerDifferences, httpParts, textAlike } from "./alike.ts";
import { ROOT, secretsOf, type Stage } from "./stage.ts";
import type { Scene, Step } from "./scenes.ts";

const run = promisify(execFile);
const HERE = fileURLToPath(new URL(".", import.meta.url));
const PATH = [join(ROOT, "node_modules/.bin"), process.env["PATH"] ?? ""].join(delimiter);

/** A snippet takes a second or two where nothing else runs. */
const PATIENCE_MS = 60_000;

/** The port on which a snippet's surroundings listen when it does not say so itself. */
const USUAL_PORT = 3000;

/** The program as it runs: what stands around it, and the app of its surroundings listening. */
export function programText({ given, program }: Scene): string {
  const imports = given.filter((name) => name !== "redis" && name !== "postgres");
  const before = imports.length === 0 ? "" : `import { ${imports.join(", ")} } from "../surroundings.ts";\n`;
  const after = given.includes("app") ? `\napp.listen(${USUAL_PORT});\n` : "\nexport {};\n";
  return `${before}${program?.code ?? ""}${after}`;
}

/** Sends what is meant for OpenAI to the scripted provider. Everything else runs as pasted. */
const toScripted = (code: string): string =>
  code
    .replaceAll(/apiKey: process\.env\.OPENAI_API_KEY(?! *,? *baseUrl)/g, "apiKey: process.env.OPENAI_API_KEY, baseUrl: process.env.OPENAI_BASE_URL")
    .replaceAll(/api_key: "\$\{OPENAI_API_KEY\}"(?!, base_url)/g, 'api_key: "${OPENAI_API_KEY}", base_url: "${OPENAI_BASE_URL}"');

/** Decorators do not strip: TypeScript is compiled, file by file. */
const toJavaScript = (code: string): string =>
  ts.transpileModule(code, {
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      experimentalDecorators: true,
      emitDecoratorMetadata: true,
    },
  }).outputText;

const isServing = ({ command }: Step): boolean => /^npx quotaguard serve\b/.test(command);

interface Running {
  readonly child: ChildProcess;
  readonly printed: { stdout: string; stderr: string };
  /** By the port that the program asked for. */
  readonly ports: Map<number, number>;
  readonly ended: Promise<number | null>;
  /** Resolves when something has changed: a line, a port, the end. */
  changed(): Promise<void>;
}

export interface Rehearsed {
  /** What is not as the page says. */
  readonly problems: readonly string[];
}

export async function rehearse(scene: Scene, stage: Stage, number: number): Promise<Rehearsed> {
  const folder = join(stage.path, `scene-${number}`);
  mkdirSync(folder, { recursive: true });
  if (scene.config !== null) writeFileSync(join(folder, "quotaguard.yaml"), toScripted(scene.config));
  const args = programArgs(scene, folder);
  if (args === null) return { problems: [] };
  const env = environmentOf(scene, stage);
  const running = start(args, folder, env);
  // Whatever it waits for: its own words tell more than a test that was cut off.
  const late = setTimeout(() => running.child.kill("SIGKILL"), PATIENCE_MS);
  try {
    const problems = await play(scene, running, { folder, env });
    return { problems: running.child.signalCode === "SIGKILL" ? [`it was not over after ${PATIENCE_MS} ms`, ...problems] : problems };
  } finally {
    clearTimeout(late);
    if (running.child.exitCode === null && running.child.signalCode === null) running.child.kill("SIGKILL");
    await running.ended;
  }
}

/** Servers are for those who ask: a gateway that finds one in its environment uses it. */
function environmentOf({ config, program, steps, given }: Scene, { env, servers }: Stage): Readonly<Record<string, string>> {
  const secrets = [config ?? "", program?.code ?? "", ...steps.map(({ command }) => command)].map(secretsOf);
  return Object.assign({}, env, ...given.map((name) => servers[name] ?? {}), ...secrets) as Record<string, string>;
}

/** Where a scene plays. */
interface Place {
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
}

function programArgs(scene: Scene, folder: string): readonly string[] | null {
  if (scene.program) {
    const text = programText(scene);
    const file = join(folder, "scene.mjs");
    writeFileSync(file, toScripted(scene.program.language === "ts" ? toJavaScript(text) : text));
    return [file];
  }
  const serving = scene.steps.find(isServing);
  if (!serving) return null;
  return [join(ROOT, "src/cli/main.ts"), ...serving.command.split(/\s+/).slice(2)];
}

function start(args: readonly string[], cwd: string, env: Readonly<Record<string, string>>): Running {
  const flags = ["--conditions=@quotaguard/source", "--import", join(HERE, "only-this-machine.mjs")];
  const child = spawn(process.execPath, [...flags, ...args], { cwd, env: { PATH, ...env }, stdio: ["ignore", "pipe", "pipe", "ipc"] });
  const printed = { stdout: "", stderr: "" };
  const ports = new Map<number, number>();
  let change = Promise.withResolvers<void>();
  const tell = (): void => {
    change.resolve();
    change = Promise.withResolvers();
  };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      printed[name] += text;
      tell();
    });
  }
  child.on("message", ({ asked, port }: { asked: number; port: number }) => {
    ports.set(asked, port);
    tell();
  });
  const ended = once(child, "close").then(([code]) => {
    tell();
    return code as number | null;
  });
  return { child, printed, ports, ended, changed: () => change.promise };
}

const isOver = ({ child }: Running): boolean => child.exitCode !== null || child.signalCode !== null;
const said = ({ printed }: Running): string => `it printed:\n${printed.stdout}${printed.stderr}`;

async function play(scene: Scene, running: Running, place: Place): Promise<readonly string[]> {
  const calls = scene.steps.filter(({ command }) => command.startsWith("curl"));
  const listens = calls.length > 0 || /\.listen\((?!0\b)/.test(programText(scene)) || scene.steps.some(isServing);
  if (!listens) {
    const code = await running.ended;
    if (code !== 0) return [`the program ended with ${code}; ${said(running)}`];
    return outputProblems(scene, running);
  }
  while (running.ports.size === 0 && !isOver(running)) await running.changed();
  if (running.ports.size === 0) return [`the program ended before it listened; ${said(running)}`];
  const problems: string[] = [];
  for (const call of calls) problems.push(...(await answerProblems(call, running, place)));
  while (problems.length === 0 && outputProblems(scene, running).length > 0 && !isOver(running)) await running.changed();
  problems.push(...outputProblems(scene, running));
  if (isOver(running)) problems.push(`the program ended while it should serve; ${said(running)}`);
  return problems.length > 0 ? [...problems, said(running)] : [];
}

/** Each shown line is printed, in this order. */
function outputProblems({ output }: Scene, running: Running): readonly string[] {
  if (output === null) return [];
  const lines = running.printed.stdout.split("\n");
  let from = 0;
  for (const shown of output.trimEnd().split("\n")) {
    const at = lines.findIndex((line, index) => index >= from && textAlike(shown.trim(), line.trim()));
    if (at < 0) return [`the page shows the line ${JSON.stringify(shown)}; ${said(running)}`];
    from = at + 1;
  }
  return [];
}

async function answerProblems(step: Step, running: Running, { folder, env }: Place): Promise<readonly string[]> {
  const command = step.command.replaceAll(
    /\b(?:localhost|127\.0\.0\.1):(\d+)/g,
    (_, port: string) => `127.0.0.1:${running.ports.get(Number(port)) ?? port}`,
  );
  const at = `line ${step.line}: ${step.command}`;
  const { stdout } = await run("bash", ["-c", `set -o pipefail; ${command.replace(/^curl/, "curl -sS -i --max-time 15")}`], {
    cwd: folder,
    env: { PATH, KEY: MANAGEMENT_KEY, ...env },
  }).catch((error: unknown) => ({ stdout: printedBy(error) }));
  if (step.answer) return answerDifferences(step.answer.language, step.answer.code, stdout).map((line) => `${at}\n${line}`);
  const status = Number(httpParts(stdout).status);
  const isFine = step.status === null ? status >= 200 && status < 300 : status === step.status;
  return isFine ? [] : [`${at}\nit should be ${step.status ?? "2xx"}, it is\n${stdout}`];
}

/** What `$KEY` is in the pages' `curl` lines, and `${MANAGEMENT_KEY}` in their configuration. */
const MANAGEMENT_KEY = secretsOf("${MANAGEMENT_KEY}")["MANAGEMENT_KEY"] as string;

/** Of a command that failed. */
export function printedBy(error: unknown): string {
  const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
  return `${stdout}${stderr}`;
}
