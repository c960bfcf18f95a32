// Turns behind many others: the same text as with all messages, at the cost of few.
import { describe, expect, it } from "vitest";
import { RenderedHistory } from "../../lib/rendered-history.js";
import { ChatTemplate, type Message } from "../../lib/text/chat-template.js";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import { fixtureModel, recallModel } from "./models.js";

const named = { bos: "<s>", eos: "</s>", unk: null, pad: null };
const user = (content: string): Message => ({ role: "user", content });
const system: Message = { role: "system", content: "be brief" };

async function load(directory: string): Promise<ChatTemplate> {
  const { named } = await Tokenizer.load(directory);
  return ChatTemplate.load(directory, { named });
}

function make(source: string): { template: ChatTemplate; warnings: string[] } {
  const warnings: string[] = [];
  const warn = (text: string) => warnings.push(text);
  return { template: new ChatTemplate(source, "chat_template.jinja", { named, warn }), warnings };
}

/** Roles have to alternate behind the system prompt, which goes into the first turn (as Mistral's). */
const pairs = make(
  "{{ bos_token }}{% set first = messages[0] %}{% if first.role == 'system' %}{% set rest = messages[1:] %}" +
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}" +
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}" +
    "{% if m.role == 'user' %}[INST] {% if loop.first and first.role == 'system' %}{{ first.content }}\n\n{% endif %}" +
    "{{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
).template;

/** Forgets what was thought before the newest question (as Qwen3's). */
const thoughtful = make(
  "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}" +
    "{% endif %}{% endfor %}{% for m in messages %}{% set said = m.content %}" +
    "{% if m.role == 'assistant' and loop.index0 < ns.last %}{% set said = said.split('</think>')[-1] %}{% endif %}" +
    "<|{{ m.role }}|>{{ said }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
).template;

/** Numbers its messages: what it writes depends on all of them. */
const numbering = () =>
  make("{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}");

/**
 * Plays turns through a `RenderedHistory`, and through `append` with all messages. `generated` is what the model wrote.
 */
function play(template: ChatTemplate, turns: number, generated: (turn: number) => string, first: Message[]) {
  const short = new RenderedHistory();
  let whole: Message[] = [];
  let answer: string | undefined;
  let longest = 0;
  for (let turn = 0; turn < turns; turn++) {
    const added = [...(turn === 0 ? first : []), user(`question ${turn}`)];
    const request = {
      added,
      addGenerationPrompt: true,
      ...(answer === undefined ? {} : { generated: answer }),
    };
    const expected = template.append({ ...request, history: whole }).text;
    expect(short.append(template, request)).toBe(expected);
    answer = generated(turn);
    for (const say of [(m: Message[]) => short.push(m), (m: Message[]) => (whole = whole.concat(m))])
      say(added);
    const said = template.answer(whole, answer);
    expect(template.answer(short.messages, answer)).toEqual(said);
    short.push([said]);
    whole = whole.concat([said]);
    longest = Math.max(longest, short.messages.length);
  }
  return { longest, short };
}

describe("a turn behind many others", () => {
  const formats: [string, () => Promise<ChatTemplate>, (turn: number) => string][] = [
    ["llama", () => load(fixtureModel("llama")), (turn) => `answer ${turn}<|eot_id|>`],
    ["qwen2", () => load(fixtureModel("qwen2")), (turn) => (turn % 3 ? `answer ${turn}<|im_end|>` : "cut o")],
    ["recall", () => load(recallModel), (turn) => ` answer ${turn}`],
    ["one whose roles alternate", async () => pairs, (turn) => ` answer ${turn}</s>`],
    ["one that drops thoughts", async () => thoughtful, (turn) => `<think>${turn}</think>answer<|end|>`],
  ];

  it.each(formats)(
    "is written as ever, with few messages shown, in the format of %s",
    async (_, get, generated) => {
      const template = await get();
      expect(play(template, 70, generated, []).longest).toBeLessThanOrEqual(34);
      expect(play(template, 40, generated, [system]).longest).toBeLessThanOrEqual(34);
    },
  );

  it("lets no message go that the template counts", () => {
    const { template, warnings } = numbering();
    const { short, longest } = play(template, 80, (turn) => `answer ${turn}`, []);
    expect(longest).toBe(160);
    // Tried at 34 messages, at 70, at 142: ever more rarely.
    expect(short.tryAt).toBe(284);
    // Its generation prompt is not written by it, which is what it is warned of here.
    expect(warnings.filter((text) => text.includes("looks at all messages"))).toEqual([]);
  });

  it("says so when there are too many of them", () => {
    const { template, warnings } = numbering();
    const many = Array.from({ length: 4200 }, (_, i): Message[] => [user(`${i}`)]).flat();
    const history = new RenderedHistory(many);
    const request = { added: [user("last")] };
    expect(history.append(template, request)).toBe("4201 user: last\n");
    expect(warnings).toEqual([expect.stringMatching(/looks at all messages of a conversation/)]);
    expect(history.messages.length).toBeLessThan(20);
    expect(history.append(template, request)).toBe(`${history.messages.length + 1} user: last\n`);
  });

  it("keeps messages that do not alternate in order", async () => {
    const template = await load(fixtureModel("qwen2"));
    const roles = ["user", "user", "tool", "assistant", "tool"];
    const many = Array.from({ length: 50 }, (_, i) => ({ role: roles[i % 5] as string, content: `${i}` }));
    const history = new RenderedHistory(many);
    const request = { added: [user("last")] };
    const expected = template.append({ ...request, history: many }).text;
    expect(history.append(template, request)).toBe(expected);
    expect(history.messages.length).toBeLessThan(50);
    expect(history.messages.slice(-8)).toEqual(many.slice(-8));
    expect(history.append(template, request)).toBe(expected);
  });
});
