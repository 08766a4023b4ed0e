import { defineConfig } from "vitest/config";

export default defineConfig({
  ssr: { resolve: { conditions: ["@quotaguard/source", "node", "import", "default"] } },
  resolve: { conditions: ["@quotaguard/source", "node", "import", "default"] },
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/chaos/**"],
    testTimeout: 20_000,
    reporters: ["default", "./tools/summary-reporter.ts"],
  },
});
