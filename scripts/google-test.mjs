// Makes sure GoogleTest is there for the C++ suites, or says which suites are left out and why.
import { existsSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { configureNativeTests, foundGoogleTest } from "./native-tests.mjs";
import { findProgram, root, run } from "./shared.mjs";

/** The rooms of native/ that have GoogleTest files. */
function suites() {
  const native = path.join(root, "test", "native");
  return readdirSync(native, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .filter((entry) => readdirSync(path.join(native, entry.name)).some((name) => name.endsWith("_test.cc")))
    .map((entry) => entry.name);
}

function install() {
  const options = { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } };
  const apt = () => run("apt-get", ["install", "-y", "-qq", "libgtest-dev"], options) === 0;
  return apt() || (run("apt-get", ["update", "-qq"], options) === 0 && apt());
}

/** Installs GoogleTest with apt when it is missing and this is root. Returns what is left out and why, if anything. */
export async function ensureGoogleTest(variant) {
  const dir = await configureNativeTests(variant);
  if (foundGoogleTest(variant)) return undefined;
  const canInstall = process.getuid() === 0 && findProgram("apt-get") !== undefined;
  if (canInstall) {
    console.log("GoogleTest not found: installing libgtest-dev");
    if (install()) {
      if (existsSync(dir)) rmSync(dir, { recursive: true });
      await configureNativeTests(variant);
      if (foundGoogleTest(variant)) return undefined;
    }
  }
  const why = canInstall ? "and could not be installed" : "(Debian, Ubuntu: apt-get install libgtest-dev)";
  return `GoogleTest not found ${why}: left out are the C++ suites ${suites().join(", ")}`;
}
