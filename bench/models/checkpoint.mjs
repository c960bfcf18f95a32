// Writes a random checkpoint of a real model's shape: config.json, model.safetensors, tokenizer.
import fs from "node:fs";
import path from "node:path";
import { distributionOf, fillRepeated, randomBlock, toBf16 } from "./random.mjs";
import { configOf, tensorsOf } from "./shapes.mjs";
import { TOKENIZER_CONFIG, tokenizerJson } from "./tokenizer.mjs";

const CHUNK = 8 * 2 ** 20;

/** Bytes of a checkpoint's tensors. */
export function checkpointBytes(shape, dtype) {
  const size = dtype === "bf16" ? 2 : 4;
  return tensorsOf(shape).reduce((sum, tensor) => sum + size * elementsOf(tensor), 0);
}

const elementsOf = (tensor) => tensor.shape.reduce((product, extent) => product * extent, 1);

/** The file's offsets by tensor name, as safetensors wants them. */
function layOut(tensors, dtype) {
  const header = {};
  let offset = 0;
  for (const tensor of tensors) {
    const bytes = elementsOf(tensor) * (dtype === "bf16" ? 2 : 4);
    header[tensor.name] = {
      dtype: dtype === "bf16" ? "BF16" : "F32",
      shape: tensor.shape,
      data_offsets: [offset, offset + bytes],
    };
    offset += bytes;
  }
  return header;
}

function writeTensors(file, shape, dtype, seed) {
  const tensors = tensorsOf(shape);
  const json = Buffer.from(JSON.stringify(layOut(tensors, dtype)));
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  head.writeBigUInt64LE(BigInt(head.length - 8));
  json.copy(head, 8);
  const fd = fs.openSync(file, "w");
  try {
    fs.writeSync(fd, head);
    const chunk = Buffer.alloc(CHUNK);
    for (const tensor of tensors) {
      const count = elementsOf(tensor);
      const { mean, deviation } = distributionOf(tensor, shape);
      const values = randomBlock(seed, tensor.name, count, mean, deviation);
      const block = new Uint8Array((dtype === "bf16" ? toBf16(values) : values).buffer);
      const bytes = count * (dtype === "bf16" ? 2 : 4);
      for (let at = 0; at < bytes; at += CHUNK) {
        const part = chunk.subarray(0, Math.min(CHUNK, bytes - at));
        fillRepeated(part, block, at);
        fs.writeSync(fd, part);
      }
    }
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * The directory of a random model below `cache`, written when it is not there. Deterministic by seed.
 * @param {import("./shapes.mjs").ModelShape} shape
 * @param {"bf16" | "f32"} dtype
 */
export function ensureCheckpoint(shape, dtype, cache, seed = 1) {
  const directory = path.join(cache, `${shape.name}-${dtype}-${seed}`);
  const tokenizer = JSON.stringify(tokenizerJson(shape.vocab));
  if (fs.existsSync(directory)) {
    // One of an older version is only another vocabulary for the same weights.
    const file = path.join(directory, "tokenizer.json");
    if (fs.readFileSync(file, "utf8") !== tokenizer) fs.writeFileSync(file, tokenizer);
    return directory;
  }
  // Only a finished directory gets the name.
  const unfinished = `${directory}.${process.pid}`;
  fs.mkdirSync(unfinished, { recursive: true });
  const write = (name, text) => fs.writeFileSync(path.join(unfinished, name), text);
  write("config.json", JSON.stringify(configOf(shape, dtype)));
  write("tokenizer.json", tokenizer);
  write("tokenizer_config.json", JSON.stringify(TOKENIZER_CONFIG));
  writeTensors(path.join(unfinished, "model.safetensors"), shape, dtype, seed);
  fs.renameSync(unfinished, directory);
  return directory;
}
