import type { Tokenizer } from "../text/tokenizer.js";
import { type History, sentences, written } from "./history.js";

export const WINDOW_UNITS = ["utterances", "sentences", "tokens"] as const;

/** What is embedded and clustered: so many units of the history each, the last window what is left. */
export interface WindowSettings {
  readonly by: (typeof WINDOW_UNITS)[number];
  readonly size: number;
}

/** Cuts a history into windows, without regard to sessions, as EpiCache does. */
export function windowsOf(
  history: History,
  { by, size }: WindowSettings,
  tokenizer: Pick<Tokenizer, "encode" | "streamDecoder">,
): string[] {
  const { utterances, separator } = history;
  if (by === "tokens") return byTokens(utterances.map(written).join(separator), size, tokenizer);
  const units =
    by === "utterances"
      ? utterances
      : utterances.flatMap(({ text, ...speaker }) =>
          sentences(text).map((sentence) => ({ ...speaker, text: sentence })),
        );
  return Array.from({ length: Math.ceil(units.length / size) }, (_, window) =>
    units
      .slice(window * size, (window + 1) * size)
      .map(written)
      .join(separator),
  );
}

function byTokens(
  text: string,
  size: number,
  tokenizer: Pick<Tokenizer, "encode" | "streamDecoder">,
): string[] {
  const windows: string[] = [];
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  // One decoder for all: a character whose bytes are spread over two windows goes to the second.
  const decoder = tokenizer.streamDecoder();
  for (let begin = 0; begin < ids.length; begin += size) {
    let window = "";
    for (const id of ids.slice(begin, begin + size)) window += decoder.push(id);
    if (begin + size >= ids.length) window += decoder.flush();
    if (window.trim() !== "") windows.push(window.trim());
  }
  return windows;
}
