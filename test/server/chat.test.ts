import OpenAI from "openai";
import type { ChatCompletionMessageParam } from "openai/resources/chat/completions";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/index.js";
import { load, recall } from "../engine/support.js";
import { TestServer, until } from "./support.js";

let engine: Engine;
let server: TestServer;
let client: OpenAI;

beforeAll(async () => {
  engine = await load(recall);
  server = await TestServer.start(engine);
  client = server.client;
});
afterAll(async () => {
  await server.close();
  await engine.dispose();
});

const facts: ChatCompletionMessageParam[] = [
  { role: "user", content: "rex color is red ." },
  { role: "assistant", content: "ok ." },
  { role: "user", content: "rex color ?" },
];

const endless = { model: "recall", messages: facts, max_tokens: 100_000, ignore_eos: true };

describe("chat completions", () => {
  it("answer as the engine does", async () => {
    const completion = await client.chat.completions.create({ model: "recall", messages: facts });
    const [choice] = completion.choices;
    expect(choice?.message).toMatchObject({ role: "assistant", content: "rex color is red" });
    expect(choice?.finish_reason).toBe("stop");
    const direct = await engine.generate(facts as { role: string; content: string }[]).result();
    expect(choice?.message.content).toBe(direct.text);
    expect(completion.usage).toEqual({
      prompt_tokens: direct.usage.promptTokens,
      completion_tokens: direct.usage.completionTokens,
      total_tokens: direct.usage.promptTokens + direct.usage.completionTokens,
    });
  });

  it("stream", async () => {
    const stream = await client.chat.completions.create({
      model: "recall",
      messages: facts,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    const roles: unknown[] = [];
    const ends: unknown[] = [];
    let usage: unknown;
    for await (const chunk of stream) {
      const [choice] = chunk.choices;
      text += choice?.delta.content ?? "";
      if (choice?.delta.role !== undefined) roles.push(choice.delta.role);
      if (choice?.finish_reason) ends.push(choice.finish_reason);
      usage = chunk.usage ?? usage;
    }
    expect({ text, roles, ends }).toEqual({ text: "rex color is red", roles: ["assistant"], ends: ["stop"] });
    expect(usage).toMatchObject({ completion_tokens: expect.any(Number), prompt_tokens: expect.any(Number) });
  });

  it("draw by seed, several at a time", async () => {
    const draw = (seed: number, n: number) =>
      client.chat.completions.create({
        model: "recall",
        messages: facts,
        temperature: 2,
        max_tokens: 8,
        seed,
        n,
      });
    const texts = async (seed: number, n: number) =>
      (await draw(seed, n)).choices.map(({ message }) => message.content);
    const three = await texts(7, 3);
    expect(new Set(three).size).toBeGreaterThan(1);
    expect(await texts(8, 1)).toEqual(three.slice(1, 2));
    const stream = await client.chat.completions.create({
      ...{ model: "recall", messages: facts, temperature: 2, max_tokens: 8, seed: 7, n: 3 },
      stream: true,
    });
    const streamed = ["", "", ""];
    for await (const { choices } of stream) {
      for (const { index, delta } of choices) streamed[index] += delta.content ?? "";
    }
    expect(streamed).toEqual(three);
  });

  it("end at a stop string and at max_tokens", async () => {
    const stopped = await client.chat.completions.create({ model: "recall", messages: facts, stop: " is" });
    expect(stopped.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: "rex color" } });
    const cut = await client.chat.completions.create({
      model: "recall",
      messages: facts,
      max_completion_tokens: 2,
    });
    expect(cut.choices[0]?.finish_reason).toBe("length");
    expect(cut.usage?.completion_tokens).toBe(2);
  });

  it("take texts in parts", async () => {
    const parts = [
      { type: "text" as const, text: "rex color is red ." },
      { type: "text" as const, text: "rex color ?" },
    ];
    const completion = await client.chat.completions.create({
      model: "recall",
      messages: [{ role: "user", content: parts }],
      max_tokens: 1,
    });
    const joined = await client.chat.completions.create({
      model: "recall",
      messages: [{ role: "user", content: "rex color is red .\nrex color ?" }],
      max_tokens: 1,
    });
    expect(completion.usage).toEqual(joined.usage);
  });

  it("end when their reader goes away, and give everything back", async () => {
    const before = engine.memory().pool.reserved;
    const stream = await client.chat.completions.create({ ...endless, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    await until(async () => (await server.metric("longhaul_requests_running")) === 0);
    await until(() => engine.memory().pool.reserved === before);

    const controller = new AbortController();
    const whole = client.chat.completions.create({ ...endless }, { signal: controller.signal });
    await until(async () => (await server.metric("longhaul_requests_running")) === 1);
    controller.abort();
    await expect(whole).rejects.toThrow(OpenAI.APIUserAbortError);
    await until(async () => (await server.metric("longhaul_requests_running")) === 0);
    await until(() => engine.memory().pool.reserved === before);
  });
});

describe("what is wrong", () => {
  const ask = (body: object) =>
    client.chat.completions.create({ model: "recall", messages: facts, ...body } as never);

  it.each([
    [{ messages: [] }, 400, "messages"],
    [{ messages: [{ role: "user", content: 5 }] }, 400, "messages[0].content"],
    [{ messages: [{ role: "judge", content: "x" }] }, 400, "messages[0].role"],
    [{ messages: [{ role: "user", content: [{ type: "image_url" }] }] }, 400, "messages[0].content[0]"],
    [{ temperature: -1 }, 400, "temperature"],
    [{ max_tokens: 0 }, 400, "max_tokens"],
    [{ stop: "" }, 400, "stop"],
    [{ logprobs: true }, 400, "logprobs"],
    [{ tools: [{ type: "function", function: { name: "f" } }] }, 400, "tools"],
    [{ response_format: { type: "json_object" } }, 400, "response_format"],
    [{ presence_penalty: 1 }, 400, "presence_penalty"],
    [{ conversation_id: "a b" }, 400, "conversation_id"],
    [{ model: "other" }, 404, "model"],
  ])("is named: %j", async (body, status, param) => {
    const error = await ask(body).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(OpenAI.APIError);
    expect(error).toMatchObject({ status, param, type: "invalid_request_error" });
  });

  it("is refused before a stream begins", async () => {
    const tooLong = [{ role: "user" as const, content: "word ".repeat(9000) }];
    const error = await ask({ messages: tooLong, stream: true }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ status: 400, code: "ERR_INVALID_ARGUMENT" });
    expect((error as Error).message).toMatch(/positions/);
  });

  it("does no harm", async () => {
    for (const [body, status] of [
      ["{", 400],
      ["[]", 400],
      ["null", 400],
      ['{"a":"\xff"}', 400],
    ] as const) {
      const response = await server.post("/v1/chat/completions", body);
      expect(response.status).toBe(status);
      expect(await response.json()).toMatchObject({ error: { type: "invalid_request_error" } });
    }
    expect((await fetch(`${server.origin}/v1/chat/completions`)).status).toBe(405);
    expect((await fetch(`${server.origin}/nowhere`)).status).toBe(404);
    expect((await server.post("/v1/models", {})).status).toBe(404);
    expect((await ask({})).choices[0]?.message.content).toBe("rex color is red");
  });
});

describe("a conversation by its id", () => {
  it("takes in only what is new", async () => {
    const messages: ChatCompletionMessageParam[] = [{ role: "user", content: "rex color is red ." }];
    const say = async (content: string, id: string) => {
      messages.push({ role: "user", content });
      const { data, response } = await client.chat.completions
        .create({ model: "recall", messages, conversation_id: id } as never)
        .withResponse();
      const completion = data as OpenAI.ChatCompletion;
      messages.push({ role: "assistant", content: completion.choices[0]?.message.content ?? "" });
      return { completion, id: response.headers.get("x-conversation-id") };
    };
    const first = await say("milo age is seven .", "pets");
    expect(first.id).toBe("pets");
    const second = await say("rex color ?", "pets");
    expect(second.completion.choices[0]?.message.content).toBe("rex color is red");
    expect(second.completion.usage?.prompt_tokens).toBeLessThan(
      first.completion.usage?.prompt_tokens as number,
    );
    expect(await server.metric("longhaul_conversations")).toBe(1);

    // Another past: a conversation of its own, and the first goes on where it was.
    const other = await client.chat.completions
      .create({ model: "recall", messages: facts, conversation_id: "pets" } as never)
      .withResponse();
    const fork = other.response.headers.get("x-conversation-id");
    expect(fork).not.toBe("pets");
    expect((other.data as OpenAI.ChatCompletion).choices[0]?.message.content).toBe("rex color is red");
    const third = await say("milo age ?", "pets");
    expect(third.id).toBe("pets");
    expect(third.completion.choices[0]?.message.content).toBe("milo age is seven");
    expect(await server.metric("longhaul_conversations")).toBe(2);
  });

  it("answers one request at a time", async () => {
    const stream = await client.chat.completions.create({
      ...endless,
      conversation_id: "busy",
      stream: true,
    } as never);
    const again = await client.chat.completions
      .create({ model: "recall", messages: facts, conversation_id: "busy" } as never)
      .catch((error: unknown) => error);
    expect(again).toMatchObject({ status: 409, code: "conversation_busy" });
    (stream as unknown as { controller: AbortController }).controller.abort();
    await until(async () => (await server.metric("longhaul_requests_running")) === 0);
  });
});
