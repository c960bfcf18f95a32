import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LonghaulError } from "../../lib/errors.js";
import { ChatTemplate } from "../../lib/text/chat-template.js";
import { parseJsonObject } from "../../lib/text/files.js";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import { fixtureModel, readJson } from "./models.js";

/** Milliseconds for each property; a long run gives more through the environment. */
const budget = Number(process.env.LONGHAUL_FUZZ_SECONDS ?? 3) * 1000;
const limits = { numRuns: 1_000_000, interruptAfterTimeLimit: budget, markInterruptAsFailure: false };

/** Runs `action`, which may only succeed or raise a LonghaulError with one of the codes. */
function onlyFailsWith(codes: string[], action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof LonghaulError)) throw error;
    expect(codes).toContain(error.code);
  }
}

/** A file's content in chunks of a size that cuts strings, characters and numbers apart. */
const chunksOf = (text: string) => () => {
  const bytes = Buffer.from(text);
  return Array.from({ length: Math.ceil(bytes.length / 61) }, (_, i) => bytes.subarray(61 * i, 61 * i + 61));
};

const named = { bos: "<s>", eos: "</s>", unk: null, pad: null };
const strange = fc.oneof(
  fc.constantFrom<unknown>(null, true, -1, 0.5, 1e308, 2 ** 40, "", "a", "__proto__", [], {}, [[]], {
    type: "Sequence",
  }),
  fc.jsonValue({ maxDepth: 2 }),
);

/** The paths of every object member and array item, of long collections the first few only. */
function pathsOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [path];
  return [
    path,
    ...Object.entries(value)
      .slice(0, 40)
      .flatMap(([key, inner]) => pathsOf(inner, [...path, key])),
  ];
}

function replaceAt(root: unknown, path: string[], change: { remove: boolean; value: unknown }): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return change.value;
  const copy = (Array.isArray(root) ? [...root] : { ...(root as object) }) as Record<string, unknown>;
  if (rest.length > 0) copy[key] = replaceAt(copy[key], rest, change);
  else if (change.remove) delete copy[key];
  else copy[key] = change.value;
  return copy;
}

describe.each(["llama", "qwen2"])("tokenizer.json of %s, damaged", (name) => {
  const source = readJson(fixtureModel(name), "tokenizer.json");
  const config = readJson(fixtureModel(name), "tokenizer_config.json");
  const use = (tokenizer: Tokenizer) => {
    const ids = tokenizer.encode("It's 12 words,\n\n na\u00efve \u{1f642}<|im_end|>x", { continuation: true });
    onlyFailsWith(["ERR_UNSUPPORTED", "ERR_CORRUPT_FILE"], () =>
      tokenizer.decode([...ids, 0, 1, 319, 1_000_000]),
    );
  };
  const load = (tokenizer: string, tokenizerConfig: unknown) => {
    const files = {
      directory: "/model",
      tokenizer: chunksOf(tokenizer),
      tokenizerConfig: parseJsonObject("tokenizer_config.json", JSON.stringify(tokenizerConfig)),
      generationConfig: null,
      modelConfig: null,
    };
    use(new Tokenizer(files));
  };

  it("raises ERR_CORRUPT_FILE and nothing else, whatever member changes", () => {
    const paths = pathsOf(source);
    const change = fc.record({ at: fc.nat(paths.length - 1), remove: fc.boolean(), value: strange });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        let damaged: unknown = source;
        for (const { at, ...how } of changes) {
          try {
            damaged = replaceAt(damaged, paths[at] as string[], how);
          } catch {
            // An earlier change took the place away that this one names.
          }
        }
        onlyFailsWith(["ERR_CORRUPT_FILE"], () => load(JSON.stringify(damaged) ?? "", config));
      }),
      limits,
    );
  });

  it("raises ERR_CORRUPT_FILE and nothing else, whatever bytes change", () => {
    const text = JSON.stringify(source);
    fc.assert(
      fc.property(fc.nat(text.length), fc.nat(40), fc.string({ maxLength: 5 }), (at, cut, put) => {
        const damaged = text.slice(0, at) + put + text.slice(at + cut);
        onlyFailsWith(["ERR_CORRUPT_FILE"], () => load(damaged, config));
      }),
      limits,
    );
  });

  it("raises ERR_CORRUPT_FILE and nothing else for any tokenizer_config.json", () => {
    const keys = fc.constantFrom(
      "bos_token",
      "eos_token",
      "unk_token",
      "pad_token",
      "chat_template",
      "add_bos_token",
    );
    fc.assert(
      fc.property(fc.dictionary(keys, strange), (changes) => {
        onlyFailsWith(["ERR_CORRUPT_FILE"], () => load(JSON.stringify(source), { ...config, ...changes }));
      }),
      { ...limits, interruptAfterTimeLimit: budget / 4 },
    );
  });
});

describe("nesting without end", () => {
  it("raises ERR_CORRUPT_FILE", () => {
    const source = readJson(fixtureModel("llama"), "tokenizer.json");
    for (const [member, items] of [
      ["pre_tokenizer", "pretokenizers"],
      ["post_processor", "processors"],
      ["decoder", "decoders"],
      ["normalizer", "normalizers"],
    ] as const) {
      const open = `{"type":"Sequence","${items}":[`;
      const step = `${open.repeat(50_000)}{"type":"ByteLevel"}${"]}".repeat(50_000)}`;
      const tokenizer = chunksOf(JSON.stringify({ ...source, [member]: "?" }).replace('"?"', step));
      const files = {
        directory: "/model",
        tokenizer,
        tokenizerConfig: null,
        generationConfig: null,
        modelConfig: null,
      };
      const run = () => new Tokenizer(files).decode([1]);
      expect(run).toThrow(expect.objectContaining({ code: "ERR_CORRUPT_FILE" }));
    }
    const deep = new ChatTemplate(`{{ ${"(".repeat(300)}1${")".repeat(300)} }}`, "t", { named });
    expect(deep.render([{ role: "user", content: "" }])).toBe("1");
    const endless = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    const loop = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    for (const template of [endless, loop, "{{ range(10**12) }}", `{{ ${"(".repeat(50_000)} }}`]) {
      const run = () => new ChatTemplate(template, "t", { named }).render([{ role: "user", content: "" }]);
      expect(run).toThrow(expect.objectContaining({ code: "ERR_CORRUPT_FILE" }));
    }
  });
});

describe("chat templates, damaged", () => {
  const templates = ["llama", "qwen2"].map(
    (name) => readJson(fixtureModel(name), "tokenizer_config.json").chat_template,
  );
  const fragments = fc.constantFrom(
    "{%",
    "%}",
    "{{",
    "}}",
    "for m in messages",
    "endfor",
    "if",
    "endif",
    "macro f(x)",
    "endmacro",
    "f(1)",
    "set x = ",
    "m['content']",
    "range(9)",
    "range(10**12)",
    "| trim",
    "| tojson",
    "loop.index0",
    "raise_exception('no')",
    "'",
    '"',
    "\\",
    "messages[0]",
    "none",
    "not",
    "strftime_now('%d %b %Y')",
    " ",
    "\n",
    "namespace(a=1)",
    "~",
    "*",
    "(",
    ")",
    "[::-1]",
  );
  const message = fc.record({
    role: fc.constantFrom("system", "user", "assistant", "tool"),
    content: fc.string(),
  });
  const render = (source: string, messages: { role: string; content: string }[]) => {
    const template = new ChatTemplate(source, "chat_template.jinja", { named });
    template.render(messages, { addGenerationPrompt: true });
    template.append({ history: messages.slice(0, 1), added: messages.slice(1), addGenerationPrompt: true });
  };
  const codes = ["ERR_CORRUPT_FILE", "ERR_INVALID_ARGUMENT", "ERR_UNSUPPORTED"];

  it("raise a LonghaulError and nothing else", () => {
    const edit = fc.record({ at: fc.nat(300), cut: fc.nat(20), put: fc.array(fragments, { maxLength: 3 }) });
    fc.assert(
      fc.property(
        fc.constantFrom(...templates),
        fc.array(edit, { minLength: 1, maxLength: 4 }),
        fc.array(message, { minLength: 1, maxLength: 4 }),
        (source: string, edits, messages) => {
          let damaged = source;
          for (const { at, cut, put } of edits)
            damaged = damaged.slice(0, at) + put.join("") + damaged.slice(at + cut);
          onlyFailsWith(codes, () => render(damaged, messages));
        },
      ),
      limits,
    );
  });

  it("raise a LonghaulError for messages of any shape", () => {
    const template = new ChatTemplate(templates[0], "chat_template.jinja", { named });
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 3 }), (messages) => {
        onlyFailsWith(["ERR_INVALID_ARGUMENT"], () => template.render(messages as never));
      }),
      { ...limits, interruptAfterTimeLimit: budget / 4 },
    );
  });
});
