import { createServer } from "node:http";
import express from "express";
import fastify from "fastify";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/index.js";
import { Admission } from "../../lib/server/admission.js";
import { longhaul as expressHandler } from "../../lib/server/express.js";
import { longhaul as fastifyPlugin } from "../../lib/server/fastify.js";
import { OpenAIServer } from "../../lib/server/index.js";
import { expectError, load, recall } from "../engine/support.js";
import { TestServer, until } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const messages = [{ role: "user" as const, content: "rex color is red . rex color ?" }];
const endless = { model: "recall", messages, max_tokens: 100_000, ignore_eos: true, stream: true as const };

async function withServer<T>(
  use: (server: TestServer) => Promise<T>,
  options: ConstructorParameters<typeof OpenAIServer>[1] = {},
  apiKey?: string,
): Promise<T> {
  const server = await TestServer.start(engine, options, apiKey);
  try {
    return await use(server);
  } finally {
    await server.close();
  }
}

describe("completions", () => {
  it("go on with texts and token ids", () =>
    withServer(async ({ client }) => {
      const text = "session pets . user : rex color is red . user : rex color ? assistant :";
      const expected = await engine.generate(text, { maxTokens: 16 }).result();
      const completion = await client.completions.create({ model: "recall", prompt: [text, text] });
      expect(completion.choices.map((choice) => choice.text)).toEqual([expected.text, expected.text]);
      const ids = engine.tokenizer.encode(text);
      const byIds = await client.completions.create({ model: "recall", prompt: ids });
      expect(byIds.choices[0]?.text).toBe(expected.text);
      let streamed = "";
      for await (const { choices } of await client.completions.create({
        model: "recall",
        prompt: text,
        stream: true,
      })) {
        streamed += choices[0]?.text ?? "";
      }
      expect(streamed).toBe(expected.text);
    }));
});

describe("embeddings", () => {
  it("are the engine's", () =>
    withServer(async ({ client }) => {
      const texts = ["rex color is red .", "milo age is seven ."];
      const expected = await engine.embed(texts);
      // The client asks for base64 and decodes it; floats when told to.
      for (const format of [undefined, "float"] as const) {
        const { data } = await client.embeddings.create({
          model: "recall",
          input: texts,
          ...(format === undefined ? {} : { encoding_format: format }),
        });
        for (const [index, { embedding }] of data.entries()) {
          expect(Float32Array.from(embedding)).toEqual(expected[index]);
        }
      }
    }));
});

describe("models", () => {
  it("are listed", () =>
    withServer(async ({ client }) => {
      const { data } = await client.models.list();
      expect(data.map(({ id }) => id)).toEqual(["recall"]);
      expect((await client.models.retrieve("recall")).owned_by).toBe("longhaul");
      await expect(client.models.retrieve("gpt")).rejects.toThrow(OpenAI.NotFoundError);
    }));
});

describe("the door", () => {
  it("asks for a key where there is one", async () => {
    await withServer(
      async (server) => {
        expect((await server.client.models.list()).data).toHaveLength(1);
        for (const authorization of ["", "Bearer wrong", "Basic right"]) {
          const refused = await server.post(
            "/v1/chat/completions",
            { model: "recall", messages },
            { authorization },
          );
          expect(refused.status).toBe(401);
          expect(await refused.json()).toMatchObject({ error: { code: "invalid_api_key" } });
        }
        expect((await fetch(`${server.origin}/metrics`)).status).toBe(401);
        expect((await fetch(`${server.origin}/health`)).status).toBe(200);
      },
      { apiKeys: ["other", "right"] },
      "right",
    );
  });

  it("lets browsers in only from origins that were named", async () => {
    const headers = { origin: "https://a.example" };
    await withServer(async (server) => {
      const response = await server.post("/v1/embeddings", { model: "recall", input: "x" }, headers);
      expect(response.headers.get("access-control-allow-origin")).toBeNull();
    });
    await withServer(
      async (server) => {
        const asked = await fetch(`${server.origin}/v1/embeddings`, {
          method: "OPTIONS",
          headers: { ...headers, "access-control-request-headers": "authorization, x-stainless-os" },
        });
        expect(asked.status).toBe(204);
        expect(asked.headers.get("access-control-allow-origin")).toBe("https://a.example");
        expect(asked.headers.get("access-control-allow-headers")).toBe("authorization, x-stainless-os");
        const other = await fetch(`${server.origin}/health`, { headers: { origin: "https://b.example" } });
        expect(other.headers.get("access-control-allow-origin")).toBeNull();
      },
      { origins: ["https://a.example"] },
    );
  });

  it("refuses bodies that are too large, with their length or without", () =>
    withServer(
      async (server) => {
        const body = JSON.stringify({
          model: "recall",
          messages: [{ role: "user", content: "x".repeat(5000) }],
        });
        expect((await server.post("/v1/chat/completions", body)).status).toBe(413);
        const stream = new Blob([body]).stream();
        const chunked = await fetch(`${server.origin}/v1/chat/completions`, {
          method: "POST",
          body: stream,
          duplex: "half",
        } as RequestInit);
        expect(chunked.status).toBe(413);
      },
      { maxBodyBytes: 2000 },
    ));

  it("says when to come again where too many wait", () =>
    withServer(
      async (server) => {
        const { client } = server;
        const running = await client.chat.completions.create(endless);
        const waiting = client.chat.completions.create({ model: "recall", messages });
        await until(async () => (await server.metric("longhaul_requests_waiting")) === 1);
        const refused = await client.chat.completions
          .create({ model: "recall", messages })
          .catch((error) => error);
        expect(refused).toBeInstanceOf(OpenAI.RateLimitError);
        expect(refused.headers.get("retry-after")).toBe("1");
        running.controller.abort();
        expect((await waiting).choices[0]?.finish_reason).toBe("stop");
      },
      { maxRunning: 1, maxWaiting: 1 },
    ));

  it("closes behind those who are being answered", async () => {
    const server = await TestServer.start(engine);
    const { client, api } = server;
    const stream = await client.chat.completions.create({ ...endless, max_tokens: 300 });
    const closing = api.close();
    expect((await fetch(`${server.origin}/health`)).status).toBe(503);
    await expect(client.chat.completions.create({ model: "recall", messages })).rejects.toMatchObject({
      status: 503,
    });
    let end: unknown;
    for await (const { choices } of stream) end = choices[0]?.finish_reason ?? end;
    expect(end).toBe("length");
    await closing;
    await server.close();
  });

  it("is not opened with options that cannot be", async () => {
    for (const options of [
      { memory: { budget: 64 } },
      { maxRunning: 0 },
      { maxBodyBytes: 0 },
      { apiKeys: [""] },
      { model: "" },
    ]) {
      await expectError((async () => new OpenAIServer(engine, options))(), "ERR_INVALID_ARGUMENT", /must be/);
    }
  });
});

describe("memory of conversations", () => {
  it("goes to whoever needs it, from whoever has been quiet longest", () =>
    withServer(
      async (server) => {
        const { client } = server;
        const ask = (conversation_id: string) =>
          client.chat.completions.create({ model: "recall", messages, conversation_id } as never);
        for (const id of ["a", "b", "c"]) await ask(id);
        expect(await server.metric("longhaul_conversations")).toBe(2);
        const { pool } = engine.memory();
        await ask("d");
        expect(engine.memory().pool.reserved).toBe(pool.reserved);
      },
      { memory: { policy: "keydiff", budget: 64, block: 64, tail: 64 }, maxConversations: 2 },
    ));

  it("comes from idle conversations where everything is kept and the pool is full", async () => {
    await using small = await load(recall, { kvBytes: "1MiB" });
    const server = await TestServer.start(small);
    const long = [{ role: "user" as const, content: "rex color is red . ".repeat(50) }];
    for (let i = 0; i < 8; i++) {
      const { choices } = await server.client.chat.completions.create({
        ...{ model: "recall", messages: long, max_tokens: 4 },
        ...(i % 2 === 0 ? { conversation_id: `c${i}` } : {}),
      } as never as OpenAI.ChatCompletionCreateParamsNonStreaming);
      expect(choices).toHaveLength(1);
    }
    expect(await server.metric("longhaul_conversations")).toBeLessThan(4);
    await server.close();
  });

  it("is not that of an answer whose client left", () =>
    withServer(async (server) => {
      const { client } = server;
      const body = { model: "recall", messages, conversation_id: "left" };
      const stream = await client.chat.completions.create({ ...body, ...endless } as typeof endless);
      for await (const _ of stream) break;
      stream.controller.abort();
      const again = await client.chat.completions
        .create(body as OpenAI.ChatCompletionCreateParamsNonStreaming)
        .catch((error) => error);
      // At once, while the first may still be ending: told so, or answered as if it had never been.
      if (again.status === 409)
        await until(async () => (await server.metric("longhaul_requests_running")) === 0);
      const { choices } = await client.chat.completions.create(
        body as OpenAI.ChatCompletionCreateParamsNonStreaming,
      );
      expect(choices[0]?.message.content).toBe("rex color is red");
    }));
});

describe("turns of clients", () => {
  it("go round, whoever came with more", async () => {
    const admission = new Admission(1, 10);
    const { signal } = new AbortController();
    const leave = await admission.enter("x", signal);
    const order: string[] = [];
    const entered = ["a1", "a2", "a3", "b1", "c1", "b2"].map(async (name) => {
      const leave = await admission.enter(name.charAt(0), signal);
      order.push(name);
      leave();
    });
    leave();
    await Promise.all(entered);
    expect(order).toEqual(["a1", "b1", "c1", "a2", "b2", "a3"]);
    expect([admission.running, admission.waiting]).toEqual([0, 0]);
  });

  it("are lost by those who give up, and by nobody else", async () => {
    const admission = new Admission(1, 10);
    const leave = await admission.enter("x", new AbortController().signal);
    const impatient = new AbortController();
    const given = admission.enter("a", impatient.signal);
    const patient = admission.enter("a", new AbortController().signal);
    impatient.abort(new Error("enough"));
    await expect(given).rejects.toThrow("enough");
    leave();
    leave();
    (await patient)();
    await admission.idle();
    expect([admission.running, admission.waiting]).toEqual([0, 0]);
  });
});

describe("frameworks", () => {
  const check = async (origin: string) => {
    const client = new OpenAI({ apiKey: "none", baseURL: `${origin}/ai/v1`, maxRetries: 0 });
    const completion = await client.chat.completions.create({ model: "recall", messages });
    expect(completion.choices[0]?.finish_reason).toBe("stop");
    let text = "";
    for await (const chunk of await client.chat.completions.create({
      model: "recall",
      messages,
      stream: true,
    })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
    expect(text).toBe(completion.choices[0]?.message.content);
    await expect(client.chat.completions.create({ model: "other", messages })).rejects.toMatchObject({
      status: 404,
    });
    expect(await (await fetch(`${origin}/own`)).text()).toBe("own");
  };

  it("Fastify takes it as a plugin", async () => {
    const api = new OpenAIServer(engine, { model: "recall" });
    const app = fastify();
    app.get("/own", async () => "own");
    await app.register(fastifyPlugin, { server: api, prefix: "/ai" });
    await check(await app.listen({ port: 0, host: "127.0.0.1" }));
    await api.close();
    await app.close();
  });

  it("Express takes it as a handler", async () => {
    const api = new OpenAIServer(engine, { model: "recall" });
    const app = express();
    app.use("/ai", expressHandler(api));
    app.use(express.json());
    app.get("/own", (_request, response) => {
      response.send("own");
    });
    const http = createServer(app);
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    await check(`http://127.0.0.1:${(http.address() as { port: number }).port}`);
    await api.close();
    await new Promise((resolve) => http.close(resolve));
  });
});
