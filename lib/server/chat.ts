import { randomUUID } from "node:crypto";
import type { GenerateOptions } from "../generation.js";
import {
  beginChoices,
  type Choices,
  requireModel,
  type ServerContext,
  start,
  type Usage,
  type Visit,
} from "./context.js";
import type { Opened } from "./conversations.js";
import { ApiError, unsupported } from "./errors.js";
import {
  type ChatRequest,
  chatRequest,
  parse,
  refuseUnsupported,
  toGenerateOptions,
  toMessages,
} from "./schema.js";
import { eventStream, type Outcome } from "./sse.js";

const HEADER = "x-conversation-id";

/** POST /v1/chat/completions */
export async function chat(context: ServerContext, visit: Visit): Promise<Response> {
  const request = parse(chatRequest, visit.body);
  requireModel(context, request.model);
  refuseUnsupported(visit.body);
  const messages = toMessages(request.messages);
  if (messages.at(-1)?.role === "assistant") {
    throw unsupported("messages", "messages must end with one that can be answered, not with the assistant's");
  }
  const id = conversationId(request, visit.headers);
  const n = request.n ?? 1;
  if (id !== undefined && n > 1)
    throw unsupported("n", "a conversation that goes on has one answer: n must be 1");

  const { engine, memory, admission, conversations } = context;
  const { signal } = visit.abort;
  const leave = await admission.enter(visit.client, signal);
  const options = {
    ...toGenerateOptions(request, request.max_completion_tokens ?? request.max_tokens),
    signal,
  };
  let kept: Opened | undefined;
  let choices: Choices | undefined;
  const end = async (outcome: Outcome) => {
    visit.abort.abort();
    // Whoever gets the place finds the memory free, too.
    await choices?.settled();
    await kept?.release(outcome === "told" ? choices?.told : undefined);
    leave();
  };
  try {
    kept = id === undefined ? undefined : await conversations.open(id, messages, signal);
    const ask = (own: GenerateOptions) =>
      kept === undefined
        ? engine.generate(messages, { ...own, memory })
        : kept.conversation.ask(kept.added, own);
    choices = await beginChoices(context, visit, n, () => start(options, n, ask));
    const head = {
      id: `chatcmpl-${randomUUID()}`,
      created: Math.floor(Date.now() / 1000),
      model: context.model,
    };
    const headers: Record<string, string> = kept === undefined ? {} : { [HEADER]: kept.id };
    if (request.stream) return eventStream(chunks(request, head, choices, n), signal, end, headers);
    const completion = await whole(head, choices, n);
    await end("told");
    return Response.json(completion, { headers });
  } catch (error) {
    await end("failed");
    throw error;
  }
}

interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
}

async function whole(head: Head, choices: Choices, n: number): Promise<object> {
  const finished: object[] = Array.from({ length: n });
  for await (const event of choices) {
    if ("text" in event) continue;
    const { index, answer } = event;
    finished[index] = {
      index,
      message: { role: "assistant", content: answer.text, refusal: null },
      logprobs: null,
      finish_reason: answer.finishReason,
    };
  }
  return { ...head, object: "chat.completion", choices: finished, usage: choices.usage };
}

async function* chunks(
  { stream_options }: ChatRequest,
  head: Head,
  choices: Choices,
  n: number,
): AsyncGenerator<object> {
  const usage = stream_options?.include_usage === true;
  const chunk = (choice: object | undefined, total: Usage | null = null) => ({
    ...head,
    object: "chat.completion.chunk",
    choices: choice === undefined ? [] : [choice],
    ...(usage ? { usage: total } : {}),
  });
  const choice = (index: number, delta: object, finish_reason: string | null = null) => ({
    index,
    delta,
    logprobs: null,
    finish_reason,
  });
  for (let index = 0; index < n; index++) yield chunk(choice(index, { role: "assistant", content: "" }));
  for await (const event of choices) {
    if ("text" in event) yield chunk(choice(event.index, { content: event.text }));
    else yield chunk(choice(event.index, {}, event.answer.finishReason));
  }
  if (usage) yield chunk(undefined, choices.usage);
}

function conversationId(request: ChatRequest, headers: Headers): string | undefined {
  const id = request.conversation_id ?? headers.get(HEADER) ?? undefined;
  if (id === undefined || /^[\w.:-]{1,128}$/.test(id)) return id;
  throw new ApiError(400, `${HEADER} must be 1 to 128 letters, digits and _ . : -`, {
    param: "conversation_id",
  });
}
