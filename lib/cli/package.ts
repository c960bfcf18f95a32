import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

/** The installed package: this program is bundled into its dist/. */
const root = fileURLToPath(new URL("..", import.meta.url));

export function packageVersion(): string {
  return JSON.parse(readFileSync(`${root}package.json`, "utf8")).version;
}

/** The .node file that `require` takes here, and where it came from; null when there is none for this machine. */
export function findBinary(): { path: string; variant: "prebuilt" | "built here" } | null {
  const { path: find } = createRequire(import.meta.url)("node-gyp-build") as {
    path(directory: string): string;
  };
  try {
    const path = find(root);
    return { path, variant: path.includes("/prebuilds/") ? "prebuilt" : "built here" };
  } catch {
    return null;
  }
}
