import { join, resolve } from "node:path";
import { defineConfig } from "vitest/config";

const root = resolve(import.meta.dirname, "../..");

/** JavaScript against an addon whose device "cuda" is an emulated GPU, which can be made to fail. */
export default defineConfig({
  test: {
    root,
    pool: "forks",
    include: ["test/emulated/**/*.test.ts"],
    // Where that addon is; node-gyp-build looks there first. The build directory is that of scripts/native-tests.mjs.
    env: { LONGHAUL_PREBUILD: process.env.LONGHAUL_PREBUILD ?? join(root, "build-emulator/addon") },
    testTimeout: 120_000,
    hookTimeout: 120_000,
    watch: false,
  },
});
