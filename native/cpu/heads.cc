// Heads into and out of the parts that an all-to-all moves: rows of bytes, but for heads that several parts
// hold.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

constexpr int64_t kTaskRows = 32;

int64_t tasks_of(int64_t rows) {
  return (rows + kTaskRows - 1) / kTaskRows;
}

// Of row `row` in slot `index`, in rows of one head.
int64_t packed_row(const HeadSlot& slot, int64_t index, int64_t rows, int64_t row) {
  return slot.first * rows + row * slot.count + index - slot.first;
}

// The f32 sum of a head's parts, rounded once.
template <class T>
void sum_head(const UnpackHeadsArgs& a, int64_t row, int64_t head) {
  float sum[kMaxKernelDim];
  const int64_t dim = a.out.shape[2];
  for (int64_t first = 0; first < dim; first += kMaxKernelDim) {
    const int64_t count = std::min<int64_t>(dim - first, kMaxKernelDim);
    std::fill_n(sum, count, 0.0f);
    for (int32_t s = 0; s < a.slot_count; ++s) {
      if (a.slots[s].head != head) continue;
      const T* part = a.packed.as<T>() + packed_row(a.slots[s], s, a.out.shape[0], row) * dim + first;
      for (int64_t d = 0; d < count; ++d) sum[d] += to_f32(part[d]);
    }
    T* const to = reinterpret_cast<T*>(row_at(a.out, row, head)) + first;
    for (int64_t d = 0; d < count; ++d) to[d] = from_f32<T>(sum[d]);
  }
}

// How often each head is in a part: 0, 1, or 2 for more.
std::vector<int> uses_of(const UnpackHeadsArgs& a) {
  std::vector<int> uses(static_cast<size_t>(a.out.shape[1]));
  for (int32_t s = 0; s < a.slot_count; ++s) {
    int& count = uses[static_cast<size_t>(a.slots[s].head)];
    count = std::min(count + 1, 2);
  }
  return uses;
}

}  // namespace

Status pack_heads(Stream& stream, const PackHeadsArgs& a) {
  const int64_t rows = a.x.shape[0];
  const auto bytes = a.x.shape[2] * static_cast<int64_t>(size_of(a.x.dtype));
  cpu_stream(stream).parallel_for(tasks_of(rows), [&](int64_t task, int) {
    for (int64_t t = task * kTaskRows; t < std::min(rows, (task + 1) * kTaskRows); ++t) {
      for (int32_t s = 0; s < a.slot_count; ++s) {
        char* const to = a.packed.as<char>() + packed_row(a.slots[s], s, rows, t) * bytes;
        std::memcpy(to, row_at(a.x, t, a.slots[s].head), static_cast<size_t>(bytes));
      }
    }
  });
  return {};
}

Status unpack_heads(Stream& stream, const UnpackHeadsArgs& a) {
  const int64_t rows = a.out.shape[0];
  const auto bytes = a.out.shape[2] * static_cast<int64_t>(size_of(a.out.dtype));
  const std::vector<int> uses = uses_of(a);
  cpu_stream(stream).parallel_for(tasks_of(rows), [&](int64_t task, int) {
    for (int64_t t = task * kTaskRows; t < std::min(rows, (task + 1) * kTaskRows); ++t) {
      for (int32_t s = 0; s < a.slot_count; ++s) {
        if (uses[static_cast<size_t>(a.slots[s].head)] != 1) continue;
        const char* const from = a.packed.as<char>() + packed_row(a.slots[s], s, rows, t) * bytes;
        std::memcpy(row_at(a.out, t, a.slots[s].head), from, static_cast<size_t>(bytes));
      }
      for (int64_t h = 0; h < a.out.shape[1]; ++h) {
        if (uses[static_cast<size_t>(h)] == 1) continue;
        if (a.out.dtype == DType::kF32) {
          sum_head<float>(a, t, h);
        } else if (a.out.dtype == DType::kBf16) {
          sum_head<Bf16>(a, t, h);
        } else {
          sum_head<F16>(a, t, h);
        }
      }
    }
  });
  return {};
}

}  // namespace longhaul::cpu
