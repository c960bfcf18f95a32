// Cases of the ops by which episodes that select from one cache share it.
#include "cases.h"
#include "paged_cache.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kRows = 4096;
constexpr int64_t kKept = kRows / 2;

struct KeptRows {
  Tensor rows;    // [kv_heads, kKept] i32
  Tensor counts;  // [kv_heads] i32
};

// The same rows in every head.
Result<KeptRows> keep_half(Memory& memory, int64_t kv_heads) {
  const std::vector<int32_t> half = half_of(7, kRows);
  std::vector<int32_t> rows;
  for (int64_t head = 0; head < kv_heads; ++head) rows.insert(rows.end(), half.begin(), half.end());
  const std::vector<int32_t> counts(static_cast<size_t>(kv_heads), static_cast<int32_t>(half.size()));
  KeptRows kept;
  LONGHAUL_ASSIGN(kept.rows, memory.from(DType::kI32, {kv_heads, kKept}, rows.data()));
  LONGHAUL_ASSIGN(kept.counts, memory.from(DType::kI32, {kv_heads}, counts.data()));
  return kept;
}

// Index and score of each kept row read, every row's best written.
void add_rank_rows(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  for (SelectLevel level : {SelectLevel::kPair, SelectLevel::kHead}) {
    OpCase c = ctx.start("rank_rows", std::string(level == SelectLevel::kPair ? "pair" : "head") + " " +
                                          text(kKept) + " of " + text(kRows));
    c.bytes = static_cast<double>(s.kv_heads * (8 * kKept + 4 * kRows));
    c.flops = static_cast<double>(s.kv_heads * kKept);
    c.place = Place::kCache;
    c.quick = level == SelectLevel::kPair;
    c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
      CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, 0, 0};
      LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
      LONGHAUL_ASSIGN(KeptRows kept, keep_half(memory, s.kv_heads));
      RankRowsArgs a;
      a.view = caches->view(0);
      LONGHAUL_ASSIGN(a.scores, memory.random(DType::kF32, {s.kv_heads, kRows}));
      LONGHAUL_ASSIGN(a.best, memory.zeros(DType::kF32, {s.kv_heads, kRows}));
      a.kept = kept.rows;
      a.kept_count = kept.counts;
      a.kv_heads = static_cast<int32_t>(s.kv_heads);
      a.level = level;
      LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().rank_rows_workspace(a)));
      Operation operation = rotate(memory, std::vector{a}, workspace);
      operation.call = [caches, call = std::move(operation.call)] { return call(); };
      return operation;
    };
    cases.push_back(std::move(c));
  }
}

// From each sequence behind the rows of the next, which is put back before its turn comes again.
void add_copy_rows(const CaseContext& ctx, Cases& cases) {
  const ModelShape s = ctx.shape;
  OpCase c = ctx.start("copy_rows", text(kKept) + " of " + text(kRows));
  // K, V and position of each row are read once and written once, its index is read.
  c.bytes =
      static_cast<double>(kKept * s.kv_heads) * (2 * (2 * static_cast<double>(s.dim) * ctx.size() + 4) + 4);
  c.quick = true;
  c.make = [=, dtype = ctx.dtype](Memory& memory) -> Result<Operation> {
    CacheSpec spec{dtype, s.kv_heads, s.dim, kRows, /*step_rows=*/0, /*room=*/kKept};
    LONGHAUL_ASSIGN(std::shared_ptr<PagedCaches> caches, PagedCaches::create(memory, spec));
    LONGHAUL_ASSIGN(KeptRows kept, keep_half(memory, s.kv_heads));
    CopyRowsArgs a;
    a.pages = caches->pages();
    a.kept = kept.rows;
    a.kept_count = kept.counts;
    a.kv_heads = static_cast<int32_t>(s.kv_heads);
    auto target = std::make_shared<int64_t>(1);
    Operation operation;
    operation.call = [=, &memory]() mutable {
      const int64_t count = caches->sequences();
      a.source = caches->view((*target + count - 1) % count);
      a.target = caches->view(*target);
      *target = (*target + 1) % count;
      return run(memory.backend(), memory.stream(), a);
    };
    operation.restore = [=] { return caches->restore(*target); };
    return operation;
  };
  cases.push_back(std::move(c));
}

}  // namespace

const std::vector<OpEntry>& sharing_entries() {
  static const std::vector<OpEntry> entries = {{"rank_rows", add_rank_rows}, {"copy_rows", add_copy_rows}};
  return entries;
}

}  // namespace longhaul::bench
