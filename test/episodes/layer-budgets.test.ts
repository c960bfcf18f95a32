import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { layerBudgets } from "../../lib/layer-budgets.js";

const profile = fc
  .array(fc.double({ min: -0.5, max: 1, noNaN: true }), { minLength: 1, maxLength: 40 })
  .map((sigma) => [1, ...sigma]);
const budget = fc.integer({ min: 1, max: 9000 });
const alpha = fc.double({ min: 0.1, max: 300, noNaN: true });

describe("layer budgets", () => {
  it("sum up exactly and leave nobody below the floor", () => {
    fc.assert(
      fc.property(profile, budget, alpha, (sigma, rows, power) => {
        const budgets = layerBudgets(sigma, rows, power);
        expect(budgets.reduce((a, b) => a + b, 0)).toBe(sigma.length * rows);
        for (const one of budgets) expect(one).toBeGreaterThanOrEqual(Math.max(1, Math.floor(rows / 4)));
      }),
    );
  });

  it("give a more sensitive layer no less, but for the row that rounding hands out", () => {
    fc.assert(
      fc.property(profile, budget, alpha, (sigma, rows, power) => {
        const budgets = layerBudgets(sigma, rows, power);
        const order = [...sigma.keys()].sort((a, b) => (sigma[a] ?? 0) - (sigma[b] ?? 0));
        for (const [place, layer] of order.entries()) {
          const next = budgets[order[place + 1] ?? layer] ?? 0;
          expect(budgets[layer]).toBeGreaterThanOrEqual(next - 1);
        }
      }),
    );
  });

  it("are equal where nothing tells layers apart", () => {
    expect(layerBudgets([1, 0.4, 0.7], 10, 0)).toEqual([10, 10, 10]);
    expect(layerBudgets([1, 1, 1], 10)).toEqual([10, 10, 10]);
  });

  it("refuse what is no profile", () => {
    expect(() => layerBudgets([], 10)).toThrow(/^similarity must be an array with one number for each layer/);
    expect(() => layerBudgets([1, 1.5], 10)).toThrow(/^similarity\[1\] must be a finite number from -1 to/);
    expect(() => layerBudgets([1, 0.5], 0)).toThrow(/^budget must be an integer of at least 1/);
  });
});
