import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterEach, expect, test, vi } from "vitest";
import { bundledPrices } from "../src/bundled-prices.ts";
import { testClock } from "../src/testing/clock.ts";
import { keptLogger } from "./core/context-kit.ts";

afterEach(() => {
  vi.doUnmock("@pydantic/genai-prices");
  vi.resetModules();
});

/** What is loaded when, in a Node of its own. */
const PROGRAM = `
import { registerHooks } from "node:module";
let isLoaded = false;
registerHooks({ load(url, context, next) { isLoaded ||= url.includes("genai-prices/"); return next(url, context); } });
const { createGuard } = await import("quotaguard");
const steps = [isLoaded];
for (const options of [{ prices: { book: false } }, {}]) {
  const guard = createGuard(options);
  await guard.ready();
  await guard.close();
  steps.push(isLoaded);
}
console.log(JSON.stringify(steps));
`;

test("the book is loaded by no import, not when it is switched off, and with a guard that starts", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--conditions=@quotaguard/source", "--input-type=module", "-e", PROGRAM], {
    cwd: new URL("..", import.meta.url),
  });
  expect(JSON.parse(stdout.trim().split("\n").at(-1) as string)).toEqual([false, false, true]);
});

test("is read once, and says nothing", async () => {
  const logger = keptLogger();
  const book = bundledPrices({ clock: testClock(), logger });
  expect(book.current).toEqual([]);
  await Promise.all([book.load(), book.load()]);
  const { current } = book;
  await book.load();
  expect([current.length, book.current === current, logger.lines]).toEqual([1, true, []]);
});

test("a book that never comes, or is empty, does not hold up the start, and prices nothing", async () => {
  for (const [answer, advance] of [
    [async () => new Promise(() => {}), 1_000],
    [async () => [], 0],
    [async () => null, 0],
    [async () => Promise.reject(new Error("broken")), 0],
  ] as const) {
    vi.resetModules();
    vi.doMock("@pydantic/genai-prices", () => ({ calcPrice: () => null, waitForUpdate: answer }));
    const { bundledPrices: fresh } = await import("../src/bundled-prices.ts");
    const [clock, logger] = [testClock(), keptLogger()];
    const book = fresh({ clock, logger });
    let isDone = false;
    const loading = book.load().then(() => (isDone = true));
    await expect
      .poll(() => {
        clock.advance(advance);
        return isDone;
      })
      .toBe(true);
    await loading;
    expect(book.current).toEqual([]);
    expect(logger.lines).toMatchObject([{ level: "warn", fields: { code: "QG_PRICE_BOOK" } }]);
  }
});
