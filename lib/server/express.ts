import type { RequestHandler } from "express";
import { toNodeListener } from "./node.js";
import type { OpenAIServer } from "./server.js";

/**
 * The server as a handler for Express: `app.use("/ai", longhaul(server))` answers `/ai/v1/chat/completions`. It reads
 * bodies itself, so it goes before `express.json()`.
 */
export function longhaul(server: OpenAIServer): RequestHandler {
  const listener = toNodeListener(server);
  return (request, response) => {
    listener(request, response);
  };
}
