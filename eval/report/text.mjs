// What the reports say of policies and numbers.
import { plain } from "../../bench/report/numbers.mjs";

/** For readers who know none of them. */
const POLICY_TEXTS = {
  full: "keeps everything",
  streaming: "keeps the first few tokens and the newest ones (StreamingLLM)",
  snapkv: "keeps what the newest tokens of each block attend to (SnapKV)",
  "snapkv-refed": "the same, with those tokens read a second time, as EpiCache's code has it",
  tova: "keeps what the newest token of each block attends to, the same in all heads of a layer (TOVA)",
  keydiff: "keeps keys that are unlike the average key (KeyDiff)",
  kvzip: "keeps what a block attends to when it is read a second time, to be repeated (KVzip)",
  "patched-prompt":
    "keeps what a fixed prompt attends to: words that questions are made of, but none of the questions",
  epicache:
    "divides the conversation into episodes by topic and keeps a memory for each of them; a question goes to the episode that it is most like (EpiCache)",
  episodic:
    "the same episodes, but each memory keeps what was said in its own episode first, and of that the keys that are unlike the average key",
};

/** The policies of a result with what each does, as far as that is known here. */
export const policyTexts = (policies) =>
  [...new Set(policies)].flatMap((policy) =>
    POLICY_TEXTS[policy] === undefined ? [] : [`${policy}: ${POLICY_TEXTS[policy]}`],
  );

export const share = (value) => `${plain(Math.round(1000 * value) / 10)} %`;

/** A score with half its 95 % interval. */
export const scoreText = ({ mean, low, high }) =>
  `${(100 * mean).toFixed(1)} % ± ${(50 * (high - low)).toFixed(1)}`;

/** Tokens that went through the model, as multiples of the history. */
export const forwardedText = ({ forwardedTokens, tokens }) =>
  forwardedTokens === null ? "unknown" : `${(forwardedTokens / tokens).toFixed(2)}x`;

/** Results in groups of one data set or length, in the order in which they come. */
export function groupsOf(results) {
  const groups = new Map();
  for (const row of results) groups.set(row.group, [...(groups.get(row.group) ?? []), row]);
  return [...groups].map(([name, rows]) => ({
    name,
    rows,
    full: rows.find(({ policy }) => policy === "full"),
  }));
}
