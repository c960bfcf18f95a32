import { describeValue } from "../errors.js";
import type { SequenceParallelCosts } from "./costs.js";
import type { MicroBatch, PlannedGroup, PlanOptions, SequenceParallelPlan } from "./types.js";

const TOLERANCE = 1e-9;
const MIB = 2 ** 20;

/**
 * Everything that is wrong with a plan, or nothing. Recomputes coverage, layout, memory, head counts, times and
 * scales from lengths and costs by the formulas of docs/sequence-parallel.md, and shares no code with the
 * planner: also for plans that came over a network or from elsewhere.
 */
export function checkPlan(
  lengths: readonly number[],
  plan: SequenceParallelPlan,
  { devices, costs, minDegree = 1, maxDegree = devices, attention }: PlanOptions,
): string[] {
  const faults: string[] = [];
  const say = (fault: string) => faults.push(fault);
  if (typeof plan !== "object" || plan === null || !isList(plan.microBatches)) return ["it is no plan"];
  if (plan.devices !== devices) say(`it is for ${describeValue(plan.devices)} devices, not ${devices}`);
  if (plan.sequences !== lengths.length)
    say(`it is for ${describeValue(plan.sequences)} sequences, not ${lengths.length}`);

  const seen = new Uint32Array(lengths.length);
  for (const [b, batch] of plan.microBatches.entries()) {
    const name = `micro-batch ${b}`;
    if (!isList(batch?.groups) || batch.groups.length === 0) {
      say(`${name} has no groups`);
      continue;
    }
    batch.groups.forEach((group, g) => {
      checkGroup(group, `${name}, group ${g}`);
    });
    checkLayout(batch, name);
    sameNumber(
      batch.tokens,
      sum(batch.groups, ({ tokens }) => tokens),
      `${name}: tokens`,
    );
    sameNumber(batch.ms, Math.max(...batch.groups.map(({ ms }) => ms)), `${name}: ms`);
  }
  seen.forEach((count, index) => {
    if (count === 0) say(`sequence ${index} is in no group`);
    if (count > 1) say(`sequence ${index} is in ${count} groups`);
  });
  const tokens = sum(lengths, (length) => length);
  sameNumber(plan.tokens, tokens, "tokens");
  sameNumber(
    plan.ms,
    sum(plan.microBatches, ({ ms }) => ms),
    "ms",
  );
  sameNumber(plan.tokenLossScale, devices / tokens, "tokenLossScale");
  return faults;

  function sameNumber(got: unknown, expected: number, name: string): void {
    const off = Math.abs((got as number) - expected);
    if (typeof got !== "number" || !(off <= TOLERANCE * Math.abs(expected)))
      say(`${name} is ${describeValue(got)}, and ${expected} by the lengths and costs`);
  }

  function checkGroup(group: PlannedGroup, name: string): void {
    const { degree, sequences } = group;
    if (!Number.isInteger(degree) || degree < 1 || 2 ** Math.round(Math.log2(degree)) !== degree)
      return void say(`${name}: degree ${describeValue(degree)} is no power of two`);
    if (degree < minDegree || degree > maxDegree)
      say(`${name}: degree ${degree} is not from ${minDegree} to ${maxDegree}`);
    if (!isList(sequences) || sequences.length === 0) return void say(`${name} has no sequences`);
    const unknown = sequences.find((index) => !Number.isInteger(index) || lengths[index] === undefined);
    if (unknown !== undefined) return void say(`${name}: there is no sequence ${describeValue(unknown)}`);
    for (const index of sequences) seen[index] = (seen[index] as number) + 1;
    const own = sequences.map((index) => lengths[index] as number);
    const ownTokens = sum(own, (length) => length);
    sameNumber(group.tokens, ownTokens, `${name}: tokens`);
    const room = costs.memory.tokensPerDevice * degree;
    if (ownTokens > room) say(`${name}: ${ownTokens} tokens, and memory for ${room}`);
    if (attention !== undefined && degree > 1 && !attention.includes(group.attention))
      say(`${name}: attention by ${describeValue(group.attention)} is not allowed`);
    const impossible = attentionFault(group, costs);
    if (impossible !== null) return void say(`${name}: ${impossible}`);
    const { msPerTokenSquared: a1, msPerToken: a2, msPerGroup } = costs.compute;
    const communication = communicationMs(group, costs);
    if (!Number.isFinite(communication))
      return void say(`${name}: the costs hold no rate of ${group.attention} for degree ${degree}`);
    const ms = sum(own, (s) => (a1 * s * s + a2 * s) / degree + communication * s) + msPerGroup;
    sameNumber(group.ms, ms, `${name}: ms`);
    const allTokens = sum(lengths, (length) => length);
    // A rank's mean is over ownTokens / degree tokens, and averaging over devices divides by their number.
    sameNumber(group.meanLossScale, (ownTokens / degree) * (devices / allTokens), `${name}: meanLossScale`);
  }

  function checkLayout({ groups }: MicroBatch, name: string): void {
    const used = sum(groups, ({ degree }) => degree);
    if (used !== devices) say(`${name} uses ${used} of ${devices} devices`);
    const taken = new Set<number>();
    for (const [g, { firstDevice, degree }] of groups.entries()) {
      const end = firstDevice + degree;
      if (!Number.isInteger(firstDevice) || firstDevice < 0 || end > devices)
        return void say(
          `${name}, group ${g}: there are no devices from ${describeValue(firstDevice)} to ${end - 1}`,
        );
      if (firstDevice % degree !== 0)
        say(`${name}, group ${g}: device ${firstDevice} is no multiple of degree ${degree}`);
      for (let device = firstDevice; device < end; device++) {
        if (taken.has(device)) return void say(`${name}, group ${g}: device ${device} is in another group too`);
        taken.add(device);
      }
    }
  }
}

/** Why heads cannot be divided as the group wants, or null. */
function attentionFault({ degree, attention, ulysses, ring }: PlannedGroup, { model }: SequenceParallelCosts) {
  if (ulysses * ring !== degree) return `ulysses ${ulysses} * ring ${ring} is not degree ${degree}`;
  const expected =
    attention === "ulysses" ? ring === 1 : attention === "hybrid" ? ulysses > 1 && ring > 1 : ulysses === 1;
  if (!["ulysses", "ring", "hybrid", "all-gather"].includes(attention) || !expected)
    return `attention by ${describeValue(attention)} is not ulysses ${ulysses} * ring ${ring}`;
  const { heads, kvHeads } = model;
  if (heads % ulysses !== 0) return `${heads} heads cannot be divided among ${ulysses} devices`;
  if (kvHeads % ulysses !== 0 && ulysses % kvHeads !== 0)
    return `${kvHeads} KV heads cannot be divided among ${ulysses} devices`;
  return null;
}

/** Milliseconds of communication a token. Infinity without a rate. */
function communicationMs(
  { degree, attention, ulysses, ring }: PlannedGroup,
  costs: SequenceParallelCosts,
): number {
  if (degree === 1) return 0;
  const { layers, heads, kvHeads, headDim, bytesPerElement = 2, pass = "training" } = costs.model;
  const backward = pass === "training";
  let ms = 0;
  if (ulysses > 1) {
    // Q and O, then K and V.
    const elements = 2 * heads * headDim + 2 * Math.max(kvHeads, ulysses) * headDim;
    const bytes = layers * elements * bytesPerElement * (backward ? 2 : 1);
    ms += bytes / degree / MIB / (costs.bandwidth.allToAll?.[ulysses] ?? 0);
  }
  if (ring > 1) {
    const heldKvHeads = ulysses > 1 ? Math.max(kvHeads, ulysses) / ulysses : kvHeads;
    // Keys and values once forward; backward once more, with their gradients in f32.
    const bytes = backward ? 2 * bytesPerElement + 4 : bytesPerElement;
    const rates = attention === "all-gather" ? costs.bandwidth.allGather : costs.bandwidth.ring;
    ms += (layers * 2 * heldKvHeads * headDim * bytes * (ring - 1)) / ring / MIB / (rates?.[degree] ?? 0);
  }
  return ms;
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}

/** Unlike Array.isArray, leaves the type of a readonly array alone. */
const isList = (value: unknown): boolean => Array.isArray(value);
