import { defineConfig } from "tsdown";

// scripts/build-ts.mjs empties dist/: two configurations that clean one directory would race.
const common = { platform: "node", target: "node20", shims: true, clean: false } as const;

export default defineConfig([
  {
    ...common,
    entry: {
      index: "lib/index.ts",
      openai: "lib/server/index.ts",
      fastify: "lib/server/fastify.ts",
      express: "lib/server/express.ts",
    },
    format: ["esm", "cjs"],
    dts: true,
  },
  { ...common, entry: { cli: "lib/cli/main.ts" }, format: "esm", dts: false },
  // Run by both in a worker thread, which takes a file.
  { ...common, entry: { "solver-worker": "lib/planner/solver-worker.mjs" }, format: "esm", dts: false },
]);
