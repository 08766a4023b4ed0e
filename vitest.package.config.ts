import { defineConfig } from "vitest/config";

/** `npm run test:package`: the archive that would be published, installed from the registry into empty projects, as its users do. */
export default defineConfig({
  test: {
    include: ["test/package/**/*.test.ts"],
    globalSetup: ["test/package/archive.ts"],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 240_000,
    reporters: ["default", "./tools/summary-reporter.ts"],
  },
});
