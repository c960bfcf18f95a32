import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { info } from "../info.js";
import type { Arguments } from "./arguments.js";
import { findBinary } from "./package.js";
import { printJson } from "./session.js";
import { formatBytes } from "./units.js";

/** `longhaul info`: what a report of a problem should begin with. */
export async function run(values: Arguments): Promise<void> {
  const { version, node, platform, devices, cuda } = info();
  const report = {
    version,
    node,
    platform,
    binary: findBinary(),
    cpu: { model: cpus()[0]?.model.trim() ?? "unknown", cores: availableParallelism() },
    devices,
    gpu: { usable: cuda.available, present: nvidiaGpus(), ...(cuda.available ? {} : { reason: cuda.reason }) },
    memory: { total: totalmem(), free: freemem() },
  };
  if (values.flag("json")) return printJson(report);

  const { binary, cpu, gpu, memory } = report;
  const found = gpu.present.length === 0 ? "none found" : gpu.present.join(", ");
  const rows = [
    ["longhaul", `${version} on Node ${node.replace(/^v/, "")}, ${platform}`],
    ["binary", binary === null ? "unknown" : `${binary.path} (${binary.variant})`],
    ["CPU", `${cpu.model}, ${cpu.cores} usable cores`],
    ["memory", `${formatBytes(memory.free)} free of ${formatBytes(memory.total)}`],
    ["GPU", cuda.available ? found : `${found}; not used: ${cuda.reason}`],
    ...devices.map(({ name, available, description }) => [
      `device ${name}`,
      available ? description : `not usable: ${description}`,
    ]),
  ] as const;
  const width = Math.max(...rows.map(([label]) => (label as string).length)) + 2;
  process.stdout.write(rows.map(([label, text]) => `${(label as string).padEnd(width)}${text}\n`).join(""));
}

/** Models of the NVIDIA GPUs whose driver is running. */
function nvidiaGpus(): string[] {
  const directory = "/proc/driver/nvidia/gpus";
  try {
    return readdirSync(directory).map((gpu) => {
      const information = readFileSync(`${directory}/${gpu}/information`, "utf8");
      return /^Model:\s*(.+)$/m.exec(information)?.[1] ?? "unknown model";
    });
  } catch {
    // No driver, no such files: there is no GPU to speak of.
    return [];
  }
}
