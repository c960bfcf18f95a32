import { Assignment } from "./assign.js";
import { areaSums, type Load, partitionBound } from "./bounds.js";
import type { Grouping } from "./micro-batch.js";
import type { Partition } from "./partitions.js";

/** Places for a sequence that a search looks at before it gives up. */
const MOST_STEPS = 2e7;
/** What is better by less than this share is rounding. */
const LEAST_GAIN = 1e-12;

/**
 * The best grouping of a few sequences, by trying all that could be better than `makespan`. `grouping` is null
 * when nothing is; `complete` is false when there was too much to try.
 */
export function searchExactly(
  load: Load,
  partitions: readonly Partition[],
  makespan: number,
): { readonly grouping: Grouping | null; readonly complete: boolean } {
  const count = load.lengths.length;
  let fastest = makespan * (1 - LEAST_GAIN);
  let grouping: Grouping | null = null;
  let steps = 0;
  const sums = areaSums(load, makespan);
  for (const partition of partitions) {
    if (partition.reduce((a, b) => a + b, 0) > count || partitionBound(load, sums, partition) >= fastest)
      continue;
    const assignment = new Assignment(load, Assignment.groupsOf(partition));
    place(assignment, 0, assignment.busy.length);
    if (steps > MOST_STEPS) return { grouping, complete: false };
  }
  return { grouping, complete: true };

  function place(assignment: Assignment, k: number, empty: number): void {
    if (k === count) {
      const found = copyOf(assignment);
      const ms = found.makespan();
      if (ms >= fastest) return;
      fastest = ms;
      grouping = { assignment: found, makespan: ms };
      return;
    }
    const { busy, members, tokens, degreeOf } = assignment;
    for (let g = 0; g < busy.length; g++) {
      if (++steps > MOST_STEPS) return;
      // Those left must still fill the empty groups.
      const isEmpty = members[g] === 0;
      if (count - k <= empty && !isEmpty) continue;
      if ((load.lengths[k] as number) > assignment.room(g)) continue;
      if ((busy[g] as number) + assignment.weight(g, k) + load.fixed >= fastest) continue;
      const same = (h: number) =>
        degreeOf[h] === degreeOf[g] &&
        busy[h] === busy[g] &&
        tokens[h] === tokens[g] &&
        members[h] === members[g];
      let isRepeated = false;
      for (let h = 0; h < g && !isRepeated; h++) isRepeated = same(h);
      if (isRepeated) continue;
      const [before, held] = [busy[g] as number, tokens[g] as number];
      assignment.put(k, g);
      place(assignment, k + 1, empty - (isEmpty ? 1 : 0));
      assignment.take(k);
      // Taking away would leave rounding behind.
      busy[g] = before;
      tokens[g] = held;
    }
  }
}

function copyOf(assignment: Assignment): Assignment {
  const copy = new Assignment(assignment.load, assignment.degreeOf);
  assignment.groupOf.forEach((group, k) => {
    copy.put(k, group);
  });
  return copy;
}
