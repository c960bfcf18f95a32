// A process that dies while it saves leaves the old snapshot or the new one, never anything else.
import { spawn } from "node:child_process";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { load, recall, recallDialogue, root } from "../engine/support.js";
import { temporaryFolder } from "./support.js";

/** `npm run test:long` kills more often. */
const kills = Number(process.env.LONGHAUL_KILLS ?? 10);

const folder = temporaryFolder();
const path = join(folder, "conversation.snapshot");
const { text } = recallDialogue(1000);
const memory: MemoryOptions = { policy: "keydiff", budget: 256, block: 128, tail: 64 };

/** What the conversation is told between one save and the next. */
const turn = (index: number): number[] => [4 + (index % 50), 5, 6];

// Saves for ever. Writes to a pipe are there at once: what was printed is known to have happened.
const program = `
import { Engine } from ${JSON.stringify(pathToFileURL(join(root, "dist/index.mjs")).href)};
const engine = await Engine.load(${JSON.stringify(recall)}, { kvBytes: "32MiB" });
const conversation = await engine.conversation({ memory: ${JSON.stringify(memory)} });
await conversation.ingest(${JSON.stringify(text)});
const turn = ${turn.toString()};
for (let index = 0; ; index++) {
  if (index > 0) await conversation.ingest(turn(index));
  process.stdout.write("begin " + index + "\\n");
  await conversation.save(${JSON.stringify(path)});
  process.stdout.write("end " + index + "\\n");
}`;

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
  writeFileSync(join(folder, "saver.mjs"), program);
});
afterAll(() => engine.dispose());

/** Kills a saver at a random moment of its saves. Resolves with the last save that began and the last that ended. */
async function killedSaver(): Promise<{ begun: number; ended: number }> {
  const child = spawn(process.execPath, [join(folder, "saver.mjs")], { stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  const exited = new Promise<NodeJS.Signals | null>((resolve) => {
    child.on("close", (_code, signal) => resolve(signal));
  });
  // The first save has no old state beside it: what is killed comes later.
  const first = new Promise<void>((resolve) => {
    child.stdout.on("data", (data) => {
      printed += data;
      if (printed.includes("begin 1\n")) resolve();
    });
  });
  await Promise.race([first, exited]);
  await sleep(Math.random() * 40);
  child.kill("SIGKILL");
  expect(await exited).toBe("SIGKILL");
  const last = (word: string) =>
    Number(
      printed
        .match(new RegExp(`${word} \\d+\n`, "g"))
        ?.at(-1)
        ?.split(" ")[1],
    );
  return { begun: last("begin"), ended: last("end") };
}

/** What a conversation knows, by its answer and its numbers. */
async function stateOf(conversation: Conversation): Promise<unknown> {
  const options = { maxTokens: 16, stopTokens: [], remember: false };
  const { tokens } = await conversation.ask("rex color ?", options).result();
  const { tokensSeen, rows } = conversation.memory();
  return { tokens, tokensSeen, rows };
}

it(
  `a snapshot outlives ${kills} kills of its writer`,
  async () => {
    const tokens = engine.tokenizer.encode(text).length;
    let interrupted = 0;
    for (let kill = 0; kill < kills || (interrupted === 0 && kill < 4 * kills); kill++) {
      const { begun, ended } = await killedSaver();
      expect([ended, ended + 1]).toContain(begun);
      if (begun > ended) interrupted++;

      await using restored = await engine.restore(path);
      const found = (restored.memory().tokensSeen - tokens) / 3;
      expect([ended, begun]).toContain(found);
      await using same = await engine.conversation({ memory });
      await same.ingest(text);
      for (let index = 1; index <= found; index++) await same.ingest(turn(index));
      expect(await stateOf(restored)).toEqual(await stateOf(same));

      const left = readdirSync(folder).filter((name) => name.endsWith(".tmp"));
      expect(left.length).toBeLessThanOrEqual(1);
      expect(left.every((name) => /^\.longhaul-[0-9a-f]{16}\.tmp$/.test(name))).toBe(true);
      for (const name of left) rmSync(join(folder, name));
    }
    expect(interrupted).toBeGreaterThan(0);
    console.log(`${interrupted} of ${kills} kills came inside a save`);
  },
  60_000 + kills * 10_000,
);
