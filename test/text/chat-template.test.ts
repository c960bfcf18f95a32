import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ChatTemplate, type Message } from "../../lib/text/chat-template.js";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import { fixtureModel, fixtureModels, readJson, recallModel } from "./models.js";

const named = { bos: "<s>", eos: "</s>", unk: null, pad: null };
const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const system = (content: string): Message => ({ role: "system", content });

async function load(directory: string, warn?: (message: string) => void): Promise<ChatTemplate> {
  const tokenizer = await Tokenizer.load(directory);
  return ChatTemplate.load(
    directory,
    warn === undefined ? { named: tokenizer.named } : { named: tokenizer.named, warn },
  );
}

function make(source: string | null): { template: ChatTemplate; warnings: string[] } {
  const warnings: string[] = [];
  const template = new ChatTemplate(source, "chat_template.jinja", {
    named,
    warn: (text) => warnings.push(text),
  });
  return { template, warnings };
}

describe.each(fixtureModels)("chat template of %s", (name) => {
  it("renders the golden text", async () => {
    const { chat } = readJson(fixtureModel(name), "case.json");
    const template = await load(fixtureModel(name));
    expect(template.render(chat.messages, { addGenerationPrompt: chat.add_generation_prompt })).toBe(chat.text);
  });
});

/** Plays a conversation through `append` alone and returns the stream's text and what the messages became. */
function converse(template: ChatTemplate, turns: { asks: Message[]; generated: string }[]) {
  let stream = "";
  let history: Message[] = [];
  let exact = true;
  let generated: string | undefined;
  for (const turn of turns) {
    const next = template.append({
      history,
      ...(generated === undefined ? {} : { generated }),
      added: turn.asks,
      addGenerationPrompt: true,
    });
    exact &&= next.exact;
    history = [...history, ...turn.asks];
    stream += next.text + turn.generated;
    generated = turn.generated;
    history.push(template.answer(history, generated));
  }
  const end = template.append({ history, generated: generated as string, added: [] });
  return { stream: stream + end.text, history, exact: exact && end.exact };
}

describe("a stream that goes on", () => {
  const stable: [string, string, string][] = [
    ["llama", fixtureModel("llama"), "<|eot_id|>"],
    ["qwen2", fixtureModel("qwen2"), "<|im_end|>"],
    ["recall", recallModel, ""],
  ];

  it.each(stable)("is, in the format of %s, the rendering of all messages", async (_name, directory, stop) => {
    const warnings: string[] = [];
    const template = await load(directory, (text) => warnings.push(text));
    const lead = template.render([user("q")], { addGenerationPrompt: true }).endsWith(":") ? " " : "";
    const words = fc.string({ unit: fc.constantFrom("a", "b", "c", "."), minLength: 1, maxLength: 8 });
    // An answer ends with the stop token, or without it where maxTokens cut it off.
    const turn = fc.record({ asked: words, answered: words, finished: fc.boolean() });
    fc.assert(
      fc.property(fc.array(turn, { minLength: 1, maxLength: 5 }), fc.boolean(), (turns, hasSystem) => {
        const played = converse(
          template,
          turns.map(({ asked, answered, finished }, index) => ({
            asks: index === 0 && hasSystem ? [system("be brief"), user(asked)] : [user(asked)],
            generated: lead + answered + (finished ? stop : ""),
          })),
        );
        const expected = turns.flatMap(({ asked, answered }) => [user(asked), assistant(answered)]);
        expect(played.history).toEqual(hasSystem ? [system("be brief"), ...expected] : expected);
        expect(played.exact).toBe(true);
        expect(played.stream).toBe(template.render(played.history));
        expect(warnings).toEqual([]);
      }),
      { numRuns: 100 },
    );
  });

  it.each(stable)(
    "takes rendered messages in, in the format of %s, however they are cut",
    async (_name, directory) => {
      const template = await load(directory);
      const messages = [system("s"), user("a"), assistant("b"), user("c"), user("d"), assistant("e")];
      for (let cut = 1; cut < messages.length; ++cut) {
        const [history, added] = [messages.slice(0, cut), messages.slice(cut)];
        const first = template.append({ history: [], added: history });
        const second = template.append({ history, added, addGenerationPrompt: true });
        expect(first.text + second.text).toBe(template.render(messages, { addGenerationPrompt: true }));
        expect(first.exact && second.exact).toBe(true);
      }
    },
  );

  it("closes the turn of an answer, whole or cut", async () => {
    const llama = await load(fixtureModel("llama"));
    const qwen = await load(fixtureModel("qwen2"));
    const history = [user("Hello"), assistant("Hi")];
    expect(llama.closing(history, "Hi")).toBe("<|eot_id|>");
    expect(llama.closing(history, "Hi<|eot_id|>")).toBe("");
    expect(qwen.closing(history, "Hi")).toBe("<|im_end|>\n");
    expect(qwen.closing(history, "Hi<|im_end|>")).toBe("\n");
    expect(
      qwen.append({ history, generated: "Hi<|im_end|>", added: [user("x")], addGenerationPrompt: true }).text,
    ).toBe("\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
  });

  it("goes on behind an answer that the template would trim, without a warning", async () => {
    const warnings: string[] = [];
    const template = await load(fixtureModel("llama"), (text) => warnings.push(text));
    const next = template.append({
      history: [user("Hello"), assistant(" Hi \n")],
      generated: " Hi \n<|eot_id|>",
      added: [user("x")],
      addGenerationPrompt: true,
    });
    const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
    expect(next).toEqual({ text: `${header("user")}x<|eot_id|>${header("assistant")}`, exact: false });
    expect(warnings).toEqual([]);
  });

  it("encodes, turn by turn, to the ids of the whole", async () => {
    const template = await load(fixtureModel("qwen2"));
    const tokenizer = await Tokenizer.load(fixtureModel("qwen2"));
    const { chat } = readJson(fixtureModel("qwen2"), "case.json");
    const [first, second, third] = chat.messages as [Message, Message, Message];
    const start = template.append({ history: [], added: [first], addGenerationPrompt: true }).text;
    const generated = `${second.content}<|im_end|>`;
    const next = template.append({
      history: [first, second],
      generated,
      added: [third],
      addGenerationPrompt: true,
    }).text;
    const ids = [start, generated, next].flatMap((text) =>
      tokenizer.encode(text, { addSpecialTokens: false, continuation: true }),
    );
    expect(ids).toEqual(chat.ids);
  });
});

/** Drops the thoughts of earlier answers, as reasoning models' templates do. */
const forgetsThoughts = `{{ bos_token }}{% for m in messages %}{% set content = m.content %}
{%- if m.role == 'assistant' and not loop.last and '</think>' in content %}{% set content = content.split('</think>')[-1] | trim %}{% endif %}
{{- '<|' + m.role + '|>' + content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}`;

/** Puts the system prompt into the last user message, and refuses turns out of order. */
const movesSystem = `{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content + ' ' %}{% set rest = messages[1:] %}
{%- else %}{% set sys = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + (sys if loop.index0 >= rest | length - 2 and m == (rest | selectattr('role', 'equalto', 'user') | list)[-1] else '') + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}`;

describe("templates that rewrite earlier turns", () => {
  it("append what stands behind the last turn, and warn once", () => {
    const { template, warnings } = make(forgetsThoughts);
    const history = [user("a"), assistant("<think>hm</think>b")];
    const generated = "<think>hm</think>b<|end|>";
    const request = { history, generated, added: [user("c")], addGenerationPrompt: true };
    expect(template.append(request)).toEqual({ text: "<|user|>c<|end|><|assistant|>", exact: false });
    expect(template.append({ ...request, generated: "<think>hm</think>b" }).text).toBe(
      "<|end|><|user|>c<|end|><|assistant|>",
    );
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/rewrites earlier turns/);
  });

  it("append as usual where nothing is rewritten", () => {
    const { template, warnings } = make(forgetsThoughts);
    const request = { history: [user("a"), assistant("b")], generated: "b<|end|>", added: [user("c")] };
    expect(template.append(request)).toEqual({ text: "<|user|>c<|end|>", exact: true });
    expect(warnings).toEqual([]);
  });

  it("do not write a system prompt again that they move", () => {
    const { template, warnings } = make(movesSystem);
    const opening = template.append({
      history: [],
      added: [system("S"), user("a")],
      addGenerationPrompt: true,
    });
    expect(opening).toEqual({ text: "<s>[INST] S a [/INST]", exact: true });
    const history = [system("S"), user("a"), template.answer([system("S"), user("a")], " b</s>")];
    expect(history.at(-1)).toEqual(assistant("b"));
    const next = template.append({
      history,
      generated: " b</s>",
      added: [user("c")],
      addGenerationPrompt: true,
    });
    expect(next).toEqual({ text: "[INST] c [/INST]", exact: false });
    expect(template.append({ history, generated: " b", added: [user("c")] }).text).toBe("</s>[INST] c [/INST]");
    expect(template.append({ history, added: [user("c")] })).toEqual({
      text: "[INST] c [/INST]",
      exact: false,
    });
    expect(warnings).toHaveLength(1);
  });

  it("say so when they leave the answer out altogether", () => {
    const { template } = make(
      "{% for m in messages %}{% if m.role == 'user' %}{{ messages | length ~ m.content }}{% endif %}{% endfor %}",
    );
    expect(() =>
      template.append({ history: [user("a"), assistant("b")], generated: "b", added: [user("c")] }),
    ).toThrow(expect.objectContaining({ code: "ERR_UNSUPPORTED" }));
  });
});

describe("what templates see", () => {
  const render = (source: string, now?: Date) =>
    make(source).template.render([user("u")], now === undefined ? {} : { now });

  it("has the tokens that the model names and no others", () => {
    expect(render("{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}")).toBe("<s></s>false");
  });

  it("has the date of the conversation", () => {
    const now = new Date(2024, 6, 4, 15, 7, 9);
    expect(render("{{ strftime_now('%d %b %Y') }}", now)).toBe("04 Jul 2024");
    expect(render("{{ strftime_now('%A, %-d %B %y, %H:%M:%S %I%p %j %% %Q') }}", now)).toBe(
      "Thursday, 4 July 24, 15:07:09 03PM 186 % %Q",
    );
  });

  it("has range and loops with control statements", () => {
    expect(
      render("{% for i in range(2, 9, 3) %}{% if i == 8 %}{% break %}{% endif %}{{ i }},{% endfor %}"),
    ).toBe("2,5,");
    expect(render("{{ range(3) | join('-') }}{{ range(3, 0, -1) | join('-') }}")).toBe("0-1-23-2-1");
  });
});

describe("template files", () => {
  const inDirectory = async (files: Record<string, unknown>, use: (directory: string) => Promise<void>) => {
    const directory = await mkdtemp(join(tmpdir(), "longhaul-template-"));
    try {
      for (const [name, content] of Object.entries(files)) {
        await writeFile(join(directory, name), typeof content === "string" ? content : JSON.stringify(content));
      }
      await use(directory);
    } finally {
      await rm(directory, { recursive: true });
    }
  };
  const rendered = async (directory: string) =>
    (await ChatTemplate.load(directory, { named })).render([user("u")]);

  it("prefer chat_template.jinja", () =>
    inDirectory(
      { "chat_template.jinja": "file", "tokenizer_config.json": { chat_template: "config" } },
      async (directory) => {
        expect(await rendered(directory)).toBe("file");
      },
    ));

  it("may hold several templates by name", () =>
    inDirectory(
      {
        "tokenizer_config.json": {
          chat_template: [
            { name: "tool_use", template: "t" },
            { name: "default", template: "d" },
          ],
        },
      },
      async (directory) => expect(await rendered(directory)).toBe("d"),
    ));

  it("may be missing: then chat is what is unsupported", () =>
    inDirectory({}, async (directory) => {
      const template = await ChatTemplate.load(directory, { named });
      expect(template.available).toBe(false);
      expect(() => template.render([user("u")])).toThrow(
        expect.objectContaining({
          code: "ERR_UNSUPPORTED",
          message: expect.stringMatching(/no chat template; use generate/),
        }),
      );
    }));

  it.each([
    ["a number", { chat_template: 5 }],
    ["an entry without a name", { chat_template: [{ template: "t" }] }],
    [
      "several without a default",
      {
        chat_template: [
          { name: "a", template: "t" },
          { name: "b", template: "t" },
        ],
      },
    ],
    ["a syntax error", { chat_template: "{% if %}" }],
  ])("refuse %s", (_name, config) =>
    inDirectory({ "tokenizer_config.json": config }, async (directory) => {
      const loading = ChatTemplate.load(directory, { named });
      await expect(loading).rejects.toMatchObject({ code: "ERR_CORRUPT_FILE" });
      await expect(loading).rejects.toThrow(join(directory, "tokenizer_config.json"));
    }),
  );
});

describe("errors while rendering", () => {
  it("tell the messages' fault from the template's", () => {
    const { template } = make(movesSystem);
    expect(() => template.render([user("a"), user("b")])).toThrow(
      expect.objectContaining({
        code: "ERR_INVALID_ARGUMENT",
        message: expect.stringMatching(/roles must alternate/),
      }),
    );
    expect(() => make("{{ messages[0].content.nothing() }}").template.render([user("a")])).toThrow(
      expect.objectContaining({
        code: "ERR_CORRUPT_FILE",
        message: expect.stringMatching(/chat_template.jinja/),
      }),
    );
  });

  it("name the message that is wrong", () => {
    const { template } = make("");
    const render = (messages: unknown) => () => template.render(messages as Message[]);
    expect(render([])).toThrow(/messages must be an array of at least one message/);
    expect(render([user("a"), { role: "user" }])).toThrow(
      /messages\[1\].content must be a string, got undefined/,
    );
    expect(render([{ role: 5, content: "" }])).toThrow(
      /messages\[0\].role must be a string that is not empty, got 5/,
    );
    expect(() => template.append({ history: [user("a")], generated: "x", added: [] })).toThrow(
      /history must be messages that end with the generated answer/,
    );
  });
});

describe("the recall model's format", () => {
  it("is what it was trained on", async () => {
    const template = await load(recallModel);
    const messages = [user("milo age is seven ."), user("milo age ?")];
    expect(template.render(messages, { addGenerationPrompt: true })).toBe(
      "<|bos|> user : milo age is seven . user : milo age ? assistant :",
    );
  });
});
