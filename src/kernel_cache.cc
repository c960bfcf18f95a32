#include "kernel_cache.h"

#include <algorithm>
#include <numeric>

namespace longhaul {
namespace {

DType kv_dtype(const std::string& name) {
  return name == "bf16" ? DType::kBf16 : name == "f16" ? DType::kF16 : DType::kF32;
}

float read_float(const std::vector<char>& bytes, DType dtype, size_t i) {
  switch (dtype) {
    case DType::kBf16:
      return to_f32(reinterpret_cast<const Bf16*>(bytes.data())[i]);
    case DType::kF16:
      return to_f32(reinterpret_cast<const F16*>(bytes.data())[i]);
    default:
      return reinterpret_cast<const float*>(bytes.data())[i];
  }
}

}  // namespace

KernelCache::KernelCache(KernelCall& call) : call_(call) {
  kv_heads_ = call.index("kvHeads");
  head_dim_ = call.integer("headDim");
  rows_ = call.integer("rows");
  if (kv_heads_ < 1 || head_dim_ < 2 || rows_ < 1) {
    call.fail(invalid_argument("kvHeads, headDim and the number of rows must be positive"));
  }
  if (!call.ok()) return;
  const int64_t head_pages = (rows_ + kPageRows - 1) / kPageRows;
  const int64_t pages = head_pages * kv_heads_;
  if (elements_of({pages, kPageRows, head_dim_}) < 0 || pages > INT32_MAX) {
    call.fail(out_of_memory("the cache would be larger than any memory"));
    return;
  }
  const DType dtype = kv_dtype(call.text("kvDtype"));
  pages_ = {.k = call.zeros(dtype, {pages, kPageRows, head_dim_}),
            .v = call.zeros(dtype, {pages, kPageRows, head_dim_}),
            .positions = call.zeros(DType::kI32, {pages, kPageRows})};
  page_table_ = call.zeros(DType::kI32, {kv_heads_, head_pages});
  length_ = call.zeros(DType::kI32, {kv_heads_});
  std::vector<int32_t> stack(static_cast<size_t>(pages));
  std::iota(stack.begin(), stack.end(), 0);
  const int32_t heights[] = {static_cast<int32_t>(pages), static_cast<int32_t>(pages)};
  host_view_ = {.page_table = page_table_.as<int32_t>(),
                .length = length_.as<int32_t>(),
                .free_pages = call.upload(stack.data(), DType::kI32, {pages}).as<int32_t>(),
                .free_count = call.upload(heights, DType::kI32, {2}).as<int32_t>(),
                .max_pages = static_cast<int32_t>(head_pages)};
  append();
  shorten();
}

void KernelCache::append() {
  AppendArgs args{.pages = pages_,
                  .views = view(static_cast<int32_t>(rows_)),
                  .sequences = 1,
                  .k = call_.tensor("k", DType::kF32, {rows_, kv_heads_, head_dim_}),
                  .v = call_.tensor("v", DType::kF32, {rows_, kv_heads_, head_dim_}),
                  .positions = call_.tensor("positions", DType::kI32, {rows_}),
                  .cos = call_.optional_tensor("cos", DType::kF32, {rows_, head_dim_ / 2}),
                  .sin = call_.optional_tensor("sin", DType::kF32, {rows_, head_dim_ / 2})};
  if (call_.ok()) call_.fail(run(call_.backend(), call_.stream(), args));
}

void KernelCache::shorten() {
  lengths_.assign(static_cast<size_t>(kv_heads_), static_cast<int32_t>(rows_));
  if (!call_.has("lengths")) return;
  const HostArray* lengths = call_.host("lengths", HostArray::Kind::kI32, {kv_heads_});
  call_.require_below("lengths", lengths, rows_ + 1);
  if (!call_.ok()) return;
  std::copy_n(lengths->as<int32_t>(), kv_heads_, lengths_.begin());
  call_.fail(
      call_.backend().upload(call_.stream(), length_.data, lengths_.data(), lengths_.size() * sizeof(int32_t)));
}

const CacheView* KernelCache::view(int32_t rows) {
  CacheView view = host_view_;
  view.row_count = rows;
  return call_.upload(&view, DType::kU8, {static_cast<int64_t>(sizeof(CacheView))}).as<CacheView>();
}

int32_t KernelCache::shortest() const {
  return lengths_.empty() ? 0 : *std::min_element(lengths_.begin(), lengths_.end());
}

void KernelCache::output_rows() {
  if (!call_.ok()) return;
  std::vector<int32_t> lengths(lengths_.size());
  std::vector<int32_t> table(static_cast<size_t>(page_table_.elements()));
  std::vector<int32_t> positions(static_cast<size_t>(pages_.positions.elements()));
  std::vector<char> k(static_cast<size_t>(pages_.k.bytes()));
  std::vector<char> v(k.size());
  call_.download(length_, lengths.data());
  call_.download(page_table_, table.data());
  call_.download(pages_.positions, positions.data());
  call_.download(pages_.k, k.data());
  call_.download(pages_.v, v.data());

  std::vector<float> k_rows;
  std::vector<float> v_rows;
  std::vector<int32_t> row_positions;
  for (int32_t head = 0; head < kv_heads_; ++head) {
    for (int32_t row = 0; row < lengths[static_cast<size_t>(head)]; ++row) {
      const int64_t page = table[static_cast<size_t>(int64_t{head} * host_view_.max_pages + row / kPageRows)];
      const int64_t slot = page * kPageRows + row % kPageRows;
      row_positions.push_back(positions[static_cast<size_t>(slot)]);
      for (int64_t i = slot * head_dim_; i < (slot + 1) * head_dim_; ++i) {
        k_rows.push_back(read_float(k, pages_.k.dtype, static_cast<size_t>(i)));
        v_rows.push_back(read_float(v, pages_.v.dtype, static_cast<size_t>(i)));
      }
    }
  }
  call_.output("k", k_rows);
  call_.output("v", v_rows);
  call_.output("positions", row_positions);
  call_.output("lengths", lengths);
}

}  // namespace longhaul
