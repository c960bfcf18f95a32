// The demo's table.
import { cpus } from "node:os";
import Table from "cli-table3";

export function introduction({ dialogues, tokens, asked, model }) {
  return `${dialogues} dialogues of about ${tokens} tokens, ${asked} questions about facts stated in them, answered by ${model}
on ${cpus()[0]?.model.trim() ?? "an unknown CPU"}, ${cpus().length} cores. The first row keeps every key and value (full KV); the others may keep only
"budget" rows per KV head and layer, and choose which without knowing the questions.
`;
}

export function table(results) {
  const grid = new Table({
    head: [
      "policy",
      "budget",
      "answers right",
      "peak KV",
      "rows kept",
      "prefill tok/s",
      "decode tok/s",
      "first token",
    ],
    colAligns: ["left", "right", "right", "right", "right", "right", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  for (const result of results) {
    grid.push([
      result.policy,
      result.budget ?? "-",
      `${result.right}/${result.asked}  ${percent(result.right / result.asked)}`,
      kibibytes(result.peakBytes),
      percent(result.rowsKept),
      Math.round(result.prefillTokensPerSecond),
      Math.round(result.decodeTokensPerSecond),
      `${result.firstTokenMs.toFixed(1)} ms`,
    ]);
  }
  return grid.toString();
}

export function explanation({ block, promptPairs, episodes, policies }) {
  const episodic = `
epicache keeps ${episodes} such memories of one dialogue, one an episode, and reads the dialogue once for each: its peak and its rows
are those of all of them. It finds episodes and matches questions by the words of their topics.`;
  const repeated = `
kvzip feeds the tokens of each block once more, behind an instruction to repeat them, and scores rows by their attention: they
are in its peak too.`;
  return `
How to read it: "answers right" counts answers with the very value that was stated. "peak KV" is the most that keys and
values of one conversation ever took, inside prefill passes (blocks of ${block} tokens) too: full KV grows with the history, the
others do not. "first token" is the time from asking to the first token of the answer. Times and rates are medians.
patched-prompt scores rows by the attention of a fixed prompt: ${promptPairs} made-up pairs of an entity and an attribute, none of
them stated in the dialogue; the prompt's own rows are in its peak too.${policies.includes("kvzip") ? repeated : ""}${policies.includes("epicache") ? episodic : ""}
This model's fact tokens are outliers among the keys, which KeyDiff rewards: this order of policies is no general one.`;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function kibibytes(bytes) {
  return bytes < 1024 * 1024 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
