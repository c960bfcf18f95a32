/** How many groups of each degree (by its index) the devices are divided into. */
export type Partition = Int32Array;

/** More than this many are not listed one by one. */
const MOST = 30_000;

/** How many ways there are to write `devices` as a sum of `degrees`. */
export function countPartitions(devices: number, degrees: readonly number[]): number {
  const ways = new Float64Array(devices + 1);
  ways[0] = 1;
  for (const degree of degrees) {
    for (let sum = degree; sum <= devices; sum++) ways[sum] = (ways[sum] as number) + (ways[sum - degree] as number);
  }
  return ways[devices] as number;
}

/**
 * All partitions of `devices` into `degrees` (ascending powers of two) while they are at most 30,000. Beyond that the
 * smallest degrees are not mixed: the devices are divided into as small a degree as that allows, and all or half of
 * the groups of that degree are then cut into equal smaller ones.
 */
export function listPartitions(devices: number, degrees: readonly number[]): Partition[] {
  let first = 0;
  while (first + 1 < degrees.length && countPartitions(devices, degrees.slice(first)) > MOST) first++;
  // Without its smallest degree the sum may not come out.
  while (first > 0 && devices % (degrees[first] as number) !== 0) first--;
  const width = degrees.length;
  const listed: Partition[] = [];
  const counts = new Int32Array(width);
  const fill = (index: number, rest: number) => {
    const degree = degrees[index] as number;
    if (index > first) {
      for (let count = Math.floor(rest / degree); count >= 0; count--) {
        counts[index] = count;
        fill(index - 1, rest - count * degree);
      }
      return;
    }
    if (rest % degree !== 0) return;
    counts[index] = rest / degree;
    listed.push(counts.slice());
    for (let smaller = 0; smaller < first; smaller++) {
      const parts = degree / (degrees[smaller] as number);
      for (const cut of new Set([rest / degree, Math.floor(rest / degree / 2)])) {
        if (cut === 0) continue;
        const refined = counts.slice();
        refined[first] = rest / degree - cut;
        refined[smaller] = cut * parts;
        listed.push(refined);
      }
    }
  };
  fill(width - 1, devices);
  return listed;
}

/** The partitions with one group cut in two, or two groups made one. Only between degrees of which one is twice the other. */
export function neighbours(partition: Partition, degrees: readonly number[]): Partition[] {
  const found: Partition[] = [];
  for (let c = 0; c + 1 < partition.length; c++) {
    if (degrees[c + 1] !== 2 * (degrees[c] as number)) continue;
    const [smaller, larger] = [partition[c] as number, partition[c + 1] as number];
    if (smaller >= 2) found.push(changed(partition, c, -2, 1));
    if (larger >= 1) found.push(changed(partition, c, 2, -1));
  }
  return found;
}

function changed(partition: Partition, c: number, smaller: number, larger: number): Partition {
  const copy = partition.slice();
  copy[c] = (copy[c] as number) + smaller;
  copy[c + 1] = (copy[c + 1] as number) + larger;
  return copy;
}
