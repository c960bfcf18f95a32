import { createRequire } from "node:module";
import { LonghaulError } from "./errors.js";
import { callNative, type NativeDevice } from "./native.js";

/** What this installation of longhaul can do. */
export interface Info {
  readonly version: string;
  readonly node: string;
  /** Operating system and processor architecture, such as "linux-x64". */
  readonly platform: string;
  readonly devices: readonly NativeDevice[];
  readonly cuda: { readonly available: false; readonly reason: string };
}

export type { NativeDevice as Device };

/** Describes this installation. Throws ERR_UNSUPPORTED when the native addon cannot be loaded. */
export function info(): Info {
  const { version } = createRequire(import.meta.url)("../package.json") as { version?: unknown };
  if (typeof version !== "string") {
    throw new LonghaulError("ERR_INTERNAL", "package.json names no version; install longhaul again");
  }
  return {
    version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    devices: callNative((addon) => addon.devices()),
    cuda: { available: false, reason: "this build has no CUDA core" },
  };
}
