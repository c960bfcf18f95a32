// What the evaluation counts of a policy without running it.
import { expect, it } from "vitest";

interface Policies {
  forwardedTokens(
    memory: { policy: string; block: number; window?: number },
    held: { tokensSeen: number; promptTokens: number; episodes?: { forwardedTokens: number } },
  ): number;
}
// A script, without declarations.
const { forwardedTokens }: Policies = await import(`${"../../eval/policies.mjs"}`);

it.each([
  // Three blocks of a history of 300 tokens, the last of 44.
  ["keydiff", {}, 0, 300],
  ["patched-prompt", {}, 7, 300 + 3 * 7],
  ["kvzip", {}, 7, 300 + 3 * 7 + 300],
  ["snapkv-refed", { window: 50 }, 0, 300 + 50 + 50 + 44],
] as const)("counts what policy %s forwards", (policy, options, promptTokens, forwarded) => {
  expect(forwardedTokens({ policy, block: 128, ...options }, { tokensSeen: 300, promptTokens })).toBe(
    forwarded,
  );
});

it("believes episodes, which count themselves", () => {
  const held = { tokensSeen: 300, promptTokens: 7, episodes: { forwardedTokens: 1234 } };
  expect(forwardedTokens({ policy: "epicache", block: 128 }, held)).toBe(1234);
});
