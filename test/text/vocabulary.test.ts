import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import { Merges, Vocabulary } from "../../lib/text/vocabulary.js";
import { recallModel } from "./models.js";

const unitsOf = (text: string) => Uint16Array.from(text, (_, i) => text.charCodeAt(i));
const texts = fc.string({ unit: fc.nat(0xffff).map((unit) => String.fromCharCode(unit)), maxLength: 6 });

describe("Vocabulary", () => {
  it("answers as a Map and an array do", () => {
    const entries = fc.array(fc.tuple(fc.oneof(texts, fc.string({ maxLength: 2 })), fc.nat(60)));
    fc.assert(
      fc.property(entries, fc.array(texts), (added, others) => {
        const units = added.reduce((sum, [text]) => sum + text.length, 0);
        const vocabulary = new Vocabulary({ tokens: added.length, units, ids: 61 });
        const ids = new Map<string, number>();
        const tokens: (string | undefined)[] = [];
        for (const [text, id] of added) {
          const old = ids.get(text);
          if (old !== undefined && tokens[old] === text) delete tokens[old];
          ids.set(text, id);
          tokens[id] = text;
          vocabulary.add(unitsOf(text), 0, text.length, id);
        }
        for (const text of [...ids.keys(), ...others]) {
          expect(vocabulary.get(text)).toBe(ids.get(text));
          expect(vocabulary.has(text)).toBe(ids.has(text));
          const inside = unitsOf(`x${text}y`);
          expect(vocabulary.find(inside, 1, inside.length - 1)).toBe(ids.get(text));
        }
        for (let id = 0; id < 62; ++id) expect(vocabulary.token(id)).toBe(tokens[id]);
      }),
    );
  });

  it("refuses what it has no room for", () => {
    const vocabulary = new Vocabulary({ tokens: 1, units: 2, ids: 1 });
    expect(() => vocabulary.addText("abc", 0)).toThrow(RangeError);
    vocabulary.addText("ab", 0);
    expect(() => vocabulary.addText("", 0)).toThrow(RangeError);
    expect(() => vocabulary.addText("ab", 1)).toThrow(RangeError);
    expect(vocabulary.get("ab")).toBe(0);
  });

  it("counts its bytes: 12 a token, 2 a unit, 4 an id, and a table of a power of two", () => {
    const { bytes } = new Vocabulary({ tokens: 1000, units: 5000, ids: 1200 });
    expect(bytes).toBe(4 * 1001 + 4 * 1000 + 2 * 5000 + 4 * 1200 + 4 * 2048);
    expect(new Merges(1000).bytes).toBe(8 * 1000 + 4 * 2048);
  });
});

describe("Merges", () => {
  it("knows the last rank of each pair", () => {
    const pairs = fc.array(fc.tuple(fc.nat(9), fc.nat(9)));
    fc.assert(
      fc.property(pairs, (added) => {
        const merges = new Merges(added.length);
        for (const [left, right] of added) merges.add(left, right);
        for (let left = 0; left < 10; ++left) {
          for (let right = 0; right < 10; ++right) {
            const rank = added.findLastIndex(([l, r]) => l === left && r === right);
            expect(merges.rank(left, right)).toBe(rank < 0 ? undefined : rank);
          }
        }
        expect(() => merges.add(0, 0)).toThrow(RangeError);
      }),
    );
  });
});

/** A BPE tokenizer whose tokens grow from letters, some of them in two ways. */
const grownModels = fc.array(fc.tuple(fc.nat(400), fc.nat(400)), { maxLength: 60 }).map((growth) => {
  const tokens = ["a", "b", "c", "\u00e9", "\u{1f642}"];
  const merges: [string, string][] = [];
  for (const [left, right] of growth) {
    const pair: [string, string] = [
      tokens[left % tokens.length] as string,
      tokens[right % tokens.length] as string,
    ];
    merges.push(pair);
    if (!tokens.includes(pair.join(""))) tokens.push(pair.join(""));
  }
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges };
});

/** tokenizer.json around a model, and what the library makes of it. */
function bothOf(model: object) {
  const json = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  const sources = { directory: "/model", tokenizerConfig: null, generationConfig: null, modelConfig: null };
  const text = Buffer.from(JSON.stringify({ ...json, model }));
  return {
    ours: new Tokenizer({ ...sources, tokenizer: () => [text] }),
    library: new LibraryTokenizer({ ...json, model }, {}),
  };
}

describe("a BPE model over these tables", () => {
  it("encodes as the library does with its own", () => {
    const words = fc.string({ unit: fc.constantFrom("a", "b", "c", "\u00e9", "\u{1f642}"), maxLength: 40 });
    fc.assert(
      fc.property(grownModels, fc.array(words), fc.boolean(), (model, inputs, asPairs) => {
        const merges = asPairs ? model.merges : model.merges.map((pair) => pair.join(" "));
        const { ours, library } = bothOf({ type: "BPE", unk_token: "a", vocab: model.vocab, merges });
        for (const input of inputs) expect(ours.encode(input)).toEqual(library.encode(input).ids);
      }),
    );
  });

  it("finds the merges' tokens where the vocabulary comes behind them", () => {
    const model = { merges: [["a", "b"]], vocab: { a: 0, b: 1, ab: 2 }, type: "BPE", unk_token: "a" };
    expect(bothOf(model).ours.encode("abba")).toEqual([2, 1, 0]);
  });

  it("takes a fraction of the memory that the library's own tables take", async () => {
    const tokenizer = await Tokenizer.load(recallModel);
    const { vocab, merges } = JSON.parse(readFileSync(join(recallModel, "tokenizer.json"), "utf8")).model;
    const entries = Object.keys(vocab).length + merges.length;
    expect(tokenizer.tableBytes / entries).toBeLessThan(50);
  });
});

describe("other models over these tables", () => {
  it("encode as the library does with its own", () => {
    const vocab = { "[UNK]": 0, un: 1, "##able": 2, "##a": 3, "##ble": 4, a: 5 };
    const wordPiece = { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", vocab };
    const scores = [
      ["<unk>", 0],
      ["a", -1],
      ["b", -2],
      ["ab", -2.5],
      ["abb", -9],
    ];
    const unigram = { type: "Unigram", unk_id: 0, vocab: scores };
    for (const model of [wordPiece, unigram]) {
      const { ours, library } = bothOf(model);
      for (const text of ["unable", "aable", "abbab", "x", "abxb", ""]) {
        expect(ours.encode(text)).toEqual(library.encode(text).ids);
      }
    }
  });
});
