// Histories several times longer than the memory they are remembered in, and what that costs.
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Engine, POLICIES } from "longhaul";
import { generateDialogue, loadLexicon } from "./dialogue.mjs";
import { measure } from "./measure.mjs";
import { chooseQuestions, episodicMemory, observingPrompt } from "./questions.mjs";
import { explanation, introduction, table } from "./report.mjs";

// Full KV is always measured beside them.
const BOUNDED = POLICIES.filter((policy) => policy !== "full");
const root = fileURLToPath(new URL("../..", import.meta.url));

const HELP = `npm run demo -- [options]: what a small model remembers of long dialogues in little memory

  --tokens N        length of a dialogue; default 2048, the model is trained to 4096
  --dialogues N     how many; default 4
  --questions N     questions about each; default 32
  --policies A,B    of ${BOUNDED.join(", ")};
                    default streaming,snapkv,keydiff,patched-prompt
  --budgets N,M     rows kept per KV head and layer; default 64,128,256
  --episodes N      of the policy epicache, each with its own budget; default 4
  --block N         tokens of one prefill pass; default 128
  --device NAME     auto, cpu or reference (slow); default auto
  --threads N       default one per available core
  --seed N          of the dialogues; default 1
  --json FILE       the same numbers as JSON; default build/demo.json
  --help            this text
`;

class UsageError extends Error {}

function readOptions() {
  const names = [
    "tokens",
    "dialogues",
    "questions",
    "policies",
    "budgets",
    "episodes",
    "block",
    "device",
    "threads",
    "seed",
  ];
  const options = Object.fromEntries([...names, "json"].map((name) => [name, { type: "string" }]));
  let values;
  try {
    ({ values } = parseArgs({ options: { ...options, help: { type: "boolean", short: "h" } } }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const integer = (name, text, min) => {
    if (/^\d+$/.test(text) && Number(text) >= min) return Number(text);
    throw new UsageError(`--${name} must be an integer of at least ${min}, got "${text}"`);
  };
  const policies = (values.policies ?? "streaming,snapkv,keydiff,patched-prompt").split(",");
  const unknown = policies.find((policy) => !BOUNDED.includes(policy));
  if (unknown !== undefined)
    throw new UsageError(
      `--policies knows ${BOUNDED.join(", ")}, not "${unknown}"; full KV is always the first row`,
    );
  return {
    help: values.help === true,
    tokens: integer("tokens", values.tokens ?? "2048", 64),
    dialogues: integer("dialogues", values.dialogues ?? "4", 1),
    questions: integer("questions", values.questions ?? "32", 1),
    policies,
    budgets: (values.budgets ?? "64,128,256").split(",").map((text) => integer("budgets", text, 1)),
    episodes: integer("episodes", values.episodes ?? "4", 1),
    block: integer("block", values.block ?? "128", 1),
    device: values.device ?? "auto",
    threads: values.threads === undefined ? {} : { threads: integer("threads", values.threads, 1) },
    seed: integer("seed", values.seed ?? "1", 0),
    json: values.json ?? path.join(root, "build", "demo.json"),
  };
}

async function main() {
  const options = readOptions();
  if (options.help) return process.stdout.write(HELP);
  const { tokens, block, device, threads, seed } = options;
  const lexicon = loadLexicon();
  const promptPairs = 48;
  const dialogues = Array.from({ length: options.dialogues }, (_, index) => {
    const { text, facts } = generateDialogue({ tokens, seed: seed + index, lexicon });
    const prompt = observingPrompt({ lexicon, facts, seed: seed + index + 1000, pairs: promptPairs });
    return { text, prompt, asked: chooseQuestions(facts, options.questions) };
  });
  const asked = dialogues.reduce((sum, dialogue) => sum + dialogue.asked.length, 0);

  const engine = await Engine.load(path.join(root, "models", "recall-llama"), { device, ...threads });
  try {
    process.stdout.write(introduction({ dialogues: options.dialogues, tokens, asked, model: "recall-llama" }));
    // The first work after loading also pays for memory that is touched for the first time.
    await measure(engine, dialogues.slice(0, 1), { policy: "full", block });

    // A question and its answer are a dozen tokens; the tail only has to hold one of them.
    const runs = options.policies.flatMap((policy) =>
      options.budgets.map((budget) => ({
        ...(["epicache", "episodic"].includes(policy)
          ? { ...episodicMemory(lexicon), episodes: options.episodes }
          : {}),
        policy,
        budget,
        block,
        tail: 64,
      })),
    );
    const results = [];
    for (const memory of [{ policy: "full", block }, ...runs]) {
      if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${memory.policy} ${memory.budget ?? ""}`);
      results.push(await measure(engine, dialogues, memory));
    }
    if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
    process.stdout.write(
      `\n${table(results)}\n${explanation({ block, promptPairs, episodes: options.episodes, policies: options.policies })}\n`,
    );

    const settings = { tokens, dialogues: options.dialogues, asked, block, tail: 64, seed, promptPairs };
    const machine = {
      cpu: cpus()[0]?.model.trim(),
      cores: availableParallelism(),
      node: process.versions.node,
    };
    const document = { model: "recall-llama", machine, engine: engine.info(), settings, results };
    mkdirSync(path.dirname(path.resolve(options.json)), { recursive: true });
    writeFileSync(options.json, `${JSON.stringify(document, null, 2)}\n`);
    process.stdout.write(`\nThe same numbers as JSON: ${path.relative(process.cwd(), options.json)}\n`);
  } finally {
    await engine.dispose();
  }
}

main().catch((error) => {
  process.stderr.write(`demo: ${error.code ? `${error.code}: ` : ""}${error.message}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
