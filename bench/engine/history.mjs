// The history that both engines read, token by token the same.
import { BOS } from "../models/tokenizer.mjs";

/** `count` byte tokens behind BOS, in an order without a short period. */
export function historyTokens(count) {
  let state = 1;
  return Array.from({ length: count }, (_, i) => {
    if (i === 0) return BOS;
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

/** What is asked at each point of the history. */
export const QUESTION = [63];

/** Answers at each point: their spread tells how steady the machine was. */
export const ANSWERS = 3;
