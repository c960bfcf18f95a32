// npm run fixtures -- DIRECTORY... : every golden case below, native kinds in the golden program, the rest here.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { type Addon, runAddon } from "./addon.js";
import { type Case, findCases } from "./cases.js";
import { EPISODE_KINDS } from "./episodes.js";
import { NATIVE_KINDS, runNative } from "./native.js";
import { runPlanner } from "./planner.js";
import { Report } from "./report.js";
import { runText } from "./text.js";

const RUN_HERE = { ...EPISODE_KINDS, flexsp_planner: runPlanner };
const TYPESCRIPT_KINDS = Object.keys(RUN_HERE);
const KINDS = [...new Set([...NATIVE_KINDS, ...TYPESCRIPT_KINDS])];

const USAGE = `usage: npm run fixtures -- DIRECTORY... [--device reference|cpu] [--kind a,b] [--json]

Runs the golden cases (case.json) in and below each DIRECTORY and prints a line for each quantity: case, quantity,
worst error, its limit, pass or FAIL.

  --device NAME  where native kinds run: cpu (default) or reference
  --kind A,B     only cases of these kinds: ${KINDS.join(", ")}
  --json         one JSON object a line

Exit code: 0 all passed, 1 something failed, 2 asked for a case or kind that is not understood.`;

const FAILED = 1;
const NOT_UNDERSTOOD = 2;

const DEVICES = ["cpu", "reference"] as const;

interface Options {
  readonly device: (typeof DEVICES)[number];
  /** Empty: all. */
  readonly kinds: readonly string[];
  readonly json: boolean;
  readonly paths: readonly string[];
}

/** What is under test, as it was built. */
export interface Built {
  /** The golden program. */
  readonly program: string;
  readonly loadAddon: () => Promise<Addon>;
}

/** Resolves with the exit code. */
export async function main(args: readonly string[], built: Built): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(args);
  } catch (error) {
    console.error(`fixtures: ${messageOf(error)}\n\n${USAGE}`);
    return NOT_UNDERSTOOD;
  }
  if (options === undefined) {
    console.log(USAGE);
    return 0;
  }
  return run(options, built);
}

/** Undefined when help was asked for. */
function parseOptions(args: readonly string[]): Options | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      device: { type: "string", default: "cpu" },
      kind: { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return undefined;
  const device = DEVICES.find((known) => known === values.device);
  if (device === undefined) throw new Error(`unknown device "${values.device}": ${DEVICES.join(" or ")}`);
  if (positionals.length === 0) throw new Error("which DIRECTORY?");
  // npm changes to the package's root; paths are meant from where its user stands.
  const from = process.env.npm_lifecycle_event === "fixtures" ? (process.env.INIT_CWD ?? ".") : ".";
  return {
    device,
    kinds: values.kind?.split(",").filter((kind) => kind !== "") ?? [],
    json: values.json,
    paths: positionals.map((path) => resolve(from, path)),
  };
}

async function run(options: Options, { program, loadAddon }: Built): Promise<number> {
  const report = new Report(options.json);
  let understood = true;
  const notUnderstood = (message: string) => {
    console.error(`fixtures: ${message}`);
    understood = false;
  };

  const paths = options.paths.filter((path) => {
    const found = existsSync(path);
    if (!found) notUnderstood(`${path} does not exist`);
    return found;
  });
  const all = paths.flatMap(findCases);
  if (all.length === 0) notUnderstood("there is no case.json");
  for (const kind of options.kinds.filter((kind) => !KINDS.includes(kind))) {
    notUnderstood(`kind "${kind}" is not understood by this build`);
  }

  // A case.json that cannot be read goes to the golden program, which says what is wrong with it.
  const isAsked = ({ kind }: Case) =>
    kind === undefined || options.kinds.length === 0 || options.kinds.includes(kind);
  const isNative = ({ kind }: Case) => kind === undefined || NATIVE_KINDS.includes(kind);
  const cases = all.filter(isAsked);
  const native = cases.filter(isNative);
  const kinds = NATIVE_KINDS.filter((kind) => options.kinds.length === 0 || options.kinds.includes(kind));
  if (native.length > 0 && kinds.length > 0) {
    const code = await runNative(report, { program, device: options.device, kinds, paths });
    understood &&= code !== NOT_UNDERSTOOD;
  }
  for (const one of cases.filter(({ kind }) => kind === "model")) {
    await failing(report, one, "text", () => runText(report, one));
  }
  if (native.some(({ kind }) => kind !== undefined)) {
    const nothing = { name: "", kind: "" };
    await failing(report, nothing, "addon", async () =>
      runAddon(report, await loadAddon(), options.device, native),
    );
  }
  for (const one of cases) {
    const kind = one.kind ?? "";
    const runKind = (RUN_HERE as typeof EPISODE_KINDS)[kind];
    if (runKind !== undefined) await failing(report, one, "run", () => runKind(report, one));
    if (runKind !== undefined || isNative(one)) continue;
    report.skip({ case: one.name, kind, skipped: `kind ${kind} is not understood by this build` });
    understood &&= options.kinds.length === 0 && !one.named;
  }

  report.summary();
  if (report.failed > 0) return FAILED;
  return understood ? 0 : NOT_UNDERSTOOD;
}

/** An error that `action` throws is a failed line. */
async function failing(
  report: Report,
  { name, kind }: Pick<Case, "name" | "kind">,
  quantity: string,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    const where = messageOf(error);
    report.quantity({ case: name, kind: kind ?? "", quantity, error: null, limit: 0, pass: false, where });
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
