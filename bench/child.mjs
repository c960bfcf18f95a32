// Runs a program that prints JSON lines, and hands each on as it comes.
import { spawn } from "node:child_process";
import readline from "node:readline";

/**
 * @param {string} program
 * @param {string[]} args
 * @param {(line: any) => void} onLine
 * @returns {Promise<number>} the exit code
 */
export async function runJsonLines(program, args, onLine, options = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], ...options });
  const exit = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(signal ? 1 : code));
  });
  for await (const line of readline.createInterface({ input: child.stdout })) {
    if (line.startsWith("{")) onLine(JSON.parse(line));
  }
  return exit;
}
