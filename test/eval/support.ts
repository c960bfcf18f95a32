import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root } from "../engine/support.js";

/** The evaluation is plain JavaScript, run as it stands; `T` says what of a module a test uses. */
export const importEval = async <T>(module: string): Promise<T> =>
  import(new URL(`../../eval/${module}.mjs`, import.meta.url).href) as Promise<T>;

export function runEval(...args: string[]) {
  const program = join(root, "eval/main.mjs");
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}
