// Runs the golden program and passes its lines on as they come.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Report } from "./report.js";

/** The kinds that the golden program runs, of `layer_budgets` the profiles. */
export const NATIVE_KINDS = [
  "adapter",
  "attention",
  "bad_adapter",
  "dynmole_aux",
  "dynmole_layer",
  "dynmole_router",
  "epicache",
  "epicache_multi_turn",
  "layer_budgets",
  "mixed_adapter_batch",
  "model",
  "sampling",
];

interface NativeRun {
  readonly program: string;
  readonly device: string;
  readonly kinds: readonly string[];
  readonly paths: readonly string[];
}

/** Resolves with the program's exit code. One that ends in any other way is a failed line. */
export async function runNative(report: Report, { program, device, kinds, paths }: NativeRun): Promise<number> {
  const child = spawn(program, ["--json", "--device", device, "--kind", kinds.join(","), ...paths], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
  for await (const text of createInterface({ input: child.stdout })) {
    const line = JSON.parse(text);
    if ("skipped" in line && "case" in line) report.skip(line);
    else if ("pass" in line) report.quantity(line);
  }
  const { code, signal } = await ended;
  if (code !== 0 && code !== 1 && code !== 2) {
    const where = `the golden program ended with ${signal ?? `exit code ${code}`}`;
    report.quantity({ case: "", kind: "", quantity: "golden", error: null, limit: 0, pass: false, where });
  }
  return code ?? 1;
}
