// A conversation far past the model's window: what it takes stays the same, and so do its answers.
import { expect, it } from "vitest";
import type { MemoryOptions } from "../../lib/index.js";
import { load, recall } from "../engine/support.js";
import { endlessTurns, PERIOD, shortHistory, take } from "./endless.js";
import { epicache } from "./support.js";

/** `npm run test:long` takes more. */
const turns = Number(process.env.LONGHAUL_TURNS ?? 1500);
/** Episodes have been made anew by then, so that all that there will be has been reserved. */
const WARM = 100;

const budget = 128;
const tail = 256;
const promptTokens = 384;
const memory: MemoryOptions = {
  ...epicache,
  budget,
  tail,
  promptTokens,
  episodes: 4,
  resident: 2,
  positions: "packed",
};

it(
  `${turns} turns take no more than the first hundred, and are answered as well`,
  async () => {
    await using engine = await load(recall);
    const { tokenizer } = engine;
    await using conversation = await engine.conversation({ memory });
    await conversation.ingest(shortHistory(1));
    const encode = (said: string) => tokenizer.encode(said, { addSpecialTokens: false, continuation: true });

    // What docs/episodes.md says of host memory. A row: two numbers of 64 bf16 elements and a position.
    const { layers, kvHeads, maxPositions, vocabularySize } = engine.info();
    const rows = layers * kvHeads * (budget + tail);
    const copy = rows * (2 * 64 * 2 + 4) + 4 * (promptTokens + layers * kvHeads + layers);
    const longest = Math.max(
      ...Array.from({ length: vocabularySize }, (_, id) => tokenizer.decode([id]).length),
    );
    const bound = 4 * copy + maxPositions * (4 + longest);

    const device = new Set<string>();
    const plan = endlessTurns(1);
    const asked: boolean[] = [];
    const right: boolean[] = [];
    let most = 0;
    for (let turn = 1; turn <= turns; turn++) {
      const answered = await take(conversation, encode, plan.next().value);
      asked.push(answered !== undefined);
      right.push(answered === true);
      const { bytes, reservedBytes, hostBytes, tableBytes } = conversation.memory();
      const { weights, workspace, tables, pool } = engine.memory();
      if (turn > WARM) {
        device.add(JSON.stringify({ weights, workspace, tables, pool: pool.bytes, reservedBytes, tableBytes }));
      }
      expect(bytes).toBeLessThanOrEqual(reservedBytes);
      expect(pool.reserved).toBe(reservedBytes);
      most = Math.max(most, hostBytes);
    }
    expect([...device]).toHaveLength(1);
    expect(most).toBeLessThanOrEqual(bound);

    const { tokensSeen, positions, episodes } = conversation.memory();
    expect(tokensSeen).toBeGreaterThan(2 * maxPositions);
    expect(positions.regime).toBe("packed");
    expect(episodes?.rebuilds).toBeGreaterThan(2);
    expect(episodes?.transcript.tokens).toBeLessThanOrEqual(maxPositions);

    const count = (list: readonly boolean[], end: number, length: number) =>
      list.slice(end - length, end).filter(Boolean).length;
    const share = (end: number, length: number) => count(right, end, length) / count(asked, end, length);
    const percent = (value: number) => `${Math.round(100 * value)} %`;
    console.log(
      `${turns} turns, ${tokensSeen} tokens: answers right in the 100 turns up to turn 1000 ${percent(share(1000, 100))}, ` +
        `in the last 100 ${percent(share(turns, 100))}; of ${PERIOD} turns ${percent(share(1000, PERIOD))} and ` +
        `${percent(share(turns, PERIOD))}; host memory at most ${most} bytes of ${bound}; ` +
        `episodes made anew ${episodes?.rebuilds} times`,
    );
    // The same form, some 50 questions each: the difference has a standard error of .07.
    expect(share(turns, 100)).toBeGreaterThanOrEqual(share(1000, 100) - 0.1);
    expect(share(turns, PERIOD)).toBeGreaterThan(0.65);
  },
  60_000 + turns * 200,
);
