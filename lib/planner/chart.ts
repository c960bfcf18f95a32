import type { MicroBatch, PlannedGroup, SequenceParallelPlan } from "./types.js";

/** Equal groups in a row that are shown one by one; more are shown as one line. */
const MOST_ALIKE = 4;
const SHORTEST_BAR = 8;

/**
 * The plan as lines of text no wider than `width` (at least 40): a bar for each group, filled for as long as it
 * is busy of its micro-batch. `colour` fills bars with terminal colours by degree.
 */
export function planChart(plan: SequenceParallelPlan, width: number, colour = false): string {
  let begin = 0;
  const parts = plan.microBatches.map((batch, b) => {
    const title = `micro-batch ${b + 1} of ${plan.microBatches.length}: ${batch.tokens} tokens, from ${ms(begin)} to ${ms(begin + batch.ms)}`;
    begin += batch.ms;
    return [title, ...batchLines(batch, Math.max(40, width), colour)].join("\n");
  });
  return `${parts.join("\n\n")}\n`;
}

function batchLines(batch: MicroBatch, width: number, colour: boolean): string[] {
  const rows = runsOf(batch.groups).map((run) => {
    const first = run[0] as PlannedGroup;
    const last = run.at(-1) as PlannedGroup;
    const end = last.firstDevice + last.degree - 1;
    const devices = first.firstDevice === end ? `${end}` : `${first.firstDevice}-${end}`;
    const times = run.map((group) => group.ms);
    const sequences = run.reduce((sum, group) => sum + group.sequences.length, 0);
    return {
      degree: first.degree,
      label: [
        devices,
        run.length === 1 ? `x${first.degree}` : `${run.length} of x${first.degree}`,
        kind(first),
      ],
      busy: times.reduce((a, b) => a + b, 0) / times.length / batch.ms,
      end: `${sequences} seq ${range(times)}`,
    };
  });
  const widths = [0, 1, 2].map((i) => Math.max(...rows.map(({ label }) => (label[i] as string).length)));
  const ends = Math.max(...rows.map(({ end }) => end.length));
  const labels = rows.map(({ label }) =>
    label
      .map((text, i) => text.padEnd(widths[i] as number))
      .join(" ")
      .trimEnd(),
  );
  const lead = Math.max(...labels.map((label) => label.length));
  const bar = Math.max(SHORTEST_BAR, width - lead - ends - 4);
  return rows.map(({ degree, busy, end }, i) => {
    const filled = Math.max(1, Math.round(busy * bar));
    const full = "█".repeat(filled);
    const shown = colour ? `\u001b[${31 + (Math.log2(degree) % 6)}m${full}\u001b[39m` : full;
    return `  ${(labels[i] as string).padEnd(lead)} ${shown}${"·".repeat(bar - filled)} ${end}`;
  });
}

/** Groups of one degree behind each other, together where they are many. */
function runsOf(groups: readonly PlannedGroup[]): PlannedGroup[][] {
  const alike: PlannedGroup[][] = [];
  for (const group of groups) {
    const run = alike.at(-1);
    if (run?.[0]?.degree === group.degree) run.push(group);
    else alike.push([group]);
  }
  return alike.flatMap((run) => (run.length > MOST_ALIKE ? [run] : run.map((group) => [group])));
}

const kind = ({ degree, attention, ulysses, ring }: PlannedGroup) =>
  degree === 1 ? "alone" : attention === "hybrid" ? `hybrid ${ulysses}x${ring}` : attention;

const ms = (time: number) => `${Math.round(time)} ms`;

function range(times: readonly number[]): string {
  const [least, most] = [Math.round(Math.min(...times)), Math.round(Math.max(...times))];
  return least === most ? `${least} ms` : `${least}-${most} ms`;
}
