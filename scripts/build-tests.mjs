// Builds the native tests and the golden program: node scripts/build-tests.mjs [--asan] [--target NAME]...
// Release in build-tests/; with --asan under AddressSanitizer and UndefinedBehaviorSanitizer in build-asan/.
import { parseArgs } from "node:util";
import { buildNativeTests } from "./native-tests.mjs";

const { values } = parseArgs({
  options: { asan: { type: "boolean", default: false }, target: { type: "string", multiple: true, default: [] } },
});
await buildNativeTests(values.asan ? "asan" : "release", values.target);
