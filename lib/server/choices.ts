import type { Answer, AnswerStream } from "../answer.js";

/** Something that came of one of several answers at once. */
export type ChoiceEvent =
  | { readonly index: number; readonly text: string }
  | { readonly index: number; readonly answer: Answer };

/** The answers to one request, as they come. Leaving the loop ends all of them. */
export async function* choiceEvents(answers: readonly AnswerStream[]): AsyncGenerator<ChoiceEvent, void> {
  const iterators = answers.map((answer) => answer[Symbol.asyncIterator]());
  const next = async (index: number) => {
    const step = await (iterators[index] as AsyncIterator<{ text: string }>).next();
    return { index, step };
  };
  const underWay = new Map(iterators.map((_, index) => [index, next(index)]));
  try {
    while (underWay.size > 0) {
      const { index, step } = await Promise.race(underWay.values());
      if (step.done) {
        underWay.delete(index);
        yield { index, answer: await (answers[index] as AnswerStream).result() };
      } else {
        underWay.set(index, next(index));
        yield { index, text: step.value.text };
      }
    }
  } finally {
    // Whoever fails first fails the request: nobody waits for the others' errors.
    for (const pending of underWay.values()) pending.catch(() => {});
    await Promise.allSettled(iterators.map((iterator) => iterator.return?.()));
  }
}
