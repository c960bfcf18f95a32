import { randomUUID } from "node:crypto";
import {
  beginChoices,
  type Choices,
  requireModel,
  type ServerContext,
  start,
  type Usage,
  type Visit,
} from "./context.js";
import { ApiError } from "./errors.js";
import {
  type CompletionRequest,
  completionRequest,
  parse,
  refuseUnsupported,
  toGenerateOptions,
} from "./schema.js";
import { eventStream } from "./sse.js";

/** What OpenAI's protocol gives a completion that does not say. */
const MAX_TOKENS = 16;

/** Of one request, which has one place. */
const MAX_ANSWERS = 128;

/** POST /v1/completions */
export async function complete(context: ServerContext, visit: Visit): Promise<Response> {
  const request = parse(completionRequest, visit.body);
  requireModel(context, request.model);
  refuseUnsupported(visit.body);
  const prompts = toPrompts(request.prompt);
  const { signal } = visit.abort;
  const n = request.n ?? 1;
  if (prompts.length * n > MAX_ANSWERS) {
    throw new ApiError(400, `${prompts.length} prompts with ${n} answers each are more than ${MAX_ANSWERS}`, {
      param: "n",
    });
  }
  const leave = await context.admission.enter(visit.client, signal);
  let choices: Choices | undefined;
  const end = async () => {
    visit.abort.abort();
    await choices?.settled();
    leave();
  };
  try {
    const options = { ...toGenerateOptions(request, request.max_tokens ?? MAX_TOKENS), signal };
    choices = await beginChoices(context, visit, n, () =>
      prompts.flatMap((prompt) =>
        start(options, n, (own) => context.engine.generate(prompt, { ...own, memory: context.memory })),
      ),
    );
    const head = {
      id: `cmpl-${randomUUID()}`,
      object: "text_completion",
      created: Math.floor(Date.now() / 1000),
      model: context.model,
    };
    if (request.stream) return eventStream(chunks(request, head, choices), signal, end);
    const finished: object[] = Array.from({ length: prompts.length * n });
    for await (const event of choices) {
      if ("answer" in event) {
        const { index, answer } = event;
        finished[index] = { index, text: answer.text, logprobs: null, finish_reason: answer.finishReason };
      }
    }
    await end();
    return Response.json({ ...head, choices: finished, usage: choices.usage });
  } catch (error) {
    await end();
    throw error;
  }
}

async function* chunks(
  { stream_options }: CompletionRequest,
  head: object,
  choices: Choices,
): AsyncGenerator<object> {
  const usage = stream_options?.include_usage === true;
  const chunk = (choice: object | undefined, total: Usage | null = null) => ({
    ...head,
    choices: choice === undefined ? [] : [choice],
    ...(usage ? { usage: total } : {}),
  });
  for await (const event of choices) {
    const { index } = event;
    if ("text" in event) yield chunk({ index, text: event.text, logprobs: null, finish_reason: null });
    else yield chunk({ index, text: "", logprobs: null, finish_reason: event.answer.finishReason });
  }
  if (usage) yield chunk(undefined, choices.usage);
}

function toPrompts(prompt: CompletionRequest["prompt"]): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as (string | number[])[]);
}
