import { requireModel, type ServerContext, type Visit } from "./context.js";
import { embeddingRequest, parse, refuseUnsupported } from "./schema.js";

/** POST /v1/embeddings */
export async function embed(context: ServerContext, visit: Visit): Promise<Response> {
  const request = parse(embeddingRequest, visit.body);
  requireModel(context, request.model);
  refuseUnsupported(visit.body);
  const { engine, pooling, metrics, conversations } = context;
  const { signal } = visit.abort;
  const texts = typeof request.input === "string" ? [request.input] : request.input;
  const leave = await context.admission.enter(visit.client, signal);
  try {
    const vectors = await conversations.withRoom(() => engine.embed(texts, { pooling, signal }));
    const tokens = texts.reduce((sum, text) => sum + engine.tokenizer.encode(text).length, 0);
    metrics.promptTokens.inc(tokens);
    return Response.json({
      object: "list",
      model: context.model,
      data: vectors.map((vector, index) => ({
        object: "embedding",
        index,
        embedding: request.encoding_format === "base64" ? toBase64(vector) : Array.from(vector),
      })),
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    });
  } finally {
    leave();
  }
}

/** Little-endian floats, as OpenAI's clients read them. */
function toBase64({ buffer, byteOffset, byteLength }: Float32Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString("base64");
}
