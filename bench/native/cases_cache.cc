// Cases of the ops that append to caches and attend over them.
#include <cmath>

#include "cases.h"
#include "paged_cache.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kBlock = 512;

// Gives every batch of sequences its turn: `set` fills in what differs, and changes made by a call are undone
// when `restores`.
template <class Args, class... More>
Operation rotate_caches(Memory& memory, std::shared_ptr<PagedCaches> caches, Args args, bool restores,
                        void (*set)(Args&, const CacheView*), More... more) {
  const int64_t step = args.sequences;
  auto sequence = std::make_shared<int64_t>(0);
  Operation operation;
  operation.call = [=, &memory]() mutable {
    set(args, caches->view(*sequence));
    *sequence = (*sequence + step) % caches->sequences();
    return run(memory.backend(), memory.stream(), args, more...);
  };
  if (restores) operation.restore = [=] { return caches->restore(*sequence); };
  return operation;
}

void add_append(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  for (int64_t rows : {int64_t{1}, kBlock}) {
    OpCase c = ctx.start("append", "rows " + text(rows) + " rotated");
    // K and V read and written, a position each head's row, cos and sin.
    c.bytes = static_cast<double>(rows * s.kv_heads) *
                  (2 * static_cast<double>(s.dim) * (ctx.act_size() + ctx.size()) + 4) +
              static_cast<double>(rows) * (4 + 4 * static_cast<double>(s.dim));
    c.flops = 3 * static_cast<double>(rows * s.kv_heads * s.dim);
    c.quick = rows == kBlock;
    c.make = [=, dtype = ctx.dtype, act = ctx.activation](Memory& memory) -> Result<Operation> {
      CacheSpec spec{dtype, s.kv_heads, s.dim, /*rows=*/1024, /*step_rows=*/rows, /*room=*/rows};
      LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
      AppendArgs a;
      a.pages = caches->pages();
      a.sequences = 1;
      LONGHAUL_ASSIGN(a.k, memory.random(act, {rows, s.kv_heads, s.dim}));
      LONGHAUL_ASSIGN(a.v, memory.random(act, {rows, s.kv_heads, s.dim}));
      LONGHAUL_ASSIGN(a.positions, memory.zeros(DType::kI32, {rows}));
      LONGHAUL_ASSIGN(a.cos, memory.random(DType::kF32, {rows, s.dim / 2}));
      LONGHAUL_ASSIGN(a.sin, memory.random(DType::kF32, {rows, s.dim / 2}));
      return rotate_caches(
          memory, caches, a, true, +[](AppendArgs& args, const CacheView* view) { args.views = view; });
    };
    cases.push_back(std::move(c));
  }
}

// `rows` of each of `batch` sequences, behind `history` rows.
OpCase attention_case(const CaseContext& ctx, int64_t history, int64_t rows, int64_t batch = 1,
                      bool single_pages = false) {
  const ModelShape s = ctx.shape;
  const std::string sequences = batch == 1 ? "" : text(batch) + " sequences, ";
  OpCase c = ctx.start("attention", sequences + "rows " + text(rows) + " over " + text(history) +
                                        (single_pages ? " single pages" : ""));
  const int64_t length = history + rows;
  // Row i of the step sees history + i + 1 rows.
  const double seen =
      static_cast<double>(rows) * (static_cast<double>(history) + (static_cast<double>(rows) + 1) / 2);
  c.bytes = static_cast<double>(batch) * (2 * static_cast<double>(length * s.kv_heads * s.dim) * ctx.size() +
                                          2 * static_cast<double>(rows * s.heads * s.dim) * ctx.act_size());
  c.flops = 4 * seen * static_cast<double>(batch * s.heads * s.dim);
  c.dot_products = true;
  c.make = [=, dtype = ctx.dtype, act = ctx.activation](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, length, rows, 0, batch};
    if (single_pages) spec.run_pages = 1;
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    AttentionArgs a;
    a.pages = caches->pages();
    a.sequences = batch;
    LONGHAUL_ASSIGN(a.q, memory.random(act, {batch * rows, s.heads, s.dim}));
    LONGHAUL_ASSIGN(a.out, memory.zeros(act, {batch * rows, s.heads, s.dim}));
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    a.scale = 1 / std::sqrt(static_cast<float>(s.dim));
    a.max_length = static_cast<int32_t>(length);
    a.role = rows == 1 ? RowRole::kDecode : RowRole::kBlock;
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().attention_workspace(a)));
    return rotate_caches(
        memory, caches, a, false, +[](AttentionArgs& args, const CacheView* view) { args.views = view; },
        workspace);
  };
  return c;
}

void add_attention(const CaseContext& ctx, Cases& cases) {
  for (int64_t history : {1024, 4096, 16384}) {
    cases.push_back(attention_case(ctx, history - 1, 1));
    cases.back().quick = history == 4096;
  }
  cases.push_back(attention_case(ctx, 4095, 1, 1, true));
  cases.back().quick = true;
  for (int64_t history : {0, 2048, 16384}) {
    cases.push_back(attention_case(ctx, history, kBlock));
    cases.back().quick = history == 2048;
  }
  if (ctx.gpu) {
    cases.push_back(attention_case(ctx, 0, 8192));
    cases.push_back(attention_case(ctx, 16383, 1, 16));
  }
}

void add_merge_states(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  constexpr int64_t kSplits = 8;
  OpCase c = ctx.start("merge_states", text(kSplits) + " parts of 16 rows");
  constexpr int64_t kRows = 16;
  const auto states = static_cast<double>(kRows * s.heads);
  c.bytes = kSplits * states * 4 * static_cast<double>(s.dim + 1) +
            states * (ctx.act_size() * static_cast<double>(s.dim) + 4);
  c.flops = kSplits * states * static_cast<double>(2 * s.dim + 1);
  c.place = Place::kCache;
  c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
    MergeStatesArgs a;
    LONGHAUL_ASSIGN(a.parts, memory.random(DType::kF32, {kSplits, kRows, s.heads, s.dim}));
    LONGHAUL_ASSIGN(a.parts_lse, memory.random(DType::kF32, {kSplits, kRows, s.heads}));
    LONGHAUL_ASSIGN(a.out, memory.zeros(act, {kRows, s.heads, s.dim}));
    LONGHAUL_ASSIGN(a.lse, memory.zeros(DType::kF32, {kRows, s.heads}));
    return rotate(memory, std::vector{a});
  };
  cases.push_back(std::move(c));
}

// Every row moves: with each call the end lies one position further on.
void add_pack_positions(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  constexpr int64_t kRows = 4096;
  OpCase c = ctx.start("pack_positions", text(kRows) + " rows");
  const auto rows = static_cast<double>(kRows * s.kv_heads);
  c.bytes = rows * (2 * static_cast<double>(s.dim) * ctx.size() + 8);
  c.flops = 3 * rows * static_cast<double>(s.dim);
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, /*step_rows=*/0, /*room=*/0};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    PackPositionsArgs a;
    a.pages = caches->pages();
    a.sequences = 1;
    LONGHAUL_ASSIGN(a.frequencies, memory.zeros(DType::kF64, {s.dim / 2}));
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    a.end = a.max_length = kRows;
    return rotate_caches(
        memory, caches, a, false, +[](PackPositionsArgs& args, const CacheView* view) {
          args.views = view;
          ++args.end;
        });
  };
  cases.push_back(std::move(c));
}

// Only tables change: what counts is the time, not the rate.
void add_truncate(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  constexpr int64_t kDrop = 64;
  OpCase c = ctx.start("truncate", text(kDrop) + " rows");
  c.bytes = static_cast<double>(s.kv_heads) * (2 * 4 + 2 * 4 * kDrop / static_cast<double>(kPageRows));
  c.place = Place::kCache;
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, /*rows=*/1024, /*step_rows=*/0, /*room=*/0};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    TruncateArgs a;
    a.sequences = 1;
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    a.drop = kDrop;
    return rotate_caches(
        memory, caches, a, true, +[](TruncateArgs& args, const CacheView* view) { args.views = view; });
  };
  cases.push_back(std::move(c));
}

}  // namespace

const std::vector<OpEntry>& cache_entries() {
  static const std::vector<OpEntry> entries = {
      {"append", add_append},     {"attention", add_attention},           {"merge_states", add_merge_states},
      {"truncate", add_truncate}, {"pack_positions", add_pack_positions},
  };
  return entries;
}

}  // namespace longhaul::bench
