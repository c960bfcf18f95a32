// The ops to measure: for each op of the table one entry, which names its cases at a model's shape.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "measure.h"
#include "memory.h"
#include "shapes.h"

namespace longhaul::bench {

// Where the data of a call lie when the engine makes it, and so which read rate bounds it.
enum class Place : uint8_t {
  kMemory,  // weights and caches: the case goes round more copies than any cache holds
  kCache,   // what the previous op has just written: the smallest cache that holds it
};

struct OpCase {
  std::string op;
  std::string model;
  std::string label;
  DType dtype = DType::kF32;  // of weights and cache
  double bytes = 0;           // that must be moved at least, each read and each write once
  double flops = 0;           // that the result needs; an exp counts as one
  Place place = Place::kMemory;
  bool dot_products = false;  // of `dtype`: bounded by its own instructions, where the processor has any
  bool quick = false;         // part of --quick
  std::function<Result<Operation>(Memory&)> make;
};

struct CaseContext {
  const ModelShape& shape;
  DType dtype;       // of weights and cache
  DType activation;  // of values between ops, for these weights
  bool gpu;          // sizes that a CPU takes seconds for are measured too
  const Ops& ops;    // of the backend: an op that is null has no cases

  double act_size() const { return static_cast<double>(size_of(activation)); }
  double size() const { return static_cast<double>(size_of(dtype)); }

  OpCase start(std::string op, std::string label) const {
    OpCase c;
    c.op = std::move(op);
    c.model = shape.name;
    c.label = std::move(label);
    c.dtype = dtype;
    return c;
  }
};

using Cases = std::vector<OpCase>;

// One entry of the list: all cases of one op.
struct OpEntry {
  const char* op;
  void (*add)(const CaseContext&, Cases&);
};

const std::vector<OpEntry>& dense_entries();
const std::vector<OpEntry>& cache_entries();
const std::vector<OpEntry>& eviction_entries();
const std::vector<OpEntry>& sharing_entries();
const std::vector<OpEntry>& expert_entries();
const std::vector<OpEntry>& expert_gradient_entries();
const std::vector<OpEntry>& parallel_entries();

inline std::string text(int64_t value) {
  return std::to_string(value);
}

// Calls run() on one set of arguments after the other.
template <class Args, class... More>
Operation rotate(Memory& memory, std::vector<Args> args, More... more) {
  return {[&memory, args = std::move(args), next = size_t{0}, more...]() mutable {
            const Args& now = args[next];
            next = next + 1 == args.size() ? 0 : next + 1;
            return run(memory.backend(), memory.stream(), now, more...);
          },
          {}};
}

}  // namespace longhaul::bench
