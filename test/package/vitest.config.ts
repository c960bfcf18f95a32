import { defineConfig } from "vitest/config";

// Apart from the other tests: it builds a prebuild, packs and installs, which takes minutes.
export default defineConfig({
  test: {
    pool: "forks",
    include: ["test/package/*.test.ts"],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    watch: false,
  },
});
