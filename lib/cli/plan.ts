import { readFile } from "node:fs/promises";
import { LonghaulError } from "../errors.js";
import { type Certificate, certifyPlan } from "../planner/certificate.js";
import { planChart } from "../planner/chart.js";
import {
  ATTENTION_KINDS,
  type AttentionKind,
  parseCosts,
  type SequenceParallelCosts,
} from "../planner/costs.js";
import { parseLengths } from "../planner/lengths-file.js";
import { planPage } from "../planner/page.js";
import { planSequenceParallel } from "../planner/plan.js";
import { DEFAULT_SECONDS, planFlexsp, polishPlan } from "../planner/polish.js";
import { PUBLISHED_MODELS, publishedCosts } from "../planner/published-costs.js";
import { planBestStaticDegree } from "../planner/static-plan.js";
import type { PlanOptions, SequenceParallelPlan } from "../planner/types.js";
import { replaceFile } from "../replace-file.js";
import { type Arguments, UsageError } from "./arguments.js";
import { interruptible } from "./interrupt.js";
import { defined } from "./options.js";
import { printJson } from "./session.js";
import { dim, note } from "./terminal.js";
import { count, formatDuration } from "./units.js";

const METHODS = ["search", "flexsp"] as const;
const DEFAULT_COSTS = PUBLISHED_MODELS[0] as string;
const NARROW = 100;

/** What --json prints and the page says. */
interface Planned {
  readonly plan: SequenceParallelPlan;
  readonly planMs: number;
  readonly certificate: Certificate | null;
  readonly certificateMs: number | null;
  readonly bestStatic: { readonly degree: number; readonly ms: number; readonly gain: number } | null;
}

/** `longhaul plan`: which devices share which sequences. */
export async function run(values: Arguments): Promise<void> {
  const devices = values.integer("devices", 1);
  if (devices === undefined) throw new UsageError("--devices is missing");
  const method = values.choice("method", METHODS) ?? "search";
  const seconds = values.number("seconds", 0.001);
  if (seconds !== undefined && method === "search" && !values.flag("polish"))
    throw new UsageError("--seconds is for --polish and --method flexsp");
  const file = values.positional("FILE");
  const lengths = parseLengths(
    await readText(file),
    file,
    defined({ field: values.text("field"), charactersPerToken: values.number("characters-per-token", 0.01) }),
  );
  const costsName = values.text("costs") ?? DEFAULT_COSTS;
  const options: PlanOptions = {
    devices,
    costs: await readCosts(costsName, devices),
    ...defined({
      minDegree: values.integer("min-degree", 1),
      maxDegree: values.integer("max-degree", 1),
      attention: readKinds(values.text("attention")),
    }),
  };

  await interruptible(async (signal) => {
    const work = { ...options, ...defined({ seconds }), signal };
    const begin = performance.now();
    if (method === "flexsp" || values.flag("polish"))
      note(dim(`solving for at most ${seconds ?? DEFAULT_SECONDS} s a micro-batch`));
    let plan = method === "flexsp" ? await planFlexsp(lengths, work) : planSequenceParallel(lengths, options);
    if (values.flag("polish")) plan = await polishPlan(lengths, plan, work);
    const planMs = performance.now() - begin;
    note(dim(`planned ${count(lengths.length, "sequence")} in ${formatDuration(planMs)}`));

    const certifying = performance.now();
    const certificate = values.flag("no-certificate") ? null : await certifyPlan(lengths, plan, work);
    const certificateMs = certificate === null ? null : performance.now() - certifying;
    const fixed = planBestStaticDegree(lengths, options);
    const bestStatic =
      fixed === undefined ? null : { degree: fixed.degree, ms: fixed.plan.ms, gain: fixed.plan.ms / plan.ms };
    const planned = { plan, planMs, certificate, certificateMs, bestStatic };

    const html = values.text("html");
    if (html !== undefined) await writePage(html, planned, costsName);
    if (values.flag("json")) printJson(document(planned), { exact: true });
    else process.stdout.write(report(planned, costsName));
  });
}

/** One document: the plan, with what is known of it in front. */
function document({ plan, planMs, certificate, certificateMs, bestStatic }: Planned) {
  const { microBatches, ...rest } = plan;
  return {
    ...rest,
    planMs,
    certificateMs,
    gap: certificate?.gap ?? null,
    boundMs: certificate?.boundMs ?? null,
    step: certificate?.step ?? null,
    bestStatic,
    microBatches: microBatches.map(({ groups, ...batch }, b) => ({
      ...batch,
      gap: certificate?.microBatches[b]?.gap ?? null,
      groups,
    })),
  };
}

function report(planned: Planned, costsName: string): string {
  const width = process.stdout.columns ?? NARROW;
  const colour = process.stdout.isTTY && !process.env.NO_COLOR && process.env.TERM !== "dumb";
  return `${planChart(planned.plan, width, colour)}\n${facts(planned, costsName).join("\n")}\n`;
}

function facts({ plan, certificate, bestStatic }: Planned, costsName: string): string[] {
  const sentences = [
    `${count(plan.sequences, "sequence")} of ${plan.tokens} tokens on ${count(plan.devices, "device")}: ${formatDuration(plan.ms)} in ${plan.microBatches.length === 1 ? "1 micro-batch" : `${plan.microBatches.length} micro-batches`}, by the costs ${costsName}.`,
  ];
  if (certificate !== null) {
    sentences.push(
      `Proven: at most ${percent(certificate.gap)} slower than the best grouping of these micro-batches, at most ${percent(certificate.step.gap)} than the best plan of any.`,
    );
  }
  sentences.push(
    bestStatic === null
      ? "No single degree has memory for these sequences."
      : `${bestStatic.gain.toFixed(2)} times as fast as the best single degree, ${bestStatic.degree}, which takes ${formatDuration(bestStatic.ms)}.`,
  );
  return sentences;
}

const percent = (share: number) => `${(Math.ceil(share * 1e5) / 1e3).toFixed(2)} %`;

async function writePage(path: string, planned: Planned, costsName: string): Promise<void> {
  const { plan } = planned;
  const title = `${count(plan.sequences, "sequence")} on ${count(plan.devices, "device")}`;
  const page = planPage(plan, { title, summary: facts(planned, costsName) });
  try {
    await replaceFile(path, (file) => file.writeFile(page));
  } catch (error) {
    throw new LonghaulError("ERR_INVALID_ARGUMENT", `cannot write ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  note(dim(`written to ${path}`));
}

async function readCosts(name: string, devices: number): Promise<SequenceParallelCosts> {
  const published = PUBLISHED_MODELS.find((known) => known === name);
  if (published !== undefined) return publishedCosts(published, { devices });
  return parseCosts(
    await readText(name, `; --costs is a file, or one of ${PUBLISHED_MODELS.join(", ")}`),
    name,
  );
}

async function readText(path: string, advice = "; give a file that can be read"): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `${path}: cannot be read (${(error as Error).message})${advice}`,
      { cause: error },
    );
  }
}

function readKinds(text: string | undefined): AttentionKind[] | undefined {
  return text?.split(",").map((name) => {
    const kind = ATTENTION_KINDS.find((known) => known === name);
    if (kind === undefined)
      throw new UsageError(`--attention must be a list of ${ATTENTION_KINDS.join(", ")}, got "${name}"`);
    return kind;
  });
}
