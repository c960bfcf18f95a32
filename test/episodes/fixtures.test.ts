// Every golden case of clustering and layer budgets, judged as `npm run fixtures` judges it.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { findCases } from "../golden/cases.js";
import { EPISODE_KINDS } from "../golden/episodes.js";
import { type Quantity, Report } from "../golden/report.js";

const fixtures = join(import.meta.dirname, "..", "fixtures");

class Collected extends Report {
  readonly lines: Quantity[] = [];

  constructor() {
    super(true);
  }

  override quantity(line: Quantity): void {
    this.lines.push(line);
  }

  override skip(): void {}
}

describe.each(["clustering", "layer_budgets"])("golden cases of %s", (folder) => {
  it.each(findCases(join(fixtures, folder)))("$name", async (one) => {
    const report = new Collected();
    await EPISODE_KINDS[one.kind ?? ""]?.(report, one);
    expect(report.lines.length).toBeGreaterThan(0);
    expect(report.lines.filter(({ pass }) => !pass)).toEqual([]);
  });
});
