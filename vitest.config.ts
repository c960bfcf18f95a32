import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // Native code under test: a crash must end its own file only.
    pool: "forks",
    include: ["test/**/*.test.ts"],
    exclude: ["test/package/**", "test/fixtures/**", "**/node_modules/**"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    watch: false,
  },
});
