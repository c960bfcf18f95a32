// Token F1 as EpiCache's published code computes it (apple/ml-epicache, utils/metric.py): no stemming, words of digits as
// digits, and every category alike.
import { tokenF1, wholeWords, withoutPunctuation, wordsOf } from "./tokens.mjs";

const ARTICLES = wholeWords(["a", "an", "the"]);
const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const DIGIT_WORDS = wholeWords(DIGITS);

const normalised = (text) =>
  wordsOf(
    withoutPunctuation(text)
      .replace(ARTICLES, " ")
      .replace(DIGIT_WORDS, (word) => DIGITS.indexOf(word)),
  );

/**
 * @param {{ answer: string, kind?: number }} question
 * @param {string} prediction
 * @returns {number | undefined} from 0 to 1; undefined for LoCoMo's adversarial questions (5), which EpiCache leaves out
 */
export function epicacheF1({ answer, kind }, prediction) {
  return kind === 5 ? undefined : tokenF1(normalised(prediction), normalised(answer));
}
