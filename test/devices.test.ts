import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { info } from "../lib/index.js";
import { expectError, load, recall, root } from "./engine/support.js";

const built = join(root, "build/Release");
const library = join(built, "liblonghaul_cuda.so");
const work = mkdtempSync(join(tmpdir(), "longhaul-devices-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** A directory with a copy of the addon, as the package's environment variable LONGHAUL_PREBUILD takes it. */
function addonIn(name: string): string {
  const release = join(work, name, "build/Release");
  mkdirSync(release, { recursive: true });
  const addon = readdirSync(built).find((file) => file.endsWith(".node")) ?? "no addon";
  copyFileSync(join(built, addon), join(release, addon));
  return join(work, name);
}

/** What a program learns of the devices with the addon in `directory`. */
function probe(directory: string) {
  const script = `
    import { Engine, info } from ${JSON.stringify(join(root, "dist/index.mjs"))};
    const load = async (device) => {
      try {
        const engine = await Engine.load(${JSON.stringify(recall)}, { device, kvBytes: "8MiB" });
        const found = engine.info().device;
        await engine.dispose();
        return found;
      } catch ({ name, code, message }) {
        return { error: { name, code, message } };
      }
    };
    const [cuda, second, auto] = [await load("cuda"), await load("cuda:1"), await load("auto")];
    console.log(JSON.stringify({ info: info(), cuda, second, auto }));`;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, LONGHAUL_PREBUILD: directory },
  });
  expect(child.stderr).toBe("");
  return JSON.parse(child.stdout);
}

/** No GPU for the reason that `words` names: said by info, by a refusal, and by what "auto" took instead. */
function expectNoGpu(directory: string, words: RegExp): void {
  const { info: found, cuda, second, auto } = probe(directory);
  expect(found.cuda).toEqual({ available: false, reason: expect.stringMatching(words) });
  expect(found.devices.map(({ name }: { name: string }) => name)).toEqual(["cpu", "reference", "cuda"]);
  expect(found.devices[2]).toEqual({ name: "cuda", available: false, description: found.cuda.reason });
  for (const [name, { error }] of [
    ["cuda", cuda],
    ["cuda:1", second],
  ]) {
    expect(error).toMatchObject({ name: "LonghaulError", code: "ERR_UNSUPPORTED" });
    expect(error.message).toBe(`device '${name}': ${found.cuda.reason}`);
  }
  expect(auto).toEqual({
    name: "cpu",
    description: expect.stringMatching(/threads?$/),
    reason: found.cuda.reason,
  });
}

describe("a GPU", () => {
  it("cannot be used without the CUDA library", () => {
    expectNoGpu(
      addonIn("alone"),
      /^this installation has no CUDA library: \S+liblonghaul_cuda\.so does not exist$/,
    );
  });

  it("cannot be used with a file that is no library", () => {
    const directory = addonIn("broken");
    writeFileSync(join(directory, "build/Release/liblonghaul_cuda.so"), "not a library");
    expectNoGpu(directory, /^the CUDA library cannot be loaded: .*liblonghaul_cuda\.so/);
  });

  it.each([
    ["of somebody else", "int something_else(void) { return 1; }", /^this is not longhaul's CUDA library: .*/],
    [
      "of another build",
      "const void *longhaul_cuda_devices(const char *interface) { return 0; }",
      /liblonghaul_cuda\.so was built from other sources, or by another compiler/,
    ],
  ])("cannot be used with a library %s", (name, source, words) => {
    const directory = addonIn(name.replaceAll(" ", "-"));
    const file = join(directory, "library.c");
    writeFileSync(file, source);
    const target = join(directory, "build/Release/liblonghaul_cuda.so");
    const compiler = spawnSync("cc", ["-shared", "-fPIC", "-o", target, file], { encoding: "utf8" });
    if (compiler.error) return console.log(`there is no C compiler here: ${compiler.error.message}`);
    expect(compiler.stderr).toBe("");
    expectNoGpu(directory, words);
  });

  it("is used, or the driver's own words say why not, with the library that was built", () => {
    if (!existsSync(library)) return console.log("no CUDA library was built here (npm run build:cuda)");
    const { cuda: here } = info();
    const stale = !here.available && /was built from other sources/.test(here.reason);
    if (stale && !process.env.CI)
      return console.log("the CUDA library is older than the addon: npm run build:cuda");
    const directory = addonIn("whole");
    copyFileSync(library, join(directory, "build/Release/liblonghaul_cuda.so"));
    if (existsSync("/proc/driver/nvidia/version")) {
      const { info: found, cuda, auto } = probe(directory);
      expect(found.cuda).toEqual({ available: true });
      expect(cuda).toEqual({ name: "cuda:0", description: found.devices[2].description });
      expect(auto).toEqual(cuda);
      return;
    }
    expectNoGpu(
      directory,
      /^CUDA cannot be used: cudaErrorInsufficientDriver \(CUDA driver version is insufficient for CUDA runtime version\); this build needs an NVIDIA driver for CUDA 13\.\d \(release 580 or newer\), and none is installed$/,
    );
  });
});

describe("device", () => {
  it.each(["tpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cuda:0:1", "", 3, null])(
    "%j is refused",
    async (device) => {
      await expectError(
        load(recall, { device: device as never }),
        "ERR_INVALID_ARGUMENT",
        /^device must be one of auto, cpu, cuda, cuda:N, reference, got /,
      );
    },
  );

  it("reference is what it is called, and has no reason to be something else", async () => {
    const engine = await load(recall, { device: "reference" });
    expect(engine.info().device).toEqual({
      name: "reference",
      description: "plain loops in double precision, for tests",
    });
    await engine.dispose();
  });

  it("is listed by info, the CPU first", () => {
    const { devices, cuda } = info();
    expect(devices.slice(0, 2).map(({ name, available }) => [name, available])).toEqual([
      ["cpu", true],
      ["reference", true],
    ]);
    expect(devices[2]?.available).toBe(cuda.available);
  });
});
