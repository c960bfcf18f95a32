import type { AnswerStream } from "../answer.js";
import type { Engine } from "../engine.js";
import type { GenerateOptions } from "../generation.js";
import type { MemoryOptions } from "../memory.js";
import type { Admission } from "./admission.js";
import { type ChoiceEvent, choiceEvents } from "./choices.js";
import type { ConversationStore } from "./conversations.js";
import { ApiError } from "./errors.js";
import type { Metrics } from "./metrics.js";

/** What the routes share. */
export interface ServerContext {
  readonly engine: Engine;
  /** The model's name. */
  readonly model: string;
  readonly memory: MemoryOptions;
  readonly pooling: "mean" | "last";
  readonly admission: Admission;
  readonly conversations: ConversationStore;
  readonly metrics: Metrics;
}

/** One request that has passed the door. */
export interface Visit {
  readonly body: Readonly<Record<string, unknown>>;
  readonly headers: Headers;
  /** Whose turn it is where requests wait. */
  readonly client: string;
  /** Aborts when the client goes away. */
  readonly abort: AbortController;
  readonly arrived: number;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

export function requireModel({ model }: ServerContext, asked: string): void {
  if (asked === model) return;
  throw new ApiError(404, `there is no model "${asked}"; this server has "${model}"`, {
    code: "model_not_found",
    param: "model",
  });
}

/** n answers to one prompt; each draws with a seed of its own. */
export function start(
  options: GenerateOptions,
  n: number,
  answer: (options: GenerateOptions) => AnswerStream,
): AnswerStream[] {
  return Array.from({ length: n }, (_, index) =>
    answer(options.seed === undefined ? options : { ...options, seed: options.seed + index }),
  );
}

/** Begins the answers of a request; idle conversations make room for them. */
export function beginChoices(
  context: ServerContext,
  visit: Visit,
  n: number,
  answers: () => readonly AnswerStream[],
): Promise<Choices> {
  return context.conversations.withRoom(async () => {
    const choices = new Choices(context, visit, answers(), n);
    await choices.begin();
    return choices;
  });
}

/** The answers' events, with the clock running, and their usage at the end. */
export class Choices {
  readonly #context: ServerContext;
  readonly #visit: Visit;
  readonly #answers: readonly AnswerStream[];
  readonly #events: AsyncGenerator<ChoiceEvent, void>;
  #ahead: IteratorResult<ChoiceEvent, void> | undefined;
  #last: number | undefined;
  /** Answers to one prompt. */
  readonly #n: number;
  /** Each prompt counts once, however many answers read it. */
  readonly #prompts = new Map<number, number>();
  #completion = 0;
  /** The text of the first answer as far as it has come. */
  told = "";

  /** @param answers `n` to each prompt, one prompt after the other */
  constructor(context: ServerContext, visit: Visit, answers: readonly AnswerStream[], n: number) {
    this.#n = n;
    this.#context = context;
    this.#visit = visit;
    this.#answers = answers;
    this.#events = choiceEvents(answers);
  }

  /** Resolves when the first thing has come: until then a failure still has a status. */
  async begin(): Promise<void> {
    this.#ahead = await this.#events.next();
  }

  /** Resolves when no answer has anything under way. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#answers.map((answer) => answer.result()));
  }

  get usage(): Usage {
    const prompt = [...this.#prompts.values()].reduce((sum, tokens) => sum + tokens, 0);
    return {
      prompt_tokens: prompt,
      completion_tokens: this.#completion,
      total_tokens: prompt + this.#completion,
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChoiceEvent, void> {
    try {
      for (;;) {
        const { done, value } = this.#ahead ?? (await this.#events.next());
        this.#ahead = undefined;
        if (done) return;
        this.#count(value);
        yield value;
      }
    } finally {
      await this.#events.return();
    }
  }

  #count(event: ChoiceEvent): void {
    const { metrics } = this.#context;
    const now = performance.now();
    if ("text" in event) {
      if (event.index === 0) this.told += event.text;
      const since = now - (this.#last ?? this.#visit.arrived);
      (this.#last === undefined ? metrics.firstToken : metrics.betweenTokens).observe(since / 1000);
      this.#last = now;
      return;
    }
    const { promptTokens, completionTokens } = event.answer.usage;
    this.#prompts.set(Math.floor(event.index / this.#n), promptTokens);
    this.#completion += completionTokens;
    metrics.promptTokens.inc(promptTokens);
    metrics.completionTokens.inc(completionTokens);
  }
}
