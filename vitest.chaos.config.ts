import { defineConfig } from "vitest/config";

import base from "./vitest.config.ts";

/** `npm run test:chaos`: killed processes and broken connections, one file at a time, because they measure time and count what a machine can do. */
export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: ["test/chaos/**/*.chaos.test.ts"],
    exclude: [],
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 60_000,
    // What an experiment has counted is its result: it is shown whether it passes or not.
    disableConsoleIntercept: true,
  },
});
