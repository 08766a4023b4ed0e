import { defineConfig } from "vitest/config";

// Imports of our own subpaths resolve to the source. Vitest hands these conditions to Node too, so "import" must not be among them: `require`
// inside a CommonJS package would then get ES modules.
const conditions = ["@quotaguard/source", "node"];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/chaos/**"],
    globalSetup: ["test/setup/servers.ts"],
    testTimeout: 20_000,
    reporters: ["default", "./tools/summary-reporter.ts"],
  },
});
