import { expect, test } from "vitest";
import { ROOT, script } from "../helpers/child.ts";

/** Waits for a timer that does not keep the process alive. */
const waiting = (how: string): string => `
  import { awake } from "${ROOT}/src/core/awake.ts";
  import { systemClock } from "${ROOT}/src/core/time.ts";
  const work = new Promise((resolve) => systemClock.timer(20, resolve));
  ${how}.then(() => console.log("done"));`;

test("what is awaited keeps the process alive, and no longer than that", async () => {
  expect(await script(waiting("work"), { cwd: ROOT }).ended).toMatchObject({ code: 0, stdout: "" });
  expect(await script(waiting("awake(work)"), { cwd: ROOT }).ended).toMatchObject({ code: 0, stdout: "done\n" });
});

test("a failure passes through", async () => {
  const code = `import { awake } from "${ROOT}/src/core/awake.ts"; awake(Promise.reject(new Error("no"))).catch(({ message }) => console.log(message));`;
  expect(await script(code, { cwd: ROOT }).ended).toMatchObject({ code: 0, stdout: "no\n" });
});
