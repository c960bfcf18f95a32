// Rows to packed positions: their keys are rotated where they lie.
#include <array>
#include <cmath>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

// Pages of a head that one task takes: sines in double are slow enough for that to be worth a task.
constexpr int32_t kTaskPages = 4;

void pack_page(const Kernels& kernels, const PackPositionsArgs& a, int32_t page, int32_t rows, int32_t packed) {
  const auto dim = static_cast<int>(a.pages.k.shape[2]);
  const int half = dim / 2;
  const int64_t row_bytes = page_bytes(a.pages.k) / kPageRows;
  const auto* frequencies = a.frequencies.as<double>();
  const Element type = element_of(a.pages.k.dtype);
  int32_t* positions = a.pages.positions.as<int32_t>() + int64_t{page} * kPageRows;
  std::array<float, kMaxKernelDim / 2> cos;
  std::array<float, kMaxKernelDim / 2> sin;
  for (int32_t row = 0; row < rows; ++row, ++packed) {
    if (positions[row] < a.begin || positions[row] == packed) continue;
    const double distance = static_cast<double>(packed) - positions[row];
    for (int i = 0; i < half; ++i) {
      cos[static_cast<size_t>(i)] = static_cast<float>(std::cos(distance * frequencies[i]));
      sin[static_cast<size_t>(i)] = static_cast<float>(std::sin(distance * frequencies[i]));
    }
    char* key = page_at(a.pages.k, page) + row * row_bytes;
    kernels.attention->store_rotated(key, type, cos.data(), sin.data(), dim, key, type);
    positions[row] = packed;
  }
}

}  // namespace

Status pack_positions(Stream& stream, const PackPositionsArgs& a) {
  CpuStream& cpu = cpu_stream(stream);
  const int64_t head_tasks = (pages_of(a.max_length) + kTaskPages - 1) / kTaskPages;
  cpu.parallel_for(a.sequences * a.kv_heads * head_tasks, [&](int64_t task, int) {
    const CacheView& view = a.views[task / head_tasks / a.kv_heads];
    const auto head = static_cast<int32_t>(task / head_tasks % a.kv_heads);
    const int32_t length = view.length[head];
    const auto first = static_cast<int32_t>(task % head_tasks) * kTaskPages;
    for (int32_t p = first; p < std::min(first + kTaskPages, pages_of(length)); ++p) {
      const int32_t row = p * kPageRows;
      pack_page(cpu.kernels(), a, page_table_of(view, head)[p], std::min(kPageRows, length - row),
                a.end - length + row);
    }
  });
  return {};
}

}  // namespace longhaul::cpu
