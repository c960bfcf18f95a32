import { beforeAll, describe, expect, it } from "vitest";
import { importEval } from "./support.js";

interface Times {
  readonly setUpMs: number;
  readonly turnMs: readonly number[];
}
interface Account {
  cumulative(times: Times): number[];
  breakEvenTurn(series: Times, reference: Times): number | undefined;
  movingMedian(values: readonly number[], width: number): number[];
  spreadOf(values: readonly number[]): { median: number; low: number; high: number };
}
interface Plan {
  planTurns(
    questions: readonly { topic: string; question: string }[],
    options: { turns: number; switches: number; seed: number },
  ): { topic: string; question: string; switched: boolean }[];
}

let account: Account;
let plan: Plan;
beforeAll(async () => {
  account = await importEval<Account>("turns/account");
  plan = await importEval<Plan>("turns/plan");
});

describe("the account of turns", () => {
  it("adds turns to the set-up", () => {
    expect(account.cumulative({ setUpMs: 5, turnMs: [1, 2, 3] })).toEqual([5, 6, 8, 11]);
  });

  it("finds the turn from which on a memory stays ahead", () => {
    const full = { setUpMs: 10, turnMs: [4, 4, 4, 4] };
    // 16, 18, 20, 22, 24 against 10, 14, 18, 22, 26: even behind turn 3, ahead behind turn 4.
    expect(account.breakEvenTurn({ setUpMs: 16, turnMs: [2, 2, 2, 2] }, full)).toBe(4);
    expect(account.breakEvenTurn({ setUpMs: 9, turnMs: [4, 4, 4, 4] }, full)).toBe(0);
    expect(account.breakEvenTurn({ setUpMs: 9, turnMs: [4, 4, 4, 6] }, full)).toBeUndefined();
    // Ahead, behind, ahead again: what counts is that it stays.
    expect(account.breakEvenTurn({ setUpMs: 9, turnMs: [6, 1, 1, 1] }, full)).toBe(2);
  });

  it("smooths by medians and tells the spread", () => {
    expect(account.movingMedian([1, 9, 2, 3, 8], 3)).toEqual([9, 2, 3, 3, 8]);
    const values = Array.from({ length: 101 }, (_, i) => 100 - i);
    expect(account.spreadOf(values)).toEqual({ median: 50, low: 10, high: 90 });
  });
});

describe("the plan of turns", () => {
  const questions = ["a", "b", "c"].flatMap((topic) =>
    [1, 2].map((number) => ({ topic, question: `${topic}${number}` })),
  );

  it("switches topics as often as it is told", () => {
    const turns = plan.planTurns(questions, { turns: 2000, switches: 0.3, seed: 7 });
    expect(turns.filter(({ switched }) => switched)).toHaveLength(600);
    // At random places: the first thousand turns have about half of them, within five standard deviations.
    const early = turns.slice(0, 1000).filter(({ switched }) => switched).length;
    expect(Math.abs(early - 300)).toBeLessThan(5 * Math.sqrt(600 / 4));
    for (const [index, turn] of turns.entries()) {
      expect(turn.switched).toBe(index > 0 && turns[index - 1]?.topic !== turn.topic);
      expect(turn.question.startsWith(turn.topic)).toBe(true);
    }
    expect(turns).toEqual(plan.planTurns(questions, { turns: 2000, switches: 0.3, seed: 7 }));
    expect(turns).not.toEqual(plan.planTurns(questions, { turns: 2000, switches: 0.3, seed: 8 }));
  });

  it("keeps to the only topic there is", () => {
    const one = questions.filter(({ topic }) => topic === "a");
    const turns = plan.planTurns(one, { turns: 20, switches: 1, seed: 1 });
    expect(turns.every(({ switched }) => !switched)).toBe(true);
  });
});
