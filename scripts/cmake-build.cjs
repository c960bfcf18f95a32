// Builds the addon: node scripts/cmake-build.cjs [OUT_DIR] [Release|Debug]
// binding.gyp calls it, so node-gyp, node-gyp-build and prebuildify end here, and so does `npm run build:native`.
const path = require("node:path");
const { build, configureOnce } = require("./cmake.cjs");

const root = path.join(__dirname, "..");
// cmake-js would use build/, where node-gyp keeps its own Makefile.
const buildDir = path.join(root, "build-cmake");
const outDir = path.resolve(process.argv[2] ?? path.join(root, "build", "Release"));
const config = process.argv[3] ?? "Release";

const env = { ...process.env };
// Inside node-gyp's make: its jobserver is not ours.
for (const name of ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"]) delete env[name];

function cmakeJs() {
  try {
    return path.join(path.dirname(require.resolve("cmake-js/package.json")), "bin", "cmake-js");
  } catch {
    throw new Error("building longhaul from source needs: npm install cmake-js node-addon-api");
  }
}

async function main() {
  const configure = [process.execPath, cmakeJs(), "configure", "--log-level", "error"];
  configure.push("-d", root, "-O", buildDir, "--config", config);
  configure.push(
    `--CDCMAKE_LIBRARY_OUTPUT_DIRECTORY=${outDir}`,
    "--CDLONGHAUL_ADDON=ON",
    "--CDLONGHAUL_TESTS=OFF",
  );
  await configureOnce(buildDir, configure, env);
  await build(buildDir, ["longhaul"], env);
}

main().catch((error) => {
  console.error(`longhaul: ${error.message}`);
  process.exit(1);
});
