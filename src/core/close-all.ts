import type { MaybePromise } from "./time.ts";

/** Runs all steps in this order, whatever becomes of single ones; then throws the first problem, if there was any. */
export async function closeAll(steps: readonly (() => MaybePromise<void>)[]): Promise<void> {
  const problems: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      problems.push(error);
    }
  }
  if (problems.length > 0) throw problems[0];
}
