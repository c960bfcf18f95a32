// Each op of the compute core on typed arrays: shapes are in brackets, outermost first. Calls run on a thread of
// libuv's pool, on a copy of their arrays.

export { append, attention, mergeStates, truncate } from "./kernels/attention.js";
export type { CacheRows, HeldRows } from "./kernels/cache.js";
export type { KernelOptions, Matrix } from "./kernels/call.js";
export {
  addRmsNorm,
  embed,
  gatherRows,
  gemm,
  rmsNorm,
  rope,
  ropeTable,
  swiglu,
} from "./kernels/dense.js";
export { compact, keyDiversity, scoreKeys, selectRows } from "./kernels/eviction.js";
export { sample } from "./kernels/sampling.js";
