import { join } from "node:path";
import { describeValue, invalidOption, LonghaulError, requireString } from "../errors.js";
import { corruptFile, isJsonObject, readOptionalJson, readOptionalText } from "./files.js";
import { JinjaTemplate, TemplateRefusal } from "./jinja.js";
import type { NamedTokens } from "./tokenizer.js";

/** One message of a conversation. */
export interface Message {
  readonly role: "system" | "user" | "assistant" | (string & {});
  readonly content: string;
  readonly name?: string;
}

/** How messages are rendered. */
export interface RenderOptions {
  /** Ends the text with what makes the model answer, such as `<|im_start|>assistant\n`. Default false. */
  readonly addGenerationPrompt?: boolean;
  /** The time that templates with a date in them print. Keep one for a conversation, or its text changes at midnight. */
  readonly now?: Date;
}

/** What a stream of tokens holds already, and what comes next: the input of `ChatTemplate.append`. */
export interface AppendRequest extends RenderOptions {
  /** The messages whose text is in the stream. */
  readonly history: readonly Message[];
  /**
   * When the last message of `history` is an answer that the model generated: the text of the stream after the
   * generation prompt, special tokens included, exactly as it stands there (with its stop token, if that is in
   * the stream). Undefined when the stream ends with rendered text.
   */
  readonly generated?: string;
  /** The messages to add. None asks only for the text that closes the last turn. */
  readonly added: readonly Message[];
}

/** The text to put after a stream, see `ChatTemplate.append`. */
export interface AppendedText {
  readonly text: string;
  /** True when stream and text together are letter for letter the rendering of all messages. */
  readonly exact: boolean;
}

/** Where a `ChatTemplate` comes from and what it may say. */
export interface ChatTemplateOptions {
  /** The tokens that templates may name (`bos_token`, ...): `tokenizer.named`. */
  readonly named: NamedTokens;
  /** Called at most once, when the template rewrites earlier turns, so that the stream cannot equal its rendering. */
  readonly warn?: (message: string) => void;
}

/** Renders messages into a model's own format, and finds the text of one more turn behind a stream that goes on. */
export class ChatTemplate {
  /** The file that the template came from, or that would have had it. */
  readonly path: string;
  readonly #template: JinjaTemplate | null;
  readonly #tokens: Readonly<Record<string, string>>;
  #warn: ((message: string) => void) | undefined;

  /** Reads chat_template.jinja, else `chat_template` of tokenizer_config.json; a model may well have neither. */
  static async load(directory: string, options: ChatTemplateOptions): Promise<ChatTemplate> {
    const jinjaPath = join(directory, "chat_template.jinja");
    const configPath = join(directory, "tokenizer_config.json");
    const jinja = await readOptionalText(jinjaPath);
    if (jinja !== null) return new ChatTemplate(jinja, jinjaPath, options);
    const config = await readOptionalJson(configPath);
    return new ChatTemplate(selectTemplate(configPath, config?.chat_template ?? null), configPath, options);
  }

  /** @param source the Jinja text, or null for a model without a template. */
  constructor(source: string | null, path: string, { named, warn }: ChatTemplateOptions) {
    this.path = path;
    this.#warn = warn;
    // A token that a model lacks stays undefined for its template, as with Hugging Face's renderer.
    const tokens = { bos_token: named.bos, eos_token: named.eos, unk_token: named.unk, pad_token: named.pad };
    this.#tokens = Object.fromEntries(Object.entries(tokens).filter(([, token]) => token !== null)) as Record<
      string,
      string
    >;
    try {
      this.#template = source === null ? null : new JinjaTemplate(source);
    } catch (error) {
      throw corruptFile(path, "the chat template does not parse", error);
    }
  }

  /** Whether the model has a chat template at all. */
  get available(): boolean {
    return this.#template !== null;
  }

  /** The text of `messages` in the model's format. Encode it without special tokens: the text has its own. */
  render(
    messages: readonly Message[],
    { addGenerationPrompt = false, now = new Date() }: RenderOptions = {},
  ): string {
    checkMessages(messages);
    if (this.#template === null) {
      const advice = "use generate() with a plain prompt, or put a chat_template.jinja next to the weights";
      throw new LonghaulError("ERR_UNSUPPORTED", `${this.path}: the model has no chat template; ${advice}`);
    }
    const variables = { ...this.#tokens, add_generation_prompt: addGenerationPrompt };
    try {
      return this.#template.render(messages, variables, now);
    } catch (error) {
      if (!(error instanceof TemplateRefusal)) throw corruptFile(this.path, "the chat template fails", error);
      const message = `the model's chat template refuses these messages: ${error.message}`;
      throw new LonghaulError("ERR_INVALID_ARGUMENT", message, { cause: error });
    }
  }

  /**
   * The text to append to a stream that holds `history`, so that it holds `added` as well.
   *
   * Where the template only ever adds to what it wrote, that is the rendering of all messages minus what is there,
   * which also closes a turn whose answer was cut off. Where it rewrites earlier turns (drops their thoughts, moves
   * the system prompt) it is the text that it puts behind the last turn, and `warn` is called.
   *
   * A template may put a system prompt into the user's turn: add system messages together with the first user message.
   */
  append(request: AppendRequest): AppendedText {
    const { text, exact, rewrites } = this.#appended(request);
    if (rewrites) {
      this.#warnOnce(
        "this chat template rewrites earlier turns. They stay in the cache as they were first written, " +
          "so the model sees a text that differs from a fresh rendering of the conversation",
      );
    }
    return { text, exact };
  }

  /** The text of `append` without its warnings; undefined when the template refuses the messages. */
  wouldAppend(request: AppendRequest): string | undefined {
    try {
      return this.#appended(request).text;
    } catch (error) {
      if (error instanceof LonghaulError) return undefined;
      throw error;
    }
  }

  /** For who cannot show it all messages any more. */
  warnOfWholeList(): void {
    this.#warnOnce(
      "this chat template looks at all messages of a conversation, of which the oldest are left out from now on",
    );
  }

  #appended({ history, generated, added, ...options }: AppendRequest): AppendedText & { rewrites: boolean } {
    const render = { ...options, now: options.now ?? new Date() };
    const all = [...history, ...added];
    if (generated !== undefined && history.at(-1)?.role !== "assistant") {
      throw invalidOption("history", "messages that end with the generated answer", history);
    }
    const full = all.length === 0 ? "" : this.render(all, render);
    if (history.length === 0) return { text: full, exact: true, rewrites: false };

    const answered = generated !== undefined;
    const start = this.#textBefore(history, answered, render);
    const stream = start + (generated ?? "");
    if (full.startsWith(stream)) {
      return { text: full.slice(stream.length), exact: true, rewrites: false };
    }

    const stable = full.startsWith(start);
    const behind = this.#textBehindLast(history, added, stable && answered, render);
    const text =
      generated === undefined
        ? this.#minusClosing(behind, history, render)
        : behind.slice(overlap(generated, behind));
    // A template that merely trims an answer leaves the model nothing new to read: not worth a warning.
    const written = stable && answered ? full.slice(start.length, full.length - behind.length) : null;
    const kept = (generated ?? "").slice(0, (generated ?? "").length - overlap(generated ?? "", behind));
    return { text, exact: false, rewrites: written === null || written.trim() !== kept.trim() };
  }

  /** The text that closes a generated answer, such as `<|im_end|>\n` or the part of it that is not yet in the stream. */
  closing(history: readonly Message[], generated: string, options: Pick<RenderOptions, "now"> = {}): string {
    return this.append({ ...options, history, generated, added: [] }).text;
  }

  /**
   * The assistant's message for a text that the model generated after the rendering of `history`: `generated` without
   * the space or mark that the template itself puts before an answer, and without what closes its turn.
   */
  answer(history: readonly Message[], generated: string, options: Pick<RenderOptions, "now"> = {}): Message {
    const sentinel = unusedText(history);
    const marked = [...history, { role: "assistant", content: sentinel }];
    const prompt = this.render(history, { ...options, addGenerationPrompt: true });
    const rendered = this.render(marked, options);
    const index = rendered.indexOf(sentinel);
    const lead = rendered.startsWith(prompt) && index >= 0 ? rendered.slice(prompt.length, index) : "";
    const closing = index >= 0 ? rendered.slice(index + sentinel.length) : "";
    const body = generated.startsWith(lead) ? generated.slice(lead.length) : generated;
    return { role: "assistant", content: body.slice(0, body.length - overlap(body, closing)) };
  }

  /** What the stream held before the generated answer, or, without one, all that it holds. */
  #textBefore(history: readonly Message[], answered: boolean, options: RenderOptions): string {
    if (!answered) return this.render(history, { ...options, addGenerationPrompt: false });
    return history.length === 1
      ? ""
      : this.render(history.slice(0, -1), { ...options, addGenerationPrompt: true });
  }

  /** The text that the template writes behind the content of the last message of `history` when `added` follows. */
  #textBehindLast(
    history: readonly Message[],
    added: readonly Message[],
    inFull: boolean,
    options: RenderOptions,
  ): string {
    const sentinel = unusedText([...history, ...added]);
    const last = { ...(history.at(-1) as Message), content: sentinel };
    const whole = [...history.slice(0, -1), last, ...added];
    // Without the system prompt and older turns, so that a template which moves them does not write them again.
    const recent = [
      ...history
        .slice(0, -1)
        .slice(-1)
        .filter(({ role }) => role !== "system"),
      last,
      ...added,
    ];
    for (const messages of inFull ? [whole] : [recent, whole]) {
      const rendered = this.#tryRender(messages, options);
      const index = rendered?.lastIndexOf(sentinel) ?? -1;
      if (rendered !== null && index >= 0) return rendered.slice(index + sentinel.length);
    }
    const problem = `does not write the content of a message with role ${describeValue(last.role)}`;
    throw new LonghaulError(
      "ERR_UNSUPPORTED",
      `${this.path}: the chat template ${problem}, so a conversation cannot go on after one; start a new conversation`,
    );
  }

  #tryRender(messages: readonly Message[], options: RenderOptions): string | null {
    try {
      return this.render(messages, options);
    } catch (error) {
      if (error instanceof LonghaulError && error.code === "ERR_INVALID_ARGUMENT") return null;
      throw error;
    }
  }

  /** A stream of rendered messages holds the closing of its last turn already. */
  #minusClosing(behind: string, history: readonly Message[], options: RenderOptions): string {
    const closing = this.#textBehindLast(history, [], false, { ...options, addGenerationPrompt: false });
    let length = 0;
    while (length < closing.length && closing[length] === behind[length]) length++;
    return behind.slice(length);
  }

  #warnOnce(what: string): void {
    this.#warn?.(`${this.path}: ${what}`);
    this.#warn = undefined;
  }
}

function selectTemplate(path: string, value: unknown): string | null {
  if (value === null || typeof value === "string") return value;
  if (!Array.isArray(value))
    throw corruptFile(path, '"chat_template" must be text or a list of named templates');
  const named = new Map<string, string>();
  for (const [index, entry] of value.entries()) {
    const valid = isJsonObject(entry) && typeof entry.name === "string" && typeof entry.template === "string";
    if (!valid) throw corruptFile(path, `chat_template[${index}] must have a name and a template`);
    named.set(entry.name as string, entry.template as string);
  }
  const chosen = named.get("default") ?? (named.size === 1 ? [...named.values()][0] : undefined);
  if (chosen !== undefined || named.size === 0) return chosen ?? null;
  throw corruptFile(
    path,
    `"chat_template" has no template named default (it has ${[...named.keys()].join(", ")})`,
  );
}

function checkMessages(messages: readonly Message[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw invalidOption("messages", "an array of at least one message", messages);
  }
  for (const [index, message] of messages.entries()) {
    if (!isJsonObject(message)) throw invalidOption(`messages[${index}]`, "an object", message);
    requireString(`messages[${index}].role`, message.role);
    requireString(`messages[${index}].content`, message.content, { allowEmpty: true });
    if (message.name !== undefined) requireString(`messages[${index}].name`, message.name);
  }
}

/** The length of the longest end of `left` that `right` begins with. */
function overlap(left: string, right: string): number {
  for (let length = Math.min(left.length, right.length); length > 0; length--) {
    if (left.endsWith(right.slice(0, length))) return length;
  }
  return 0;
}

/** A text that none of the messages has, made of private-use characters that no template trims or looks for. */
function unusedText(messages: readonly Message[]): string {
  let text = "\ue000\ue001";
  while (messages.some(({ content }) => content.includes(text))) text += "\ue001";
  return text;
}
