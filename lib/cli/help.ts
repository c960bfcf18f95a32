import type { CommandSpec, OptionSpec } from "./arguments.js";

const WIDTH = 100;

/** The text of `longhaul COMMAND --help`. */
export function commandHelp(command: CommandSpec): string {
  const { name, summary, positionals, options, notes } = command;
  const usage = ["longhaul", name, ...positionals.map((argument) => argument.name), "[options]"].join(" ");
  const sections = [`${summary}\n\nUsage: ${usage}`];
  if (positionals.length > 0)
    sections.push(`Arguments:\n${columns(positionals.map((argument) => [argument.name, argument.help]))}`);
  const groups = new Map<string, [string, string][]>();
  for (const [option, spec] of Object.entries(options)) {
    const group = spec.group ?? "Options";
    groups.set(group, [...(groups.get(group) ?? []), [optionSyntax(option, spec), spec.help]]);
  }
  for (const [group, rows] of groups) sections.push(`${group}:\n${columns(rows)}`);
  if (notes !== undefined) sections.push(notes);
  return `${sections.join("\n\n")}\n`;
}

/** The text of `longhaul --help`. */
export function mainHelp(version: string, commands: readonly CommandSpec[]): string {
  return `longhaul ${version}: conversations longer than the model's window, in memory that never grows

Usage: longhaul COMMAND [arguments] [options]

Commands:
${columns(commands.map(({ name, positionals, summary }) => [[name, ...positionals.map((argument) => argument.name)].join(" "), summary]))}

Options:
${columns([
  ["-h, --help", "this text; after a command, that command's"],
  ["-v, --version", "the version"],
])}

MODEL is a directory with config.json, *.safetensors and tokenizer.json, or a name on the Hugging Face hub
such as org/name, which is downloaded once into the cache that all Hugging Face tools share.
Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
`;
}

function optionSyntax(name: string, { short, value, type }: OptionSpec): string {
  const lead = short === undefined ? "    " : `-${short}, `;
  return `${lead}--${name}${type === "string" ? ` ${value ?? "TEXT"}` : ""}`;
}

/** Two columns, the second wrapped. */
function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows
    .map(([left, right]) => {
      const lines = wrap(right, WIDTH - width - 2);
      return `  ${left.padEnd(width)}${lines.join(`\n${" ".repeat(width + 2)}`)}`;
    })
    .join("\n");
}

function wrap(text: string, width: number): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1) as string;
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
}
