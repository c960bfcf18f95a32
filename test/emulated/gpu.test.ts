import { afterEach, describe, expect, it } from "vitest";
import { type Conversation, Engine, info } from "../../lib/index.js";
import { expectError, recall } from "../engine/support.js";

const facts = "user : rex color is red .";
const memory = { policy: "keydiff", budget: 64, block: 32, tail: 48 } as const;

const load = (device: "auto" | "cuda" | "cpu" = "cuda") => Engine.load(recall, { device, kvBytes: "8MiB" });

/** Makes the emulated GPU fail: "launch 3" is the third launch from now, "loss 1" the next kernel that runs. */
function inject(failure: string): void {
  process.env.LONGHAUL_EMULATOR_INJECT = failure;
  info(); // looks at it
  delete process.env.LONGHAUL_EMULATOR_INJECT;
}

afterEach(() => inject("reset"));

const ask = async (conversation: Conversation) => {
  const stream = conversation.ask("rex color ?", { maxTokens: 8, temperature: 0 });
  return (await stream.result()).text;
};

/** The answer of a conversation of its own, which has heard the facts. */
async function answerOf(engine: Engine): Promise<string> {
  const conversation = await engine.conversation({ memory });
  await conversation.ingest(facts);
  const text = await ask(conversation);
  await conversation.dispose();
  return text;
}

describe("a GPU", () => {
  it("is listed, and taken by auto without a reason not to", async () => {
    const { devices, cuda } = info();
    expect(cuda).toEqual({ available: true });
    const description = "CUDA emulator, 8 multiprocessors, compute capability 8.0, CUDA 13.0";
    expect(devices.at(-1)).toEqual({ name: "cuda:0", available: true, description });
    const engine = await load("auto");
    expect(engine.info().device).toEqual({ name: "cuda:0", description });
    await engine.dispose();
  });

  it("that is not there is refused by its number", async () => {
    await expectError(
      Engine.load(recall, { device: "cuda:3" }),
      "ERR_UNSUPPORTED",
      /^device 'cuda:3': there is no GPU 3: CUDA counts them from 0 and sees 1$/,
    );
  });

  it("gives the CPU's answers and probabilities", async () => {
    const [gpu, cpu] = [await load(), await load("cpu")];
    expect(await answerOf(gpu)).toBe("rex color is red");
    const text = "user : rex color is red . user : rex color ? assistant : rex color is red .";
    const [ours, theirs] = [await gpu.score(text), await cpu.score(text)];
    expect(ours.tokens).toEqual(theirs.tokens);
    // Probabilities, not their logarithms: bf16 keeps eight bits, and sums in another order round the unlikely ones apart.
    const worst = Math.max(
      ...ours.logProbs.map((value, i) => Math.abs(Math.exp(value) - Math.exp(theirs.logProbs[i] as number))),
    );
    expect(worst).toBeLessThan(5e-3);
    await gpu.dispose();
    await cpu.dispose();
  });
});

describe("a device's error reaches JavaScript:", () => {
  it("a failed launch is ERR_INTERNAL, and other conversations go on", async () => {
    const engine = await load();
    const [unlucky, bystander] = [await engine.conversation({ memory }), await engine.conversation({ memory })];
    await unlucky.ingest(facts);
    await bystander.ingest(facts);
    inject("launch 5");
    await expectError(ask(unlucky), "ERR_INTERNAL", /cudaErrorLaunchOutOfResources/);
    await expectError(ask(unlucky), "ERR_INTERNAL", /cannot be used any more: .*cudaErrorLaunchOutOfResources/);
    expect(await ask(bystander)).toBe("rex color is red");
    expect(await answerOf(engine)).toBe("rex color is red");
    await engine.dispose();
  });

  it("memory that runs out is ERR_OUT_OF_MEMORY, and what is there goes on", async () => {
    const engine = await load();
    const conversation = await engine.conversation({ memory });
    const before = engine.memory();
    inject("allocation 1");
    await expectError(
      engine.conversation({ memory }),
      "ERR_OUT_OF_MEMORY",
      /^device 'cuda:0' cannot allocate \d+ bytes: \d+ of its \d+ bytes are free .*cudaErrorMemoryAllocation/,
    );
    expect(engine.memory()).toEqual(before);
    await conversation.ingest(facts);
    expect(await ask(conversation)).toBe("rex color is red");
    expect(await answerOf(engine)).toBe("rex color is red");
    await engine.dispose();
  });

  it("a model that does not fit is ERR_OUT_OF_MEMORY, with device auto too", async () => {
    for (const device of ["cuda", "auto"] as const) {
      inject("allocation 9");
      await expectError(load(device), "ERR_OUT_OF_MEMORY", /^device 'cuda:0' cannot allocate/);
    }
    const engine = await load();
    expect(await answerOf(engine)).toBe("rex color is red");
    await engine.dispose();
  });

  it("a lost device is ERR_DEVICE_LOST, from then on and for everybody", async () => {
    const engine = await load();
    const [first, second] = [await engine.conversation({ memory }), await engine.conversation({ memory })];
    await first.ingest(facts);
    inject("loss 30");
    const lost = /cudaErrorIllegalAddress .* the GPU is lost to this process: start it again$/;
    await expectError(ask(first), "ERR_DEVICE_LOST", lost);
    await expectError(second.ingest(facts), "ERR_DEVICE_LOST", lost);
    await expectError(engine.conversation({ memory }), "ERR_DEVICE_LOST", lost);
    await expectError(engine.score("user : rex"), "ERR_DEVICE_LOST", lost);
    await expectError(load(), "ERR_DEVICE_LOST", /cudaErrorIllegalAddress/);
    await engine.dispose();
  });
});
