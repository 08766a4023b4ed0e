import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { onTestFinished } from "vitest";

import type { Logger } from "../../src/core/logger.ts";

/** A folder that goes when the test ends. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "quotaguard-sqlite-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface LogLine {
  readonly level: keyof Logger;
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

export function recordingLogger(): { logger: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const write = (level: keyof Logger) => (fields: object, message: string) => void lines.push({ level, fields: { ...fields }, message });
  return { logger: { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") }, lines };
}

export interface Writer {
  readonly child: ChildProcess;
  /** What it printed so far, line by line. */
  readonly lines: string[];
  /** Resolves when that many lines are there, or when it ended before. */
  printed(count: number): Promise<void>;
  /** Resolves when it has ended and all it printed was read. */
  readonly ended: Promise<number | null>;
}

/** Runs `writer-process.ts`, a process of its own on the same database. */
export function writer(args: readonly string[], ids: { uid?: number; gid?: number } = {}): Writer {
  const script = fileURLToPath(new URL("writer-process.ts", import.meta.url));
  const child = spawn(process.execPath, ["--conditions=@quotaguard/source", "--no-warnings", script, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    ...ids,
  });
  // A test that fails half-way leaves nothing running.
  onTestFinished(() => void child.kill("SIGKILL"));
  const lines: string[] = [];
  let rest = "";
  let waiting: { count: number; resolve: () => void }[] = [];
  let over = false;
  const wake = (): void => {
    const ready = waiting.filter(({ count }) => over || lines.length >= count);
    waiting = waiting.filter((one) => !ready.includes(one));
    for (const { resolve } of ready) resolve();
  };
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
    wake();
  });
  const ended = new Promise<number | null>((resolve) => {
    child.on("close", (code) => {
      over = true;
      wake();
      resolve(code);
    });
  });
  return {
    child,
    lines,
    ended,
    printed: (count) =>
      new Promise((resolve) => {
        waiting.push({ count, resolve });
        wake();
      }),
  };
}
