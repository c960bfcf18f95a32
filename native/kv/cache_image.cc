// What a cache holds, brought to the host and back.
#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <utility>

#include "core/arena.h"
#include "kv/cache.h"

namespace longhaul {
namespace {

// Neighbouring pages, whose rows lie in one piece.
struct Run {
  int32_t page;
  int32_t row;  // of the head, the run's first
  int32_t rows;
};

// The pages of one head with `length` rows. A cache that was never evicted is one run or few.
std::vector<Run> runs_of(std::span<const int32_t> pages, int32_t length) {
  std::vector<Run> runs;
  for (int32_t row = 0; row < length; row += kPageRows) {
    const int32_t page = pages[static_cast<size_t>(row / kPageRows)];
    const int32_t rows = std::min(kPageRows, length - row);
    if (!runs.empty() && runs.back().page + runs.back().rows / kPageRows == page) {
      runs.back().rows += rows;
    } else {
      runs.push_back({page, row, rows});
    }
  }
  return runs;
}

int64_t pages_of_rows(const std::vector<int32_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0},
                         [](int64_t sum, int32_t length) { return sum + pages_for(length); });
}

void widen(std::span<const uint8_t> bytes, DType dtype, std::vector<float>& out) {
  const size_t count = bytes.size() / size_of(dtype);
  for (size_t i = 0; i < count; ++i) {
    switch (dtype) {
      case DType::kBf16:
        out.push_back(to_f32(reinterpret_cast<const Bf16*>(bytes.data())[i]));
        break;
      case DType::kF16:
        out.push_back(to_f32(reinterpret_cast<const F16*>(bytes.data())[i]));
        break;
      default:
        out.push_back(reinterpret_cast<const float*>(bytes.data())[i]);
    }
  }
}

}  // namespace

size_t SequenceCache::row_bytes() const {
  const KvGeometry& geometry = pool_->geometry();
  return static_cast<size_t>(geometry.head_dim) * size_of(geometry.dtype);
}

int32_t* SequenceCache::head_table(int32_t layer, int32_t head) const {
  return page_table_.slice(layer, 1).narrow(1, head, 1).as<int32_t>();
}

Result<std::vector<int32_t>> SequenceCache::lengths() {
  std::vector<int32_t> lengths(static_cast<size_t>(lengths_.elements()));
  LONGHAUL_TRY(backend_->download(*stream_, lengths.data(), lengths_.data, lengths.size() * sizeof(int32_t)));
  return lengths;
}

Result<std::vector<int32_t>> SequenceCache::head_pages(int32_t layer, int32_t head, int32_t length) {
  std::vector<int32_t> pages(static_cast<size_t>(pages_for(length)));
  if (pages.empty()) return pages;
  LONGHAUL_TRY(
      backend_->download(*stream_, pages.data(), head_table(layer, head), pages.size() * sizeof(int32_t)));
  return pages;
}

Status SequenceCache::read_positions(int32_t layer, int32_t head, int32_t length, std::vector<int32_t>& out) {
  LONGHAUL_ASSIGN(const std::vector<int32_t> pages, head_pages(layer, head, length));
  const size_t at = out.size();
  out.resize(at + static_cast<size_t>(length));
  for (const Run& run : runs_of(pages, length)) {
    LONGHAUL_TRY(backend_->download(*stream_, out.data() + at + run.row,
                                    pool_->arrays().positions.slice(run.page, 1).data,
                                    static_cast<size_t>(run.rows) * sizeof(int32_t)));
  }
  return Status();
}

Result<CacheIndex> SequenceCache::index() {
  const KvGeometry& geometry = pool_->geometry();
  CacheIndex index;
  LONGHAUL_ASSIGN(index.lengths, lengths());
  for (int32_t layer = 0; layer < geometry.layers; ++layer) {
    for (int32_t head = 0; head < geometry.kv_heads; ++head) {
      const int32_t length = index.lengths[static_cast<size_t>(layer) * geometry.kv_heads + head];
      LONGHAUL_TRY(read_positions(layer, head, length, index.positions));
    }
  }
  return index;
}

Result<std::vector<uint8_t>> SequenceCache::read_head(int32_t layer, int32_t head) {
  LONGHAUL_ASSIGN(const std::vector<int32_t> all, lengths());
  const int32_t length = all[static_cast<size_t>(layer) * pool_->geometry().kv_heads + head];
  LONGHAUL_ASSIGN(const std::vector<int32_t> pages, head_pages(layer, head, length));
  const std::vector<Run> runs = runs_of(pages, length);
  std::vector<uint8_t> bytes(2 * static_cast<size_t>(length) * row_bytes());
  uint8_t* out = bytes.data();
  for (const Tensor* source : {&pool_->arrays().k, &pool_->arrays().v}) {
    for (const Run& run : runs) {
      LONGHAUL_TRY(backend_->download(*stream_, out + static_cast<size_t>(run.row) * row_bytes(),
                                      source->slice(run.page, 1).data,
                                      static_cast<size_t>(run.rows) * row_bytes()));
    }
    out += static_cast<size_t>(length) * row_bytes();
  }
  return bytes;
}

Status SequenceCache::take_index(const CacheIndex& index, int64_t peak_pages) {
  std::array<int32_t, 2> count;
  LONGHAUL_TRY(backend_->download(*stream_, count.data(), free_count_.data, sizeof count));
  const int64_t used = pages_of_rows(index.lengths);
  LONGHAUL_ASSERT(used_pages_ == 0 && used <= count[0]);
  LONGHAUL_ASSERT(static_cast<int64_t>(index.lengths.size()) == lengths_.elements());
  std::vector<int32_t> stack(static_cast<size_t>(count[0]));
  LONGHAUL_TRY(backend_->download(*stream_, stack.data(), free_pages_.data, stack.size() * sizeof(int32_t)));

  std::vector<int32_t> table(static_cast<size_t>(page_table_.elements()));
  // In order, so that rows lie in as few runs as pages allow: each of them is a copy to the device.
  std::sort(stack.end() - used, stack.end());
  auto next = stack.end() - used;
  const int32_t* positions = index.positions.data();
  for (size_t head = 0; head < index.lengths.size(); ++head) {
    const int32_t length = index.lengths[head];
    LONGHAUL_ASSERT(length <= head_capacity());
    const std::span<int32_t> pages(table.data() + head * static_cast<size_t>(max_pages_),
                                   static_cast<size_t>(pages_for(length)));
    for (int32_t& page : pages) page = *next++;
    for (const Run& run : runs_of(pages, length)) {
      LONGHAUL_TRY(backend_->upload(*stream_, pool_->arrays().positions.slice(run.page, 1).data,
                                    positions + run.row, static_cast<size_t>(run.rows) * sizeof(int32_t)));
    }
    positions += length;
  }
  count[0] -= static_cast<int32_t>(used);
  count[1] = count[0];
  LONGHAUL_TRY(backend_->upload(*stream_, page_table_.data, table.data(), table.size() * sizeof(int32_t)));
  LONGHAUL_TRY(
      backend_->upload(*stream_, lengths_.data, index.lengths.data(), index.lengths.size() * sizeof(int32_t)));
  LONGHAUL_TRY(backend_->upload(*stream_, free_count_.data, count.data(), sizeof count));
  pool_->account(0, used, used);
  used_pages_ = used;
  peak_pages_ = peak_pages;
  rows_added_ = index.lengths.empty() ? 0 : *std::max_element(index.lengths.begin(), index.lengths.end());
  return Status();
}

Status SequenceCache::write_head(int32_t layer, int32_t head, std::span<const uint8_t> rows) {
  const size_t half = rows.size() / 2;
  const int32_t length = static_cast<int32_t>(half / row_bytes());
  LONGHAUL_ASSIGN(const std::vector<int32_t> pages, head_pages(layer, head, length));
  const std::vector<Run> runs = runs_of(pages, length);
  const uint8_t* from = rows.data();
  for (const Tensor* target : {&pool_->arrays().k, &pool_->arrays().v}) {
    for (const Run& run : runs) {
      LONGHAUL_TRY(backend_->upload(*stream_, target->slice(run.page, 1).data,
                                    from + static_cast<size_t>(run.row) * row_bytes(),
                                    static_cast<size_t>(run.rows) * row_bytes()));
    }
    from += half;
  }
  return Status();
}

Result<LayerRows> SequenceCache::read_layer(int32_t layer) {
  const KvGeometry& geometry = pool_->geometry();
  LONGHAUL_ASSIGN(const std::vector<int32_t> all, lengths());
  LayerRows rows;
  rows.lengths.assign(all.begin() + layer * geometry.kv_heads, all.begin() + (layer + 1) * geometry.kv_heads);
  for (int32_t head = 0; head < geometry.kv_heads; ++head) {
    LONGHAUL_TRY(read_positions(layer, head, rows.lengths[head], rows.positions));
    LONGHAUL_ASSIGN(const std::vector<uint8_t> bytes, read_head(layer, head));
    const std::span<const uint8_t> both(bytes);
    widen(both.first(both.size() / 2), geometry.dtype, rows.k);
    widen(both.last(both.size() / 2), geometry.dtype, rows.v);
  }
  return rows;
}

Result<std::vector<float>> SequenceCache::read_newest_keys(int32_t layer, int32_t rows) {
  const KvGeometry& geometry = pool_->geometry();
  LONGHAUL_ASSIGN(const std::vector<int32_t> all, lengths());
  const std::span<const int32_t> held(all.data() + int64_t{layer} * geometry.kv_heads,
                                      static_cast<size_t>(geometry.kv_heads));
  std::vector<int32_t> pages;
  for (int32_t head = 0; head < geometry.kv_heads; ++head) {
    const int32_t length = held[static_cast<size_t>(head)];
    LONGHAUL_ASSERT(length >= rows);
    LONGHAUL_ASSIGN(const std::vector<int32_t> heads_pages, head_pages(layer, head, length));
    pages.insert(pages.end(), heads_pages.begin() + (length - rows) / kPageRows, heads_pages.end());
  }

  // Gathered on the device: one copy to the host instead of one a page.
  const int64_t page_elements = int64_t{kPageRows} * geometry.head_dim;
  const Tensor& k = pool_->arrays().k;
  Tensor index;
  Tensor gathered;
  auto lay_out = [&](Arena arena) {
    index = arena.take(DType::kI32, {static_cast<int64_t>(pages.size())});
    gathered = arena.take(geometry.dtype, {static_cast<int64_t>(pages.size()), page_elements});
    return arena.used();
  };
  LONGHAUL_ASSIGN(const Buffer scratch, backend_->allocate(lay_out(Arena()), MemoryUse::kWorkspace));
  lay_out(Arena(scratch));
  LONGHAUL_TRY(backend_->upload(*stream_, index.data, pages.data(), pages.size() * sizeof(int32_t)));
  LONGHAUL_TRY(run(
      *backend_, *stream_,
      GatherRowsArgs{
          .x = Tensor::dense(k.data, k.dtype, {k.shape[0], page_elements}), .index = index, .out = gathered}));
  std::vector<uint8_t> bytes(static_cast<size_t>(gathered.bytes()));
  LONGHAUL_TRY(backend_->download(*stream_, bytes.data(), gathered.data, bytes.size()));
  std::vector<float> whole_pages;
  whole_pages.reserve(static_cast<size_t>(gathered.elements()));
  widen(bytes, geometry.dtype, whole_pages);

  std::vector<float> keys;
  keys.reserve(held.size() * static_cast<size_t>(rows) * static_cast<size_t>(geometry.head_dim));
  auto page = whole_pages.cbegin();
  for (const int32_t length : held) {
    const auto begin = page + int64_t{(length - rows) % kPageRows} * geometry.head_dim;
    keys.insert(keys.end(), begin, begin + int64_t{rows} * geometry.head_dim);
    page += (pages_for(length) - (length - rows) / kPageRows) * page_elements;
  }
  return keys;
}

}  // namespace longhaul
