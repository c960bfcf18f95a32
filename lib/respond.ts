import type { Answer, AnswerFeed } from "./answer.js";
import { AnswerText } from "./answer-text.js";
import type { Addition, Dialogue } from "./dialogue.js";
import { LonghaulError, throwIfAborted } from "./errors.js";
import type { Drawing } from "./generation.js";
import type { Turn } from "./queue.js";
import type { Sequence } from "./sequence.js";
import type { Tokenizer } from "./text/tokenizer.js";

/** Everything that one answer needs. */
export interface ResponseRequest {
  readonly sequence: Sequence;
  readonly dialogue: Dialogue;
  readonly tokenizer: Tokenizer;
  readonly addition: Addition;
  readonly drawing: Drawing;
  /** The most tokens that may be drawn when `drawing` does not say. */
  readonly room: number;
  readonly remember: boolean;
  readonly feed: AnswerFeed;
  readonly turn: Turn;
  readonly signal: AbortSignal;
}

interface Draw {
  readonly text: AnswerText;
  readonly drawn: readonly number[];
  readonly firstTokenMs: number | undefined;
  readonly reason: "stop" | "length" | undefined;
}

/**
 * Puts an addition into the stream and generates an answer behind it. Afterwards the stream holds what the reader of
 * the answer has seen: tokens behind a stop string and tokens that nobody read are forgotten, as far as no eviction
 * has mixed them with others.
 */
export async function respond(request: ResponseRequest): Promise<Answer> {
  const { feed, signal } = request;
  // What chose the stream may have taken its time: an abort from before is never heard of again.
  throwIfAborted(signal);
  // At once: what is read after an abort could not be told from what was read before.
  const halt = () => feed.cut();
  signal.addEventListener("abort", halt);
  try {
    return await drawAndSettle(request);
  } finally {
    signal.removeEventListener("abort", halt);
  }
}

async function drawAndSettle(request: ResponseRequest): Promise<Answer> {
  const { sequence, addition, feed, turn, signal } = request;
  const before = sequence.tokens;
  const started = performance.now();
  const draw = await drawTokens(request, started);
  const { text, drawn } = draw;

  if (draw.reason !== undefined && !signal.aborted && !feed.closed) {
    feed.end();
    // Until it is read or another call builds on it, the reader may still break off.
    if (request.remember) await Promise.race([feed.settled, turn.contended, aborted(signal)]);
  }
  const brokeOff = signal.aborted || (feed.closed && !feed.complete);
  const length = brokeOff ? feed.cut() : text.text.length;
  const shown = text.split(length);
  // What ended the answer by itself stays: a stop token closes its turn.
  const whole = !brokeOff && !text.stopped;
  const kept = whole ? { tokens: drawn, rest: "" } : shown;
  if (request.remember) await settle(request, before, drawn, kept, brokeOff && length === 0);
  else await sequence.forget(sequence.tokens - before);
  if (signal.aborted) throw signal.reason;

  return {
    text: text.text.slice(0, length),
    tokens: whole ? text.tokens : shown.tokens,
    finishReason: brokeOff ? "abort" : (draw.reason ?? "abort"),
    usage: { promptTokens: addition.ids.length, completionTokens: kept.tokens.length },
    timing: { firstTokenMs: draw.firstTokenMs, totalMs: performance.now() - started },
  };
}

async function drawTokens(request: ResponseRequest, started: number): Promise<Draw> {
  const { sequence, dialogue, tokenizer, addition, drawing, feed, signal } = request;
  const text = new AnswerText(
    tokenizer.streamDecoder({ prefix: dialogue.prefixBehind(addition), skipSpecialTokens: true }),
    drawing.stops,
    (id) => tokenizer.specialTokenIds.has(id) || tokenizer.idToToken(id) === undefined,
    addition.chat,
  );
  const stopTokens = drawing.stopTokens ?? tokenizer.stopTokenIds;
  const drawn: number[] = [];
  let firstTokenMs: number | undefined;
  const canceller = new AbortController();
  const cancel = () => canceller.abort();
  const onToken = (id: number, confirm: (drawn: number) => void) => {
    firstTokenMs ??= performance.now() - started;
    drawn.push(id);
    if (text.stopped || stopTokens.has(id)) return;
    const chunk = text.push(id);
    if (chunk !== undefined) feed.push(chunk);
    if (text.stopped) cancel();
    else if (drawing.stops.length > 0) confirm(drawn.length);
  };
  const options = {
    ...drawing.native,
    maxTokens: drawing.maxTokens ?? request.room,
    stopTokens: Int32Array.from(stopTokens),
    mayEvict: request.remember,
    // Before an eviction, tokens are looked through for stop strings: afterwards none can be forgotten.
    confirm: drawing.stops.length > 0,
  };
  signal.addEventListener("abort", cancel);
  feed.onClose(cancel);
  if (signal.aborted) cancel();
  try {
    const finish = await sequence.generate(addition.ids, options, { signal: canceller.signal, onToken });
    const ended = finish === "stop" || finish === "length";
    if (ended && !signal.aborted && !feed.closed) {
      const chunk = text.finish();
      if (chunk !== undefined) feed.push(chunk);
    }
    const reason = text.stopped ? "stop" : ended ? finish : undefined;
    if (reason === undefined && !canceller.signal.aborted) {
      throw new LonghaulError("ERR_DISPOSED", "the engine was disposed of");
    }
    return { text, drawn, firstTokenMs, reason };
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/** Brings the stream and what is known of it to what shall stay. */
async function settle(
  { sequence, dialogue, addition }: ResponseRequest,
  before: number,
  drawn: readonly number[],
  kept: { readonly tokens: readonly number[]; readonly rest: string },
  unseen: boolean,
): Promise<void> {
  const added = sequence.tokens - before;
  const forgettable = sequence.forgettable;
  if (unseen && added <= forgettable) {
    await sequence.forget(added);
    return;
  }
  if (added - drawn.length < addition.ids.length) {
    dialogue.partly(addition.ids.slice(0, added - drawn.length));
    return;
  }
  const surplus = drawn.length - kept.tokens.length;
  const count = Math.min(surplus, forgettable);
  await sequence.forget(count);
  addition.commit();
  // Where an eviction was faster than the reader, what it has taken in stays.
  const stays = drawn.slice(0, drawn.length - count);
  dialogue.answered(stays, count === surplus ? kept.rest : "", addition.chat);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
