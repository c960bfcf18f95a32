// Files that are damaged, truncated or made by somebody else are refused, and leave nothing behind.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Conversation, type Engine, LonghaulError } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue } from "../engine/support.js";
import { partsOf, sealed, temporaryFolder } from "./support.js";

const folder = temporaryFolder();
const path = join(folder, "damaged.snapshot");
let engine: Engine;
let file: Buffer;

beforeAll(async () => {
  engine = await load(recall);
  const memory = { policy: "snapkv", budget: 24, window: 8, block: 128, tail: 32 } as const;
  await using conversation = await engine.conversation({ memory, system: "be brief ." });
  await conversation.ingest(recallDialogue(500).text);
  await conversation.ask("rex color ?", { maxTokens: 4 }).result();
  await conversation.save(path);
  file = readFileSync(path);
});
afterAll(() => engine.dispose());

async function expectRefused(content: Buffer, message: RegExp): Promise<void> {
  writeFileSync(path, content);
  await expectError(engine.restore(path), "ERR_CORRUPT_FILE", message);
  expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });
}

const flipped = (at: number, bit: number): Buffer => {
  const content = Buffer.from(file);
  content[at] = (content[at] as number) ^ (1 << bit);
  return content;
};

describe("a flipped bit", () => {
  it("is found at both ends of every part", async () => {
    const { parts } = partsOf(file);
    expect(parts.at(-1)?.[2]).toBe(file.length);
    expect(parts).toHaveLength(4 + 1 + 3 * 2 * 2 + 1);
    const expected: Record<string, RegExp> = {
      magic: /: it is no snapshot of longhaul; restore another copy of it/,
      version: /: it has version \d+ of the format, this longhaul reads version 2;/,
      "JSON's length": /: (its checksum is wrong: )?it is truncated or damaged;/,
    };
    for (const [name, begin, end] of parts) {
      for (const at of [begin, Math.floor((begin + end) / 2), end - 1]) {
        for (const bit of [0, 7])
          await expectRefused(flipped(at, bit), expected[name] ?? /its checksum is wrong/);
      }
    }
  });

  it("is found anywhere", async () => {
    const places = fc.tuple(fc.nat(file.length - 1), fc.nat(7));
    await fc.assert(
      fc.asyncProperty(places, ([at, bit]) => expectRefused(flipped(at, bit), /damaged\.snapshot: it/)),
      { numRuns: 200 },
    );
  });
});

describe("a file of another length", () => {
  it("is refused at every length of its header and at many others", async () => {
    for (let length = 0; length < 80; length++) await expectRefused(file.subarray(0, length), /: it/);
    const { parts } = partsOf(file);
    const ends = parts.flatMap(([, begin, end]) => [begin, begin + 1, end - 1, end]);
    for (const length of ends.filter((length) => length < file.length)) {
      await expectRefused(file.subarray(0, length), /: it/);
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(file.length - 1), (length) => expectRefused(file.subarray(0, length), /: it/)),
      { numRuns: 100 },
    );
  });

  it("is refused with more behind it", async () => {
    await expectRefused(Buffer.concat([file, Buffer.alloc(1)]), /its checksum is wrong/);
    const { state, sections } = partsOf(file);
    await expectRefused(
      sealed(state, Buffer.concat([sections, Buffer.alloc(4)])),
      /its sections have \d+ bytes/,
    );
    await expectRefused(sealed(state, sections.subarray(4)), /its sections have \d+ bytes, its rows take \d+/);
  });
});

describe("a file that nobody saved, whose checksum fits", () => {
  it("is taken if it says what a saved one says", async () => {
    const { state, sections } = partsOf(file);
    const same = sealed(state, sections);
    expect(same.equals(file)).toBe(true);
    writeFileSync(path, same);
    await using restored = await engine.restore(path);
    expect(restored.memory().tokensSeen).toBeGreaterThan(500);
  });

  const wrong: [string, (state: ReturnType<typeof partsOf>["state"]) => unknown, RegExp][] = [
    ["a list", () => [], /the snapshot must be an object/],
    ["no streams", ({ model, sequences }) => ({ model, sequences }), /streams must be an object/],
    ["no sequence", (state) => ({ ...state, sequences: [] }), /it has not one sequence/],
    [
      "two sequences",
      (state) => ({ ...state, sequences: [...state.sequences, ...state.sequences] }),
      /not one seq/,
    ],
    [
      "a message of a number",
      (state) => edit(state, ["streams", "dialogue", "log"], [5]),
      /dialogue.log\[0\] must/,
    ],
    [
      "a date that is none",
      (state) => edit(state, ["streams", "dialogue", "now"], 1e300),
      /dialogue.now must be/,
    ],
    [
      "positions of another kind",
      (state) => edit(state, ["sequences", "0", "policy", "positions"], "sideways"),
      /policy.positions must be one of absolute, packed/,
    ],
    [
      "rotations that nobody can count",
      (state) => edit(state, ["sequences", "0", "packing", "rotations"], -1),
      /packing.rotations must be/,
    ],
    [
      "rows packed without packing",
      (state) => edit(state, ["sequences", "0", "packing", "settled"], 5),
      /positions packed 0 times, 0 of them all, up to 5/,
    ],
    ["another policy", (state) => edit(state, ["sequences", "0", "policy", "policy"], "h3o"), /one of full/],
    [
      "more heads",
      (state) => edit(state, ["sequences", "0", "kvHeads"], 2 ** 30),
      /one number for each of \d+ heads/,
    ],
    ["a short head", (state) => edit(state, ["sequences", "0", "lengths", "0"], 1), /its sections have/],
    [
      "another dtype",
      (state) => edit(state, ["sequences", "0", "dtype"], "f16"),
      /sections have|no sequence of this/,
    ],
    [
      "fewer tokens",
      (state) => edit(state, ["sequences", "0", "tokensSeen"], 9),
      /no sequence of this model can be/,
    ],
    ["a smaller budget", (state) => edit(state, ["sequences", "0", "policy", "budgets", "1"], 9), /budget/],
  ];
  it.each(wrong)("is refused with %s", async (_, change, message) => {
    const { state, sections } = partsOf(file);
    await expectRefused(sealed(change(state), sections), message);
  });

  it("is refused with positions in another order", async () => {
    const { state, sections } = partsOf(file);
    const positions = Buffer.from(sections);
    positions.copy(positions, 0, 4, 8);
    await expectRefused(sealed(state, positions), /layer 0, KV head 0: .*position \d+ behind \d+/);
  });

  it("does no harm, whatever it says", async () => {
    const { state, sections } = partsOf(file);
    const paths = pathsOf(state).filter((keys) => keys.length > 0);
    const strange = fc.oneof(
      fc.constantFrom<unknown>(null, true, -1, 0, 1, 0.5, 2 ** 31 - 1, 2 ** 31, 1e308, "", "full", [], {}, [
        [],
      ]),
      fc.nat(200),
    );
    let taken = 0;
    const change = fc.tuple(fc.nat(paths.length - 1), strange);
    await fc.assert(
      fc.asyncProperty(change, async ([index, value]) => {
        writeFileSync(path, sealed(edit(state, paths[index] as string[], value), sections));
        let restored: Conversation;
        try {
          restored = await engine.restore(path);
        } catch (error) {
          if (!(error instanceof LonghaulError)) throw error;
          // The fingerprint may be another model's, and a budget more than there is.
          expect(["ERR_CORRUPT_FILE", "ERR_INVALID_ARGUMENT", "ERR_OUT_OF_MEMORY"]).toContain(error.code);
          expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });
          return;
        }
        taken++;
        await restored.ingest(Array(40).fill(7));
        await restored.ask([5, 6], { maxTokens: 40, stopTokens: [] }).result();
        await restored.dispose();
        expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });
      }),
      { numRuns: 400 },
    );
    expect(taken).toBeGreaterThan(0);
  });
});

// biome-ignore lint/suspicious/noExplicitAny: any JSON
function edit(root: any, [key, ...rest]: string[], value: unknown): unknown {
  if (key === undefined) return value;
  const copy = Array.isArray(root) ? [...root] : { ...root };
  copy[key] = edit(copy[key], rest, value);
  return copy;
}

/** The paths of every member and item, of long lists the first few only. */
function pathsOf(value: unknown, keys: string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [keys];
  const members = Object.entries(value).slice(0, 12);
  return [keys, ...members.flatMap(([key, inner]) => pathsOf(inner, [...keys, key]))];
}
