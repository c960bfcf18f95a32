import { createServer, type Server } from "node:http";
import { isIP } from "node:net";
import { isEpisodic } from "../episodes/options.js";
import type { OpenAIServer } from "../server/index.js";
import { type Arguments, UsageError } from "./arguments.js";
import { interruptible } from "./interrupt.js";
import { defined, readMemoryOptions } from "./options.js";
import { withEngine } from "./session.js";
import { note } from "./terminal.js";

const LINGER_MS = 2000;

/** `longhaul serve`: a model behind OpenAI's HTTP protocol, until SIGINT or SIGTERM. */
export async function run(values: Arguments): Promise<void> {
  const host = values.text("host") ?? "127.0.0.1";
  const port = values.integer("port", 0) ?? 8080;
  if (port > 65535) throw new UsageError(`--port must be at most 65535, got ${port}`);
  const apiKeys = readKeys(values);
  const memory = readMemoryOptions(values);
  if (isEpisodic(memory.policy ?? "full")) {
    throw new UsageError(
      `--policy ${memory.policy} needs a history in advance; serve takes any other, such as keydiff`,
    );
  }
  const options = {
    memory,
    apiKeys,
    origins: values.texts("origin"),
    ...defined({
      model: values.text("name"),
      pooling: values.choice("pooling", ["mean", "last"]),
      maxRunning: values.integer("max-running", 1),
      maxWaiting: values.integer("max-waiting", 0),
      maxConversations: values.integer("max-conversations", 0),
    }),
  };
  await interruptible((signal) =>
    withEngine(values, signal, async (engine) => {
      const { OpenAIServer, toNodeListener } = await import("../server/index.js");
      const api = new OpenAIServer(engine, options);
      const http = createServer(toNodeListener(api));
      await listen(http, host, port);
      const { port: bound } = http.address() as { port: number };
      const shown = isIP(host) === 6 ? `[${host}]` : host;
      // On stdout and alone on its line: scripts that ask for a free port read it.
      process.stdout.write(`http://${shown}:${bound}/v1\n`);
      note(`serving ${api.model}; Ctrl-C ends it when the answers under way are done`);
      await interrupted(signal);
      await drain(http, api);
    }),
  );
}

function readKeys(values: Arguments): string[] {
  const keys = [...values.texts("api-key"), ...(process.env.LONGHAUL_API_KEY?.split(",") ?? [])];
  return keys.map((key) => key.trim()).filter((key) => key !== "");
}

function listen(http: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    http.once("error", (error: NodeJS.ErrnoException) => {
      const known: Record<string, string> = {
        EADDRINUSE: `port ${port} of ${host} is in use: choose another with --port`,
        EACCES: `port ${port} takes more rights than this user has: choose one above 1023 with --port`,
        EADDRNOTAVAIL: `${host} is no address of this machine: see --host`,
      };
      const message = known[error.code ?? ""];
      reject(message === undefined ? error : new UsageError(message, { cause: error }));
    });
    http.listen(port, host, resolve);
  });
}

/** Nobody new comes in; who is being answered hears the end. A second signal ends the process at once. */
async function drain(http: Server, api: OpenAIServer): Promise<void> {
  const closed = new Promise((resolve) => http.close(resolve));
  await api.close();
  // The answers are out, but perhaps not yet on the wire.
  const impatience = setTimeout(() => http.closeAllConnections(), LINGER_MS);
  await closed;
  clearTimeout(impatience);
}

function interrupted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
