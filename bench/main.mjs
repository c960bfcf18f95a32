// `npm run bench`: this machine's ceilings, every op against them, then the engine end to end, on request beside a
// peer. Prints tables and writes JSON and a page with plots.
import fs from "node:fs";
import path from "node:path";
import { root } from "../scripts/shared.mjs";
import { buildNative, buildPackage } from "./build.mjs";
import { planRuns } from "./engine/plan.mjs";
import { peerInstalled, runBesideNeighbour, runEngines } from "./engine/run.mjs";
import { describeMachine, loadAverage, slug } from "./machine.mjs";
import { hasOps, runOps } from "./ops.mjs";
import { parseOptions, USAGE } from "./options.mjs";
import { renderPage } from "./report/page.mjs";
import { printSummary, progressLine } from "./report/table.mjs";

const INSTALL_PEER = `node-llama-cpp is not installed; with --peers it is measured beside longhaul after
  npm install --omit=optional --prefix bench/peers`;

/** Where the result goes. Quick runs do not overwrite others. */
function resultFile(options, result) {
  if (options.json !== undefined) return path.resolve(options.json);
  const name = `${result.date.slice(0, 10)}-${slug(result.machine.cpu)}${options.quick ? "-quick" : ""}.json`;
  return path.join(root, "bench", "results", name);
}

async function bench(options) {
  buildPackage();
  await buildNative(["bench_ops"]);
  const started = loadAverage();
  if (started[0] > 0.5) {
    console.log(`Other processes are at work (load average ${started[0]}): expect wide spreads.\n`);
  }
  const show = (line) => console.log(progressLine(line));
  const runs = planRuns(options);
  const measuresOps = hasOps(options);
  if (!measuresOps && runs.length === 0)
    throw new Error(`--filter: no op and no run has '${options.filter}' in its name`);
  const ops = measuresOps ? await runOps(options, show) : { ceilings: [], ops: [], failures: [] };

  const engines = await runEngines(runs, {
    ...options,
    onRecord: (record) => show({ kind: "engine", ...record }),
  });
  // The largest model that is not minutes long, on all cores: what a busy core takes away shows there.
  const shared = runs.find(({ model, threads }) => model === "SmolLM2-135M" && threads > 1);
  const neighbour = shared === undefined ? undefined : await runBesideNeighbour(shared, options);

  const { quick, filter, device, threads, repeats } = options;
  return {
    date: new Date().toISOString(),
    machine: describeMachine(),
    options: { quick, filter, device, threads, repeats },
    loadAverage: { before: started, after: loadAverage() },
    ...ops,
    engines,
    ...(neighbour === undefined ? {} : { neighbour }),
  };
}

async function main() {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    console.log(USAGE);
    return;
  }
  if (options.peers && !peerInstalled()) throw new Error(INSTALL_PEER);
  const result = await bench(options);
  printSummary(result);
  const file = resultFile(options, result);
  const page = file.replace(/(\.json)?$/, ".html");
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, `${JSON.stringify(result, null, 1)}\n`);
  fs.writeFileSync(page, renderPage(result));
  console.log(`\n${path.relative(process.cwd(), file)}\n${path.relative(process.cwd(), page)}`);
  if (!options.peers) console.log(`\n--peers measures node-llama-cpp beside it.`);
  if (result.failures.length > 0) process.exitCode = 1;
}

main().catch((error) => {
  console.error(`bench: ${error.message}`);
  process.exitCode = 1;
});
