// Cases of routing and of what LoRA experts add to projections, at the gate and up projection of a layer.
#include <cmath>
#include <string>

#include "cases.h"
#include "expert_data.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kBlock = 512;
constexpr int32_t kParts = 2;  // gate and up
// Small, so that what is added to stays what it was, however often it is called.
constexpr float kScale = 1e-6f;

Result<Tensor> router_gate(Memory& memory, int64_t cols) {
  return memory.random(DType::kF32, {kExperts, cols}, 1 / std::sqrt(static_cast<float>(cols)));
}

// An exp of each logit, and with the entropy a power as well.
double router_flops(int64_t rows, int64_t cols, bool entropy) {
  return static_cast<double>(rows * kExperts) * (2 * static_cast<double>(cols) + (entropy ? 2 : 1));
}

void add_route(const CaseContext& ctx, Cases& cases) {
  const int64_t hidden = ctx.shape.hidden;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("route", text(kExperts) + " experts rows " + text(rows));
    const auto elements = static_cast<double>(rows * hidden);
    c.bytes = elements * ctx.act_size() + 4 * static_cast<double>(kExperts * (hidden + rows));
    c.flops = router_flops(rows, hidden, true);
    c.quick = rows == kBlock;
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      RouteArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(act, {rows, hidden}));
      LONGHAUL_ASSIGN(a.weights, memory.zeros(DType::kF32, {rows, kExperts}));
      std::vector<RouteArgs> args;
      for (int64_t i = Memory::cold_copies(4 * kExperts * hidden); i > 0; --i) {
        LONGHAUL_ASSIGN(a.gate, router_gate(memory, hidden));
        args.push_back(a);
      }
      return rotate(memory, std::move(args));
    };
    cases.push_back(std::move(c));
  }
}

// A mixture that routes each row to some experts, or one expert for all rows: LoRA.
struct Adapter {
  bool mixture;
  int64_t rows;

  int64_t experts() const { return mixture ? kExperts : 1; }
  int64_t rank() const { return mixture ? kExpertRank : 16; }
  int64_t depth() const { return experts() * rank(); }
  // Rows of A, or columns of B, that one row needs, and that all rows together do.
  int64_t row_depth() const { return mixture ? kRowExperts * rank() : rank(); }
  int64_t depth_in_use() const { return mixture ? experts_in_use(rows) * rank() : rank(); }

  std::string label() const {
    return std::string(mixture ? text(kExperts) + " experts of rank " : "LoRA of rank ") + text(rank()) +
           " rows " + text(rows);
  }
  ExpertPart part() const {
    ExpertPart part;
    part.experts = static_cast<int32_t>(experts());
    part.rank = static_cast<int32_t>(rank());
    part.scale = kScale;
    part.weighted = mixture;
    return part;
  }
};

constexpr Adapter kAdapters[] = {{true, 1}, {true, kBlock}, {false, 1}, {false, kBlock}};

// The same op with other matrices in each call: `set` puts them into a part. Segments are host memory, and stay
// as long as the operation does.
template <class Args, class Set>
Result<Operation> rotate_adapters(Memory& memory, Args a, const Adapter& adapter, int64_t bytes,
                                  size_t (*workspace_of)(const Args&), Set&& set) {
  const int64_t copies = Memory::cold_copies(bytes);
  auto segments = std::make_shared<std::vector<ExpertSegment>>(static_cast<size_t>(copies));
  std::vector<Args> args;
  for (ExpertSegment& segment : *segments) {
    segment.row_count = adapter.rows;
    for (int32_t p = 0; p < kParts; ++p) {
      ExpertPart& part = segment.parts[static_cast<size_t>(p)];
      part = adapter.part();
      LONGHAUL_TRY(set(part));
    }
    a.segments = &segment;
    a.segment_count = 1;
    args.push_back(a);
  }
  LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(workspace_of(a)));
  Operation operation = rotate(memory, std::move(args), workspace);
  operation.call = [segments, call = std::move(operation.call)] { return call(); };
  return operation;
}

RowRole role_of(int64_t rows) {
  return rows < kBlock ? RowRole::kDecode : RowRole::kBlock;
}

// The matrices of experts that no row chose need not be read, nor multiplied.
void add_expert_shrink(const CaseContext& ctx, Cases& cases) {
  const int64_t hidden = ctx.shape.hidden;
  for (const Adapter& adapter : kAdapters) {
    const int64_t rows = adapter.rows;
    OpCase c = ctx.start("expert_shrink", adapter.label());
    const auto cols = static_cast<double>(hidden);
    // x read once, A of each part, the middle written.
    c.bytes = static_cast<double>(rows) * cols * ctx.act_size() +
              kParts * (static_cast<double>(adapter.depth_in_use()) * cols * ctx.size() +
                        4 * static_cast<double>(rows * adapter.row_depth()));
    c.flops = kParts * 2 * static_cast<double>(rows * adapter.row_depth()) * cols;
    if (adapter.mixture) {
      c.bytes += kParts * 4 * static_cast<double>(kExperts * (hidden + rows));
      c.flops += kParts * router_flops(rows, hidden, false);
    }
    c.dot_products = true;
    c.quick = adapter.mixture;
    c.make = [=, act = ctx.activation, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
      ExpertShrinkArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(act, {rows, hidden}));
      a.parts = kParts;
      if (adapter.mixture) {
        LONGHAUL_ASSIGN(a.weights, memory.zeros(DType::kF32, {rows, kParts, kExperts}));
      }
      LONGHAUL_ASSIGN(a.middle, memory.zeros(DType::kF32, {rows, kParts, adapter.depth()}));
      a.role = role_of(rows);
      const int64_t bytes = kParts * adapter.depth() * hidden * static_cast<int64_t>(size_of(dtype));
      return rotate_adapters(memory, a, adapter, bytes, memory.backend().ops().expert_shrink_workspace,
                             [&](ExpertPart& part) -> Status {
                               LONGHAUL_ASSIGN(part.a, memory.weight(dtype, adapter.depth(), hidden));
                               if (!adapter.mixture) return {};
                               LONGHAUL_ASSIGN(part.gate, router_gate(memory, hidden));
                               part.router = top_k_router(static_cast<int32_t>(kRowExperts));
                               return {};
                             });
    };
    cases.push_back(std::move(c));
  }
}

// Into the two halves of one [rows, 2 * ff], as the projections leave it.
void add_expert_expand(const CaseContext& ctx, Cases& cases) {
  const int64_t ff = ctx.shape.ff;
  for (const Adapter& adapter : kAdapters) {
    const int64_t rows = adapter.rows;
    OpCase c = ctx.start("expert_expand", adapter.label());
    const auto outputs = static_cast<double>(ff);
    // Middle and B read, out read and written.
    c.bytes = kParts * (4 * static_cast<double>(rows * adapter.row_depth()) +
                        static_cast<double>(adapter.depth_in_use()) * outputs * ctx.size() +
                        2 * static_cast<double>(rows) * outputs * ctx.act_size());
    if (adapter.mixture) c.bytes += kParts * 4 * static_cast<double>(rows * kExperts);
    c.flops = kParts * 2 * static_cast<double>(rows * adapter.row_depth()) * outputs;
    c.dot_products = true;
    c.quick = adapter.mixture;
    c.make = [=, act = ctx.activation, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
      ExpertExpandArgs a;
      LONGHAUL_ASSIGN(a.middle, memory.random(DType::kF32, {rows, kParts, adapter.depth()}));
      if (adapter.mixture) {
        LONGHAUL_ASSIGN(a.weights, routed_weights(memory, rows, kParts));
      }
      a.parts = kParts;
      LONGHAUL_ASSIGN(Tensor out, memory.random(act, {rows, kParts * ff}));
      for (int32_t p = 0; p < kParts; ++p) a.out[static_cast<size_t>(p)] = out.narrow(1, p * ff, ff);
      a.role = role_of(rows);
      const int64_t bytes = kParts * adapter.depth() * ff * static_cast<int64_t>(size_of(dtype));
      return rotate_adapters(memory, a, adapter, bytes, memory.backend().ops().expert_expand_workspace,
                             [&](ExpertPart& part) -> Status {
                               LONGHAUL_ASSIGN(part.b, memory.weight(dtype, ff, adapter.depth()));
                               return {};
                             });
    };
    cases.push_back(std::move(c));
  }
}

void add_add_weighted_rows(const CaseContext& ctx, Cases& cases) {
  const int64_t hidden = ctx.shape.hidden;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("add_weighted_rows", "rows " + text(rows) + " accumulated");
    const auto elements = static_cast<double>(rows * hidden);
    c.bytes = 3 * elements * ctx.act_size() + 4 * static_cast<double>(rows);
    c.flops = 2 * elements;
    c.place = Place::kCache;
    c.quick = rows == kBlock;
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      AddWeightedRowsArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(act, {rows, hidden}));
      LONGHAUL_ASSIGN(a.weights, memory.random(DType::kF32, {rows, 1}, kScale));
      LONGHAUL_ASSIGN(a.out, memory.random(act, {rows, hidden}));
      a.accumulate = true;
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

}  // namespace

const std::vector<OpEntry>& expert_entries() {
  static const std::vector<OpEntry> entries = {
      {"route", add_route},
      {"expert_shrink", add_expert_shrink},
      {"expert_expand", add_expert_expand},
      {"add_weighted_rows", add_add_weighted_rows},
  };
  return entries;
}

}  // namespace longhaul::bench
