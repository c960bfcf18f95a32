/** How many groups of each degree (by its index) the devices are divided into. */
export type Partition = Int32Array;

/** More than this many are not listed one by one. */
const MOST = 30_000;

/** How many ways there are to write `devices` as a sum of `degrees`. */
export function countPartitions(devices: number, degrees: readonly number[]): number {
  const ways = new Float64Array(devices + 1);
  ways[0] = 1;
  for (const degree of degrees) {
    for (let sum = degree; sum <= devices; sum++)
      ways[sum] = (ways[sum] as number) + (ways[sum - degree] as number);
  }
  return ways[devices] as number;
}

/**
 * All partitions of `devices` into `degrees` (ascending powers of two), as long as they are at most 30,000;
 * else into the degrees from index `first` on, the smallest that allows it.
 */
export function listPartitions(
  devices: number,
  degrees: readonly number[],
): { readonly first: number; readonly partitions: Partition[] } {
  let first = 0;
  while (first + 1 < degrees.length && countPartitions(devices, degrees.slice(first)) > MOST) first++;
  // Without its smallest degree the sum may not come out.
  while (first > 0 && devices % (degrees[first] as number) !== 0) first--;
  const partitions: Partition[] = [];
  const counts = new Int32Array(degrees.length);
  const fill = (index: number, rest: number) => {
    const degree = degrees[index] as number;
    if (index > first) {
      for (let count = Math.floor(rest / degree); count >= 0; count--) {
        counts[index] = count;
        fill(index - 1, rest - count * degree);
      }
    } else if (rest % degree === 0) {
      counts[index] = rest / degree;
      partitions.push(counts.slice());
    }
  };
  fill(degrees.length - 1, devices);
  return { first, partitions };
}

/**
 * The partitions with one group cut in two, or two groups made one. Only between degrees of which one is twice
 * the other.
 */
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
