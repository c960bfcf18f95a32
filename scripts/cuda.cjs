// Builds liblonghaul_cuda.so, in a directory of its own: nvcc takes minutes, and most builds need none of it.
const fs = require("node:fs");
const path = require("node:path");
const { build, configureOnce } = require("./cmake.cjs");

const root = path.join(__dirname, "..");
const buildDir = path.join(root, "build-cuda");
const library = path.join(buildDir, "native", "cuda", "liblonghaul_cuda.so");

const onPath = (name) =>
  (process.env.PATH ?? "")
    .split(path.delimiter)
    .map((directory) => path.join(directory, name))
    .find((file) => fs.existsSync(file));

/** The nvcc that CMake will find, or undefined. */
const findNvcc = () =>
  process.env.CUDACXX ?? onPath("nvcc") ?? ["/usr/local/cuda/bin/nvcc"].find((file) => fs.existsSync(file));

/** Builds the library for every GPU the package supports, or for `architectures` (as CMake's CUDA_ARCHITECTURES). */
async function buildLibrary({ architectures } = {}) {
  const configure = ["cmake", "-S", root, "-B", buildDir, ...(onPath("ninja") ? ["-G", "Ninja"] : [])];
  configure.push("-DCMAKE_BUILD_TYPE=Release", "-DLONGHAUL_CUDA=ON");
  configure.push(`-DLONGHAUL_CUDA_LAUNCHER=${path.join(__dirname, "ptxas-log.sh")}`);
  if (architectures !== undefined) configure.push(`-DLONGHAUL_CUDA_ARCHITECTURES=${architectures}`);
  await configureOnce(buildDir, configure);
  await build(buildDir, ["longhaul_cuda"]);
  return library;
}

/** Puts the library beside an addon. */
function install(directory) {
  fs.mkdirSync(directory, { recursive: true });
  const target = path.join(directory, path.basename(library));
  // A new file: the old one may be mapped by a running process.
  fs.rmSync(target, { force: true });
  fs.copyFileSync(library, target);
}

module.exports = { buildDir, library, findNvcc, buildLibrary, install };
