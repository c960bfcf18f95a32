#!/usr/bin/env node
import { LonghaulError } from "../errors.js";
import { nearest, parseArguments, UsageError } from "./arguments.js";
import { commands } from "./commands.js";
import { commandHelp, mainHelp } from "./help.js";
import { Interrupted } from "./interrupt.js";
import { packageVersion } from "./package.js";

const FAILED = 1;
const WRONG_USAGE = 2;

/** Where to read about what was wrong. */
let helpCommand = "longhaul --help";

async function main(args: readonly string[]): Promise<void> {
  const [first, ...rest] = args;
  if (first === "--version" || first === "-v") {
    process.stdout.write(`${packageVersion()}\n`);
    return;
  }
  if (first === "--help" || first === "-h" || (first === "help" && rest.length === 0)) {
    process.stdout.write(mainHelp(packageVersion(), commands));
    return;
  }
  if (first === undefined) throw new UsageError("a command is missing");
  const [name, words] = first === "help" ? [rest[0] as string, ["--help"]] : [first, rest];
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) {
    const names = commands.map((candidate) => candidate.name);
    const kind = name.startsWith("-") ? "option" : "command";
    const meant = nearest(name, names);
    throw new UsageError(
      `unknown ${kind} ${name}${meant === undefined ? `; the commands are ${names.join(", ")}` : `, did you mean ${meant}?`}`,
    );
  }
  helpCommand = `longhaul ${name} --help`;
  // Asking for help is never wrong, whatever else is on the line.
  const end = words.indexOf("--");
  if (words.slice(0, end < 0 ? undefined : end).some((word) => word === "--help" || word === "-h")) {
    process.stdout.write(commandHelp(command));
    return;
  }
  const values = parseArguments(command, words);
  const { run } = await command.load();
  await run(values);
}

function fail(error: unknown): void {
  if (error instanceof Interrupted) {
    process.stderr.write("longhaul: interrupted\n");
    process.exitCode = error.exitCode;
  } else if (error instanceof UsageError) {
    process.stderr.write(`longhaul: ${error.message}\n${helpCommand} says more\n`);
    process.exitCode = WRONG_USAGE;
  } else if (error instanceof LonghaulError) {
    process.stderr.write(`longhaul: ${error.code}: ${error.message}\n`);
    process.exitCode = FAILED;
  } else {
    // Anything else is a defect of this program: its stack is what a report needs.
    process.stderr.write(`longhaul: ${error instanceof Error ? error.stack : String(error)}\n`);
    process.exitCode = FAILED;
  }
}

// A reader that went away (`longhaul run ... | head`) has what it wanted.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

main(process.argv.slice(2)).catch(fail);
