import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { importEval } from "./support.js";

interface Question {
  readonly question: string;
  readonly hint?: string;
  readonly answer: string;
  readonly kind?: number;
  readonly category: string;
  readonly options?: Record<string, string>;
}
interface Data {
  readonly name: string;
  readonly scorers: readonly string[];
  readonly leftOut: number;
  readonly dialogues: readonly {
    readonly id: string;
    readonly text: string;
    readonly utterances: readonly string[];
    readonly questions: readonly Question[];
    readonly memory: { readonly windows: { split(text: string): readonly string[] } };
  }[];
  ask(question: Question, chat: boolean): string;
  bare(text: string): string;
  meaning(question: Question, prediction: string): string;
}
type Load = (
  places: readonly string[],
  options: { format: string; dialogues?: number; questions?: number; seed: number },
) => Data;

let loadFiles: Load;
const directory = mkdtempSync(join(tmpdir(), "longhaul-eval-data-"));
beforeAll(async () => {
  ({ loadFiles } = await importEval<{ loadFiles: Load }>("data/files"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function save(name: string, value: unknown): string {
  const file = join(directory, name);
  writeFileSync(file, typeof value === "string" ? value : JSON.stringify(value));
  return file;
}

const read = (file: string, options: object = {}) => loadFiles([file], { format: "auto", seed: 1, ...options });

const questionsOf = ({ dialogues }: Data) => dialogues.flatMap(({ questions }) => questions);

/** What loading a file says is wrong with it. */
function refusal(value: unknown): string {
  try {
    read(save("bad.json", value));
  } catch (error) {
    expect(error).toMatchObject({ name: "LonghaulError", code: "ERR_INVALID_ARGUMENT" });
    return (error as Error).message;
  }
  throw new Error("was not refused");
}

const locomo = (): {
  sample_id: string;
  conversation: Record<string, unknown>;
  qa: Record<string, unknown>[];
} => ({
  sample_id: "made-up",
  conversation: {
    speaker_a: "Ada",
    speaker_b: "Ben",
    session_2_date_time: "1:00 pm on 3 May, 2023",
    session_2: [{ speaker: "Ben", dia_id: "D2:1", text: "I moved to Oslo." }],
    session_1_date_time: "9:00 am on 1 May, 2023",
    session_1: [
      { speaker: "Ada", dia_id: "D1:1", text: "Hello!" },
      { speaker: "Ben", dia_id: "D1:2", text: "Look.", blip_caption: "a red boat" },
    ],
  },
  qa: [
    { question: "Where does Ben live?", answer: "Oslo", evidence: ["D2:1"], category: 4 },
    { question: "When did Ben move?", answer: 2023, evidence: ["D2:1"], category: 2 },
    { question: "Where did Ada move?", evidence: [], category: 5, adversarial_answer: "Rome" },
    { question: "What boats does Ben have?", evidence: [], category: 1 },
  ],
});

describe("LoCoMo files", () => {
  it("give dialogues in the order of their sessions, and questions with categories", () => {
    const { name, scorers, leftOut, dialogues } = read(save("locomo.json", [locomo(), locomo()]));
    expect([name, scorers, leftOut, dialogues.length]).toEqual(["LoCoMo", ["locomo-f1", "epicache-f1"], 2, 2]);
    const [first] = dialogues;
    expect(first?.id).toBe("made-up");
    expect(first?.text.indexOf("9:00 am on 1 May")).toBeLessThan(
      first?.text.indexOf("I moved to Oslo") as number,
    );
    expect(first?.utterances).toEqual([
      'Ada said, "Hello!"',
      'Ben said, "Look. (Ben shared a red boat.)"',
      'Ben said, "I moved to Oslo."',
    ]);
    expect(first?.memory.windows.split("")).toBe(first?.utterances);
    expect(first?.questions.map(({ answer, kind, category }) => [answer, kind, category])).toEqual([
      ["Oslo", 4, "single-hop"],
      ["2023", 2, "temporal"],
      ["Not mentioned in the conversation", 5, "adversarial"],
    ]);
  });

  it("ask with an instruction and embed the bare question", () => {
    const data = read(save("locomo.json", locomo()));
    const [plain, date, adversarial] = questionsOf(data) as [Question, Question, Question];
    for (const chat of [true, false]) {
      for (const question of [plain, date, adversarial]) {
        const prompt = data.ask(question, chat);
        expect(prompt).toContain("in a few words");
        expect(data.bare(prompt)).toBe(question.question);
      }
    }
    expect(data.ask(date, true)).toContain("approximate date");
    expect(data.bare("Ben said, hello")).toBe("Ben said, hello");
    expect(Object.values(adversarial.options ?? {}).sort()).toEqual([
      "Not mentioned in the conversation",
      "Rome",
    ]);
    const letter = adversarial.options?.a === "Rome" ? "b" : "a";
    expect(data.meaning(adversarial, `(${letter})`)).toBe("Not mentioned in the conversation");
    expect(data.meaning(adversarial, letter.toUpperCase())).toBe("Not mentioned in the conversation");
    expect(data.meaning(adversarial, "nowhere")).toBe("nowhere");
    expect(data.meaning(plain, "a")).toBe("a");
  });

  it("are limited to some dialogues and questions", () => {
    const file = save("locomo.json", [locomo(), locomo(), locomo()]);
    const { dialogues } = read(file, { dialogues: 2, questions: 1 });
    // The middle one of three.
    expect(dialogues.map(({ questions }) => questions.map(({ category }) => category))).toEqual([
      ["temporal"],
      ["temporal"],
    ]);
  });

  it("are refused with the record that is wrong", () => {
    const bad = (change: (sample: ReturnType<typeof locomo>) => void) => {
      const sample = locomo();
      change(sample);
      return refusal([locomo(), sample]);
    };
    expect(bad(({ qa }) => Object.assign(qa[1] as object, { category: 7 }))).toMatch(
      /bad\.json: \[1\]\.qa\[1\]\.category must be one of 1, 2, 3, 4, 5, got 7$/,
    );
    expect(bad(({ qa }) => Object.assign(qa[0] as object, { question: "" }))).toMatch(
      /\[1\]\.qa\[0\]\.question/,
    );
    expect(bad(({ qa }) => Object.assign(qa[0] as object, { answer: ["Oslo"] }))).toMatch(
      /\[1\]\.qa\[0\]\.answer/,
    );
    expect(bad(({ qa }) => Object.assign(qa[2] as object, { adversarial_answer: null }))).toMatch(
      /\[1\]\.qa\[2\]\.adversarial_answer must be text that is not empty, got null/,
    );
    expect(bad(({ conversation }) => Object.assign(conversation, { session_1: "gone" }))).toMatch(
      /\[1\]\.conversation\.session_1 must be an array/,
    );
    expect(refusal([{ ...locomo(), qa: [] }])).toMatch(/has no question with an answer/);
  });
});

const realtalk = () => ({
  name: { speaker_1: "Ada", speaker_2: "Ben" },
  session_1: [
    { clean_text: "Hi", speaker: "Ada", date_time: "01.05.2023, 09:00:00", dia_id: "D1:1" },
    { clean_text: "", speaker: "Ben", blip_caption: "a red boat", dia_id: "D1:2" },
  ],
  events_session_1: {},
  session_1_date_time: "01.05.2023, 09:00:00",
  session_10: [{ clean_text: "In Oslo now", speaker: "Ben", dia_id: "D10:1" }],
  session_10_date_time: "10.05.2023, 09:00:00",
  session_2: [{ clean_text: "Bye", speaker: "Ada", dia_id: "D2:1" }],
  session_2_date_time: "02.05.2023, 09:00:00",
  qa: [
    { question: "Where is Ben?", answer: "Oslo", evidence: ["D10:1"], category: 1 },
    { question: "Would Ben like the sea?", answer: "Likely", evidence: [], category: 3 },
    { question: "When?", evidence: [], category: 2 },
  ],
});

describe("RealTalk files", () => {
  it("give dialogues, a file or an array of them, or a folder", () => {
    const folder = join(directory, "chats");
    mkdirSync(folder);
    for (const number of [1, 2]) writeFileSync(join(folder, `Chat_${number}.json`), JSON.stringify(realtalk()));
    const { name, dialogues, leftOut } = read(folder);
    expect([name, leftOut, dialogues.map(({ id }) => id)]).toEqual(["RealTalk", 2, ["Chat_1", "Chat_2"]]);
    const [first] = dialogues;
    expect(first?.utterances).toEqual([
      'Ada said, "Hi"',
      'Ben said, "" Ben shared an image: a red boat.',
      'Ada said, "Bye"',
      'Ben said, "In Oslo now"',
    ]);
    expect(first?.text).toContain("DATE: 10.05.2023, 09:00:00\nCONVERSATION:\nBen said");
    expect(first?.questions.map(({ kind, category }) => [kind, category])).toEqual([
      [1, "multi-hop"],
      [3, "commonsense"],
    ]);
    expect(read(save("realtalk10.json", [realtalk(), realtalk()])).dialogues).toHaveLength(2);
  });

  it("are refused with the record that is wrong", () => {
    expect(refusal({ ...realtalk(), qa: [{ question: "?", answer: "x", category: 4 }] })).toMatch(
      /qa\[0\]\.category must be one of 1, 2, 3, got 4/,
    );
    expect(refusal([realtalk(), { ...realtalk(), session_2: [{ speaker: "Ada" }] }])).toMatch(
      /\[1\]\.session_2\[0\]\.text must be text, got nothing/,
    );
    expect(refusal({ ...realtalk(), session_2_date_time: 3 })).toMatch(
      /session_2_date_time must be text.*got 3/,
    );
    expect(refusal({ name: realtalk().name, qa: [] })).toMatch(/has no session_1/);
  });
});

const longmemeval = (id = "q1") => ({
  question_id: id,
  question_type: "multi-session",
  question: "Where do I live?",
  answer: 7,
  question_date: "2023/05/30 (Tue) 10:00",
  haystack_dates: ["2023/05/20 (Sat) 02:21", "2023/05/01 (Mon) 10:00"],
  haystack_session_ids: ["b", "a"],
  haystack_sessions: [
    [{ role: "user", content: "I moved.", has_answer: true }],
    [
      { role: "user", content: "Hello" },
      { role: "assistant", content: "Hi" },
    ],
  ],
  answer_session_ids: ["b"],
});

describe("LongMemEval files", () => {
  it("give a dialogue a question, its sessions in the order of their dates", () => {
    const data = read(save("longmemeval.json", [longmemeval(), longmemeval("q2_abs")]));
    expect([data.name, data.scorers, data.leftOut, data.dialogues.length]).toEqual([
      "LongMemEval",
      ["epicache-f1"],
      1,
      1,
    ]);
    const [dialogue] = data.dialogues;
    expect(dialogue?.utterances).toEqual(["User: Hello", "Assistant: Hi", "User: I moved."]);
    const [question] = questionsOf(data) as [Question];
    expect(question).toMatchObject({ answer: "7", category: "multi-session" });
    expect(data.ask(question, true)).toContain("Today is 2023/05/30 (Tue) 10:00.");
    expect(data.bare(data.ask(question, true))).toBe("Where do I live?");
  });

  it("are refused with the record that is wrong", () => {
    const bad = (change: object) => refusal([longmemeval(), { ...longmemeval(), ...change }]);
    expect(bad({ haystack_dates: ["2023/05/20"] })).toMatch(/\[1\]\.haystack_dates has 1 dates for 2 sessions/);
    expect(bad({ haystack_sessions: [[], [{ role: "system", content: "" }]] })).toMatch(
      /\[1\]\.haystack_sessions\[1\]\[0\]\.role must be one of user, assistant, got "system"/,
    );
    expect(bad({ haystack_sessions: [3, []] })).toMatch(/\[1\]\.haystack_sessions\[0\] must be an array/);
    expect(bad({ question_id: undefined })).toMatch(
      /\[1\]\.question_id must be text that is not empty, got nothing/,
    );
  });
});

describe("files of other kinds", () => {
  it.each([
    ["{ not json", /bad\.json: is not valid JSON/],
    ["[]", /bad\.json: is an empty array/],
    ["[1]", /is none of LoCoMo .*RealTalk .*LongMemEval/],
    ['{ "messages": [] }', /is none of LoCoMo/],
  ])("%s is refused", (content, message) => {
    expect(refusal(content)).toMatch(message);
  });

  it("are refused when they are not there, or mixed", () => {
    expect(() => read(join(directory, "gone.json"))).toThrow(/gone\.json: cannot be read/);
    const files = [save("a.json", locomo()), save("b.json", realtalk())];
    expect(() => loadFiles(files, { format: "auto", seed: 1 })).toThrow(/b\.json: is realtalk, .* are locomo/);
    expect(() => read(files[1] as string, { format: "locomo" })).toThrow(/b\.json: .*conversation/);
  });
});
