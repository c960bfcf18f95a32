import type { Message } from "./text/chat-template.js";

/** A message and the tokens that it takes. */
export interface LoggedMessage {
  readonly message: Message;
  readonly tokens: number;
}

/** The newest messages of a conversation, as many as take no more than so many tokens. */
export class MessageLog {
  readonly maxTokens: number;
  #entries: LoggedMessage[];
  #tokens: number;

  constructor(maxTokens: number, entries: readonly LoggedMessage[] = []) {
    this.maxTokens = maxTokens;
    this.#entries = [...entries];
    this.#tokens = entries.reduce((sum, { tokens }) => sum + tokens, 0);
  }

  get messages(): Message[] {
    return this.#entries.map(({ message }) => message);
  }

  get entries(): readonly LoggedMessage[] {
    return this.#entries;
  }

  /** @param tokens of all of them together */
  push(messages: readonly Message[], tokens: number): void {
    const shares = divided(
      tokens,
      messages.map(({ content }) => content.length),
    );
    // One that takes no token, such as an empty answer, has to be let go some time as well.
    for (const [index, message] of messages.entries()) {
      this.#entries.push({ message, tokens: Math.max(1, shares[index] as number) });
      this.#tokens += Math.max(1, shares[index] as number);
    }
    let drop = 0;
    while (this.#tokens > this.maxTokens) this.#tokens -= (this.#entries[drop++] as LoggedMessage).tokens;
    if (drop > 0) this.#entries = this.#entries.slice(drop);
  }
}

/** Divides a whole number in proportion to weights, exactly: what each part gets of it. */
export function divided(whole: number, weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let weight = 0;
  let given = 0;
  return weights.map((own, index) => {
    weight += own;
    const upTo = index === weights.length - 1 ? whole : Math.round((whole * weight) / Math.max(total, 1));
    const share = upTo - given;
    given = upTo;
    return share;
  });
}
