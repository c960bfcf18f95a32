import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LonghaulError } from "../../lib/index.js";
import { toNativePolicy } from "../../lib/memory.js";
import { callNative, type NativeConfig } from "../../lib/native.js";
import { Sequence } from "../../lib/sequence.js";
import { TaskRunner } from "../../lib/tasks.js";
import { recall } from "./support.js";

let runner: TaskRunner;
let config: NativeConfig;

beforeAll(async () => {
  config = callNative((addon) => addon.readConfig(recall));
  const started = TaskRunner.start(
    { directory: recall, device: "cpu", threads: 1, kvBytes: 2 ** 23, maxBatch: 2 },
    {},
  );
  runner = started.runner;
  await started.loaded;
});
afterAll(() => runner.dispose());

function thrown(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error("did not throw");
}

describe("a call that starts no task", () => {
  it("fails with a LonghaulError, as tasks do", async () => {
    const sequence = await Sequence.create(
      runner,
      toNativePolicy({}, config, { encode: () => [], instruct: () => [] }),
    );
    expect(sequence.memory.tokensSeen).toBe(0);
    await sequence.release();
    const error = thrown(() => sequence.memory);
    expect(error).toBeInstanceOf(LonghaulError);
    expect(error).toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(/^there is no such conversation/),
    });
  });
});
