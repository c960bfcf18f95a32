import { parseArgs } from "node:util";

/** The command line itself is wrong: exit code 2, with a pointer to --help. */
export class UsageError extends Error {}

/** One option of a command. */
export interface OptionSpec {
  readonly type: "string" | "boolean";
  readonly short?: string;
  readonly multiple?: boolean;
  /** What stands for the value in --help. */
  readonly value?: string;
  readonly help: string;
  /** Heading under which --help lists the option. Default "Options". */
  readonly group?: string;
}

export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** One command: what it takes, and the module that does it, loaded only when it runs. */
export interface CommandSpec {
  readonly name: string;
  readonly summary: string;
  /** Names of the positional arguments, all of them required. */
  readonly positionals: readonly { readonly name: string; readonly help: string }[];
  readonly options: OptionSpecs;
  /** Paragraphs and examples at the end of --help. */
  readonly notes?: string;
  readonly load: () => Promise<{ readonly run: (values: Arguments) => Promise<void> }>;
}

/** The arguments of one call, read with the types that the command wants. Every reader throws UsageError. */
export class Arguments {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #positionals: ReadonlyMap<string, string>;

  constructor(values: Readonly<Record<string, unknown>>, positionals: ReadonlyMap<string, string>) {
    this.#values = values;
    this.#positionals = positionals;
  }

  positional(name: string): string {
    const value = this.#positionals.get(name);
    if (value === undefined) throw new UsageError(`${name} is missing`);
    return value;
  }

  has(option: string): boolean {
    return this.#values[option] !== undefined;
  }

  flag(option: string): boolean {
    return this.#values[option] === true;
  }

  text(option: string): string | undefined {
    return this.#values[option] as string | undefined;
  }

  requiredText(option: string): string {
    const value = this.text(option);
    if (value === undefined) throw new UsageError(`--${option} is missing`);
    return value;
  }

  texts(option: string): readonly string[] {
    return (this.#values[option] as string[] | undefined) ?? [];
  }

  integer(option: string, min: number): number | undefined {
    const text = this.text(option);
    if (text === undefined) return undefined;
    return parseInteger(`--${option}`, text, min);
  }

  integers(option: string, min: number): number | number[] | undefined {
    const list = this.text(option)?.split(",");
    const parsed = list?.map((text) => parseInteger(`--${option}`, text, min));
    return parsed?.length === 1 ? parsed[0] : parsed;
  }

  number(option: string, min: number, max = Number.POSITIVE_INFINITY): number | undefined {
    const text = this.text(option);
    if (text === undefined) return undefined;
    const value = text.trim() === "" ? Number.NaN : Number(text);
    if (Number.isFinite(value) && value >= min && value <= max) return value;
    const range = max === Number.POSITIVE_INFINITY ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new UsageError(`--${option} must be a number ${range}, got "${text}"`);
  }

  choice<T extends string>(option: string, choices: readonly T[]): T | undefined {
    const text = this.text(option);
    if (text === undefined || (choices as readonly string[]).includes(text)) return text as T | undefined;
    throw new UsageError(`--${option} must be one of ${choices.join(", ")}, got "${text}"`);
  }
}

/** Parses what follows the command's name. Unknown options, missing values and surplus arguments raise UsageError. */
export function parseArguments(command: CommandSpec, args: readonly string[]): Arguments {
  const options = Object.fromEntries(
    Object.entries(command.options).map(([name, { type, short, multiple = false }]) => [
      name,
      short === undefined ? { type, multiple } : { type, multiple, short },
    ]),
  );
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(explain(error as NodeJS.ErrnoException, Object.keys(options)), { cause: error });
  }
  const { values, positionals } = parsed;
  const surplus = positionals[command.positionals.length];
  if (surplus !== undefined) throw new UsageError(`unexpected argument "${surplus}"`);
  const named = command.positionals.map(({ name }, index) => {
    const value = positionals[index];
    if (value === undefined) throw new UsageError(`${name} is missing`);
    return [name, value] as const;
  });
  return new Arguments(values, new Map(named));
}

/** The known word nearest to a misspelt one, if any is near enough to be meant. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, distance: editDistance(word, candidate) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best !== undefined && best.distance <= Math.max(1, Math.floor(word.length / 3))
    ? best.candidate
    : undefined;
}

function parseInteger(option: string, text: string, min: number): number {
  const value = /^-?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value) && value >= min) return value;
  throw new UsageError(`${option} must be an integer of at least ${min}, got "${text}"`);
}

/** Node's messages say what is wrong, but advise on its own API. */
function explain(error: NodeJS.ErrnoException, known: readonly string[]): string {
  if (error.code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
    const option = /'(-[^']*)'/.exec(error.message)?.[1] ?? "";
    const meant = nearest(option.replace(/^-+/, ""), known);
    return `unknown option ${option}${meant === undefined ? "" : `, did you mean --${meant}?`}`;
  }
  const [first = ""] = error.message.split("\n");
  return first.replace(/^Option '(?:-\w, )?(--[\w-]+).*?' /, "$1 ").replace(/\.$/, "");
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substituted = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substituted, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}
