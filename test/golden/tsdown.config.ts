import { defineConfig } from "tsdown";

// The part of `npm run fixtures` that needs lib/: bundled beside the other build outputs, never published.
export default defineConfig({
  entry: { main: "main.ts", "solver-worker": "../../lib/planner/solver-worker.mjs" },
  outDir: "../../build/fixtures",
  format: "esm",
  platform: "node",
  target: "node20",
  dts: false,
});
