// Cases of the ops that know no cache.
#include <cmath>
#include <vector>

#include "cases.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kBlock = 512;  // rows of a prefill block

void add_embed(const CaseContext& ctx, Cases& cases) {
  const int64_t vocab = ctx.shape.vocab, hidden = ctx.shape.hidden;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("embed", "rows " + text(rows));
    c.bytes = static_cast<double>(rows) * (4 + static_cast<double>(hidden) * (ctx.size() + 4));
    c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
      LONGHAUL_ASSIGN(const Weight* table, memory.weight(dtype, vocab, hidden));
      std::vector<EmbedArgs> args;
      for (int i = 0; i < 64; ++i) {
        std::vector<int32_t> ids;
        for (int64_t row = 0; row < rows; ++row)
          ids.push_back(static_cast<int32_t>(memory.next() % static_cast<uint64_t>(vocab)));
        EmbedArgs a;
        LONGHAUL_ASSIGN(a.ids, memory.from(DType::kI32, {rows}, ids.data()));
        LONGHAUL_ASSIGN(a.out, memory.zeros(DType::kF32, {rows, hidden}));
        a.table = table;
        args.push_back(a);
      }
      return rotate(memory, std::move(args));
    };
    cases.push_back(std::move(c));
  }
}

// With the residual, as between a layer's halves: x += delta, then the norm.
void add_rms_norm(const CaseContext& ctx, Cases& cases) {
  const int64_t hidden = ctx.shape.hidden;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("rms_norm", "rows " + text(rows) + " with residual");
    const double elements = static_cast<double>(rows * hidden);
    // x read and written, delta read, out written, the weight read.
    c.bytes = elements * (4 + 4 + 2 * ctx.act_size()) + 4 * static_cast<double>(hidden);
    c.flops = 5 * elements;
    c.place = Place::kCache;
    c.quick = true;
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      RmsNormArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(DType::kF32, {rows, hidden}));
      LONGHAUL_ASSIGN(a.delta, memory.random(act, {rows, hidden}, 1e-6f));
      LONGHAUL_ASSIGN(a.weight, memory.random(DType::kF32, {hidden}));
      LONGHAUL_ASSIGN(a.out, memory.zeros(act, {rows, hidden}));
      a.eps = 1e-5f;
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

OpCase gemm_case(const CaseContext& ctx, const char* role, int64_t outputs, int64_t cols, int64_t rows) {
  OpCase c =
      ctx.start("gemm", std::string(role) + " " + text(outputs) + "x" + text(cols) + " rows " + text(rows));
  const auto m = static_cast<double>(rows), n = static_cast<double>(outputs), k = static_cast<double>(cols);
  c.bytes = n * k * ctx.size() + m * (k + n) * ctx.act_size();
  c.flops = 2 * m * n * k;
  c.dot_products = true;
  c.make = [=, act = ctx.activation, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    GemmArgs a;
    a.role = rows < kBlock ? RowRole::kDecode : RowRole::kBlock;
    LONGHAUL_ASSIGN(a.x, memory.random(act, {rows, cols}));
    LONGHAUL_ASSIGN(a.out, memory.zeros(act, {rows, outputs}));
    std::vector<GemmArgs> args;
    const int64_t bytes = outputs * cols * static_cast<int64_t>(size_of(dtype));
    for (int64_t i = Memory::cold_copies(bytes); i > 0; --i) {
      LONGHAUL_ASSIGN(a.weight, memory.weight(dtype, outputs, cols));
      args.push_back(a);
    }
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().gemm_workspace(a)));
    return rotate(memory, std::move(args), workspace);
  };
  return c;
}

void add_gemm(const CaseContext& ctx, Cases& cases) {
  const ModelShape& s = ctx.shape;
  std::vector<int64_t> counts = {1, 4, 16, 64, kBlock};
  if (ctx.gpu) counts.push_back(4 * kBlock);
  for (int64_t rows : counts) {
    cases.push_back(gemm_case(ctx, "qkv", s.qkv_rows(), s.hidden, rows));
    cases.push_back(gemm_case(ctx, "o", s.hidden, s.q_rows(), rows));
    cases.push_back(gemm_case(ctx, "gate_up", 2 * s.ff, s.hidden, rows));
    cases.back().quick = rows == 1 || rows == kBlock;
    cases.push_back(gemm_case(ctx, "down", s.hidden, s.ff, rows));
  }
  cases.push_back(gemm_case(ctx, "lm_head", s.vocab, s.hidden, 1));
  cases.back().quick = true;
}

void add_swiglu(const CaseContext& ctx, Cases& cases) {
  const int64_t ff = ctx.shape.ff;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("swiglu", "rows " + text(rows));
    const double elements = static_cast<double>(rows * ff);
    c.bytes = 3 * elements * ctx.act_size();
    c.flops = 5 * elements;  // exp, 1 + e, divide, two products
    c.place = Place::kCache;
    c.quick = true;
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      SwigluArgs a;
      LONGHAUL_ASSIGN(a.gate_up, memory.random(act, {rows, 2 * ff}));
      LONGHAUL_ASSIGN(a.out, memory.zeros(act, {rows, ff}));
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

Result<RopeTableArgs> rope_tables(Memory& memory, int64_t rows, int64_t dim) {
  std::vector<int32_t> positions;
  std::vector<double> frequencies;
  for (int64_t row = 0; row < rows; ++row) positions.push_back(static_cast<int32_t>(10000 + row));
  for (int64_t i = 0; i < dim / 2; ++i)
    frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim)));
  RopeTableArgs a;
  LONGHAUL_ASSIGN(a.positions, memory.from(DType::kI32, {rows}, positions.data()));
  LONGHAUL_ASSIGN(a.frequencies, memory.from(DType::kF64, {dim / 2}, frequencies.data()));
  LONGHAUL_ASSIGN(a.cos, memory.zeros(DType::kF32, {rows, dim / 2}));
  LONGHAUL_ASSIGN(a.sin, memory.zeros(DType::kF32, {rows, dim / 2}));
  return a;
}

void add_rope_table(const CaseContext& ctx, Cases& cases) {
  const int64_t dim = ctx.shape.dim;
  OpCase c = ctx.start("rope_table", "rows " + text(kBlock));
  c.bytes = static_cast<double>(kBlock * dim * 4);
  c.flops = static_cast<double>(kBlock * dim / 2 * 3);  // angle, cos, sin
  c.place = Place::kCache;
  c.make = [=](Memory& memory) -> Result<Operation> {
    LONGHAUL_ASSIGN(RopeTableArgs a, rope_tables(memory, kBlock, dim));
    return rotate(memory, std::vector{a});
  };
  cases.push_back(std::move(c));
}

void add_rope(const CaseContext& ctx, Cases& cases) {
  const int64_t dim = ctx.shape.dim, heads = ctx.shape.heads;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("rope", "rows " + text(rows) + " heads " + text(heads));
    const double elements = static_cast<double>(rows * heads * dim);
    c.bytes = 2 * elements * ctx.act_size() + static_cast<double>(rows * dim * 4);
    c.flops = 3 * elements;
    c.place = Place::kCache;
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      LONGHAUL_ASSIGN(RopeTableArgs table, rope_tables(memory, rows, dim));
      LONGHAUL_TRY(run(memory.backend(), memory.stream(), table));
      RopeArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(act, {rows, heads, dim}));
      a.cos = table.cos;
      a.sin = table.sin;
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

void add_gather_rows(const CaseContext& ctx, Cases& cases) {
  const int64_t hidden = ctx.shape.hidden, from = 8 * kBlock;
  OpCase c = ctx.start("gather_rows", text(kBlock) + " of " + text(from) + " rows");
  c.bytes = static_cast<double>(kBlock) * (4 + 2 * static_cast<double>(hidden) * ctx.act_size());
  c.place = Place::kCache;
  c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
    std::vector<int32_t> index;
    for (int64_t i = 0; i < kBlock; ++i) index.push_back(static_cast<int32_t>(memory.next() % from));
    GatherRowsArgs a;
    LONGHAUL_ASSIGN(a.x, memory.random(act, {from, hidden}));
    LONGHAUL_ASSIGN(a.index, memory.from(DType::kI32, {kBlock}, index.data()));
    LONGHAUL_ASSIGN(a.out, memory.zeros(act, {kBlock, hidden}));
    return rotate(memory, std::vector{a});
  };
  cases.push_back(std::move(c));
}

void add_sample(const CaseContext& ctx, Cases& cases) {
  const int64_t vocab = ctx.shape.vocab;
  struct Way {
    const char* label;
    SampleParams params;
    bool quick;
  };
  const Way ways[] = {
      {"greedy", {.temperature = 0}, true},
      {"temperature", {.temperature = 0.8f, .seed = 1}, false},
      {"top_k 40 top_p 0.95", {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .seed = 1}, false}};
  for (const Way& way : ways) {
    OpCase c = ctx.start("sample", way.label);
    c.bytes = 4 * static_cast<double>(vocab);
    c.flops = (way.params.temperature == 0 ? 1 : 3) * static_cast<double>(vocab);
    c.place = Place::kCache;
    c.quick = way.quick;
    c.make = [=, params = way.params](Memory& memory) -> Result<Operation> {
      SampleArgs a;
      LONGHAUL_ASSIGN(a.logits, memory.random(DType::kF32, {1, vocab}, 3));
      LONGHAUL_ASSIGN(a.ids, memory.zeros(DType::kI32, {1}));
      LONGHAUL_ASSIGN(Tensor bytes, memory.from(DType::kU8, {sizeof params}, &params));
      a.params = bytes.as<const SampleParams>();
      LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().sample_workspace(a)));
      return rotate(memory, std::vector{a}, workspace);
    };
    cases.push_back(std::move(c));
  }
}

}  // namespace

const std::vector<OpEntry>& dense_entries() {
  static const std::vector<OpEntry> entries = {
      {"embed", add_embed},
      {"rms_norm", add_rms_norm},
      {"gemm", add_gemm},
      {"swiglu", add_swiglu},
      {"rope_table", add_rope_table},
      {"rope", add_rope},
      {"gather_rows", add_gather_rows},
      {"sample", add_sample},
  };
  return entries;
}

}  // namespace longhaul::bench
