import { lstat, mkdtemp, readdir, readFile, readlink, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type DownloadProgress, type ResolveOptions, resolveModel } from "../lib/hub.js";
import { FakeHub, type Fault } from "./fake-hub.js";
import { fixtureModel } from "./text/models.js";

const name = "some-org/tiny-llama";
const model = fixtureModel("llama");
const needed = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "model.safetensors",
];

let hub: FakeHub;
let cacheDir: string;
const resolve = (options: ResolveOptions = {}, of = name) =>
  resolveModel(of, { hubUrl: hub.url, cacheDir, ...options });
const storage = () => join(cacheDir, "models--some-org--tiny-llama");
const snapshot = () => join(storage(), "snapshots", hub.commit);

beforeEach(async () => {
  for (const variable of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"])
    vi.stubEnv(variable, "");
  cacheDir = await mkdtemp(join(tmpdir(), "longhaul-hub-"));
  vi.stubEnv("HF_HOME", cacheDir);
  hub = new FakeHub(name);
  hub.addFromDisk(...needed.map((file) => join(model, file)));
  hub.add("README.md", "not for us");
  hub.add("consolidated.safetensors", "the same weights once more");
  hub.add("pytorch_model.bin", "no");
  await hub.listen();
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(cacheDir, { recursive: true, force: true });
});

describe("a directory", () => {
  it("is taken as it is", async () => {
    expect(await resolveModel(model)).toBe(model);
  });

  it("that does not exist, or is a file, is an invalid argument", async () => {
    for (const wrong of ["./no-such-directory", "/no/such/directory", "llama", "a/../b", "a/b/c", "-x/y", ""]) {
      await expect(resolve({}, wrong)).rejects.toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
    }
    await expect(resolve({}, join(model, "config.json"))).rejects.toThrow(/not a file/);
    expect(hub.requests).toEqual([]);
  });
});

describe("a model on the hub", () => {
  it("comes with the files it needs, in the layout of the shared cache", async () => {
    const directory = await resolve();
    expect(directory).toBe(snapshot());
    expect((await readdir(directory)).sort()).toEqual([...needed].sort());
    for (const file of needed) {
      expect(Buffer.compare(await readFile(join(directory, file)), await readFile(join(model, file)))).toBe(0);
      expect((await lstat(join(directory, file))).isSymbolicLink()).toBe(true);
      expect(await readlink(join(directory, file))).toBe(join("../../blobs", hub.oid(file)));
    }
    expect(await readFile(join(storage(), "refs/main"), "utf8")).toBe(hub.commit);
    expect((await readdir(join(storage(), "blobs"))).length).toBe(needed.length);
  });

  it("is not downloaded a second time", async () => {
    await resolve();
    hub.requests = [];
    expect(await resolve()).toBe(snapshot());
    expect(hub.downloads).toEqual([]);
    expect(await resolve({ revision: hub.commit })).toBe(snapshot());
    expect(hub.downloads).toEqual([]);
  });

  it("reports bytes as they come", async () => {
    const reports: DownloadProgress[] = [];
    await resolve({ onProgress: (progress) => reports.push(progress) });
    expect([...new Set(reports.map(({ file }) => file))]).toEqual(needed);
    for (const file of needed) {
      const total = (await readFile(join(model, file))).length;
      const own = reports.filter((report) => report.file === file);
      expect(own.every((report) => report.phase === "download" && report.total === total)).toBe(true);
      expect(own[0]?.loaded).toBe(0);
      expect(own.at(-1)?.loaded).toBe(total);
      expect(own.map(({ loaded }) => loaded)).toEqual(own.map(({ loaded }) => loaded).sort((a, b) => a - b));
    }
  });

  it("may have its weights in shards, of which the index names the right ones", async () => {
    hub.files.delete("model.safetensors");
    hub.add("model-1.safetensors", "first");
    hub.add("model-2.safetensors", "second");
    hub.add(
      "model.safetensors.index.json",
      JSON.stringify({ weight_map: { a: "model-1.safetensors", b: "model-2.safetensors" } }),
    );
    const files = await readdir(await resolve());
    expect(files.filter((file) => file.includes("safetensors")).sort()).toEqual([
      "model-1.safetensors",
      "model-2.safetensors",
      "model.safetensors.index.json",
    ]);
  });

  it("cannot write outside the cache", async () => {
    hub.add("model.safetensors.index.json", JSON.stringify({ weight_map: { a: "../../../evil.safetensors" } }));
    await expect(resolve()).rejects.toMatchObject({ code: "ERR_CORRUPT_FILE" });
    await expect(resolve({ revision: "../../x" })).rejects.toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
  });

  it("is found through HF_ENDPOINT and HF_HUB_CACHE", async () => {
    vi.stubEnv("HF_ENDPOINT", `${hub.url}/`);
    vi.stubEnv("HF_HUB_CACHE", cacheDir);
    expect(await resolveModel(name)).toBe(snapshot());
  });

  it("prints nothing", async () => {
    const spies = (["debug", "log", "info", "warn"] as const).map((method) => vi.spyOn(console, method));
    await resolve();
    for (const spy of spies) {
      expect(spy).not.toHaveBeenCalled();
      spy.mockRestore();
    }
  });
});

describe("access", () => {
  beforeEach(() => {
    hub.token = "hf_right";
  });

  it("takes the token from the option, else from HF_TOKEN", async () => {
    await resolve({ token: "hf_right" });
    expect(hub.authorizations.has("Bearer hf_right")).toBe(true);
    await rm(storage(), { recursive: true });
    vi.stubEnv("HF_TOKEN", "hf_right");
    expect(await resolve()).toBe(snapshot());
  });

  it("refused says what to do", async () => {
    const refused = { code: "ERR_INVALID_ARGUMENT" };
    await expect(resolve()).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/no token was given.*HF_TOKEN/),
    });
    await expect(resolve({ token: "hf_wrong" })).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/is not enough/),
    });
    await expect(resolve({ token: "secret" })).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/starts with hf_/),
    });
    await expect(resolve({ token: "hf_wrong" })).rejects.not.toThrow(/hf_wrong/);
  });
});

describe("failures", () => {
  it("tell a wrong name, revision or kind of model", async () => {
    const wrong = { code: "ERR_INVALID_ARGUMENT" };
    await expect(resolve({}, "some-org/nothing")).rejects.toMatchObject({
      ...wrong,
      message: expect.stringMatching(/there is no some-org\/nothing/),
    });
    await expect(resolve({ revision: "v9" })).rejects.toMatchObject({
      ...wrong,
      message: expect.stringMatching(/revision v9/),
    });
    hub.files.delete("config.json");
    await expect(resolve()).rejects.toMatchObject({
      ...wrong,
      message: expect.stringMatching(/has no config.json/),
    });
    hub.add("config.json", "{}");
    hub.files.delete("model.safetensors");
    hub.files.delete("consolidated.safetensors");
    await expect(resolve()).rejects.toMatchObject({
      ...wrong,
      message: expect.stringMatching(/has no model.safetensors/),
    });
  });

  it("of the network are ERR_COMMUNICATION", async () => {
    await expect(resolve({ hubUrl: "http://127.0.0.1:1" })).rejects.toMatchObject({
      code: "ERR_COMMUNICATION",
    });
  });

  it.each<Fault>(["cut", "short", "wrong"])(
    "of a download (%s) leave nothing that looks whole",
    async (fault) => {
      hub.faults.set("model.safetensors", fault);
      await expect(resolve()).rejects.toMatchObject({
        code: "ERR_COMMUNICATION",
        message: expect.stringMatching(/try again/),
      });
      const blobs = await readdir(join(storage(), "blobs"));
      expect(blobs).not.toContain(hub.oid("model.safetensors"));
      expect(blobs.filter((blob) => blob.endsWith(".incomplete"))).toEqual([]);
      expect(await readdir(snapshot())).not.toContain("model.safetensors");

      hub.faults.clear();
      hub.requests = [];
      const directory = await resolve();
      expect(new Set(hub.downloads)).toEqual(new Set(["model.safetensors"]));
      expect(
        Buffer.compare(
          await readFile(join(directory, "model.safetensors")),
          await readFile(join(model, "model.safetensors")),
        ),
      ).toBe(0);
    },
  );
});

describe("an aborted call", () => {
  it("rejects with the signal's reason, before it began and in the middle of a file", async () => {
    const reason = new Error("changed my mind");
    await expect(resolve({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(hub.requests).toEqual([]);

    const controller = new AbortController();
    hub.faults.set("model.safetensors", "stall");
    hub.onStall = () => controller.abort(reason);
    await expect(resolve({ signal: controller.signal })).rejects.toBe(reason);
    expect((await readdir(join(storage(), "blobs"))).filter((blob) => blob.endsWith(".incomplete"))).toEqual(
      [],
    );
    hub.faults.clear();
    expect(await resolve()).toBe(snapshot());
  });
});

describe("offline", () => {
  it("uses what the cache has, without a request", async () => {
    await resolve();
    hub.requests = [];
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await resolve()).toBe(snapshot());
    expect(await resolve({ revision: hub.commit })).toBe(snapshot());
    expect(hub.requests).toEqual([]);
  });

  it("says what is missing", async () => {
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const missing = { code: "ERR_COMMUNICATION" };
    await expect(resolve()).rejects.toMatchObject({
      ...missing,
      message: expect.stringMatching(/HF_HUB_OFFLINE is set.*any file/),
    });
    vi.stubEnv("HF_HUB_OFFLINE", "0");
    await resolve();
    vi.stubEnv("HF_HUB_OFFLINE", "true");
    await rm(join(snapshot(), "model.safetensors"));
    await expect(resolve()).rejects.toMatchObject({
      ...missing,
      message: expect.stringMatching(/lacks model.safetensors/),
    });
    expect(await resolveModel(model)).toBe(model);
  });
});
