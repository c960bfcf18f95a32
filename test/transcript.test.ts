import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LonghaulError } from "../lib/errors.js";
import { loadTranscript, parseTranscript } from "../lib/transcript.js";
import { sharedPath } from "./text/models.js";

const messages = [
  { role: "user", content: "milo age is seven ." },
  { role: "assistant", content: "ok ." },
];

const locomo = {
  sample_id: "conv-1",
  conversation: {
    speaker_a: "Anna",
    speaker_b: "Ben",
    session_10_date_time: "9:00 am on 2 June, 2023",
    session_10: [{ speaker: "Ben", dia_id: "D10:1", text: "Back again." }],
    session_2_date_time: "1:56 pm on 8 May, 2023",
    session_2: [
      { speaker: "Anna", dia_id: "D2:1", text: 'I got a "cat".' },
      { speaker: "Ben", dia_id: "D2:2", text: "Look!", img_url: ["x"], blip_caption: "a photo of a dog" },
    ],
  },
  qa: [
    { question: "When did Anna get a cat?", answer: 2023, evidence: ["D2:1"], category: 2 },
    { question: "Who has a horse?", adversarial_answer: "Ben", category: 5 },
  ],
};

const parse = (value: unknown, sample?: string | number, path = "history.json") =>
  parseTranscript(
    typeof value === "string" ? value : JSON.stringify(value),
    path,
    sample === undefined ? {} : { sample },
  );

describe("messages", () => {
  const expected = { format: "messages", messages, text: "user: milo age is seven .\nassistant: ok ." };
  it("come as an array, as an object with one, and as lines", () => {
    expect(parse(messages)).toEqual(expected);
    expect(parse({ model: "x", messages })).toEqual(expected);
    const lines = messages.map((message) => JSON.stringify(message)).join("\n");
    expect(parse(`${lines}\n\n`, undefined, "history.jsonl")).toEqual(expected);
    expect(parse(JSON.stringify(messages[0]), undefined, "history.jsonl")).toMatchObject({
      messages: [messages[0]],
    });
  });

  it("keep a name and lose what is not a message's", () => {
    const parsed = parse([{ role: "user", content: "", name: "Al", id: 3 }]);
    expect(parsed).toMatchObject({ messages: [{ role: "user", content: "", name: "Al" }] });
    expect(parsed).not.toHaveProperty("messages.0.id");
  });
});

describe("LoCoMo's format", () => {
  it("becomes utterances in the order of sessions, questions, and a text", () => {
    expect(parse([locomo])).toEqual({
      format: "dialogue",
      id: "conv-1",
      utterances: [
        { speaker: "Anna", text: 'I got a "cat".', date: "1:56 pm on 8 May, 2023" },
        { speaker: "Ben", text: "Look! (Ben shared a photo of a dog.)", date: "1:56 pm on 8 May, 2023" },
        { speaker: "Ben", text: "Back again.", date: "9:00 am on 2 June, 2023" },
      ],
      questions: [
        { question: "When did Anna get a cat?", answer: "2023", category: 2 },
        { question: "Who has a horse?", category: 5 },
      ],
      text: `Below is a conversation between Anna and Ben. It takes place over several days.

DATE: 1:56 pm on 8 May, 2023
CONVERSATION:
Anna said, "I got a "cat"."
Ben said, "Look!" and shared a photo of a dog.

DATE: 9:00 am on 2 June, 2023
CONVERSATION:
Ben said, "Back again."
`,
    });
    expect(parse(locomo)).toEqual(parse([locomo]));
  });

  it("has samples by name or index", () => {
    const both = [locomo, { ...locomo, sample_id: "conv-2" }];
    expect(parse(both)).toMatchObject({ id: "conv-1" });
    expect(parse(both, "conv-2")).toMatchObject({ id: "conv-2" });
    expect(parse(both, 1)).toMatchObject({ id: "conv-2" });
    expect(parse(both, "0")).toMatchObject({ id: "conv-1" });
    expect(() => parse(both, "conv-3")).toThrow(/no sample "conv-3"; it has conv-1, conv-2/);
  });

  it("fits LoCoMo's own data", async () => {
    const path = sharedPath("data/locomo/locomo3.json");
    if (path === null) return;
    const dialogue = await loadTranscript(path, { sample: 2 });
    if (dialogue.format !== "dialogue") throw new Error("must be a dialogue");
    expect(dialogue.utterances.length).toBeGreaterThan(300);
    expect(dialogue.questions.every(({ category, answer }) => category === 5 || answer !== undefined)).toBe(
      true,
    );
  });
});

describe("plain text", () => {
  it("is taken as it is", () => {
    const text = "[Monday] Anna: hello\nBen: hi\n";
    expect(parse(text, undefined, "notes.txt")).toEqual({ format: "text", text });
    expect(parse("hello", undefined, "notes")).toEqual({ format: "text", text: "hello" });
  });
});

describe("files that do not fit", () => {
  const cut = JSON.stringify(locomo.conversation.session_2[0]);
  it.each<[string, unknown, RegExp]>([
    ["an empty file", "  \n", /^history.json: the file is empty$/],
    ["an empty array", [], /must hold at least one message, got an array of 0/],
    ["cut JSON", '[{"role": "user"', /is not valid JSON/],
    ["text by the name of JSON", "hello", /must begin with \{ or \[/],
    [
      "a message without content",
      [messages[0], { role: "user" }],
      /^history.json: \[1\].content must be text, got undefined$/,
    ],
    [
      "a role that is a number",
      { messages: [{ role: 1, content: "" }] },
      /messages\[0\].role must be text, got 1/,
    ],
    ["messages that are none", { messages: "x" }, /messages must be an array, got "x"/],
    ["an item that is no object", [7], /\[0\] must be an object with role and content, got 7/],
    ["an object of another kind", { a: 1 }, /has neither messages nor a conversation/],
    ["a broken line", `${JSON.stringify(messages[0])}\n{"role"`, /line 2 is not valid JSON/],
    ["a missing speaker", [{ conversation: { speaker_a: "A" } }], /\[0\].conversation.speaker_b must be text/],
    ["no sessions", [{ conversation: { speaker_a: "A", speaker_b: "B" } }], /no session with a turn/],
    [
      "a turn without text",
      [
        {
          conversation: {
            speaker_a: "A",
            speaker_b: "B",
            session_1_date_time: "x",
            session_1: [{ speaker: "A" }],
          },
        },
      ],
      /\[0\].conversation.session_1\[0\].text must be text, got undefined/,
    ],
    [
      "a session without a date",
      [{ conversation: { speaker_a: "A", speaker_b: "B", session_1: [JSON.parse(cut)] } }],
      /session_1_date_time must be text/,
    ],
    ["a question without words", { ...locomo, qa: [{ answer: "x" }] }, /.qa\[0\].question must be text/],
  ])("raise ERR_INVALID_ARGUMENT: %s", (_name, value, message) => {
    const error = expect.objectContaining({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(message),
    });
    expect(() => parse(value)).toThrow(error);
  });

  it("raise it when they cannot be read, and load when they can", async () => {
    const directory = await mkdtemp(join(tmpdir(), "longhaul-transcript-"));
    try {
      const path = join(directory, "history.json");
      await expect(loadTranscript(path)).rejects.toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
      await writeFile(path, `\ufeff${JSON.stringify(messages)}`);
      expect(await loadTranscript(path)).toMatchObject({ format: "messages", messages });
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it("raise nothing but LonghaulError, whatever they hold", () => {
    const dialogue = fc.record({
      conversation: fc.dictionary(
        fc.constantFrom("speaker_a", "speaker_b", "session_1", "session_1_date_time"),
        fc.jsonValue(),
      ),
      qa: fc.jsonValue(),
    });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.json(),
          fc.string(),
          dialogue.map((value) => JSON.stringify([value])),
        ),
        (content) => {
          try {
            parseTranscript(content, "history.json");
          } catch (error) {
            expect(error).toBeInstanceOf(LonghaulError);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
