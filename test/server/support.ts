import { createServer, type Server } from "node:http";
import OpenAI from "openai";
import type { Engine } from "../../lib/index.js";
import { OpenAIServer, type ServerOptions, toNodeListener } from "../../lib/server/index.js";

/** A server on a free port of this machine, and a client of OpenAI's own for it. */
export class TestServer {
  readonly api: OpenAIServer;
  readonly #http: Server;
  readonly origin: string;
  readonly client: OpenAI;

  static async start(engine: Engine, options: ServerOptions = {}, apiKey = "none"): Promise<TestServer> {
    const api = new OpenAIServer(engine, { model: "recall", ...options });
    const http = createServer(toNodeListener(api));
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return new TestServer(api, http, apiKey);
  }

  private constructor(api: OpenAIServer, http: Server, apiKey: string) {
    this.api = api;
    this.#http = http;
    this.origin = `http://127.0.0.1:${(http.address() as { port: number }).port}`;
    this.client = new OpenAI({ apiKey, baseURL: `${this.origin}/v1`, maxRetries: 0 });
  }

  post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
    return fetch(`${this.origin}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  }

  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.origin}/metrics`)).text();
    const line = text.split("\n").find((candidate) => candidate.startsWith(`${name} `));
    return Number(line?.split(" ")[1]);
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#http.close(resolve));
    await this.api.close();
    this.#http.closeAllConnections();
    await closed;
  }
}

/** Waits for something that another process or thread does; the test's own timeout ends it. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}
