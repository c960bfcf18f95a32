import type { AppendRequest, ChatTemplate, Message } from "./text/chat-template.js";

/** From so many messages on, older ones are left out of what a template is shown. */
const LONG = 32;
/** So many of the newest stay. */
const NEWEST = 8;
/** Where a template looks at all messages, it is shown no more than this. */
const MOST = 4096;

/**
 * The messages of a stream, as many as its template has to see to write the next turn, so that a turn costs the same
 * however many lie behind it.
 *
 * Most templates write message after message, with an eye on the first ones, on the neighbours and on whether a message
 * is the n-th or the n+1-st of a pair. So the system prompt, the first pair and the newest messages stand for all, and
 * whether they do is tried each time before messages are let go: what the template puts behind the shorter list has to
 * be what it puts behind the longer one. If it is not, the longer list stays until it is twice as long, up to `MOST`
 * messages.
 */
export class RenderedHistory {
  #messages: Message[];
  #tryAt: number;

  constructor(messages: readonly Message[] = [], tryAt = LONG) {
    this.#messages = [...messages];
    this.#tryAt = tryAt;
  }

  get messages(): readonly Message[] {
    return this.#messages;
  }

  /** How long the list may become before leaving messages out is tried again. */
  get tryAt(): number {
    return this.#tryAt;
  }

  copy(): RenderedHistory {
    return new RenderedHistory(this.#messages, this.#tryAt);
  }

  push(messages: readonly Message[]): void {
    this.#messages = this.#messages.concat(messages);
  }

  /** The text to append for `request`; lets messages go that it does not depend on. */
  append(template: ChatTemplate, request: Omit<AppendRequest, "history">): string {
    const { text } = template.append({ ...request, history: this.#messages });
    if (this.#messages.length <= this.#tryAt) return text;
    const shorter = abridged(this.#messages);
    if (shorter !== undefined && template.wouldAppend({ ...request, history: shorter }) === text) {
      this.#messages = shorter;
      this.#tryAt = LONG;
    } else if (this.#messages.length > MOST) {
      template.warnOfWholeList();
      this.#messages = shorter ?? this.#messages.slice(-NEWEST);
    } else {
      this.#tryAt = 2 * this.#messages.length;
    }
    return text;
  }
}

/** Without messages in the middle, so that those on both sides follow each other as before; undefined if none can go. */
function abridged(messages: readonly Message[]): Message[] | undefined {
  const first = messages.findIndex(({ role }) => role !== "system");
  const head = first + 2;
  const goes = messages[head]?.role;
  const before = messages[head - 1]?.role;
  for (let begin = messages.length - NEWEST; first >= 0 && begin > head; begin--) {
    // What templates see of the place of a message is whether it is even.
    const even = (begin - head) % 2 === 0;
    if (even && messages[begin]?.role === goes && messages[begin - 1]?.role === before) {
      return [...messages.slice(0, head), ...messages.slice(begin)];
    }
  }
  return undefined;
}
