import { defineConfig } from "vitest/config";

// Imports of our own subpaths resolve to the source. Vitest hands these conditions to Node too, so "import" must not be among them: `require`
// inside a CommonJS package would then get ES modules.
const conditions = ["@quotaguard/source", "node"];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/chaos/**", "test/package/**"],
    globalSetup: ["test/setup/servers.ts"],
    testTimeout: 20_000,
    // Tests break things on purpose: what a guard without a logger says of it is heard where a test listens, and not printed.
    execArgv: ["--disable-warning=QuotaGuardWarning"],
    reporters: ["default", "./tools/summary-reporter.ts"],
  },
});
