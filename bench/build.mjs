// Builds what the bench runs: the package and the native bench programs.
import path from "node:path";
import { buildDirectory, buildNativeTests } from "../scripts/native-tests.mjs";
import { run } from "../scripts/shared.mjs";

export const nativeProgram = (name) => path.join(buildDirectory("release"), "bench", "native", name);

export const buildNative = (targets) => buildNativeTests("release", targets);

export function buildPackage() {
  if (run("npm", ["run", "--silent", "build"]) !== 0) throw new Error("npm run build failed");
}
