import { isEpisodic } from "../episodes/options.js";
import { LonghaulError } from "../errors.js";
import type { Conversation, Engine } from "../index.js";
import { type Arguments, UsageError } from "./arguments.js";
import { Interrupted, interruptible } from "./interrupt.js";
import { openLines } from "./lines.js";
import { memoryOptions, readMemoryOptions, readSamplingOptions } from "./options.js";
import {
  answerLine,
  ingestWithProgress,
  memoryLine,
  readHistory,
  streamAnswer,
  withEngine,
} from "./session.js";
import { dim, note } from "./terminal.js";
import { formatBytes } from "./units.js";

const HELP = `/memory     what the conversation holds, layer by layer
/save FILE  write a snapshot of the conversation, for --restore
/reset      start over, from the history or snapshot if there is one
/quit       leave, as Ctrl-D does
Ctrl-C      stop the answer; at the prompt: leave`;

/** `longhaul chat`: a conversation in the terminal. */
export async function run(values: Arguments): Promise<void> {
  const options = readSamplingOptions(values);
  const start = await readStart(values);
  await interruptible((signal) =>
    withEngine(values, signal, async (engine) => {
      let conversation = await start(engine, signal);
      note(dim(`${memoryLine(conversation)}\n/help lists the commands`));
      const lines = openLines();
      try {
        for (;;) {
          const line = await lines.next("> ", signal);
          if (line === null || line.trim() === "/quit") return;
          if (line.trim() === "") continue;
          if (line.trim() === "/reset") {
            await conversation.dispose();
            conversation = await start(engine, signal);
            note(dim(memoryLine(conversation)));
          } else if (/^\/save\s+\S/.test(line)) {
            await save(conversation, line.trim().replace(/^\/save\s+/, ""));
          } else if (line.startsWith("/")) {
            command(line.trim(), conversation);
          } else {
            await answer(conversation, line, options);
            note(dim(memoryLine(conversation)));
          }
        }
      } finally {
        lines.close();
      }
    }),
  );
}

/** What makes the conversation that a chat starts with, its history taken in. */
async function readStart(values: Arguments) {
  const snapshot = values.text("restore");
  if (snapshot !== undefined) {
    for (const option of ["history", "sample", "system", ...Object.keys(memoryOptions)]) {
      if (values.has(option))
        throw new UsageError(`--${option} does nothing with --restore: the snapshot has its own`);
    }
    return (engine: Engine, signal: AbortSignal): Promise<Conversation> => engine.restore(snapshot, { signal });
  }
  const memory = readMemoryOptions(values);
  const system = values.text("system");
  const path = values.text("history");
  const sample = values.text("sample");
  if (isEpisodic(memory.policy ?? "full") && path === undefined)
    throw new UsageError(`--policy ${memory.policy} needs a --history, of which it makes its episodes`);
  if (sample !== undefined && path === undefined) throw new UsageError("--sample needs a --history");
  const history = path === undefined ? undefined : await readHistory(path, sample);
  return async (engine: Engine, signal: AbortSignal): Promise<Conversation> => {
    const conversation = await engine.conversation(system === undefined ? { memory } : { system, memory });
    if (history !== undefined) await ingestWithProgress(conversation, history.input, signal);
    return conversation;
  };
}

/** Streams one answer. */
async function answer(
  conversation: Conversation,
  text: string,
  options: ReturnType<typeof readSamplingOptions>,
): Promise<void> {
  await forgiving(async (signal) => {
    const result = await streamAnswer(conversation.ask(text, { ...options, signal }), true);
    note(dim(answerLine(result)));
  });
}

async function save(conversation: Conversation, path: string): Promise<void> {
  await forgiving(async (signal) => {
    const { bytes } = await conversation.save(path, { signal });
    note(dim(`saved ${formatBytes(bytes)} in ${path}`));
  });
}

/** Ctrl-C ends what is done here, not the chat. */
async function forgiving(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  try {
    await interruptible(work);
  } catch (error) {
    if (error instanceof Interrupted && error.signal === "SIGINT") note(dim("stopped"));
    // At a terminal there is somebody to decide what to do about it; a script must hear of it.
    else if (error instanceof LonghaulError && process.stdin.isTTY)
      note(`longhaul: ${error.code}: ${error.message}`);
    else throw error;
  }
}

function command(line: string, conversation: Conversation): void {
  if (line === "/help") note(HELP);
  else if (line === "/memory") {
    const { rows } = conversation.memory();
    note(memoryLine(conversation));
    for (const [layer, heads] of rows.entries()) note(`  layer ${layer}: ${heads.join(" ")} rows`);
  } else note(`unknown command ${line.split(" ")[0]}; /help lists them`);
}
