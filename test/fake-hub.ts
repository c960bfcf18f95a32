import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { basename } from "node:path";

/** What the server does with the content of one file, to play a bad network. */
export type Fault = "cut" | "short" | "wrong" | "stall";

interface HubFile {
  readonly content: Buffer;
  readonly large: boolean;
}

const sha = (algorithm: string, ...parts: (string | Buffer)[]) => {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

/** A hub on 127.0.0.1 with one model, as far as @huggingface/hub talks to it. */
export class FakeHub {
  readonly commit = sha("sha1", "the only commit");
  readonly files = new Map<string, HubFile>();
  readonly faults = new Map<string, Fault>();
  /** Every request as "METHOD path", and the Authorization headers that came with them. */
  requests: string[] = [];
  authorizations = new Set<string | undefined>();
  /** The only token that may read, or null for a public model. */
  token: string | null = null;
  /** Called when the first bytes of a stalling file are out. */
  onStall: () => void = () => {};
  readonly #server = createServer((request, response) => this.#answer(request, response));

  constructor(readonly name: string) {}

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  add(path: string, content: Buffer | string): void {
    this.files.set(path, { content: Buffer.from(content), large: path.endsWith(".safetensors") });
  }

  addFromDisk(...paths: string[]): void {
    for (const path of paths) this.add(basename(path), readFileSync(path));
  }

  oid(path: string): string {
    const { content, large } = this.files.get(path) as HubFile;
    return large ? sha("sha256", content) : sha("sha1", `blob ${content.length}\0`, content);
  }

  /** The requests for content, by file name. */
  get downloads(): string[] {
    return this.requests.filter((line) => /^GET .*\/(resolve|lfs)\//.test(line)).map((line) => basename(line));
  }

  #answer(request: IncomingMessage, response: ServerResponse): ServerResponse {
    const { pathname } = new URL(request.url ?? "", this.url);
    this.requests.push(`${request.method} ${pathname}`);
    this.authorizations.add(request.headers.authorization);
    const api = `/api/models/${this.name}`;
    if (!pathname.startsWith("/lfs/")) {
      if (this.token !== null && request.headers.authorization !== `Bearer ${this.token}`) {
        return sendJson(response, 401, { error: "Invalid credentials" });
      }
      if (!pathname.startsWith(api) && !pathname.startsWith(`/${this.name}/`)) {
        return sendJson(response, 404, { error: "Repository not found" });
      }
    }
    const revision = /\/(?:revision|tree|resolve)\/([^/]+)/.exec(pathname)?.[1];
    if (revision !== undefined && revision !== "main" && revision !== this.commit) {
      return sendJson(response, 404, { error: `Invalid rev id: ${revision}` });
    }
    if (pathname.startsWith(`${api}/revision/`)) {
      return sendJson(response, 200, { _id: "1", id: this.name, sha: this.commit, private: false });
    }
    if (pathname.startsWith(`${api}/tree/`)) return this.#sendTree(response);
    const path = decodeURIComponent(basename(pathname));
    const file = this.files.get(path);
    if (file === undefined) {
      response.setHeader("X-Error-Code", "EntryNotFound");
      return sendJson(response, 404, { error: "Entry not found" });
    }
    response.setHeader("X-Repo-Commit", this.commit);
    response.setHeader("ETag", `"${this.oid(path)}"`);
    if (file.large && !pathname.startsWith("/lfs/")) {
      response.setHeader("X-Linked-ETag", `"${this.oid(path)}"`);
      response.setHeader("X-Linked-Size", String(file.content.length));
      return response.writeHead(302, { Location: `${this.url}/lfs/${path}` }).end();
    }
    return this.#sendContent(request, response, path, file.content);
  }

  #sendTree(response: ServerResponse): ServerResponse {
    const entries = [...this.files].map(([path, { content, large }]) => {
      const pointer = { oid: this.oid(path), size: content.length, pointerSize: 130 };
      const own = { type: "file", path, size: content.length };
      return large ? { ...own, oid: sha("sha1", path), lfs: pointer } : { ...own, oid: this.oid(path) };
    });
    return sendJson(response, 200, [
      { type: "directory", path: "onnx", size: 0, oid: sha("sha1", "onnx") },
      ...entries,
    ]);
  }

  #sendContent(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    content: Buffer,
  ): ServerResponse {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (range !== null) {
      const [begin, end] = [Number(range[1]), Math.min(Number(range[2]), content.length - 1)];
      response.writeHead(206, { "Content-Range": `bytes ${begin}-${end}/${content.length}` });
      return response.end(content.subarray(begin, end + 1));
    }
    const fault = this.faults.get(path);
    const half = content.subarray(0, content.length >> 1);
    if (fault === "cut" || fault === "stall") {
      response.writeHead(200, { "Content-Length": String(content.length) });
      response.write(half, () => {
        if (fault === "cut") response.destroy();
        else this.onStall();
      });
      return response;
    }
    // A proxy that ends the body in good order, without having said how long it would be.
    if (fault === "short") return response.writeHead(200).end(half);
    if (fault === "wrong") return response.writeHead(200).end(Buffer.alloc(content.length, 1));
    return response.writeHead(200, { "Content-Length": String(content.length) }).end(content);
  }
}

function sendJson(response: ServerResponse, status: number, value: unknown): ServerResponse {
  return response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value));
}
