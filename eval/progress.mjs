// What is under way, on the terminal's last line; without a terminal a line for what is done.
import { stderr } from "node:process";

const seconds = (begin) => `${Math.round((performance.now() - begin) / 1000)} s`;

export class Progress {
  #begin = performance.now();
  #shown = 0;

  /** At most ten times a second: writing takes time too. */
  now(text) {
    if (!stderr.isTTY || performance.now() - this.#shown < 100) return;
    this.#shown = performance.now();
    const line = `${text}, ${seconds(this.#begin)}`;
    stderr.write(`\r\u001b[K${line.slice(0, Math.max(20, (stderr.columns ?? 80) - 1))}`);
  }

  done(text) {
    if (!stderr.isTTY) stderr.write(`${text}, ${seconds(this.#begin)}\n`);
  }

  clear() {
    if (stderr.isTTY) stderr.write("\r\u001b[K");
  }
}
