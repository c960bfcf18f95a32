import * as z from "zod";
import type { GenerateOptions } from "../generation.js";
import type { Message } from "../text/chat-template.js";
import { ApiError, unsupported } from "./errors.js";

const part = z.looseObject({ type: z.string(), text: z.string().optional() });

const message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant", "tool", "function"]),
  content: z.union([z.string(), z.array(part)]).nullish(),
  name: z.string().min(1).nullish(),
});

const drawing = {
  model: z.string(),
  temperature: z.number().min(0).max(100).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  seed: z.int().min(0).nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(16)]).nullish(),
  max_tokens: z.int().min(1).nullish(),
  /** As vLLM has it: the model's own end does not end the answer. */
  ignore_eos: z.boolean().nullish(),
  n: z.int().min(1).max(64).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  user: z.string().nullish(),
};

export const chatRequest = z.looseObject({
  ...drawing,
  messages: z.array(message).min(1),
  max_completion_tokens: z.int().min(1).nullish(),
  conversation_id: z
    .string()
    .regex(/^[\w.:-]{1,128}$/, "1 to 128 letters, digits and _ . : -")
    .nullish(),
});

const ids = z.array(z.int().min(0)).min(1);

export const completionRequest = z.looseObject({
  ...drawing,
  prompt: z.union([z.string().min(1), ids, z.array(z.string().min(1)).min(1), z.array(ids).min(1)]),
});

export const embeddingRequest = z.looseObject({
  model: z.string(),
  input: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(2048)]),
  encoding_format: z.enum(["float", "base64"]).nullish(),
});

export type ChatRequest = z.infer<typeof chatRequest>;
export type CompletionRequest = z.infer<typeof completionRequest>;
export type EmbeddingRequest = z.infer<typeof embeddingRequest>;

/** Checks a body. The first thing that is wrong is told, with the name of its field. */
export function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const param = issue?.path
    .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
    .join("")
    .slice(1);
  const where = param === undefined || param === "" ? "the body" : param;
  throw new ApiError(400, `${where}: ${issue?.message ?? "is not valid"}`, { param: param || null });
}

/** What a field must be for the request to mean what this server does. */
const NEUTRAL: Readonly<Record<string, (value: unknown) => boolean>> = {
  logprobs: (value) => value === false || value === 0,
  top_logprobs: (value) => value === 0,
  logit_bias: (value) => typeof value === "object" && Object.keys(value as object).length === 0,
  presence_penalty: (value) => value === 0,
  frequency_penalty: (value) => value === 0,
  tools: (value) => Array.isArray(value) && value.length === 0,
  functions: (value) => Array.isArray(value) && value.length === 0,
  response_format: (value) => (value as { type?: unknown }).type === "text",
  modalities: (value) => Array.isArray(value) && value.every((modality) => modality === "text"),
  audio: () => false,
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  suffix: (value) => value === "",
  dimensions: () => false,
};

/** A field that would change the answer is refused, never left out in silence. */
export function refuseUnsupported(body: Readonly<Record<string, unknown>>): void {
  for (const [field, isNeutral] of Object.entries(NEUTRAL)) {
    const value = body[field];
    if (value !== undefined && value !== null && !isNeutral(value)) {
      throw unsupported(field, `${field} is not supported by this server`);
    }
  }
}

/** The options of a generation; what a request leaves out is the model's own. */
export function toGenerateOptions(
  request: Pick<ChatRequest, keyof typeof drawing>,
  maxTokens: number | null | undefined,
): GenerateOptions {
  const given: Record<string, unknown> = {
    maxTokens,
    temperature: request.temperature,
    topP: request.top_p,
    topK: request.top_k === -1 ? 0 : request.top_k,
    minP: request.min_p,
    repetitionPenalty: request.repetition_penalty,
    seed: request.seed,
    stop: request.stop,
    stopTokens: request.ignore_eos === true ? [] : undefined,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null));
}

/** Messages as the chat template takes them. */
export function toMessages(messages: ChatRequest["messages"]): Message[] {
  return messages.map(({ role, content, name }, index) => {
    if (role === "tool" || role === "function") {
      throw unsupported(`messages[${index}].role`, `messages of role ${role} are not supported by this server`);
    }
    return {
      role: role === "developer" ? "system" : role,
      content: textOf(content, index),
      ...(name === undefined || name === null ? {} : { name }),
    };
  });
}

function textOf(content: ChatRequest["messages"][number]["content"], index: number): string {
  if (content === undefined || content === null) {
    throw new ApiError(400, `messages[${index}].content is missing`, { param: `messages[${index}].content` });
  }
  if (typeof content === "string") return content;
  return content
    .map(({ type, text }, at) => {
      if (type === "text" && text !== undefined) return text;
      const param = `messages[${index}].content[${at}]`;
      throw unsupported(param, `${param}: this server reads text only, not ${type}`);
    })
    .join("\n");
}
