// Token F1 as LoCoMo's official scorer computes it (snap-research/locomo, task_eval/evaluation.py), which RealTalk's
// lexical score repeats: words are stemmed, and each category is scored in its own way.
import { stem } from "./porter.mjs";
import { tokenF1, wholeWords, withoutPunctuation, wordsOf } from "./tokens.mjs";

const ARTICLES = wholeWords(["a", "an", "the", "and"]);
const NO_ANSWER = ["no information available", "not mentioned"];

const stemsOf = (text) => wordsOf(withoutPunctuation(text).replace(ARTICLES, " ")).map(stem);
const stemmedF1 = (prediction, answer) => tokenF1(stemsOf(prediction), stemsOf(answer));

const partsOf = (text) => text.split(",").map((part) => part.trim());

/** For each part of the answer the best part of the prediction, on average. */
function partialF1(prediction, answer) {
  const predictions = partsOf(prediction);
  const answers = partsOf(answer);
  const best = answers.map((part) => Math.max(...predictions.map((candidate) => stemmedF1(candidate, part))));
  return best.reduce((sum, value) => sum + value, 0) / best.length;
}

/**
 * @param {{ answer: string, kind: 1 | 2 | 3 | 4 | 5 }} question `kind` is LoCoMo's number: multi-hop, temporal,
 *   open-domain, single-hop, adversarial
 * @param {string} prediction
 * @returns {number} from 0 to 1
 */
export function locomoF1({ answer, kind }, prediction) {
  switch (kind) {
    case 1:
      return partialF1(prediction, answer);
    case 5:
      return NO_ANSWER.some((text) => prediction.toLowerCase().includes(text)) ? 1 : 0;
    case 3:
      // Behind the first semicolon comes the reason.
      return stemmedF1(prediction, answer.split(";")[0]);
    default:
      return stemmedF1(prediction, answer);
  }
}
