// What a reader must know of the machine to judge the numbers: its class, never its name.
import fs from "node:fs";
import os from "node:os";

const FEATURES = [
  "avx2",
  "fma",
  "f16c",
  "avx512f",
  "avx512bw",
  "avx512_bf16",
  "avx512_vnni",
  "avx_vnni",
  "amx_tile",
  "asimd",
  "sve",
  "bf16",
];

function features() {
  const text = fs.readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set(/^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1]?.split(" ") ?? []);
  return FEATURES.filter((name) => flags.has(name));
}

/** Family and model tell apart processors that a virtual machine calls by one name. */
function processor() {
  const text = fs.readFileSync("/proc/cpuinfo", "utf8");
  const field = (name) => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(text)?.[1];
  const name = field("model name") ?? os.cpus()[0]?.model ?? os.machine();
  const family = field("cpu family");
  return family === undefined ? name : `${name} (family ${family}, model ${field("model")})`;
}

export function describeMachine() {
  return {
    cpu: processor(),
    cores: os.availableParallelism(),
    features: features(),
    memoryBytes: os.totalmem(),
    system: `${os.type()} ${os.release().split(/[-+]/)[0]} ${os.machine()}`,
    node: process.versions.node,
  };
}

/** Processes that wanted to run, averaged over 1, 5 and 15 minutes: above 0 before a run, others were at work. */
export const loadAverage = () => os.loadavg().map((value) => Math.round(value * 100) / 100);

/** For a file's name. */
export const slug = (text) =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
