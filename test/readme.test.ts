import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { root } from "./engine/support.js";

it("the README's example prints what the README says", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const [, code, printed] = /```ts\n([\s\S]*?)```\n\nprints\n\n```\n([\s\S]*?)```/.exec(readme) ?? [];
  expect(code).toBeDefined();
  // Inside the package, so that "longhaul" is this one.
  const file = join(root, "build", `readme-${process.pid}.mjs`);
  mkdirSync(join(root, "build"), { recursive: true });
  writeFileSync(file, code as string);
  try {
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], { cwd: root, encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
    // Which rows stay depends on the last bits of their scores, and with it how full the pages are: on the CPU.
    const numbers = /(\d+) bytes at peak, (\d+) reserved/.exec(stdout) ?? [];
    expect(Number(numbers[1])).toBeLessThanOrEqual(Number(numbers[2]));
    const withoutPeak = (text: string) => text.replace(/\d+ bytes at peak/, "");
    expect(withoutPeak(stdout)).toBe(withoutPeak(printed as string));
  } finally {
    rmSync(file);
  }
});
