// Resident memory of this process, as the system counts it.
import fs from "node:fs";

/** @returns {{ rss: number, peak: number }} bytes */
export function processMemory() {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  const bytes = (field) => 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]);
  return { rss: bytes("VmRSS"), peak: bytes("VmHWM") };
}

/** From here on `peak` counts anew. */
export function resetPeak() {
  fs.writeFileSync("/proc/self/clear_refs", "5");
}
