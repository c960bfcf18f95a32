// Episodes of a conversation that grows beyond the history that they were made of.
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Conversation, Engine, IngestProgress, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue, rejection } from "../engine/support.js";
import { bagOfWords, epicache, topical } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const folder = mkdtempSync(join(tmpdir(), "longhaul-growth-"));
afterAll(() => rmSync(folder, { recursive: true }));

const { text, questions } = recallDialogue(500);
const memory: MemoryOptions = { ...epicache, budget: 96, episodes: 3 };

const COLORS = ["red", "blue", "green", "white", "black"];
const PEOPLE = ["rex", "milo", "coco", "tulip", "daisy", "anna"];

/** A statement, as the dialogue's other turns are written: in token ids, so that the model knows their form. */
const statement = (turn: number) =>
  ` user : ${PEOPLE[turn % PEOPLE.length]} color is ${COLORS[turn % COLORS.length]} . assistant :`;
const ids = (said: string) => engine.tokenizer.encode(said, { addSpecialTokens: false, continuation: true });

async function say(conversation: Conversation, said: string, options = {}): Promise<readonly number[]> {
  // Without stop tokens an answer's tokens are all that it leaves in the stream.
  const drawing = { maxTokens: 4, stopTokens: [], ...options };
  return (await conversation.ask(ids(said), drawing).result()).tokens;
}

async function begun(options: MemoryOptions = {}, of: Engine = engine): Promise<Conversation> {
  const conversation = await of.conversation({ memory: { ...memory, ...options } });
  await conversation.ingest(text);
  return conversation;
}

/** Turns until the next one makes the episodes anew. Returns how many. */
async function untilDue(conversation: Conversation): Promise<number> {
  const { rebuilds } = conversation.memory().episodes ?? {};
  for (let turn = 0; ; turn++) {
    const { windows = 0, windowsSince = 0 } = conversation.memory().episodes ?? {};
    if (windowsSince >= windows) return turn;
    expect(conversation.memory().episodes?.rebuilds).toBe(rebuilds);
    await say(conversation, statement(turn));
  }
}

/** What questions are answered, without a trace. */
async function answersOf(conversation: Conversation): Promise<unknown[]> {
  const seen: unknown[] = [];
  for (const { question } of questions.slice(0, 8)) {
    seen.push(await say(conversation, ` user : ${question} assistant :`, { maxTokens: 8, remember: false }));
  }
  return seen;
}

describe("a conversation with twice as many windows", () => {
  it("gets episodes of all that was said, as if it had been one history", async () => {
    const windows = { by: "tokens", size: 64, split: epicache.windows.split } as const;
    await using grown = await begun({ windows });
    await untilDue(grown);
    const before = grown.memory();
    const told: IngestProgress[] = [];
    await say(grown, statement(1), { onProgress: (progress: IngestProgress) => told.push(progress) });
    const after = grown.memory().episodes;
    expect(after).toMatchObject({ rebuilds: 1 });
    expect(after?.windows).toBeGreaterThanOrEqual(2 * (before.episodes?.windows ?? 0));
    expect(grown.memory().tokensSeen).toBeGreaterThan(before.tokensSeen);

    // The stream as the turns made it: text, question, answer, question, answer ...
    await using same = await engine.conversation({ memory: { ...memory, windows } });
    const stream = engine.tokenizer.encode(text);
    await using replayed = await begun({ windows, recluster: "never" });
    for (let turn = 0; ; turn++) {
      const { windows: all = 0, windowsSince = 0 } = replayed.memory().episodes ?? {};
      if (windowsSince >= all) break;
      stream.push(...ids(statement(turn)), ...(await say(replayed, statement(turn))));
    }
    await same.ingest(stream);
    await say(same, statement(1));
    expect(grown.memory().rows).toEqual(same.memory().rows);
    expect(after?.windows).toBe(same.memory().episodes?.windows);
    expect(after?.list.map((episode) => episode.promptTokens)).toEqual(
      same.memory().episodes?.list.map((episode) => episode.promptTokens),
    );
    const made = same.memory().episodes?.forwardedTokens ?? 0;
    expect(after?.forwardedTokens).toBe((before.episodes?.forwardedTokens ?? 0) + made);
    const total = told.at(-1)?.total;
    expect(total).toBe(stream.length * (after?.list.length ?? 0));
    expect(told.at(-1)?.tokens).toBe(total);
    expect(await answersOf(grown)).toEqual(await answersOf(same));
  });

  it("is worked on when it is told to, or never", async () => {
    await using conversation = await begun();
    expect(await conversation.recluster()).toBe(false);
    await untilDue(conversation);
    expect(await conversation.recluster()).toBe(true);
    expect(conversation.memory().episodes).toMatchObject({ rebuilds: 1, windowsSince: 0, active: undefined });
    expect(await conversation.recluster()).toBe(false);

    await using fixed = await begun({ recluster: "never" });
    await untilDue(fixed);
    expect(await fixed.recluster()).toBe(false);
    await say(fixed, statement(0));
    expect(fixed.memory().episodes?.rebuilds).toBe(0);
  });

  it("waits for a turn that stays", async () => {
    await using conversation = await begun();
    await untilDue(conversation);
    await say(conversation, statement(0), { remember: false });
    expect(conversation.memory().episodes?.rebuilds).toBe(0);
    await say(conversation, statement(0));
    expect(conversation.memory().episodes?.rebuilds).toBe(1);
  });

  it("keeps its old episodes while it has no new ones", async () => {
    await using conversation = await begun();
    await using same = await begun({ recluster: "never" });
    await untilDue(conversation);
    await untilDue(same);
    const { rows } = conversation.memory();
    const reason = new Error("changed my mind");
    const controller = new AbortController();
    const onProgress = ({ episode }: IngestProgress) => {
      if (episode === 1) controller.abort(reason);
    };
    const { signal } = controller;
    expect(await rejection(conversation.recluster({ signal, onProgress }))).toBe(reason);
    expect(conversation.memory().episodes?.rebuilds).toBe(0);
    expect(conversation.memory().rows).toEqual(rows);
    expect(await answersOf(conversation)).toEqual(await answersOf(same));
    expect(await conversation.recluster()).toBe(true);
  });

  it("needs no more of the pool than one episode", async () => {
    await using all = await begun();
    await untilDue(all);
    const kvBytes = Math.ceil(all.memory().reservedBytes / 2);
    await using small = await load(recall, { kvBytes });
    await using conversation = await begun({}, small);
    await untilDue(conversation);
    for (const each of [all, conversation]) expect(await each.recluster()).toBe(true);
    expect(conversation.memory().rows).toEqual(all.memory().rows);
    expect(await answersOf(conversation)).toEqual(await answersOf(all));
    expect(small.memory().pool.peak).toBeLessThanOrEqual(kvBytes);
  });

  it("goes on behind turns in the chat format", async () => {
    await using conversation = await engine.conversation({ memory, system: "be brief ." });
    await conversation.ingest([
      { role: "user", content: "rex color is red ." },
      { role: "assistant", content: "ok ." },
    ]);
    const contents: string[] = [];
    for (let turn = 0; turn < 9; turn++) {
      contents.push(`${PEOPLE[turn % 6]} color is ${COLORS[turn % 5]} .`);
      await conversation.ask(contents.at(-1) as string, { maxTokens: 4 }).result();
    }
    expect(conversation.memory().episodes?.rebuilds).toBeGreaterThan(1);
    const said = conversation.messages.filter(({ role }) => role === "user").map(({ content }) => content);
    expect(said).toEqual(["rex color is red .", ...contents]);
    expect(conversation.messages[0]).toEqual({ role: "system", content: "be brief ." });
  });

  it("is saved and restored with all that it grew by", async () => {
    const path = join(folder, "growing.snapshot");
    await using original = await begun({ resident: 1, newEpisodeBelow: 0.3 });
    for (let turn = 0; turn < 5; turn++) await say(original, statement(turn));
    await original.save(path);
    await using restored = await engine.restore(path, { embed: bagOfWords });
    // Which of the episodes is resident may differ: all that they hold does not.
    const contents = ({ tokensSeen, rows, episodes }: ReturnType<Conversation["memory"]>) => {
      const list = episodes?.list.map(({ resident, bytes, hostBytes, ...rest }) => rest);
      return { tokensSeen, rows, episodes: { ...episodes, list } };
    };
    expect(contents(restored.memory())).toEqual(contents(original.memory()));
    expect(original.memory().episodes?.list.length).toBeGreaterThan(3);
    for (const each of [original, restored]) {
      await untilDue(each);
      for (let turn = 0; turn < 4; turn++) await say(each, statement(turn));
      expect(each.memory().episodes?.rebuilds).toBe(1);
    }
    expect(restored.memory()).toEqual(original.memory());
    expect(await answersOf(restored)).toEqual(await answersOf(original));
    expect(restored.messages).toEqual(original.messages);
  });
});

describe("later text", () => {
  it("goes to the episode that it is like", async () => {
    await using conversation = await begun({ recluster: "never", budget: 800 });
    const { tokensSeen, episodes: before } = conversation.memory();
    const { tokens } = await conversation.ingest(" user : rex food is cake . assistant : ok .");
    const { episodes } = conversation.memory();
    const grown = episodes?.list.map((each, at) => each.tokensSeen - (before?.list[at]?.tokensSeen ?? 0));
    const active = episodes?.active as number;
    expect(grown).toEqual(grown?.map((_, at) => (at === active ? tokens : 0)));
    expect(conversation.memory().tokensSeen).toBe(tokensSeen + tokens);
    const found = await conversation.ask(ids(" user : rex food ? assistant :"), { maxTokens: 8 }).result();
    expect(found.text).toContain("rex food is cake");
  });

  it("leaves what it reached when it is aborted", async () => {
    await using conversation = await begun({ recluster: "never" });
    const { tokensSeen } = conversation.memory();
    const controller = new AbortController();
    const onProgress = () => controller.abort();
    await rejection(conversation.ingest(text, { signal: controller.signal, onProgress }));
    // One block, or another that had begun before the engine heard of it.
    const taken = conversation.memory().tokensSeen - tokensSeen;
    expect([128, 256]).toContain(taken);
    const { transcript } = conversation.memory().episodes ?? {};
    expect(transcript?.tokens).toBe(tokensSeen + taken);
  });
});

describe("a turn like none of the episodes", () => {
  const stranger = topical.find((word) => !text.split(" ").includes(word));
  const unlike = ` user : ${stranger} price is nine . assistant :`;

  it("opens one of its own", async () => {
    await using conversation = await begun({ newEpisodeBelow: 0.9, recluster: "never" });
    const { tokensSeen, episodes } = conversation.memory();
    const before = episodes?.list ?? [];
    expect(before).toHaveLength(3);
    await say(conversation, unlike, { remember: false, maxTokens: 2 });
    expect(conversation.memory().episodes?.list).toHaveLength(3);
    await say(conversation, unlike);
    const after = conversation.memory().episodes;
    expect(after?.list).toHaveLength(4);
    expect(after?.active).toBe(3);
    const own = after?.list[3];
    expect(own).toMatchObject({ windows: 0, representatives: 0, promptTokens: ids(unlike).length });
    // Three of the four drawn tokens are in the cache.
    const turn = ids(unlike).length + 3;
    expect(conversation.memory().tokensSeen).toBe(tokensSeen + turn);
    const nearest = before.find(({ rows }) =>
      rows.every((heads, layer) => heads.every((count, head) => own?.rows[layer]?.[head] === count + turn)),
    );
    expect(nearest).toBeDefined();

    // What is like it goes there too, whatever is opened besides.
    await say(conversation, unlike);
    expect(conversation.memory().episodes?.active).toBe(3);
    expect(conversation.memory().episodes?.list).toHaveLength(4);
  });

  it("opens no more than were made of the history", async () => {
    // Every text is unlike every other one.
    let count = 0;
    const embed = (texts: readonly string[]) => texts.map(() => [Math.cos(++count), Math.sin(count)]);
    await using conversation = await begun({ embed, newEpisodeBelow: 1, recluster: "never" });
    for (let turn = 0; turn < 6; turn++) await say(conversation, statement(turn), { maxTokens: 2 });
    expect(conversation.memory().episodes?.list).toHaveLength(6);
    expect(await rejection(engine.conversation({ memory: { ...memory, newEpisodeBelow: 2 } }))).toMatchObject({
      message: expect.stringMatching(/^memory.newEpisodeBelow must be a finite number from -1 to 1, got 2$/),
    });
  });
});

describe("the transcript", () => {
  it("holds the newest tokens, and older text is in the file", async () => {
    const file = join(folder, "older.jsonl");
    const windows = { split: epicache.windows.split, size: 2 };
    const options = { windows, transcript: { maxTokens: 200, file }, recluster: "never" } as const;
    await using conversation = await begun(options);
    const said = epicache.windows.split(text).map((each) => each.trim());
    for (let turn = 0; turn < 20; turn++) {
      const answer = await say(conversation, statement(turn));
      said.push(statement(turn).trim(), engine.tokenizer.decode(answer, { skipSpecialTokens: true }).trim());
      const { transcript } = conversation.memory().episodes ?? {};
      expect(transcript?.maxTokens).toBe(200);
      expect(transcript?.tokens).toBeLessThanOrEqual(200);
      // One passage less would not do.
      expect(transcript?.tokens).toBeGreaterThan(200 - 16);
    }
    const lines = readFileSync(file, "utf8").trim().split("\n");
    const older = lines.map((line) => JSON.parse(line).text);
    const kept = said.filter((each) => each !== "").slice(older.length);
    expect(older).toEqual(said.filter((each) => each !== "").slice(0, older.length));
    const { transcript } = conversation.memory().episodes ?? {};
    const bytes = kept.reduce((sum, each) => sum + Buffer.byteLength(each), 4 * (transcript?.tokens ?? 0));
    expect(transcript?.bytes).toBe(bytes);

    await using dropping = await begun({ ...options, transcript: { maxTokens: 200 } });
    for (let turn = 0; turn < 20; turn++) await say(dropping, statement(turn));
    expect(dropping.memory().episodes?.transcript).toEqual(transcript);
  });

  it("keeps what cannot be written, and says so before the next turn", async () => {
    const file = join(folder, "nowhere", "older.jsonl");
    await using conversation = await begun({ transcript: { maxTokens: 200, file }, recluster: "never" });
    const { transcript } = conversation.memory().episodes ?? {};
    expect(transcript?.tokens).toBeGreaterThan(200);
    const { tokensSeen } = conversation.memory();
    const asked = conversation.ask(ids(statement(0)), { maxTokens: 4 }).result();
    const message = /^memory.transcript.file: .*older.jsonl cannot be written .* nothing was lost/;
    await expectError(asked, "ERR_INVALID_ARGUMENT", message);
    expect(conversation.memory().tokensSeen).toBe(tokensSeen);
    expect(existsSync(file)).toBe(false);
  });

  it("stands behind what began the stream, once its own beginning is gone", async () => {
    const windows = { by: "tokens", size: 32, split: epicache.windows.split } as const;
    await using conversation = await begun({ windows, transcript: { maxTokens: 300 } });
    await untilDue(conversation);
    const { transcript } = conversation.memory().episodes ?? {};
    const told: IngestProgress[] = [];
    expect(await conversation.recluster({ onProgress: (progress) => told.push(progress) })).toBe(true);
    // <|bos|>
    const stream = 1 + (transcript?.tokens ?? 0);
    expect(told.at(-1)?.total).toBe(stream * (conversation.memory().episodes?.list.length ?? 0));
    for (const { tokensSeen } of conversation.memory().episodes?.list ?? []) expect(tokensSeen).toBe(stream);
  });

  const wrong: [object, RegExp][] = [
    [{ transcript: 5 }, /^memory.transcript must be an object, got 5$/],
    [{ transcript: { maxTokens: 0 } }, /^memory.transcript.maxTokens must be an integer/],
    [{ transcript: { file: "" } }, /^memory.transcript.file must be a string that is not empty/],
    [{ recluster: true }, /^memory.recluster must be one of doubled, never, got true$/],
  ];
  it.each(wrong)("is refused if it is to be %j", async (options, message) => {
    await expectError(
      engine.conversation({ memory: { ...memory, ...options } }),
      "ERR_INVALID_ARGUMENT",
      message,
    );
  });
});
