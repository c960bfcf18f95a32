import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { JsonReader } from "../../lib/text/json-reader.js";

/** The text's UTF-8 in chunks of `size` bytes. */
function readerOf(text: string | Uint8Array, size = 3): JsonReader {
  const bytes = Buffer.from(text as string);
  const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(size * i, size * i + size),
  );
  return new JsonReader(chunks);
}

/** The value built from `object`, `array`, `string` and, for scalars, `value`. */
function walk(reader: JsonReader): unknown {
  if (reader.kind === "object") {
    const entries: [string, unknown][] = [];
    reader.object((key) => entries.push([key, walk(reader)]));
    return Object.fromEntries(entries);
  }
  if (reader.kind === "array") {
    const items: unknown[] = [];
    reader.array((index) => expect(items.push(walk(reader))).toBe(index + 1));
    return items;
  }
  if (reader.kind === "scalar") return reader.value();
  const length = reader.string();
  return String.fromCharCode(...reader.units.subarray(0, length));
}

const values = fc.jsonValue({ stringUnit: "binary" });
const layout = fc.constantFrom(undefined, 2, "\t");

describe("JsonReader", () => {
  it("reads any value as JSON.parse does, however it is cut into chunks", () => {
    fc.assert(
      fc.property(values, layout, fc.integer({ min: 1, max: 9 }), (value, space, size) => {
        const text = JSON.stringify(value, null, space);
        for (const read of [walk, (reader: JsonReader) => reader.value()]) {
          const reader = readerOf(text, size);
          expect(read(reader)).toEqual(JSON.parse(text));
          reader.end();
        }
      }),
    );
  });

  it("skips any value", () => {
    fc.assert(
      fc.property(values, layout, (value, space) => {
        const reader = readerOf(JSON.stringify([value, "behind"], null, space));
        const read: unknown[] = [];
        reader.array((index) => (index === 0 ? reader.skip() : read.push(reader.value())));
        expect(read).toEqual(["behind"]);
      }),
    );
  });

  it("knows every escape, and characters of one to four bytes", () => {
    const text = String.raw`"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude42\ud800"`;
    expect(walk(readerOf(text, 1))).toBe(JSON.parse(text));
    expect(walk(readerOf('"a\u00e9\u6771\u{1f642}"', 1))).toBe("a\u00e9\u6771\u{1f642}");
  });

  it("reads a string behind another one", () => {
    const reader = readerOf('["left", "right"]');
    reader.array((index) => expect(reader.string(index * 4)).toBe([4, 9][index]));
    expect(String.fromCharCode(...reader.units.subarray(0, 9))).toBe("leftright");
  });

  const broken = [
    "",
    "{",
    "[1",
    "[1,]",
    "[,]",
    "{,}",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    "{a:1}",
    '{"a" 1}',
    "[1 2]",
    '["a]',
    '["\\x"]',
    '["\\u12g4"]',
    '["\u0001"]',
    "[01]",
    "[1.]",
    "[-]",
    "[tru]",
    "[1]]",
    "]",
    "[}",
  ];
  it.each(broken)("refuses %j as JSON.parse does", (text) => {
    expect(() => JSON.parse(text)).toThrow(SyntaxError);
    for (const read of [walk, (reader: JsonReader) => reader.value()]) {
      const attempt = () => {
        const reader = readerOf(text);
        read(reader);
        reader.end();
      };
      expect(attempt).toThrow(SyntaxError);
    }
  });

  it.each([
    [0xff],
    [0x80],
    [0xc0, 0x80],
    [0xe0, 0x80, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf5, 0x80, 0x80, 0x80],
    [0xe6, 0x9d, 0x20],
  ])("refuses bytes that are not UTF-8: %j %j %j", (...bytes) => {
    const text = Uint8Array.of(0x22, ...bytes.filter((byte) => byte !== undefined), 0x22);
    expect(() => walk(readerOf(text))).toThrow(/not UTF-8 at byte \d/);
    expect(() => readerOf(text).value()).toThrow(/not UTF-8/);
  });

  it("says where the text is wrong", () => {
    expect(() => walk(readerOf('{"a": [1, 2}'))).toThrow("a missing comma or bracket at byte 12");
  });

  it("has a limit for strings that it takes apart, none for those it passes", () => {
    const text = JSON.stringify("x".repeat(2 ** 20 + 1));
    expect(() => readerOf(text, 2 ** 16).string()).toThrow(/far too long/);
    expect(() => readerOf(`{${text}: 1}`, 2 ** 16).object(() => {})).toThrow(/far too long/);
    expect(readerOf(text, 2 ** 16).value()).toHaveLength(2 ** 20 + 1);
  });
});
