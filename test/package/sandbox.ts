import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "..");

export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/** The environment without what npm and vitest add for the scripts they run, which would point back at the checkout. */
export function cleanEnvironment(PATH = process.env.PATH): NodeJS.ProcessEnv {
  const added =
    /^(npm_(package|lifecycle|command|execpath|node_execpath)|npm_config_(local_)?prefix|INIT_CWD|NODE_|VITEST)/;
  const kept = Object.entries(process.env).filter(([name]) => !added.test(name));
  return { ...Object.fromEntries(kept), PATH };
}

/** PATH without the checkout's node_modules/.bin. */
export function systemPath(): string {
  const dirs = (process.env.PATH ?? "").split(path.delimiter);
  return dirs.filter((dir) => !dir.includes("node_modules")).join(path.delimiter);
}

/** A directory of links to node, npm, npx and sh: as PATH it is a machine without compiler, CMake and Python. */
export function barePath(dir: string): string {
  mkdirSync(dir, { recursive: true });
  symlinkSync(process.execPath, path.join(dir, "node"));
  for (const name of ["npm", "npx", "sh"]) {
    const file = execFileSync("sh", ["-c", `command -v ${name}`], {
      encoding: "utf8",
      env: cleanEnvironment(),
    }).trim();
    symlinkSync(file, path.join(dir, name));
  }
  return dir;
}

/** Runs a command to its end and returns what it said, whatever its exit code. */
export async function run(command: string, args: string[], cwd: string, PATH?: string): Promise<Output> {
  try {
    const options = { cwd, env: cleanEnvironment(PATH ?? systemPath()), maxBuffer: 1 << 26 };
    return { code: 0, ...(await promisify(execFile)(command, args, options)) };
  } catch (error) {
    const failed = error as { code?: number | string; stdout?: string; stderr?: string; message: string };
    const code = typeof failed.code === "number" ? failed.code : -1;
    return { code, stdout: failed.stdout ?? "", stderr: failed.stderr || failed.message };
  }
}

/** Like run(), but anything other than exit code 0 is an error that shows the output. */
export async function must(command: string, args: string[], cwd: string, PATH?: string): Promise<string> {
  const output = await run(command, args, cwd, PATH);
  if (output.code !== 0) {
    throw new Error(
      `${command} ${args.join(" ")}: exit code ${output.code}\n${output.stdout}\n${output.stderr}`,
    );
  }
  return output.stdout;
}
