import { type Arguments, UsageError } from "./arguments.js";
import { interruptible } from "./interrupt.js";
import { readSamplingOptions } from "./options.js";
import { answerLine, printJson, streamAnswer, withEngine, withoutLastBreak } from "./session.js";
import { dim, note } from "./terminal.js";

/** `longhaul run`: one prompt, one answer. */
export async function run(values: Arguments): Promise<void> {
  const given = values.requiredText("prompt");
  const options = readSamplingOptions(values);
  const system = values.text("system");
  const json = values.flag("json");
  if (system !== undefined && !values.flag("chat"))
    throw new UsageError("--system needs --chat: a plain text has no system prompt");
  const prompt = given === "-" ? await readStdin() : given;
  if (prompt === "") throw new UsageError("--prompt is empty");

  await interruptible((signal) =>
    withEngine(values, signal, async (engine) => {
      const user = { role: "user", content: prompt };
      const messages = system === undefined ? [user] : [{ role: "system", content: system }, user];
      const answer = engine.generate(values.flag("chat") ? messages : prompt, { ...options, signal });
      const result = await streamAnswer(answer, !json);
      if (json) printJson({ model: values.positional("MODEL"), prompt, ...result });
      note(dim(answerLine(result)));
    }),
  );
}

async function readStdin(): Promise<string> {
  let text = "";
  process.stdin.setEncoding("utf8");
  for await (const chunk of process.stdin) text += chunk;
  return withoutLastBreak(text);
}
