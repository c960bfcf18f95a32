import { defineConfig } from "vitest/config";

/** Property tests of hostile input run this long each; .ci/run and `npm run test:long` set it. */
const fuzzSeconds = Number(process.env.LONGHAUL_FUZZ_SECONDS ?? 0);

export default defineConfig({
  test: {
    // Native code under test: a crash must end its own file only.
    pool: "forks",
    include: ["test/**/*.test.ts"],
    exclude: ["test/package/**", "test/emulated/**", "test/fixtures/**", "**/node_modules/**"],
    testTimeout: 120_000 + fuzzSeconds * 1000,
    hookTimeout: 120_000,
    watch: false,
  },
});
