// The variants in which the native tests are built, and whether GoogleTest is there for them. The bench programs are
// built with the release variant, so that the core is compiled once for both.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { build, configureOnce } from "./cmake.cjs";
import { findNvcc } from "./cuda.cjs";
import { findProgram, root } from "./shared.mjs";

const SANITIZE = "-DLONGHAUL_SANITIZE=address,undefined";
const EMULATOR = ["-DCMAKE_BUILD_TYPE=Release", "-DLONGHAUL_TESTS=ON", "-DLONGHAUL_EMULATOR=ON"];
const VARIANTS = {
  release: {
    dir: "build-tests",
    options: ["-DCMAKE_BUILD_TYPE=Release", "-DLONGHAUL_TESTS=ON", "-DLONGHAUL_BENCH=ON"],
  },
  asan: { dir: "build-asan", options: ["-DCMAKE_BUILD_TYPE=Debug", "-DLONGHAUL_TESTS=ON", SANITIZE] },
  fuzz: {
    dir: "build-fuzz",
    options: ["-DCMAKE_BUILD_TYPE=Debug", "-DLONGHAUL_FUZZ=ON", SANITIZE, "-DCMAKE_CXX_COMPILER=clang++"],
  },
  // The CUDA backend on the emulator: only the programs that use it are built, and the tests with this label run.
  emulator: { dir: "build-emulator", options: EMULATOR, label: "emulator", target: "emulated_tests" },
  "emulator-asan": {
    dir: "build-emulator-asan",
    // Undefined behaviour of the host code is looked for by the variant asan.
    options: [...EMULATOR, "-DLONGHAUL_SANITIZE=address"],
    label: "emulator",
    target: "emulated_tests",
  },
  "emulator-race": {
    dir: "build-emulator-race",
    options: [...EMULATOR, "-DLONGHAUL_EMULATOR_RACE=ON"],
    label: "emulator",
    target: "emulated_tests",
  },
};

export const buildDirectory = (variant) => path.join(root, VARIANTS[variant].dir);

export async function configureNativeTests(variant) {
  const dir = buildDirectory(variant);
  const generator = findProgram("ninja") ? ["-G", "Ninja"] : [];
  await configureOnce(dir, ["cmake", "-S", root, "-B", dir, ...generator, ...VARIANTS[variant].options]);
  return dir;
}

export async function buildNativeTests(variant, targets = []) {
  const { target } = VARIANTS[variant];
  const only = target === undefined ? [] : [target];
  await build(await configureNativeTests(variant), targets.length > 0 ? targets : only);
}

/** The label of the tests that belong to the variant, when it is not all of them. */
export const testLabel = (variant) => VARIANTS[variant].label;

/** Why this variant cannot be built here, if it cannot. */
export function missingFor(variant) {
  if (!variant.startsWith("emulator") || findCudaHeaders() !== undefined) return undefined;
  return `${variant} is left out: the headers of the CUDA toolkit are missing (cuda_bf16.h below /usr/local/cuda/include or beside nvcc)`;
}

function findCudaHeaders() {
  const nvcc = findNvcc();
  const directories = ["/usr/local/cuda/include"];
  if (nvcc !== undefined) directories.push(path.join(path.dirname(nvcc), "..", "include"));
  return directories.find((directory) => existsSync(path.join(directory, "cuda_bf16.h")));
}

/** Whether the last configuration of this variant found GoogleTest. */
export function foundGoogleTest(variant) {
  const cache = path.join(buildDirectory(variant), "CMakeCache.txt");
  return (
    existsSync(cache) &&
    /^(GTest_DIR|GTEST_LIBRARY):[A-Z]+=(?!.*NOTFOUND).+$/m.test(readFileSync(cache, "utf8"))
  );
}
