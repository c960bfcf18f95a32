// Builds liblonghaul_cuda.so and puts it beside the addon: node scripts/build-cuda.mjs [--architectures LIST]
//   --architectures LIST  as CMake's CUDA_ARCHITECTURES, "90a-real" for example; default: every GPU there are kernels for
//   --package             brings the library, if it was ever built here, up to date and puts it into prebuilds/
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { buildLibrary, findNvcc, install, library } from "./cuda.cjs";
import { root } from "./shared.mjs";

async function main() {
  const { values } = parseArgs({ options: { architectures: { type: "string" }, package: { type: "boolean" } } });
  if (values.package && !existsSync(library)) {
    console.log("longhaul: no CUDA library was built (npm run build:cuda): the package is made without one");
    return;
  }
  if (findNvcc() === undefined) throw new Error("there is no nvcc on PATH or in /usr/local/cuda/bin");
  await buildLibrary({ architectures: values.architectures });
  if (!values.package) return install(path.join(root, "build", "Release"));
  const directory = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);
  install(directory);
  execFileSync("strip", ["--strip-unneeded", path.join(directory, path.basename(library))]);
}

await main().catch((error) => {
  console.error(`longhaul: ${error.message}`);
  process.exitCode = 1;
});
