import type { Engine, LayerProfile, ProfileOptions } from "../index.js";
import { profilePath, requireWritable } from "../layer-profile-file.js";
import { loadTranscript } from "../transcript.js";
import { type Arguments, UsageError } from "./arguments.js";
import { interruptible } from "./interrupt.js";
import { defined } from "./options.js";
import { printJson, withEngine } from "./session.js";
import { dim, note, openProgress } from "./terminal.js";
import { count, formatDuration } from "./units.js";

/** `longhaul profile`: measures the layers and writes what `memory.layers: "profiled"` reads. */
export async function run(values: Arguments): Promise<void> {
  const paths = values.texts("text");
  if (paths.length === 0) throw new UsageError("--text is missing");
  const output = values.text("output");
  const options = defined({
    maxTokens: values.integer("max-tokens", 1),
    block: values.integer("block", 1),
    window: values.integer("window", 1),
    sinks: values.integer("sinks", 0),
  });
  if (output !== undefined) await requireWritable(output);
  const texts = await Promise.all(paths.map(async (path) => (await loadTranscript(path)).text));

  await interruptible((signal) =>
    withEngine(values, signal, async (engine) => {
      const file = output ?? profilePath(engine.info());
      await requireWritable(file);
      const profile = await profileWithProgress(engine, texts, { ...options, signal });
      await engine.saveProfile(profile, file);
      note(dim(`written to ${file}`));
      if (values.flag("json")) printJson({ model: values.positional("MODEL"), file, ...profile });
      else process.stdout.write(table(profile));
    }),
  );
}

async function profileWithProgress(
  engine: Engine,
  texts: readonly string[],
  options: ProfileOptions,
): Promise<LayerProfile> {
  const progress = await openProgress("tokens");
  const begin = performance.now();
  try {
    const profile = await engine.profile(texts, {
      ...options,
      onProgress: ({ tokens, total }) => progress.update("profiling", tokens, total),
    });
    const { tokens, sinks, window, block } = profile;
    const elapsed = formatDuration(performance.now() - begin);
    note(
      dim(`profiled ${count(tokens, "token")} in ${elapsed}: sinks ${sinks}, window ${window}, block ${block}`),
    );
    return profile;
  } finally {
    progress.close();
  }
}

function table({ similarity }: LayerProfile): string {
  const rows = similarity.map((one, layer) => `${String(layer).padStart(5)}  ${one.toFixed(6).padStart(10)}`);
  return `${["layer  similarity", ...rows].join("\n")}\n`;
}
