// Fails when an object compiled for one instruction set exports a symbol outside that set's own namespace: of
// several equal inline functions the linker keeps one, and an AVX-512 copy would crash every older machine.
// node scripts/check-isa-symbols.mjs BUILD_DIR
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";

const files = path.join(process.argv[2] ?? "build-tests", "CMakeFiles");
const names = existsSync(files)
  ? readdirSync(files).map((dir) => /^longhaul_isa_(\w+)\.dir$/.exec(dir)?.[1])
  : [];
let objects = 0;
const strays = [];

for (const isa of names.filter((name) => name !== undefined)) {
  const dir = path.join(files, `longhaul_isa_${isa}.dir`);
  const namespace = `isa_${isa}`;
  // Itanium mangling prefixes the length, so isa_avx512 is not taken for isa_avx512bf16.
  const mangled = `8longhaul${namespace.length}${namespace}`;
  for (const file of readdirSync(dir, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".o"),
  )) {
    objects++;
    const lines = execFileSync(
      "nm",
      ["--defined-only", "--extern-only", "--format=posix", path.join(dir, file)],
      {
        encoding: "utf8",
        maxBuffer: 1 << 28,
      },
    );
    for (const line of lines.split("\n")) {
      const [symbol, type] = line.split(" ");
      if (symbol && !symbol.includes(mangled)) strays.push(`${isa}: ${file}: ${symbol} (${type})`);
    }
  }
}

if (objects === 0) strays.push(`no ISA objects below ${files}`);
for (const stray of strays) console.error(stray);
console.log(`ISA objects: ${objects} checked, ${strays.length} symbols outside their namespace`);
process.exitCode = strays.length > 0 ? 1 : 0;
