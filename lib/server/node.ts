import type { IncomingMessage, ServerResponse } from "node:http";
import { createRequestListener } from "@remix-run/node-fetch-server";
import type { OpenAIServer } from "./server.js";

/** For `http.createServer`, and for frameworks that hand on Node's own request and response. */
export function toNodeListener(
  server: OpenAIServer,
): (request: IncomingMessage, response: ServerResponse) => void {
  return createRequestListener((request: Request) => server.fetch(request));
}
