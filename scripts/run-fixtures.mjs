// Runs golden cases from anywhere: npm run fixtures -- DIRECTORY... (--help tells the options). The golden program
// must be built (scripts/build-tests.mjs --target golden) and so must the package; the TypeScript part of the runner
// is bundled here.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { buildDirectory } from "./native-tests.mjs";
import { root, runTool } from "./shared.mjs";

const require = createRequire(import.meta.url);
const program = path.join(buildDirectory("release"), "test", "native", "golden");
const config = path.join("test", "golden", "tsdown.config.ts");
// Its words go to stderr: stdout is the report's.
const stdio = ["ignore", 2, "inherit"];
const built = runTool("tsdown", ["--config", config, "--log-level", "error"], { stdio });
if (built !== 0) process.exit(1);
async function loadAddon() {
  const { Engine } = await import("../dist/index.mjs");
  return { Engine, runKernel: require("../binding.cjs").runKernel };
}

const { main } = await import(pathToFileURL(path.join(root, "build", "fixtures", "main.mjs")).href);
process.exitCode = await main(process.argv.slice(2), { program, loadAddon });
