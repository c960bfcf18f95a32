import { readFileSync } from "node:fs";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import {
  fixtureModel,
  fixtureModels,
  readInt32,
  readJson,
  recallData,
  recallModel,
  sharedPath,
} from "./models.js";

const library = (directory: string) => new LibraryTokenizer(readJson(directory, "tokenizer.json"), {});

describe.each(fixtureModels)("tokenizer of %s", (name) => {
  const directory = fixtureModel(name);
  const golden = readJson(directory, "case.json");

  it("encodes prompts to the golden ids", async () => {
    const tokenizer = await Tokenizer.load(directory);
    for (const { text, texts = [text], file } of Object.values<{
      text: string;
      texts?: string[];
      file: string;
    }>(golden.golden)) {
      for (const [index, prompt] of texts.entries()) {
        const tensor = text === undefined ? `ids_${index}` : "input_ids";
        expect(tokenizer.encode(prompt)).toEqual(readInt32(join(directory, file), tensor));
      }
    }
  });

  it("encodes chat text without a second BOS", async () => {
    const tokenizer = await Tokenizer.load(directory);
    expect(tokenizer.encode(golden.chat.text, { addSpecialTokens: false })).toEqual(golden.chat.ids);
    expect(tokenizer.decode(golden.chat.ids)).toBe(golden.chat.text);
  });

  it("knows its stop token and its named tokens", async () => {
    const tokenizer = await Tokenizer.load(directory);
    expect([...tokenizer.stopTokenIds]).toEqual([319]);
    expect(tokenizer.named.eos).toBe(tokenizer.idToToken(319));
    expect(tokenizer.bosTokenId).toBe(name.startsWith("llama") ? 315 : null);
    expect(tokenizer.vocabularySize).toBe(320);
  });

  it("decodes any ids one by one as the library does at once, with no broken character before the end", async () => {
    const tokenizer = await Tokenizer.load(directory);
    const oracle = library(directory);
    const ids = fc.array(fc.integer({ min: 0, max: 319 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(ids, (tokens) => {
        const stream = tokenizer.streamDecoder();
        const text = tokens.map((id) => stream.push(id)).join("") + stream.flush();
        expect(text).toBe(oracle.decode(tokens, { clean_up_tokenization_spaces: false }));
        expect(tokenizer.decode(tokens)).toBe(text);
      }),
      { numRuns: 100 },
    );
  });

  it("gives back every text", async () => {
    const tokenizer = await Tokenizer.load(directory);
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 40 }), (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        const stream = tokenizer.streamDecoder();
        const pushes = ids.map((id) => stream.push(id));
        expect(pushes.every((push) => !push.includes("\ufffd"))).toBe(!text.includes("\ufffd"));
        expect(pushes.join("") + stream.flush()).toBe(text);
      }),
      { numRuns: 100 },
    );
  });
});

describe("the recall model's tokenizer", () => {
  it("honours ignore_merges: words of the vocabulary stay whole", async () => {
    const tokenizer = await Tokenizer.load(recallModel);
    const ids = tokenizer.encode("session pets . user : rex color is red . user : milo age ? assistant :");
    expect(ids).toEqual([1, 11, 28, 7, 4, 6, 112, 12, 9, 256, 7, 4, 6, 113, 14, 8, 5, 6]);
    expect([...tokenizer.stopTokenIds]).toEqual([2, 7]);
    expect(tokenizer.named).toEqual({ bos: "<|bos|>", eos: "<|eos|>", unk: null, pad: "<|pad|>" });
  });

  it("counts tokens as the conversations of its data do", async () => {
    const tokenizer = await Tokenizer.load(recallModel);
    const lines = readFileSync(recallData, "utf8").trim().split("\n");
    for (const { turns, tokens } of lines.map((line) => JSON.parse(line))) {
      expect(tokenizer.encode(turns.join(" "))).toHaveLength(tokens);
    }
  });

  it("encodes the golden prompt", async () => {
    const directory = sharedPath("models/recall-llama-f32");
    if (directory === null) return;
    const golden = readJson(directory, "golden.json");
    const tokenizer = await Tokenizer.load(directory);
    expect(tokenizer.encode(golden.prompt)).toEqual(golden.input_ids);
  });

  it("leaves special tokens out when asked to", async () => {
    const tokenizer = await Tokenizer.load(recallModel);
    expect(tokenizer.decode([1, 11, 28, 2])).toBe("<|bos|> session pets<|eos|>");
    expect(tokenizer.decode([1, 11, 28, 2], { skipSpecialTokens: true })).toBe(" session pets");
  });
});

/** A tokenizer of the Llama 2 kind: a space before every text, bytes for what the vocabulary lacks. */
function llama2Kind(): Record<string, unknown> {
  const vocab: Record<string, number> = { "<unk>": 0, "<s>": 1, "</s>": 2 };
  for (let byte = 0; byte < 256; ++byte) {
    vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`] = 3 + byte;
  }
  for (const token of ["\u2581", "a", "b", "\u2581a", "\u2581b", "ab", "\u2581ab"])
    vocab[token] = Object.keys(vocab).length;
  return {
    added_tokens: [0, 1, 2].map((id) => ({
      id,
      content: ["<unk>", "<s>", "</s>"][id],
      special: true,
      normalized: false,
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "\u2581" },
        { type: "Replace", pattern: { String: " " }, content: "\u2581" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: {},
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      byte_fallback: true,
      fuse_unk: true,
      vocab,
      merges: ["\u2581 a", "\u2581 b", "a b", "\u2581a b"],
    },
  };
}

describe("tokenizers that put a space before a text", () => {
  let directory: string;
  let tokenizer: Tokenizer;
  const spelled = (ids: number[]) => ids.map((id) => tokenizer.idToToken(id));
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "longhaul-tokenizer-"));
    await writeFile(join(directory, "tokenizer.json"), JSON.stringify(llama2Kind()));
    await writeFile(join(directory, "config.json"), JSON.stringify({ bos_token_id: 1, eos_token_id: 2 }));
    tokenizer = await Tokenizer.load(directory);
  });
  afterAll(() => rm(directory, { recursive: true }));

  it("loads without tokenizer_config.json and takes the named tokens from config.json", () => {
    expect(tokenizer.named).toEqual({ bos: "<s>", eos: "</s>", unk: null, pad: null });
    expect([...tokenizer.stopTokenIds]).toEqual([2]);
    expect([...tokenizer.specialTokenIds]).toEqual([0, 1, 2]);
  });

  it("puts it there once, and not where a text goes on", () => {
    expect(spelled(tokenizer.encode("ab a"))).toEqual(["<s>", "\u2581ab", "\u2581a"]);
    expect(spelled(tokenizer.encode("ab a", { addSpecialTokens: false }))).toEqual(["\u2581ab", "\u2581a"]);
    expect(spelled(tokenizer.encode("ab a", { continuation: true }))).toEqual(["ab", "\u2581a"]);
    expect(spelled(tokenizer.encode("b</s>a", { continuation: true }))).toEqual(["b", "</s>", "\u2581a"]);
    expect(tokenizer.encode("</s>a", { continuation: true })).toEqual(
      tokenizer.encode("</s>a", { addSpecialTokens: false }),
    );
  });

  it("keeps the space of an answer's first word when the stream knows what precedes it", () => {
    const [prompt, answer] = [tokenizer.encode("ab"), tokenizer.encode("a b", { addSpecialTokens: false })];
    const run = (prefix: number[]) => {
      const stream = tokenizer.streamDecoder({ prefix });
      return answer.map((id) => stream.push(id)).join("") + stream.flush();
    };
    expect(run(prompt)).toBe(" a b");
    expect(run([])).toBe("a b");
    expect(tokenizer.decode([...prompt, ...answer])).toBe(tokenizer.decode(prompt) + run(prompt));
  });

  it("keeps it also behind a special token that is itself left out", () => {
    const stream = tokenizer.streamDecoder({ prefix: [2], skipSpecialTokens: true });
    expect(tokenizer.encode("a</s>", { addSpecialTokens: false }).map((id) => stream.push(id))).toEqual([
      " a",
      "",
    ]);
  });

  it("holds a character back until its last byte", () => {
    const smile = [0xf0, 0x9f, 0x99, 0x82].map((byte) => 3 + byte);
    const stream = tokenizer.streamDecoder();
    expect(smile.map((id) => stream.push(id))).toEqual(["", "", "", "\u{1f642}"]);
    expect(stream.push(smile[0] as number)).toBe("");
    expect(stream.push(tokenizer.tokenToId("a") as number)).toBe("\ufffda");
    expect(stream.push(smile[0] as number)).toBe("");
    expect(stream.flush()).toBe("\ufffd");
  });

  it("decodes any ids as the library does", () => {
    const oracle = library(directory);
    const anyId = fc.integer({ min: 0, max: 265 });
    // Bytes of several characters in a row are rare among random ids, so half of them are bytes above 127.
    const tokens = fc.array(fc.oneof(anyId, fc.integer({ min: 131, max: 258 })), {
      minLength: 1,
      maxLength: 30,
    });
    fc.assert(
      fc.property(tokens, fc.nat(30), (ids, cut) => {
        const whole = oracle.decode(ids, { clean_up_tokenization_spaces: false });
        expect(tokenizer.decode(ids)).toBe(whole);
        const stream = tokenizer.streamDecoder({ prefix: ids.slice(0, cut) });
        const rest =
          ids
            .slice(cut)
            .map((id) => stream.push(id))
            .join("") + stream.flush();
        expect(whole.endsWith(rest)).toBe(true);
      }),
    );
  });

  it("matches the trained model of this kind", async () => {
    const model = sharedPath("models/stories260K");
    if (model === null) return;
    const golden = readJson(model, "golden.json");
    const stories = await Tokenizer.load(model);
    expect(stories.encode(golden.prompt)).toEqual(golden.input_ids);
    expect(stories.decode(golden.input_ids, { skipSpecialTokens: true })).toBe(golden.prompt);
  });
});

describe("tokenizer files that cannot be trusted", () => {
  let directory: string;
  const put = (name: string, content: unknown) =>
    writeFile(join(directory, name), typeof content === "string" ? content : JSON.stringify(content));
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "longhaul-tokenizer-"));
  });
  afterAll(() => rm(directory, { recursive: true }));

  const vocab = { a: 0, b: 1 };
  const broken: [string, unknown, RegExp][] = [
    ["cut JSON", '{"model": {"type": "BPE"', /not valid JSON/],
    ["an array", [], /must hold a JSON object/],
    ["no model", {}, /"model" must be an object/],
    ["an unknown model", { model: { type: "WordLevel", vocab } }, /"model.type" must be BPE/],
    ["a vocabulary of text", { model: { type: "BPE", vocab: "ab", merges: [] } }, /"model.vocab"/],
    ["an id that is text", { model: { type: "BPE", vocab: { a: "0" }, merges: [] } }, /the id of "a"/],
    ["a huge id", { model: { type: "BPE", vocab: { a: 4e9 }, merges: [] } }, /the id of "a"/],
    ["a negative id", { model: { type: "BPE", vocab: { a: -1 }, merges: [] } }, /the id of "a"/],
    ["no merges", { model: { type: "BPE", vocab } }, /"model.merges"/],
    ["a merge of one", { model: { type: "BPE", vocab, merges: ["a"] } }, /model.merges\[0\]/],
    ["a merge that leads nowhere", { model: { type: "BPE", vocab, merges: ["a b"] } }, /model.merges\[0\]/],
    [
      "an added token without text",
      { model: { type: "BPE", vocab, merges: [] }, added_tokens: [{ id: 2 }] },
      /added_tokens\[0\]/,
    ],
    [
      "an unknown step",
      { model: { type: "BPE", vocab, merges: [] }, pre_tokenizer: { type: "No" } },
      /cannot be used/,
    ],
    ["an empty Unigram", { model: { type: "Unigram", vocab: [], unk_id: 0 } }, /unk_id/],
    [
      "a special token that does not exist",
      {
        model: { type: "BPE", vocab, merges: [] },
        post_processor: { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>" } }] },
      },
      /post_processor adds "<s>"/,
    ],
  ];
  it.each(broken)("refuses %s", async (_name, content, message) => {
    await put("tokenizer.json", content);
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({
      code: "ERR_CORRUPT_FILE",
      message: expect.stringMatching(message),
    });
    await expect(Tokenizer.load(directory)).rejects.toThrow(join(directory, "tokenizer.json"));
  });

  it("refuses a directory without tokenizer.json and configs of a wrong shape", async () => {
    await rm(join(directory, "tokenizer.json"), { force: true });
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({ code: "ERR_CORRUPT_FILE" });
    await cp(join(fixtureModel("llama"), "tokenizer.json"), join(directory, "tokenizer.json"));
    for (const [name, content, message] of [
      ["generation_config.json", { eos_token_id: [1, "2"] }, /generation_config.json: "eos_token_id"/],
      ["config.json", { eos_token_id: -5 }, /config.json: "eos_token_id"/],
      ["tokenizer_config.json", { bos_token: 7 }, /tokenizer_config.json: "bos_token"/],
      ["tokenizer_config.json", "null", /tokenizer_config.json: must hold a JSON object/],
    ] as const) {
      await put(name, content);
      await expect(Tokenizer.load(directory)).rejects.toMatchObject({
        code: "ERR_CORRUPT_FILE",
        message: expect.stringMatching(message),
      });
      await rm(join(directory, name));
    }
  });

  it("says so when a decoder is of a kind it does not decode", async () => {
    const source = readJson(fixtureModel("llama"), "tokenizer.json");
    await put("tokenizer.json", { ...source, decoder: { type: "CTC" } });
    const tokenizer = await Tokenizer.load(directory);
    expect(() => tokenizer.decode([5])).toThrow(expect.objectContaining({ code: "ERR_UNSUPPORTED" }));
  });

  it("names a wrong argument", async () => {
    const tokenizer = await Tokenizer.load(recallModel);
    expect(() => tokenizer.decode([-1])).toThrow(expect.objectContaining({ code: "ERR_INVALID_ARGUMENT" }));
    expect(() => tokenizer.decode([0.5])).toThrow(/token id must be an integer/);
    expect(() => tokenizer.encode(5 as unknown as string)).toThrow(/text must be a string, got 5/);
    expect(tokenizer.decode([831_999])).toBe("");
  });
});
