import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import OpenAI from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { recall, root } from "../engine/support.js";

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

function serve(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, [join(root, "dist/cli.mjs"), "serve", recall, ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  const output = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text) => {
    output.stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text) => {
    output.stderr += text;
  });
  return { child, output, ended: once(child, "close") as Promise<[number | null]> };
}

/** The address that a server prints when it is ready. */
async function addressOf({ child, output }: ReturnType<typeof serve>): Promise<string> {
  while (!output.stdout.includes("\n")) await once(child.stdout as NodeJS.ReadableStream, "data");
  return output.stdout.trim();
}

const messages = [{ role: "user" as const, content: "rex color is red . rex color ?" }];

describe("longhaul serve", () => {
  it("serves until SIGTERM, and the answers under way to their end", async () => {
    const server = serve(["--port", "0", "--policy", "keydiff", "--budget", "64", "--name", "recall"], {
      LONGHAUL_API_KEY: "one, two",
    });
    const baseURL = await addressOf(server);
    expect(baseURL).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/v1$/);
    const client = new OpenAI({ apiKey: "two", baseURL, maxRetries: 0 });
    const completion = await client.chat.completions.create({ model: "recall", messages });
    expect(completion.choices[0]?.message.content).toBe("rex color is red");

    const body = { model: "recall", messages, max_tokens: 2000, ignore_eos: true, stream: true as const };
    const stream = await client.chat.completions.create(body);
    let finish: unknown;
    let tokens = 0;
    for await (const { choices } of stream) {
      if (tokens++ === 3) server.child.kill("SIGTERM");
      finish = choices[0]?.finish_reason ?? finish;
    }
    expect(finish).toBe("length");
    expect(await server.ended).toEqual([0, null]);
    expect(server.output.stderr).toContain("serving recall");
  });

  it("says what is wrong with its address", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as { port: number };
    const refused = serve(["--port", String(port)]);
    expect(await refused.ended).toEqual([2, null]);
    expect(refused.output.stderr).toContain(`port ${port} of 127.0.0.1 is in use`);
    await new Promise((resolve) => taken.close(resolve));
    const wrong = serve(["--port", "70000"]);
    expect(await wrong.ended).toEqual([2, null]);
    expect(wrong.output.stderr).toContain("--port must be at most 65535");
  });
});
