// Builds the native tests and the golden program in build-tests/ (Release), or the named targets only:
// node scripts/build-tests.mjs [--target NAME]...
import { parseArgs } from "node:util";
import { buildNativeTests } from "./native-tests.mjs";

const { values } = parseArgs({ options: { target: { type: "string", multiple: true, default: [] } } });
await buildNativeTests("release", values.target).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
