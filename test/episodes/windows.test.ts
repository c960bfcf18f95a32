import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { historyOfMessages, historyOfText, sentences } from "../../lib/episodes/history.js";
import { patchedPrompt } from "../../lib/episodes/prompt.js";
import { windowsOf } from "../../lib/episodes/windows.js";
import { ChatTemplate } from "../../lib/text/chat-template.js";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import { fixtures, recall } from "../engine/support.js";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await Tokenizer.load(join(fixtures, "llama"));
});

const by = (unit: "utterances" | "sentences" | "tokens", size: number) => ({ by: unit, size });

describe("windows", () => {
  it("hold four utterances each, the last what is left", () => {
    const history = historyOfText("a b\nc\n\n d \ne\nf\n");
    expect(windowsOf(history, by("utterances", 4), tokenizer)).toEqual(["a b\nc\nd\ne", "f"]);
    expect(windowsOf(history, by("utterances", 9), tokenizer)).toEqual(["a b\nc\nd\ne\nf"]);
  });

  it("tell who said what", () => {
    const history = historyOfMessages([
      { role: "user", content: "Hello. How are you?" },
      { role: "assistant", content: "Well." },
      { role: "user", name: "Anna", content: "Good" },
    ]);
    expect(windowsOf(history, by("utterances", 2), tokenizer)).toEqual([
      'User said, "Hello. How are you?"\nAssistant said, "Well."',
      'Anna said, "Good"',
    ]);
    expect(windowsOf(history, by("sentences", 3), tokenizer)).toEqual([
      'User said, "Hello."\nUser said, "How are you?"\nAssistant said, "Well."',
      'Anna said, "Good"',
    ]);
  });

  it("take the sentences of a text of one line, or what a function makes of it", () => {
    const text = "user : rex color is red . user : rex color ? assistant : red .";
    const whole = ["user : rex color is red . user : rex color ?", "assistant : red ."];
    expect(windowsOf(historyOfText(text), by("utterances", 2), tokenizer)).toEqual(whole);
    const split = (given: string) => given.split(/ (?=user :)/);
    expect(windowsOf(historyOfText(text, split), by("utterances", 1), tokenizer)).toEqual([
      "user : rex color is red .",
      "user : rex color ? assistant : red .",
    ]);
  });

  it("end sentences where they end", () => {
    expect(sentences('He said "no." Then?! She left… 好。是！ 3.5 e.g.x done')).toEqual([
      'He said "no."',
      "Then?!",
      "She left…",
      "好。",
      "是！",
      "3.5 e.g.x done",
    ]);
    expect(sentences(" \n ")).toEqual([]);
  });

  it("hold all units once, in order, whatever the size", () => {
    const word = fc.stringMatching(/^[a-z]{1,6}$/);
    fc.assert(
      fc.property(
        fc.array(word, { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 1, max: 12 }),
        (words, size) => {
          const windows = windowsOf(historyOfText(words.join("\n")), by("utterances", size), tokenizer);
          expect(windows.join("\n").split("\n")).toEqual(words);
          for (const window of windows.slice(0, -1)) expect(window.split("\n")).toHaveLength(size);
        },
      ),
    );
  });

  it("of tokens never tear a character apart", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", minLength: 1, maxLength: 40 }),
        fc.integer({ min: 1, max: 9 }),
        (text, size) => {
          const windows = windowsOf(historyOfText(text), by("tokens", size), tokenizer);
          const squeezed = (given: string) => given.replace(/\s/g, "");
          const ids = tokenizer.encode(
            historyOfText(text)
              .utterances.map((said) => said.text)
              .join(text.trim().includes("\n") ? "\n" : " "),
            { addSpecialTokens: false },
          );
          expect(squeezed(windows.join(""))).toBe(squeezed(tokenizer.decode(ids)));
          expect(windows.length).toBeLessThanOrEqual(Math.ceil(ids.length / size));
        },
      ),
    );
  });
});

describe("a patched prompt", () => {
  const windows = ["rex is red", "milo is seven"];

  it("is the model's answer to the instruction, in the model's chat format", async () => {
    const template = await ChatTemplate.load(join(fixtures, "llama"), { named: tokenizer.named });
    const lines = { separator: "\n" } as const;
    const ids = patchedPrompt(windows, lines, "Remember.", { tokenizer, template });
    const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
    expect(tokenizer.decode(ids)).toBe(
      `${header("user")}Remember.<|eot_id|>${header("assistant")}rex is red\n\nmilo is seven`,
    );
    const bare = patchedPrompt(windows, lines, null, { tokenizer, template });
    expect(bare).toEqual(tokenizer.encode("rex is red\n\nmilo is seven", { addSpecialTokens: false }));
  });

  it("reads like the history for a text of one line", async () => {
    const words = await Tokenizer.load(recall);
    const template = await ChatTemplate.load(recall, { named: words.named });
    const ids = patchedPrompt(windows, { separator: " " }, null, { tokenizer: words, template });
    const history = words.encode("rex is red milo is seven", { addSpecialTokens: false });
    expect(ids).toEqual(history);
    expect(ids).toHaveLength(6);
  });

  it("has the instruction in plain words where there is no chat template", () => {
    const template = new ChatTemplate(null, "none", { named: tokenizer.named });
    const ids = patchedPrompt(windows, { separator: " " }, "Remember.", { tokenizer, template });
    expect(tokenizer.decode(ids)).toBe("Remember.\n\nrex is red milo is seven");
  });
});
