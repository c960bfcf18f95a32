// The command line of `npm run bench`.
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { SHAPES, shapeOf } from "./models/shapes.mjs";

export const USAGE = `npm run bench -- [options]
  --quick          under two minutes: small shapes, short histories, one repetition
  --filter TEXT    only ops and engine runs whose name contains it ("gemm", "attention", "engine Llama", "budget")
  --device NAME    cpu (default), reference, cuda or cuda:N
  --models A,B     of ${SHAPES.map(({ name }) => name).join(", ")}
  --threads 1,2    default: 1 and one per core
  --repeats N      processes per engine run; default 3, with --quick 1
  --peers          node-llama-cpp beside it, if it is installed in bench/peers
  --json FILE      write the result there, and the page beside it; default bench/results/<date>-<cpu>.json
  --help

Random checkpoints are kept in $LONGHAUL_BENCH_CACHE, by default longhaul-bench-models in the system's folder for
temporary files: about 5 GB for all models, twice that with --peers.
`;

const OPTIONS = {
  quick: { type: "boolean", default: false },
  filter: { type: "string", default: "" },
  device: { type: "string", default: "cpu" },
  models: { type: "string" },
  threads: { type: "string" },
  repeats: { type: "string" },
  peers: { type: "boolean", default: false },
  json: { type: "string" },
  help: { type: "boolean", default: false },
};

function positive(option, text) {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value <= 1024) return value;
  throw new Error(`--${option}: '${text}' is no count`);
}

export function parseOptions(argv) {
  const { values } = parseArgs({ args: argv, options: OPTIONS });
  if (!/^(cpu|reference|cuda(:\d+)?)$/.test(values.device)) {
    throw new Error(`--device: '${values.device}' is none of cpu, reference, cuda, cuda:N`);
  }
  const models = values.models?.split(",").map((name) => shapeOf(name).name);
  const cores = os.availableParallelism();
  const threads = values.threads?.split(",").map((text) => positive("threads", text));
  return {
    ...values,
    models,
    threads: values.device !== "cpu" ? [1] : (threads ?? (cores > 1 ? [1, cores] : [1])),
    repeats: values.repeats === undefined ? (values.quick ? 1 : 3) : positive("repeats", values.repeats),
    cache: process.env.LONGHAUL_BENCH_CACHE ?? path.join(os.tmpdir(), "longhaul-bench-models"),
  };
}
