// Ops that work on one row at a time: rows over threads, and where a row lies.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "cpu/backend.h"

namespace longhaul::cpu {

// Elements of a task: some microseconds of work, more than it costs to wake a thread.
constexpr int64_t kTaskElements = 16 * 1024;

// Calls body(row) for every row, in tasks of whole rows; on this thread alone when one task would do.
template <class Body>
void for_rows(Stream& stream, int64_t rows, int64_t elements_per_row, Body&& body) {
  const int64_t rows_per_task = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, elements_per_row));
  const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  cpu_stream(stream).parallel_for(tasks, [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * rows_per_task);
    for (int64_t row = task * rows_per_task; row < end; ++row) body(row);
  });
}

inline void* at(const Tensor& tensor, int64_t i, int64_t j = 0) {
  const int64_t offset = i * tensor.stride[0] + j * tensor.stride[1];
  return static_cast<char*>(tensor.data) + offset * static_cast<int64_t>(size_of(tensor.dtype));
}

}  // namespace longhaul::cpu
