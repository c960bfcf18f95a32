// What passes, as the golden program judges it (test/native/golden/limits.cc).
import type { Quantity } from "./report.js";

export interface Limit {
  readonly exact?: boolean;
  readonly abs?: number;
  readonly rel?: number;
  readonly rel_of_max?: number;
}

type Numbers = ArrayLike<number>;
type Verdict = Pick<Quantity, "error" | "limit" | "pass" | "where">;

const FORMS = new Set(["exact", "abs", "rel", "rel_of_max"]);

/** The entry of a case's `limits`, which must be of a form that is understood here. */
export function limitOf(limits: Record<string, Limit> | undefined, quantity: string): Limit {
  const limit = limits?.[quantity];
  if (limit === undefined) throw new Error(`limits: there is no "${quantity}"`);
  const unknown = Object.keys(limit).find((form) => !FORMS.has(form));
  if (unknown !== undefined) throw new Error(`limits: "${quantity}" has "${unknown}", not understood here`);
  return limit;
}

export function compare(limit: Limit, got: Numbers, reference: Numbers): Verdict {
  if (limit.exact) return differing(got, reference);
  if (got.length !== reference.length) {
    return {
      error: null,
      limit: 0,
      pass: false,
      where: `${got.length} elements instead of ${reference.length}`,
    };
  }
  const { abs = 0, rel = 0, rel_of_max = 0 } = limit;
  const most = rel_of_max > 0 ? Array.from(reference).reduce((max, y) => Math.max(max, Math.abs(y)), 0) : 0;
  let worst: Verdict & { ratio: number } = { error: 0, limit: abs, pass: true, ratio: -1 };
  for (let i = 0; i < reference.length; i++) {
    const x = got[i] as number;
    const y = reference[i] as number;
    const where = `[${i}]: ${x} instead of ${y}`;
    if (Number.isNaN(x) || Number.isNaN(y)) return { error: null, limit: 0, pass: false, where };
    const error = x === y ? 0 : Math.abs(x - y);
    const tolerance = abs + rel * Math.abs(y) + rel_of_max * most;
    const ratio = error === 0 ? 0 : error / tolerance;
    if (ratio > worst.ratio) worst = { error, limit: tolerance, pass: error <= tolerance, where, ratio };
  }
  const { ratio: _, ...verdict } = worst;
  return verdict;
}

/** Equality; the error is how many elements differ. */
export function differing(got: Numbers, reference: Numbers): Verdict {
  const length = Math.max(got.length, reference.length);
  const at = Array.from({ length }, (_, i) => i).filter((i) => got[i] !== reference[i]);
  const first = at[0];
  const pass = first === undefined;
  const where = pass ? {} : { where: `[${first}]: ${got[first]} instead of ${reference[first]}` };
  return { error: at.length, limit: 0, pass, ...where };
}
