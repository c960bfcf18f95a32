import { describe, expect, it } from "vitest";
import {
  checkPlan,
  type MicroBatch,
  type PlannedGroup,
  type PlanOptions,
  planSequenceParallel,
  planStaticDegree,
  type SequenceParallelPlan,
} from "../../lib/index.js";
import { costsWith, longTailed } from "./support.js";

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer E)[] ? Mutable<E>[] : T[K] };
type Plan = Omit<Mutable<SequenceParallelPlan>, "microBatches"> & {
  microBatches: (Omit<Mutable<MicroBatch>, "groups"> & { groups: Mutable<PlannedGroup>[] })[];
};

const lengths = longTailed(7, 96, { median: 3000, max: 20_000 });
const options: PlanOptions = { devices: 16, costs: costsWith(6449) };
const valid = planSequenceParallel(lengths, options);

function broken(change: (plan: Plan) => void, given: PlanOptions = options): string[] {
  const plan = structuredClone(valid) as unknown as Plan;
  change(plan);
  return checkPlan(lengths, plan as SequenceParallelPlan, given);
}

const batch = (plan: Plan, b = 0) => plan.microBatches[b] as Plan["microBatches"][number];
const group = (plan: Plan, g = 0, b = 0) => batch(plan, b).groups[g] as Mutable<PlannedGroup>;
const move = (plan: Plan, sequence: number, from: number, to: number) => {
  const source = group(plan, from);
  source.sequences = source.sequences.filter((index) => index !== sequence);
  group(plan, to).sequences.push(sequence);
};

describe("the plan checker", () => {
  it("accepts what the planner makes, which this test needs to be of several kinds", () => {
    expect(checkPlan(lengths, valid, options)).toEqual([]);
    expect(valid.microBatches.length).toBeGreaterThan(1);
    expect(valid.microBatches[0]?.groups.length).toBeGreaterThan(1);
  });

  it.each<[string, (plan: Plan) => void, RegExp, PlanOptions?]>([
    ["a sequence is missing", (p) => group(p).sequences.shift(), /sequence \d+ is in no group/],
    [
      "a sequence is there twice",
      (p) => group(p).sequences.push(group(p, 1).sequences[0] as number),
      /is in 2 groups/,
    ],
    ["a sequence that does not exist", (p) => group(p).sequences.push(96), /there is no sequence 96/],
    ["an index that is no integer", (p) => group(p).sequences.push(0.5), /there is no sequence 0.5/],
    [
      "a group without sequences",
      (p) => {
        group(p).sequences = [];
      },
      /has no sequences/,
    ],
    [
      "a micro-batch without groups",
      (p) => {
        batch(p).groups = [];
      },
      /micro-batch 0 has no groups/,
    ],
    [
      "a degree that is no power of two",
      (p) => {
        group(p).degree = 3;
      },
      /degree 3 is no power of two/,
    ],
    ["devices left over", (p) => void batch(p).groups.pop(), /uses \d+ of 16 devices/],
    [
      "devices that are shared",
      (p) => {
        group(p, 1).firstDevice = group(p).firstDevice;
      },
      /is in another group too/,
    ],
    [
      "a group that begins between its multiples",
      (p) => {
        group(p).firstDevice += 1;
      },
      /is no multiple of degree/,
    ],
    [
      "a group beyond the last device",
      (p) => {
        group(p).firstDevice = 16;
      },
      /there are no devices from 16/,
    ],
    ["more tokens than memory", () => {}, /tokens, and memory for/, { ...options, costs: costsWith(3000) }],
    [
      "the tokens of a group",
      (p) => {
        group(p).tokens += 1;
      },
      /group 0: tokens is/,
    ],
    [
      "the time of a group",
      (p) => {
        group(p).ms *= 0.999;
      },
      /group 0: ms is/,
    ],
    ["a sequence that was moved", (p) => move(p, group(p).sequences[0] as number, 0, 1), /tokens is/],
    [
      "the time of a micro-batch",
      (p) => {
        batch(p).ms *= 0.999;
      },
      /micro-batch 0: ms is/,
    ],
    [
      "the tokens of a micro-batch",
      (p) => {
        batch(p).tokens -= 1;
      },
      /micro-batch 0: tokens is/,
    ],
    [
      "the time of the step",
      (p) => {
        p.ms *= 0.999;
      },
      /^ms is/,
    ],
    [
      "the tokens of the step",
      (p) => {
        p.tokens += 1;
      },
      /^tokens is/,
    ],
    [
      "the scale of token losses",
      (p) => {
        p.tokenLossScale = 16 / 96;
      },
      /tokenLossScale is/,
    ],
    [
      "a scale as the published code has it",
      (p) => {
        group(p).meanLossScale = 1;
      },
      /meanLossScale is/,
    ],
    [
      "another number of devices",
      (p) => {
        p.devices = 8;
      },
      /for 8 devices, not 16/,
    ],
    [
      "another number of sequences",
      (p) => {
        p.sequences = 95;
      },
      /for 95 sequences, not 96/,
    ],
    [
      "a kind that is no such thing",
      (p) => {
        (group(p) as { attention: string }).attention = "magic";
      },
      /magic/,
    ],
    [
      "Ulysses and ring that do not make the degree",
      (p) => {
        group(p).ring = 2;
      },
      /is not degree/,
    ],
    [
      "a ring that nobody measured",
      (p) => Object.assign(group(p), { attention: "ring", ulysses: 1, ring: group(p).degree }),
      /hold no rate of ring/,
    ],
    ["a kind that was not allowed", () => {}, /is not allowed/, { ...options, attention: ["ring"] }],
    ["a degree below the least", () => {}, /is not from 16 to 16/, { ...options, minDegree: 16 }],
    [
      "heads that cannot be divided",
      () => {},
      /7 heads cannot be divided among \d+ devices/,
      { ...options, costs: { ...options.costs, model: { ...options.costs.model, heads: 7, kvHeads: 7 } } },
    ],
    [
      "KV heads that cannot be divided",
      () => {},
      /12 KV heads cannot be divided among \d+ devices/,
      { ...options, costs: { ...options.costs, model: { ...options.costs.model, heads: 96, kvHeads: 12 } } },
    ],
  ])("refuses %s", (_name, change, expected, given) => {
    expect(broken(change, given)).toContainEqual(expect.stringMatching(expected));
  });

  it("says that other things are no plan", () => {
    expect(checkPlan(lengths, {} as SequenceParallelPlan, options)).toEqual(["it is no plan"]);
  });

  it("accepts plans with one degree", () => {
    for (const degree of [8, 16]) {
      const plan = planStaticDegree(lengths, options, degree);
      const faults = checkPlan(lengths, plan, options).filter((fault) => !fault.includes("has no sequences"));
      expect(faults).toEqual([]);
    }
  });
});
