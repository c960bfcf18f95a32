import { createHash, timingSafeEqual } from "node:crypto";
import { basename } from "node:path";
import type { Engine } from "../engine.js";
import { isEpisodic } from "../episodes/options.js";
import { invalidOption, requireInteger, requireOneOf, requireString } from "../errors.js";
import { type MemoryOptions, POLICIES } from "../memory.js";
import { Admission } from "./admission.js";
import { readBody } from "./body.js";
import { chat } from "./chat.js";
import { complete } from "./completions.js";
import type { ServerContext, Visit } from "./context.js";
import { ConversationStore } from "./conversations.js";
import { embed } from "./embeddings.js";
import { ApiError, errorResponse, toApiError } from "./errors.js";
import { Metrics } from "./metrics.js";

export interface ServerOptions {
  /** The model's name in requests and in /v1/models. Default: the name of its directory. */
  readonly model?: string;
  /** What each conversation may hold. Default: everything. */
  readonly memory?: MemoryOptions;
  /** Of /v1/embeddings. Default "mean". */
  readonly pooling?: "mean" | "last";
  /** Requests have to bring one of these, as `Authorization: Bearer`. Default: none is asked for. */
  readonly apiKeys?: readonly string[];
  /** Origins whose pages may call from a browser; "*" is any. Default: none. */
  readonly origins?: readonly string[];
  /** Default 4 MiB. */
  readonly maxBodyBytes?: number;
  /** Requests that run at a time. Default 64. */
  readonly maxRunning?: number;
  /** Requests that wait for others; those beyond are answered with status 429. Default 256. */
  readonly maxWaiting?: number;
  /** Conversations that are kept for their next request; the longest unused goes first. Default 256. */
  readonly maxConversations?: number;
}

/** What others log for it, too; nobody hears it. */
const CLIENT_GONE = 499;

type Route = (context: ServerContext, visit: Visit) => Promise<Response>;

const ROUTES: Readonly<Record<string, Route>> = {
  "/v1/chat/completions": chat,
  "/v1/completions": complete,
  "/v1/embeddings": embed,
};

/** OpenAI's HTTP protocol over an engine, from a `Request` to its `Response`: for any server that speaks in these. */
export class OpenAIServer {
  readonly #context: ServerContext;
  readonly #keys: readonly Buffer[];
  readonly #origins: readonly string[];
  readonly #maxBodyBytes: number;
  readonly #created = Math.floor(Date.now() / 1000);
  #closing: Promise<void> | undefined;

  /** @param engine stays the caller's, who disposes of it after `close` */
  constructor(engine: Engine, options: ServerOptions = {}) {
    const { memory = {}, apiKeys = [], origins = [] } = options;
    for (const [index, key] of apiKeys.entries()) requireString(`apiKeys[${index}]`, key);
    if (!Array.isArray(origins)) throw invalidOption("origins", "an array of origins", origins);
    if (isEpisodic(memory.policy ?? (memory.budget === undefined ? "full" : "episodic"))) {
      const policies = POLICIES.filter((policy) => !isEpisodic(policy)).join(", ");
      throw invalidOption("memory.policy", `one that needs no history in advance (${policies})`, memory.policy);
    }
    const admission = new Admission(
      requireInteger("maxRunning", options.maxRunning ?? 64, 1),
      requireInteger("maxWaiting", options.maxWaiting ?? 256, 0),
    );
    const conversations = new ConversationStore(
      engine,
      memory,
      requireInteger("maxConversations", options.maxConversations ?? 256, 0),
    );
    this.#context = {
      engine,
      model: requireString("model", options.model ?? basename(engine.info().directory)),
      memory,
      pooling: requireOneOf("pooling", options.pooling ?? "mean", ["mean", "last"]),
      admission,
      conversations,
      metrics: new Metrics(engine, {
        running: () => admission.running,
        waiting: () => admission.waiting,
        conversations: () => conversations.size,
      }),
    };
    this.#keys = apiKeys.map(digest);
    this.#origins = origins;
    this.#maxBodyBytes = requireInteger("maxBodyBytes", options.maxBodyBytes ?? 4 * 2 ** 20, 1);
  }

  /** The name under which requests ask for the model. */
  get model(): string {
    return this.#context.model;
  }

  /** Answers one request; never rejects. */
  readonly fetch = async (request: Request): Promise<Response> => {
    const { pathname } = new URL(request.url);
    let response: Response;
    try {
      response = request.method === "OPTIONS" ? preflight() : await this.#answer(request, pathname);
    } catch (error) {
      const gone = request.signal.aborted;
      response = errorResponse(gone ? new ApiError(CLIENT_GONE, "the client went away") : toApiError(error));
    }
    const route = Object.hasOwn(ROUTES, pathname) ? pathname : "other";
    this.#context.metrics.requests.inc({ route, status: response.status });
    this.#allowOrigin(request, response);
    return response;
  };

  /** Takes no request any more, waits for those under way, and gives their memory back. */
  close(): Promise<void> {
    this.#closing ??= this.#drain();
    return this.#closing;
  }

  async #drain(): Promise<void> {
    await this.#context.admission.idle();
    await this.#context.conversations.clear();
  }

  async #answer(request: Request, pathname: string): Promise<Response> {
    const arrived = performance.now();
    const closing = this.#closing !== undefined;
    if (pathname === "/health") {
      return Response.json({ status: closing ? "closing" : "ok" }, { status: closing ? 503 : 200 });
    }
    const key = this.#requireKey(request.headers);
    const route = Object.hasOwn(ROUTES, pathname) ? ROUTES[pathname] : undefined;
    if (route === undefined) return this.#look(request, pathname);
    if (request.method !== "POST") throw new ApiError(405, `${pathname} takes POST, not ${request.method}`);
    if (closing) throw new ApiError(503, "the server is going down", { retryAfter: 5 });
    const body = await readBody(request, this.#maxBodyBytes);
    const abort = new AbortController();
    const leave = () => abort.abort(request.signal.reason);
    if (request.signal.aborted) leave();
    request.signal.addEventListener("abort", leave, { once: true });
    const client = key ?? (typeof body.user === "string" ? body.user : "");
    return route(this.#context, { body, headers: request.headers, client, abort, arrived });
  }

  /** What is read only. */
  async #look(request: Request, pathname: string): Promise<Response> {
    if (request.method !== "GET" && request.method !== "HEAD") {
      throw new ApiError(404, `there is nothing at ${request.method} ${pathname}`);
    }
    const { model, metrics } = this.#context;
    const card = { id: model, object: "model", created: this.#created, owned_by: "longhaul" };
    if (pathname === "/metrics") return metrics.response();
    if (pathname === "/v1/models") return Response.json({ object: "list", data: [card] });
    if (pathname === `/v1/models/${encodeURIComponent(model)}` || pathname === `/v1/models/${model}`) {
      return Response.json(card);
    }
    throw new ApiError(404, `there is nothing at ${request.method} ${pathname}`);
  }

  #requireKey(headers: Headers): string | undefined {
    if (this.#keys.length === 0) return undefined;
    const given = /^Bearer (.+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? "";
    const own = digest(given);
    if (this.#keys.filter((key) => timingSafeEqual(key, own)).length > 0) return given;
    throw new ApiError(401, "the API key is missing or wrong", { code: "invalid_api_key" });
  }

  #allowOrigin(request: Request, response: Response): void {
    const origin = request.headers.get("origin");
    if (origin === null || !(this.#origins.includes(origin) || this.#origins.includes("*"))) return;
    response.headers.set("access-control-allow-origin", origin);
    const asked = request.headers.get("access-control-request-headers");
    if (asked !== null) response.headers.set("access-control-allow-headers", asked);
    response.headers.set("access-control-expose-headers", "x-conversation-id");
    response.headers.append("vary", "origin");
  }
}

function preflight(): Response {
  return new Response(null, { status: 204, headers: { "access-control-allow-methods": "GET, POST" } });
}

function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}
