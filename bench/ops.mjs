// Runs bench_ops and collects what it prints.
import { execFileSync } from "node:child_process";
import { nativeProgram } from "./build.mjs";
import { runJsonLines } from "./child.mjs";

function argumentsOf({ quick, filter, device, models, threads }) {
  const args = ["--device", device, "--threads", threads.join(",")];
  if (quick) args.push("--quick");
  if (filter !== "") args.push("--filter", filter);
  if (models !== undefined) args.push("--models", models.join(","));
  return args;
}

/** Whether any op's case has the filter in its name. */
export function hasOps(options) {
  if (options.filter === "") return true;
  const args = argumentsOf({ ...options, filter: "" });
  const names = execFileSync(nativeProgram("bench_ops"), [...args, "--list"], { encoding: "utf8" });
  // Without the filter --quick lists fewer than it would run with one.
  const all = execFileSync(nativeProgram("bench_ops"), [...args.filter((arg) => arg !== "--quick"), "--list"], {
    encoding: "utf8",
  });
  return `${names}${all}`.split("\n").some((name) => name.includes(options.filter));
}

/**
 * @returns {Promise<{ ceilings: object[], ops: object[], failures: object[] }>} as bench_ops prints them
 */
export async function runOps(options, onLine) {
  const result = { ceilings: [], ops: [], failures: [] };
  const lists = { ceiling: result.ceilings, op: result.ops, failure: result.failures };
  const code = await runJsonLines(nativeProgram("bench_ops"), [...argumentsOf(options), "--json"], (line) => {
    const { kind, ...rest } = line;
    lists[kind].push(rest);
    onLine(line);
  });
  if (code !== 0 && result.failures.length === 0) throw new Error(`bench_ops ended with exit code ${code}`);
  return result;
}
