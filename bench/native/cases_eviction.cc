// Cases of the ops that score, choose and move cached rows.
#include <cmath>

#include "cases.h"
#include "paged_cache.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kRows = 4096;

// A patched prompt of `queries` rows behind the cached ones. Two passes need every score twice.
void add_score_keys(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  for (int64_t queries : {int64_t{32}, int64_t{256}}) {
    OpCase c = ctx.start("score_keys", text(queries) + " queries over " + text(kRows));
    const auto keys = static_cast<double>(kRows * s.kv_heads);
    c.bytes = keys * static_cast<double>(s.dim) * ctx.size() + 4 * keys +
              static_cast<double>(queries * s.heads * s.dim) * ctx.act_size();
    c.flops = 4.0 * static_cast<double>(queries * kRows * s.heads * s.dim);
    c.dot_products = true;
    c.quick = queries == 256;
    c.make = [=, dtype = ctx.dtype, act = ctx.activation](Memory& memory) -> Result<Operation> {
      CacheSpec spec{dtype, s.kv_heads, s.dim, kRows + queries, queries, 0};
      LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
      ScoreKeysArgs a;
      a.pages = caches->pages();
      LONGHAUL_ASSIGN(a.q, memory.random(act, {queries, s.heads, s.dim}));
      LONGHAUL_ASSIGN(a.scores, memory.zeros(DType::kF32, {s.kv_heads, kRows + queries}));
      a.kv_heads = static_cast<int32_t>(s.kv_heads);
      a.scale = 1 / std::sqrt(static_cast<float>(s.dim));
      a.ignore_last = static_cast<int32_t>(queries);
      std::vector<ScoreKeysArgs> args;
      for (int64_t i = 0; i < caches->sequences(); ++i) {
        a.view = caches->view(i);
        args.push_back(a);
      }
      LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().score_keys_workspace(a)));
      Operation operation = rotate(memory, std::move(args), workspace);
      operation.call = [caches, call = std::move(operation.call)] { return call(); };
      return operation;
    };
    cases.push_back(std::move(c));
  }
}

// The mean key first, then every key against it: one read of the keys is the least, two are usual.
void add_key_diversity(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  OpCase c = ctx.start("key_diversity", "over " + text(kRows));
  const auto keys = static_cast<double>(kRows * s.kv_heads);
  c.bytes = keys * (static_cast<double>(s.dim) * ctx.size() + 4);
  c.flops = 6 * keys * static_cast<double>(s.dim);
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, 0, 0};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    KeyDiversityArgs a;
    a.pages = caches->pages();
    LONGHAUL_ASSIGN(a.scores, memory.zeros(DType::kF32, {s.kv_heads, kRows}));
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    std::vector<KeyDiversityArgs> args;
    for (int64_t i = 0; i < caches->sequences(); ++i) {
      a.view = caches->view(i);
      args.push_back(a);
    }
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().key_diversity_workspace(a)));
    Operation operation = rotate(memory, std::move(args), workspace);
    operation.call = [caches, call = std::move(operation.call)] { return call(); };
    return operation;
  };
  cases.push_back(std::move(c));
}

// Two scores read twice, one written, and the rows' positions.
void add_combine_scores(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  OpCase c = ctx.start("combine_scores", "over " + text(kRows));
  const auto keys = static_cast<double>(kRows * s.kv_heads);
  c.bytes = 6 * 4 * keys;
  c.flops = 12 * keys;
  c.place = Place::kCache;
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, 0, 0};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    CombineScoresArgs a;
    a.pages = caches->pages();
    a.view = caches->view(0);
    LONGHAUL_ASSIGN(a.scores, memory.random(DType::kF32, {s.kv_heads, kRows}));
    LONGHAUL_ASSIGN(a.other, memory.random(DType::kF32, {s.kv_heads, kRows}));
    std::vector<int32_t> spans;
    for (int32_t begin = 0; begin < kRows; begin += 128) spans.insert(spans.end(), {begin, begin + 32});
    LONGHAUL_ASSIGN(a.spans,
                    memory.from(DType::kI32, {static_cast<int64_t>(spans.size()) / 2, 2}, spans.data()));
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    a.bonus = 3;
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().combine_scores_workspace(a)));
    Operation operation = rotate(memory, std::vector{a}, workspace);
    operation.call = [caches, call = std::move(operation.call)] { return call(); };
    return operation;
  };
  cases.push_back(std::move(c));
}

void add_select(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  for (SelectLevel level : {SelectLevel::kPair, SelectLevel::kHead}) {
    OpCase c = ctx.start("select", std::string(level == SelectLevel::kPair ? "pair" : "head") + " " +
                                       text(kRows / 2) + " of " + text(kRows));
    const auto keys = static_cast<double>(kRows * s.kv_heads);
    c.bytes = 4 * keys + 4 * keys / 2;
    c.flops = keys;
    c.place = Place::kCache;
    c.quick = level == SelectLevel::kPair;
    c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
      CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, 0, 0};
      LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
      SelectArgs a;
      a.view = caches->view(0);
      LONGHAUL_ASSIGN(a.scores, memory.random(DType::kF32, {s.kv_heads, kRows}));
      LONGHAUL_ASSIGN(a.kept, memory.zeros(DType::kI32, {s.kv_heads, kRows}));
      LONGHAUL_ASSIGN(a.kept_count, memory.zeros(DType::kI32, {s.kv_heads}));
      a.kv_heads = static_cast<int32_t>(s.kv_heads);
      a.budget = kRows / 2;
      a.level = level;
      LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().select_workspace(a)));
      Operation operation = rotate(memory, std::vector{a}, workspace);
      operation.call = [caches, call = std::move(operation.call)] { return call(); };
      return operation;
    };
    cases.push_back(std::move(c));
  }
}

void add_compact(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  OpCase c = ctx.start("compact", "to " + text(kRows / 2) + " of " + text(kRows));
  const std::vector<int32_t> kept = half_of(7, kRows);
  int64_t moved = 0;
  for (size_t i = 0; i < kept.size(); ++i) moved += kept[i] != static_cast<int32_t>(i);
  // Each moved row of K, V and position is read once and written once.
  c.bytes = 2 * static_cast<double>(moved * s.kv_heads) * (2 * static_cast<double>(s.dim) * ctx.size() + 4);
  c.quick = true;
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, 0, 0};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    std::vector<int32_t> rows, counts;
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      rows.insert(rows.end(), kept.begin(), kept.end());
      counts.push_back(static_cast<int32_t>(kept.size()));
    }
    CompactArgs a;
    a.pages = caches->pages();
    LONGHAUL_ASSIGN(a.kept, memory.from(DType::kI32, {s.kv_heads, kRows / 2}, rows.data()));
    LONGHAUL_ASSIGN(a.kept_count, memory.from(DType::kI32, {s.kv_heads}, counts.data()));
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    auto sequence = std::make_shared<int64_t>(0);
    Operation operation;
    operation.call = [=, &memory]() mutable {
      a.view = caches->view(*sequence);
      *sequence = (*sequence + 1) % caches->sequences();
      return run(memory.backend(), memory.stream(), a);
    };
    operation.restore = [=] { return caches->restore(*sequence); };
    return operation;
  };
  cases.push_back(std::move(c));
}

}  // namespace

const std::vector<OpEntry>& eviction_entries() {
  static const std::vector<OpEntry> entries = {
      {"score_keys", add_score_keys},
      {"key_diversity", add_key_diversity},
      {"combine_scores", add_combine_scores},
      {"select", add_select},
      {"compact", add_compact},
  };
  return entries;
}

}  // namespace longhaul::bench
