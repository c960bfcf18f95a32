import { createInterface } from "node:readline";
import { Interrupted } from "./interrupt.js";

/** Where a chat's messages come from. */
export interface LineSource {
  /** The next line, or null at the end of the input. Rejects with the signal's reason, and on Ctrl-C. */
  next(prompt: string, signal: AbortSignal): Promise<string | null>;
  close(): void;
}

/** Lines typed at a terminal, or those of a pipe or file. */
export function openLines(): LineSource {
  return process.stdin.isTTY ? terminalLines() : pipedLines();
}

/**
 * One readline interface for each line: between two of them the terminal is in its normal mode, where Ctrl-C sends
 * the signal that stops an answer.
 */
function terminalLines(): LineSource {
  let history: string[] = [];
  return {
    next: (prompt, signal) =>
      new Promise((resolve, reject) => {
        const reader = createInterface({
          input: process.stdin,
          output: process.stderr,
          terminal: true,
          history: [...history],
        });
        let line: string | null = null;
        let failure: unknown;
        const leave = (reason: unknown) => {
          failure = reason;
          reader.close();
        };
        const abort = () => leave(signal.reason);
        signal.addEventListener("abort", abort);
        reader.on("history", (lines) => {
          history = lines;
        });
        reader.on("SIGINT", () => {
          // What was typed is dropped, as shells do it.
          if (reader.line === "") return leave(new Interrupted("SIGINT"));
          process.stderr.write("^C\n");
          reader.write(null, { ctrl: true, name: "e" });
          reader.write(null, { ctrl: true, name: "u" });
        });
        reader.on("close", () => {
          signal.removeEventListener("abort", abort);
          if (line === null) process.stderr.write("\n");
          if (failure !== undefined) reject(failure);
          else resolve(line);
        });
        reader.question(prompt, (typed) => {
          line = typed;
          reader.close();
        });
      }),
    close() {},
  };
}

function pipedLines(): LineSource {
  const reader = createInterface({ input: process.stdin, terminal: false });
  const lines = reader[Symbol.asyncIterator]();
  return {
    async next(_prompt, signal) {
      let abort = () => {};
      const aborted = new Promise<never>((_, reject) => {
        abort = () => reject(signal.reason);
      });
      signal.addEventListener("abort", abort);
      try {
        const { done, value } = await Promise.race([lines.next(), aborted]);
        return done ? null : value;
      } finally {
        signal.removeEventListener("abort", abort);
      }
    },
    close() {
      reader.close();
      // A pipe that stays open must not keep the program alive.
      process.stdin.unref?.();
    },
  };
}
