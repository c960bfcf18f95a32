// The scorers by name, and the sums over questions.
import { wordAfterIs } from "../../examples/demo/measure.mjs";
import { epicacheF1 } from "./epicache.mjs";
import { locomoF1 } from "./locomo.mjs";

/**
 * `score(question, prediction)` gives 0 to 1, or undefined for a question that does not count.
 * @type {Record<string, { title: string, about: string, score: (question: any, prediction: string) => number | undefined }>}
 */
export const SCORERS = {
  exact: {
    title: "answers right",
    about: "An answer is right when it gives the very value that was stated.",
    score: ({ answer }, prediction) => (wordAfterIs(prediction) === answer ? 1 : 0),
  },
  "locomo-f1": {
    title: "F1, LoCoMo's scorer",
    about:
      "Token F1 as LoCoMo's official scorer has it: words are stemmed, lists of a multi-hop answer are scored part by part, and an adversarial question is answered by saying that nothing was said.",
    score: locomoF1,
  },
  "epicache-f1": {
    title: "F1, EpiCache's scorer",
    about:
      "Token F1 as EpiCache's published code has it: whole words without stemming, every category alike, adversarial questions left out.",
    score: epicacheF1,
  },
};

/** Mean and its 95 % interval, from the spread of the values as if they were independent. */
export function meanOf(values) {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, count - 1);
  const half = 1.96 * Math.sqrt(variance / count);
  return { mean, low: Math.max(0, mean - half), high: Math.min(1, mean + half), count };
}

/** Scores answers and adds them up, in all and by category. */
export class Tally {
  #names;
  #asked = 0;
  #scores;
  #categories = new Map();

  /** @param {readonly string[]} names of SCORERS */
  constructor(names) {
    this.#names = names;
    this.#scores = this.#empty();
  }

  #empty() {
    return Object.fromEntries(this.#names.map((name) => [name, []]));
  }

  /** @returns {Record<string, number>} by scorer */
  add(question, prediction) {
    this.#asked += 1;
    const category = this.#categories.get(question.category) ?? { asked: 0, scores: this.#empty() };
    this.#categories.set(question.category, category);
    category.asked += 1;
    const scored = {};
    for (const name of this.#names) {
      const score = SCORERS[name].score(question, prediction);
      if (score === undefined) continue;
      scored[name] = score;
      this.#scores[name].push(score);
      category.scores[name].push(score);
    }
    return scored;
  }

  summary() {
    const means = (scores) =>
      Object.fromEntries(
        Object.entries(scores)
          .filter(([, values]) => values.length > 0)
          .map(([name, values]) => [name, meanOf(values)]),
      );
    return {
      asked: this.#asked,
      scores: means(this.#scores),
      categories: [...this.#categories].map(([name, { asked, scores }]) => ({
        name,
        asked,
        scores: means(scores),
      })),
    };
  }
}
