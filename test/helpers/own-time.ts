const STEP_MS = 5;
let steps = 0;
let timer: NodeJS.Timeout | undefined;

/**
 * Ms since the call, as this process has had them: the steps of a timer, each counted as one however late it comes. On a quiet machine that is the wall
 * clock; on a busy one, whose programs all wait for a core, it goes as slowly as what is measured. For "at once" and "within …", never for "not before",
 * nor for work that lets no timer run.
 */
export function ownTime(): () => number {
  timer ??= setInterval(() => (steps += 1), STEP_MS).unref();
  const from = steps;
  return () => (steps - from) * STEP_MS;
}
