import { invalidOption } from "./errors.js";

/**
 * What computes: "cuda" is the first GPU, "cuda:1" the second one; "auto" is "cuda" if there is a GPU that can be used,
 * else "cpu"; "reference" is slow and exact, for comparison.
 */
export type DeviceName = "auto" | "cpu" | "reference" | "cuda" | `cuda:${number}`;

const DEVICE = /^(auto|cpu|reference|cuda(:\d{1,3})?)$/;

/** As an option's help and errors put it. */
export const DEVICES = "auto, cpu, cuda, cuda:N, reference";

/** Returns `device` when it is a name that a device can have, "auto" without one. */
export function requireDevice(device: unknown = "auto"): DeviceName {
  if (typeof device === "string" && DEVICE.test(device)) return device as DeviceName;
  throw invalidOption("device", `one of ${DEVICES}`, device);
}
