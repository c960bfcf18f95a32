import { errorBody, toApiError } from "./errors.js";

const encoder = new TextEncoder();

/** How a request ended: all was told, something failed, or the client went away. */
export type Outcome = "told" | "failed" | "gone";

/**
 * Server-sent events of an iterable, `data: [DONE]` at the end. What fails in the middle is told as an event with an
 * error, since the status is out already. A reader that goes away, or `signal`, ends the iterable; `onEnd` hears once.
 */
export function eventStream(
  events: AsyncIterator<object>,
  signal: AbortSignal,
  onEnd: (outcome: Outcome) => void,
  headers: Readonly<Record<string, string>> = {},
): Response {
  let ended = false;
  const end = (outcome: Outcome) => {
    if (!ended) onEnd(outcome);
    ended = true;
  };
  // Also where nobody ever reads the body.
  signal.addEventListener("abort", () => end("gone"), { once: true });
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await events.next();
          if (!done) {
            controller.enqueue(encoder.encode(`data: ${JSON.stringify(value)}\n\n`));
            return;
          }
          end("told");
        } catch (error) {
          end("failed");
          controller.enqueue(encoder.encode(`data: ${JSON.stringify(errorBody(toApiError(error)))}\n\n`));
        }
        controller.enqueue(encoder.encode("data: [DONE]\n\n"));
        controller.close();
      },
      async cancel() {
        // First, since an iterable that waits for its next event cannot be returned from.
        end("gone");
        await events.return?.();
      },
    },
    // One event at a time: a slow reader holds the generation's chunks back, not this stream's queue.
    { highWaterMark: 0 },
  );
  return new Response(body, {
    headers: {
      ...headers,
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      // Proxies would otherwise collect the events.
      "x-accel-buffering": "no",
    },
  });
}
