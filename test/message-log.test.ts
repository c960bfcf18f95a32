import fc from "fast-check";
import { expect, it } from "vitest";
import { divided, MessageLog } from "../lib/message-log.js";

const message = (content: string) => ({ role: "user", content });

it("keeps the newest messages that take no more than so many tokens", () => {
  const log = new MessageLog(10);
  log.push([message("a"), message("b")], 6);
  log.push([message("c")], 4);
  expect(log.messages.map(({ content }) => content)).toEqual(["a", "b", "c"]);
  log.push([message("d")], 1);
  expect(log.messages.map(({ content }) => content)).toEqual(["b", "c", "d"]);
  log.push([message("too long")], 11);
  expect(log.messages).toEqual([]);
  for (let i = 0; i < 100; i++) log.push([message("")], 0);
  expect(log.messages.length).toBe(10);
});

it("shares tokens among messages by their length, to the token", () => {
  expect(divided(10, [1, 3, 1])).toEqual([2, 6, 2]);
  expect(divided(7, [0, 0])).toEqual([0, 7]);
  fc.assert(
    fc.property(fc.nat(10_000), fc.array(fc.nat(500), { minLength: 1, maxLength: 30 }), (whole, weights) => {
      const total = weights.reduce((a, b) => a + b, 0);
      const shares = divided(whole, weights);
      expect(shares.reduce((a, b) => a + b, 0)).toBe(whole);
      for (const [i, share] of shares.entries()) {
        expect(share).toBeGreaterThanOrEqual(0);
        if (total > 0)
          expect(Math.abs(share - (whole * (weights[i] as number)) / total)).toBeLessThanOrEqual(1);
      }
    }),
  );
});
