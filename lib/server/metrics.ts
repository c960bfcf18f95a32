import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Engine } from "../engine.js";

/** What is counted while requests run; the rest is read when somebody asks. */
export interface Gauges {
  running(): number;
  waiting(): number;
  conversations(): number;
}

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Metrics of one server, in a registry of its own, in Prometheus' text format. */
export class Metrics {
  readonly #registry = new Registry();
  readonly requests: Counter<"route" | "status">;
  readonly promptTokens: Counter;
  readonly completionTokens: Counter;
  readonly firstToken: Histogram;
  readonly betweenTokens: Histogram;

  constructor(engine: Engine, gauges: Gauges) {
    const registers = [this.#registry];
    this.requests = new Counter({
      name: "longhaul_requests_total",
      help: "Requests, by route and status",
      labelNames: ["route", "status"],
      registers,
    });
    this.promptTokens = new Counter({
      name: "longhaul_prompt_tokens_total",
      help: "Tokens of prompts that went through the model",
      registers,
    });
    this.completionTokens = new Counter({
      name: "longhaul_completion_tokens_total",
      help: "Tokens of answers",
      registers,
    });
    this.firstToken = new Histogram({
      name: "longhaul_time_to_first_token_seconds",
      help: "From the arrival of a request to the first text of its answer",
      buckets: SECONDS,
      registers,
    });
    this.betweenTokens = new Histogram({
      name: "longhaul_inter_token_seconds",
      help: "Between two texts of a streamed answer",
      buckets: SECONDS,
      registers,
    });
    const gauge = (name: string, help: string, read: () => number) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    gauge("longhaul_requests_running", "Requests that have a place", gauges.running);
    gauge("longhaul_requests_waiting", "Requests that wait for a place", gauges.waiting);
    gauge("longhaul_conversations", "Conversations that are kept", gauges.conversations);
    gauge("longhaul_weights_bytes", "Bytes of the weights", () => engine.memory().weights);
    gauge("longhaul_kv_pool_bytes", "Bytes of the KV pool", () => engine.memory().pool.bytes);
    gauge(
      "longhaul_kv_reserved_bytes",
      "Bytes set aside for conversations",
      () => engine.memory().pool.reserved,
    );
    gauge("longhaul_kv_used_bytes", "Bytes in pages that hold rows", () => engine.memory().pool.used);
  }

  async response(): Promise<Response> {
    return new Response(await this.#registry.metrics(), {
      headers: { "content-type": this.#registry.contentType },
    });
  }
}
