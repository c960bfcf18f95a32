import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** The template itself called raise_exception: it refuses the messages it was given. */
export class TemplateRefusal extends Error {}

/** What a template may cost. A template comes with the model from outside, and Jinja can loop without end. */
const STEPS_AT_LEAST = 2_000_000;
const STEPS_PER_MESSAGE = 20_000;
/** A round of a loop makes scopes and a `loop` object, which costs as much as several expressions. */
const STEPS_PER_ITEM = 10;
const CHARACTERS_PER_STEP = 1_000;
const MAX_RANGE = 100_000;

/** The part of the library's interpreter in use here; its published types do not resolve in an ES module package. */
interface TreeInterpreter {
  run(program: unknown): TreeValue;
  evaluate(statement: TreeNode | undefined, environment: unknown): TreeValue;
}
interface TreeValue {
  readonly value: unknown;
}
interface TreeNode {
  readonly type: string;
  /** What a For loops over; with a condition it is an expression whose `lhs` that is. */
  readonly iterable?: { readonly lhs?: object };
  readonly operand?: object;
}
const LibraryInterpreter = Interpreter as unknown as new (environment: Environment) => TreeInterpreter;

/** A chat template, parsed once and rendered within limits. */
export class JinjaTemplate {
  readonly #program: unknown;

  /** Throws the parser's error when `source` is not a template. */
  constructor(source: string) {
    this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  }

  /** Renders with the names that Hugging Face's renderer gives to templates; throws whatever goes wrong. */
  render(messages: readonly object[], variables: Readonly<Record<string, unknown>>, now: Date): string {
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      raise_exception: (message: unknown) => {
        throw new TemplateRefusal(String(message));
      },
      strftime_now: (format: unknown) => strftime(now, String(format)),
      range: boundedRange,
      ...variables,
      messages,
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    const interpreter = new BoundedInterpreter(
      environment,
      STEPS_AT_LEAST + STEPS_PER_MESSAGE * messages.length,
    );
    const { value } = interpreter.run(this.#program);
    if (typeof value !== "string") throw new TypeError("the template does not yield text");
    return value;
  }
}

/** An interpreter that stops after so much work: steps, and the items and characters that a step goes through. */
class BoundedInterpreter extends LibraryInterpreter {
  #workLeft: number;
  /** Nodes whose value is gone through item by item, where others only pass it on. */
  readonly #consumed = new WeakSet<object>();

  constructor(environment: Environment, work: number) {
    super(environment);
    this.#workLeft = work;
  }

  override evaluate(statement: TreeNode | undefined, environment: unknown): TreeValue {
    this.#charge(1);
    if (statement?.type === "For" && statement.iterable !== undefined) {
      this.#consumed.add(statement.iterable.lhs ?? statement.iterable);
    }
    if (statement?.type === "FilterExpression" && statement.operand !== undefined) {
      this.#consumed.add(statement.operand);
    }
    const result = super.evaluate(statement, environment);
    const { value } = result;
    const passesOn = statement?.type === "Identifier" && !this.#consumed.has(statement);
    if (Array.isArray(value) && !passesOn) this.#charge(value.length * STEPS_PER_ITEM);
    else if (typeof value === "string") this.#charge(value.length / CHARACTERS_PER_STEP);
    return result;
  }

  #charge(work: number): void {
    this.#workLeft -= work;
    if (this.#workLeft < 0) throw new RangeError("the template does not come to an end");
  }
}

function boundedRange(first: unknown, second?: unknown, step: unknown = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (![start, stop, step].every((value) => Number.isInteger(value)) || step === 0) {
    throw new TypeError("range() wants integers and a step other than zero");
  }
  const length = Math.max(0, Math.ceil(((stop as number) - (start as number)) / (step as number)));
  if (length > MAX_RANGE) throw new RangeError(`range() of ${length} items`);
  return Array.from({ length }, (_, index) => (start as number) + index * (step as number));
}

/** Python's strftime in the C locale, local time: what templates are written against. */
function strftime(date: Date, format: string): string {
  const pad = (value: number, width = 2) => String(value).padStart(width, "0");
  const english = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const yearStart = new Date(date.getFullYear(), 0, 1);
  const midnight = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  const parts: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => pad(date.getFullYear() % 100),
    m: () => pad(date.getMonth() + 1),
    d: () => pad(date.getDate()),
    e: () => String(date.getDate()).padStart(2),
    j: () => pad(Math.round((midnight.getTime() - yearStart.getTime()) / 86_400_000) + 1, 3),
    B: () => english({ month: "long" }),
    b: () => english({ month: "short" }),
    A: () => english({ weekday: "long" }),
    a: () => english({ weekday: "short" }),
    H: () => pad(date.getHours()),
    I: () => pad(date.getHours() % 12 || 12),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    "%": () => "%",
  };
  // "%-d" is glibc's way to leave out the padding.
  return format.replace(/%(-?)([A-Za-z%])/g, (whole, dash: string, letter: string) => {
    const text = parts[letter]?.();
    if (text === undefined) return whole;
    return dash === "" ? text : text.replace(/^[0 ]+(?=.)/, "");
  });
}
