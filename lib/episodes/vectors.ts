import { invalidOption } from "../errors.js";

/** Vectors of one width, one after the other: values [count, width]. */
export interface Rows {
  readonly count: number;
  readonly width: number;
  readonly values: Float64Array;
}

export function rowOf({ values, width }: Rows, index: number): Float64Array {
  return values.subarray(index * width, (index + 1) * width);
}

/** Copies vectors scaled to length 1; one of zeros stays as it is. Refuses unequal widths and what is not finite. */
export function toUnitRows(name: string, vectors: readonly ArrayLike<number>[]): Rows {
  const width = vectors[0]?.length ?? 0;
  const values = new Float64Array(vectors.length * width);
  for (const [index, vector] of vectors.entries()) {
    if (vector.length !== width || width === 0) {
      throw invalidOption(`${name}[${index}]`, `a vector of ${width || "one or more"} numbers`, vector);
    }
    const row = values.subarray(index * width, (index + 1) * width);
    row.set(vector);
    const length = Math.sqrt(dot(row, row));
    if (!Number.isFinite(length))
      throw invalidOption(`${name}[${index}]`, "a vector of finite numbers", vector);
    if (length > 0) for (let i = 0; i < width; i++) row[i] = (row[i] as number) / length;
  }
  return { count: vectors.length, width, values };
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Of the angle between a and b; 0 where one of them is zero. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const lengths = Math.sqrt(dot(a, a) * dot(b, b));
  return lengths > 0 ? dot(a, b) / lengths : 0;
}

/** Sum of squared differences, as such: |a|^2 + |b|^2 - 2 a.b would lose small distances to rounding. */
export function squaredDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = (a[i] as number) - (b[i] as number);
    sum += difference * difference;
  }
  return sum;
}

/** The index of the largest value, the lowest on a tie. */
export function argMax(values: readonly number[]): number {
  return values.reduce((best, value, index) => (value > (values[best] as number) ? index : best), 0);
}
