// A scene is what a reader would do with some fences in a row: make a file of the configuration, a program of the code, call it, compare the answers.
import type { Fence } from "./fences.ts";

/** What a shell fence asks for, and what the page says comes back. */
export interface Step {
  readonly command: string;
  readonly line: number;
  /** What the page shows as the answer; null = it only has to work. */
  readonly answer: Fence | null;
  /** `# 429` at its end. */
  readonly status: number | null;
}

export interface Scene {
  readonly page: string;
  readonly line: number;
  readonly given: readonly string[];
  readonly config: string | null;
  readonly program: { readonly language: "js" | "ts"; readonly code: string } | null;
  /** What the program prints, as the page shows it. */
  readonly output: string | null;
  readonly steps: readonly Step[];
}

type Open = { -readonly [K in keyof Scene]: Scene[K] } & { steps: Step[] };

/** Lines of a shell fence, with those that end in a backslash joined to the next. */
export const commandsOf = (code: string): readonly string[] =>
  code
    .replaceAll(/\\\n\s*/g, "")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));

const ANSWERS = ["json", "http", "text"];

export function scenesOf(fences: readonly Fence[]): readonly Scene[] {
  const scenes: Open[] = [];
  let waiting: Step[] = [];
  for (const fence of fences) {
    if (fence.notRun !== null) continue;
    const last = scenes.at(-1);
    const { language, code } = fence;
    if (language === "yaml" || language === "js" || language === "ts") {
      const scene = fence.isContinued && last ? last : newScene(fence);
      if (scene !== last) scenes.push(scene);
      scene.given = [...scene.given, ...fence.given.filter((name) => !scene.given.includes(name))];
      if (language === "yaml") scene.config = code;
      else scene.program = { language, code: `${scene.program?.code ?? ""}${code}` };
      waiting = [];
    } else if (language === "sh") {
      const scene = last ?? newScene(fence);
      if (!last) scenes.push(scene);
      waiting = commandsOf(code).map((command) => stepOf(command, fence.line));
      scene.steps.push(...waiting);
      waiting = waiting.filter(({ command }) => command.startsWith("curl"));
    } else if (ANSWERS.includes(language)) {
      const step = fence.isPrinted ? undefined : waiting.pop();
      if (step && last) last.steps[last.steps.indexOf(step)] = { ...step, answer: fence };
      else if (last && language === "text") last.output = code;
      else throw new Error(`${fence.page}:${fence.line}: an answer without a question`);
    } else throw new Error(`${fence.page}:${fence.line}: no fence may be called "${language}"`);
  }
  return scenes;
}

const newScene = ({ page, line, given }: Fence): Open => ({ page, line, given, config: null, program: null, output: null, steps: [] });

function stepOf(command: string, line: number): Step {
  const [, text = command, status] = /^(.*?)\s+# (\d{3})\b.*$/.exec(command) ?? [];
  return { command: text, line, answer: null, status: status === undefined ? null : Number(status) };
}
