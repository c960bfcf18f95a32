// The variants in which the native tests are built, and whether GoogleTest is there for them. The bench programs are
// built with the release variant, so that the core is compiled once for both.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { build, configureOnce } from "./cmake.cjs";
import { findProgram, root } from "./shared.mjs";

const SANITIZE = "-DLONGHAUL_SANITIZE=address,undefined";
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
};

export const buildDirectory = (variant) => path.join(root, VARIANTS[variant].dir);

export async function configureNativeTests(variant) {
  const dir = buildDirectory(variant);
  const generator = findProgram("ninja") ? ["-G", "Ninja"] : [];
  await configureOnce(dir, ["cmake", "-S", root, "-B", dir, ...generator, ...VARIANTS[variant].options]);
  return dir;
}

export async function buildNativeTests(variant, targets = []) {
  await build(await configureNativeTests(variant), targets);
}

/** Whether the last configuration of this variant found GoogleTest. */
export function foundGoogleTest(variant) {
  const cache = path.join(buildDirectory(variant), "CMakeCache.txt");
  return (
    existsSync(cache) &&
    /^(GTest_DIR|GTEST_LIBRARY):[A-Z]+=(?!.*NOTFOUND).+$/m.test(readFileSync(cache, "utf8"))
  );
}
