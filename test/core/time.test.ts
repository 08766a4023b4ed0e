import { expect, test } from "vitest";
import { andThen, isPromise, systemClock } from "../../src/core/time.ts";

test("what is there already is handed on at once", async () => {
  expect(andThen(2, (value) => value * 2)).toBe(4);
  expect(await andThen(Promise.resolve(2), (value) => value * 2)).toBe(4);
  expect(await andThen(2, (value) => Promise.resolve(value * 2))).toBe(4);
});

test.each<[unknown, boolean]>([
  [Promise.resolve(), true],
  [undefined, false],
  [null, false],
  [{}, false],
  [() => undefined, false],
])("%s is a promise: %s", (value, expected) => {
  expect(isPromise(value)).toBe(expected);
});

test("the real clock counts on, fires once and not when cancelled", async () => {
  const before = systemClock.monotonic();
  const fired: string[] = [];
  systemClock.timer(1, () => void fired.push("cancelled")).cancel();
  await new Promise<void>((resolve) => {
    const timer = systemClock.timer(1, () => {
      fired.push("fired");
      resolve();
    });
    timer.refresh();
  });
  expect(fired).toEqual(["fired"]);
  expect(systemClock.monotonic()).toBeGreaterThan(before);
  expect(Math.abs(systemClock.now() - Date.now())).toBeLessThan(1_000);
});

test("a timer of the real clock never keeps a process alive", () => {
  const hasRef = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const timer = systemClock.timer(60_000, () => undefined);
  expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout")).toHaveLength(hasRef);
  timer.cancel();
});
