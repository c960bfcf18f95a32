import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AnswerText, type Chunk } from "../../lib/answer-text.js";
import type { StreamDecoder } from "../../lib/text/tokenizer.js";

/** Token i of a test is the i-th of these pieces; "" stands for a part of a character, completed by the next one. */
function read(pieces: readonly string[], stops: readonly string[], skipsSpace = false) {
  const decoder = { push: (id: number) => pieces[id] ?? "", flush: () => "" } as unknown as StreamDecoder;
  const text = new AnswerText(decoder, stops, () => false, skipsSpace);
  const chunks: Chunk[] = [];
  for (const id of pieces.keys()) {
    const chunk = text.push(id);
    if (chunk) chunks.push(chunk);
    if (text.stopped) break;
  }
  const last = text.finish();
  if (last) chunks.push(last);
  return { text, chunks };
}

const letters = fc.string({ unit: fc.constantFrom("a", "b", " "), minLength: 1, maxLength: 4 });
const pieces = fc.array(fc.oneof(letters, fc.constant("")), { maxLength: 12 });
const stops = fc.array(letters, { maxLength: 3 });

/** The text before the first stop string that is complete, found by looking at the whole text after every token. */
function expectedText(parts: readonly string[], ends: readonly string[]): string {
  let text = "";
  for (const part of parts) {
    text += part;
    const found = ends.map((stop) => text.indexOf(stop)).filter((index) => index >= 0);
    if (found.length > 0) return text.slice(0, Math.min(...found));
  }
  return text;
}

describe("the text of an answer", () => {
  it("ends before the first stop string, wherever tokens begin and end", () => {
    fc.assert(
      fc.property(pieces, stops, (parts, ends) => {
        const { text, chunks } = read(parts, ends);
        const expected = expectedText(parts, ends);
        expect(text.text).toBe(expected);
        expect(chunks.map((chunk) => chunk.text).join("")).toBe(expected);
        expect(text.stopped).toBe(ends.some((stop) => parts.join("").includes(stop)));
      }),
    );
  });

  it("tells which tokens a length of it is made of", () => {
    fc.assert(
      fc.property(pieces, stops, fc.nat(40), (parts, ends, at) => {
        const { text } = read(parts, ends);
        const length = Math.min(at, text.text.length);
        const { tokens, rest } = text.split(length);
        const said = tokens.map((id) => parts[id]).join("");
        expect(said + (length === 0 ? "" : rest)).toBe(text.text.slice(0, length));
        // What is left over is less than the next token.
        if (rest !== "")
          expect((parts.slice(tokens.length).find((part) => part !== "") ?? "").length).toBeGreaterThan(
            rest.length,
          );
      }),
    );
  });

  it("lists every token of the answer once, with the chunk that completes it", () => {
    fc.assert(
      fc.property(pieces, stops, (parts, ends) => {
        const { text, chunks } = read(parts, ends);
        const listed = chunks.flatMap((chunk) => chunk.tokens);
        expect(listed).toEqual(listed.map((_, index) => index));
        let length = 0;
        let count = 0;
        for (const chunk of chunks) {
          length += chunk.text.length;
          count += chunk.tokens.length;
          expect(text.split(length).tokens.length).toBe(count);
        }
      }),
    );
  });

  it("counts tokens without text to what follows them", () => {
    const { text, chunks } = read(["a", "", "", "b", ""], []);
    expect(chunks).toEqual([
      { text: "a", tokens: [0] },
      { text: "b", tokens: [1, 2, 3] },
    ]);
    expect(text.split(1).tokens).toEqual([0]);
    expect(text.split(2).tokens).toEqual([0, 1, 2, 3]);
    expect(text.tokens).toEqual([0, 1, 2, 3, 4]);
  });

  it("may leave out the space before its first word", () => {
    const { text, chunks } = read([" ", "\n rex", " is", " red"], ["red"], true);
    expect(text.text).toBe("rex is ");
    expect(chunks).toEqual([
      { text: "rex", tokens: [0, 1] },
      { text: " is", tokens: [2] },
      { text: " ", tokens: [] },
    ]);
    expect(text.split(6)).toEqual({ tokens: [0, 1, 2], rest: "" });
    expect(text.split(7)).toEqual({ tokens: [0, 1, 2], rest: " " });
    expect(text.split(0)).toEqual({ tokens: [], rest: "" });
  });
});
