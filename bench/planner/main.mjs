// npm run bench:planner: how long planning takes, how good plans provably are, and what they gain in simulated steps.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  certifyPlan,
  checkPlan,
  clusterBandwidths,
  planBestStaticDegree,
  planSequenceParallel,
  planStaticDegree,
  publishedCosts,
  simulateStep,
} from "../../dist/index.mjs";
import { describeMachine, loadAverage } from "../machine.mjs";
import { table } from "../report/table.mjs";
import { drawBatch, WIKIPEDIA } from "./lengths.mjs";
import { MEASURED_ALL_TO_ALL, PUBLISHED } from "./published.mjs";

const USAGE = `npm run bench:planner -- [options]: planning time, proven gaps and simulated gains

  --batches N   with certificates; default 50
  --steps N     simulated for each row of the published table; default 40
  --json FILE   default bench/results/<date>-sequence-parallel-planner.json
  --help
`;

const DEVICES = 64;
const BATCH = 512;
const root = fileURLToPath(new URL("../..", import.meta.url));

const sorted = (values) => [...values].sort((a, b) => a - b);
const quantile = (values, share) =>
  sorted(values)[Math.min(values.length - 1, Math.floor(share * values.length))];
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const summary = (values) => ({
  median: quantile(values, 0.5),
  p90: quantile(values, 0.9),
  worst: Math.max(...values),
});
const fixed = (value, digits = 2) => value.toFixed(digits);
const percent = (share) => `${fixed(100 * share)} %`;

/** Plans batches and proves how good the plans are. Times of this thread's processor, and on the clock. */
async function measurePlans(batches) {
  const rows = [];
  for (let seed = 0; seed < batches; seed++) {
    const lengths = drawBatch(WIKIPEDIA, { seed, count: BATCH, limit: 196_608, devices: DEVICES });
    const options = { devices: DEVICES, costs: publishedCosts("gpt-7b", { devices: DEVICES }) };
    const cpu = process.cpuUsage();
    const begin = performance.now();
    const plan = planSequenceParallel(lengths, options);
    const planMs = performance.now() - begin;
    const { user, system } = process.cpuUsage(cpu);
    const again = planSequenceParallel(lengths, options);
    const certifying = performance.now();
    const certificate = await certifyPlan(lengths, plan, options);
    rows.push({
      planMs,
      planCpuMs: (user + system) / 1000,
      certificateMs: performance.now() - certifying,
      gap: certificate.gap,
      worstMicroBatchGap: Math.max(...certificate.microBatches.map(({ gap }) => gap)),
      stepGap: certificate.step.gap,
      microBatches: plan.microBatches.length,
      valid: checkPlan(lengths, plan, options).length === 0,
      same: JSON.stringify(again) === JSON.stringify(plan),
    });
    process.stderr.write(`\rcertified ${seed + 1} of ${batches}`);
  }
  process.stderr.write("\n");
  return rows;
}

/** Steps with FlexSP's constants: fixed degree 64, the best single degree of each batch, and plans. */
function simulatePublished(steps) {
  return PUBLISHED.map(({ model, context, ...published }) => {
    const costs = publishedCosts(model, { devices: DEVICES, context });
    const sums = { fixed: 0, ada: 0, flex: 0, flexFromTwo: 0 };
    for (let seed = 0; seed < steps; seed++) {
      const lengths = drawBatch(WIKIPEDIA, {
        seed: 1000 + seed,
        count: BATCH,
        limit: context,
        devices: DEVICES,
      });
      const options = { devices: DEVICES, costs };
      const time = (plan) => simulateStep(lengths, plan, costs).ms;
      sums.fixed += time(planStaticDegree(lengths, options, DEVICES));
      sums.ada += time(planBestStaticDegree(lengths, options).plan);
      sums.flex += time(planSequenceParallel(lengths, options));
      // The published code never forms groups of one device.
      sums.flexFromTwo += time(planSequenceParallel(lengths, { ...options, minDegree: 2 }));
    }
    process.stderr.write(`simulated ${model} ${context}\n`);
    return {
      model,
      context,
      secondsPerStep: { fixed: sums.fixed / steps / 1000, flex: sums.flexFromTwo / steps / 1000 },
      staticOverFlex: sums.fixed / sums.flexFromTwo,
      staticOverFlexFromOne: sums.fixed / sums.flex,
      staticOverAda: sums.fixed / sums.ada,
      published,
    };
  });
}

/** Clusters of nodes of eight with links like those of FlexSP's, and model states shared by all devices. */
function simulateClusters() {
  return [64, 256, 1024].map((devices) => {
    const costs = {
      ...publishedCosts("gpt-7b", { devices }),
      bandwidth: clusterBandwidths({ devices, deviceLink: 84, nodeLink: 41 }),
    };
    const lengths = drawBatch(WIKIPEDIA, { seed: 5, count: 8 * devices, limit: 196_608, devices: 64 });
    const options = { devices, costs };
    const begin = performance.now();
    const plan = planSequenceParallel(lengths, options);
    const planMs = performance.now() - begin;
    if (checkPlan(lengths, plan, options).length > 0) throw new Error("a plan is not valid");
    const { ms, ...shares } = simulateStep(lengths, plan, costs);
    const best = planBestStaticDegree(lengths, options);
    const spread = simulateStep(lengths, best.plan, costs);
    process.stderr.write(`simulated ${devices} devices\n`);
    return { devices, sequences: lengths.length, planMs, ms, shares, ada: { degree: best.degree, ...spread } };
  });
}

/** What links of one speed make of the bandwidths that were measured. */
function compareLinks() {
  const { allToAll } = clusterBandwidths({ devices: DEVICES, deviceLink: 84, nodeLink: 41 });
  return Object.entries(MEASURED_ALL_TO_ALL).map(([degree, measured]) => ({
    degree: Number(degree),
    measured,
    links: allToAll[degree],
  }));
}

function print({ plans, published, clusters, links }) {
  console.log(`\n${plans.rows.length} batches of ${BATCH} sequences on ${DEVICES} devices`);
  const line = (name, { median, p90, worst }, text) => [name, text(median), text(p90), text(worst)];
  const ms = (value) => `${fixed(value, 0)} ms`;
  console.log(
    table(
      ["", "median", "90 %", "worst"],
      [
        line("planning, on the clock", plans.planMs, ms),
        line("planning, processor", plans.planCpuMs, ms),
        line("certificate", plans.certificateMs, ms),
        line("proven gap", plans.gap, percent),
        line("proven gap, any micro-batches", plans.stepGap, percent),
      ],
    ),
  );
  console.log("\nSimulated speed-up over a fixed degree of 64, beside the published");
  console.log(
    table(
      ["model", "context", "plans", "published", "from degree 1", "best degree a batch", "published"],
      published.map((row) => [
        row.model,
        `${row.context / 1024}K`,
        fixed(row.staticOverFlex),
        fixed(row.published.staticOverFlex),
        fixed(row.staticOverFlexFromOne),
        fixed(row.staticOverAda),
        fixed(row.published.staticOverAda),
      ]),
    ),
  );
  console.log("\nClusters of nodes of 8");
  console.log(
    table(
      [
        "devices",
        "sequences",
        "planning",
        "step",
        "compute",
        "moving",
        "fixed",
        "waiting",
        "best single degree",
      ],
      clusters.map(({ devices, sequences, planMs, ms: step, shares, ada }) => [
        devices,
        sequences,
        ms(planMs),
        ms(step),
        percent(shares.compute),
        percent(shares.communication),
        percent(shares.fixed),
        percent(shares.waiting),
        `${ada.degree}: ${fixed(ada.ms / step)}x`,
      ]),
    ),
  );
  console.log("\nAll-to-all bandwidth, MiB/ms");
  console.log(
    table(
      ["degree", "measured", "links of 84 and 41"],
      links.map((row) => [row.degree, fixed(row.measured), fixed(row.links)]),
      0,
    ),
  );
}

const { values } = parseArgs({
  options: {
    batches: { type: "string", default: "50" },
    steps: { type: "string", default: "40" },
    json: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
const [batches, steps] = [Number(values.batches), Number(values.steps)];
if (!(Number.isInteger(batches) && batches > 0 && Number.isInteger(steps) && steps > 0)) {
  console.error(`bench:planner: --batches and --steps must be whole numbers above 0\n\n${USAGE}`);
  process.exit(2);
}
const load = loadAverage();
const rows = await measurePlans(batches);
const plans = { rows };
for (const name of ["planMs", "planCpuMs", "certificateMs", "gap", "worstMicroBatchGap", "stepGap"])
  plans[name] = summary(rows.map((row) => row[name]));
const draws = drawBatch(WIKIPEDIA, { seed: 1, count: 200_000, limit: Number.POSITIVE_INFINITY, devices: 0.5 });
const result = {
  date: new Date().toISOString(),
  machine: describeMachine(),
  loadBefore: load,
  lengths: { ...WIKIPEDIA, generatedMean: mean(draws) },
  plans,
  published: simulatePublished(steps),
  clusters: simulateClusters(),
  links: compareLinks(),
};
print(result);
if (!rows.every(({ valid, same }) => valid && same))
  throw new Error("a plan was not valid, or not the same again");
const file =
  values.json ?? path.join(root, "bench/results", `${result.date.slice(0, 10)}-sequence-parallel-planner.json`);
fs.writeFileSync(file, `${JSON.stringify(result, null, 1)}\n`);
console.log(`\nwritten to ${path.relative(process.cwd(), file)}`);
