#include "paged_cache.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace longhaul::bench {
namespace {

int64_t pages_of(int64_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

// Pages 0 to `count` - 1 in random order, `run` neighbours at a time.
std::vector<int32_t> scattered_runs(int64_t count, int64_t run, Memory& memory) {
  std::vector<int64_t> runs(static_cast<size_t>((count + run - 1) / run));
  std::iota(runs.begin(), runs.end(), 0);
  for (size_t i = runs.size() - 1; i > 0; --i) std::swap(runs[i], runs[memory.next() % (i + 1)]);
  std::vector<int32_t> order;
  for (int64_t r : runs) {
    for (int64_t page = r * run; page < std::min((r + 1) * run, count); ++page)
      order.push_back(static_cast<int32_t>(page));
  }
  return order;
}

}  // namespace

std::vector<int32_t> half_of(uint64_t seed, int64_t rows) {
  std::vector<int32_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size() - 1; i > 0; --i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i], order[(seed >> 33) % (i + 1)]);
  }
  order.resize(static_cast<size_t>(rows / 2));
  std::sort(order.begin(), order.end());
  return order;
}

Result<std::unique_ptr<PagedCaches>> PagedCaches::create(Memory& memory, const CacheSpec& spec) {
  std::unique_ptr<PagedCaches> caches(new PagedCaches(memory));
  const int64_t heads = spec.kv_heads;
  const int64_t held = pages_of(spec.rows);
  const int64_t most = pages_of(spec.rows + spec.room);
  const int64_t bytes = heads * spec.rows * spec.dim * 2 * static_cast<int64_t>(size_of(spec.dtype));
  // Whole batches only.
  const int64_t sequences = (Memory::cold_copies(bytes) + spec.batch - 1) / spec.batch * spec.batch;
  const int64_t pages = sequences * heads * most;
  caches->sequences_ = sequences;

  LONGHAUL_ASSIGN(caches->pages_.k, memory.random(spec.dtype, {pages, kPageRows, spec.dim}));
  LONGHAUL_ASSIGN(caches->pages_.v, memory.random(spec.dtype, {pages, kPageRows, spec.dim}));
  LONGHAUL_ASSIGN(caches->pages_.positions, memory.zeros(DType::kI32, {pages, kPageRows}));

  const std::vector<int32_t> order = scattered_runs(pages, spec.run_pages, memory);
  auto next = order.begin();

  // A stack must hold every page of its sequence, for they may all come back.
  const int64_t stack = heads * most;
  const int64_t spare = heads * (most - held);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t p = 0; p < most; ++p) caches->page_table_.host.push_back(p < held ? *next++ : -1);
      caches->lengths_.host.push_back(static_cast<int32_t>(spec.rows));
    }
    for (int64_t p = 0; p < stack; ++p) caches->free_pages_.host.push_back(p < spare ? *next++ : -1);
    caches->free_count_.host.insert(caches->free_count_.host.end(), 2, static_cast<int32_t>(spare));
  }
  const auto upload = [&](Table& table) -> Status {
    const auto count = static_cast<int64_t>(table.host.size()) / sequences;
    LONGHAUL_ASSIGN(table.device, memory.from(DType::kI32, {sequences, count}, table.host.data()));
    return {};
  };
  LONGHAUL_TRY(upload(caches->page_table_));
  LONGHAUL_TRY(upload(caches->lengths_));
  LONGHAUL_TRY(upload(caches->free_pages_));
  LONGHAUL_TRY(upload(caches->free_count_));

  std::vector<CacheView> views;
  for (int64_t s = 0; s < sequences; ++s) {
    CacheView view{};
    view.page_table = caches->page_table_.device.slice(s, 1).as<int32_t>();
    view.length = caches->lengths_.device.slice(s, 1).as<int32_t>();
    view.free_pages = caches->free_pages_.device.slice(s, 1).as<int32_t>();
    view.free_count = caches->free_count_.device.slice(s, 1).as<int32_t>();
    view.max_pages = static_cast<int32_t>(most);
    view.row_begin = static_cast<int32_t>(s % spec.batch * spec.step_rows);
    view.row_count = static_cast<int32_t>(spec.step_rows);
    views.push_back(view);
  }
  const auto view_bytes = static_cast<int64_t>(views.size() * sizeof(CacheView));
  LONGHAUL_ASSIGN(Tensor placed, memory.from(DType::kU8, {view_bytes}, views.data()));
  caches->views_ = placed.as<const CacheView>();
  return caches;
}

Status PagedCaches::restore(const Table& table, int64_t sequence) {
  const int64_t count = table.device.shape[1];
  return memory_.backend().upload(memory_.stream(), table.device.slice(sequence, 1).data,
                                  table.host.data() + sequence * count,
                                  static_cast<size_t>(count) * sizeof(int32_t));
}

Status PagedCaches::restore(int64_t sequence) {
  LONGHAUL_TRY(restore(page_table_, sequence));
  LONGHAUL_TRY(restore(lengths_, sequence));
  LONGHAUL_TRY(restore(free_pages_, sequence));
  return restore(free_count_, sequence);
}

}  // namespace longhaul::bench
