import { createRequire } from "node:module";
import { LonghaulError } from "./errors.js";
import { callNative, type NativeDevice } from "./native.js";

/** What this installation of longhaul can do. */
export interface Info {
  readonly version: string;
  readonly node: string;
  /** Operating system and processor architecture, such as "linux-x64". */
  readonly platform: string;
  /** The CPU, the reference, and every GPU or one "cuda" that is not available. */
  readonly devices: readonly NativeDevice[];
  /** Whether there is a GPU that can be used, or exactly why not. */
  readonly cuda: { readonly available: true } | { readonly available: false; readonly reason: string };
}

export type { NativeDevice as Device };

/** Describes this installation. Throws ERR_UNSUPPORTED when the native addon cannot be loaded. */
export function info(): Info {
  const { version } = createRequire(import.meta.url)("../package.json") as { version?: unknown };
  if (typeof version !== "string") {
    throw new LonghaulError("ERR_INTERNAL", "package.json names no version; install longhaul again");
  }
  const devices = callNative((addon) => addon.devices());
  const gpu = devices.find(({ name }) => name.startsWith("cuda"));
  return {
    version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    devices,
    cuda: gpu?.available ? { available: true } : { available: false, reason: gpu?.description ?? "" },
  };
}
