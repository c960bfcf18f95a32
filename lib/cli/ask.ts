import { type Arguments, UsageError } from "./arguments.js";
import { interruptible } from "./interrupt.js";
import { readMemoryOptions, readSamplingOptions } from "./options.js";
import {
  answerLine,
  ingestWithProgress,
  memoryLine,
  printJson,
  readHistory,
  streamAnswer,
  withEngine,
} from "./session.js";
import { dim, note } from "./terminal.js";

/** `longhaul ask`: questions about a history, each answered from the same cache. */
export async function run(values: Arguments): Promise<void> {
  const path = values.requiredText("history");
  const questions = values.texts("question");
  if (questions.length === 0) throw new UsageError("--question is missing");
  const memory = readMemoryOptions(values);
  const options = readSamplingOptions(values);
  const system = values.text("system");
  const json = values.flag("json");
  const history = await readHistory(path, values.text("sample"));

  await interruptible((signal) =>
    withEngine(values, signal, async (engine) => {
      const conversation = await engine.conversation(system === undefined ? { memory } : { system, memory });
      const ingestMs = await ingestWithProgress(conversation, history.input, signal);
      const answers = [];
      for (const question of questions) {
        const answer = conversation.ask(question, { ...options, signal, remember: false });
        const result = await streamAnswer(answer, !json, `Q: ${question}\nA: `);
        note(dim(answerLine(result)));
        answers.push({ question, ...result });
      }
      note(dim(memoryLine(conversation)));
      if (json)
        printJson({
          model: values.positional("MODEL"),
          history: { file: path, format: history.format, ingestMs },
          answers,
          memory: conversation.memory(),
        });
    }),
  );
}
