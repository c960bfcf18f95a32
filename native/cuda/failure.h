// What a kernel found wrong. It cannot return a Status, so it leaves one word in device memory; the stream
// reads it when it synchronizes.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace longhaul::cuda {

enum class FailureKind : uint8_t {
  kPagesExhausted,      // append: needed, available pages
  kPageTableFull,       // append
  kRowsBeyondCapacity,  // select: rows of a head, capacity of `kept`
  kCopyPagesExhausted,  // copy_rows: needed, available pages
  kCopyTableFull,       // copy_rows
};

// The kernels of a stream keep the lowest word: that of the first sequence, whatever ran first. `where` is the
// sequence, or the head.
constexpr uint64_t kNoFailure = UINT64_MAX;

constexpr uint64_t failure_word(FailureKind kind, int64_t where, int64_t needed, int64_t available) {
  constexpr int kCountBits = 22;
  constexpr int64_t kMost = (int64_t{1} << kCountBits) - 1;
  const auto clamped = [](int64_t value, int64_t most) {
    return static_cast<uint64_t>(value < most ? value : most);
  };
  return clamped(where, 0xfffe) << 48 | static_cast<uint64_t>(kind) << 44 |
         clamped(needed, kMost) << kCountBits | clamped(available, kMost);
}

// Ok for kNoFailure.
Status failure_status(uint64_t word);

}  // namespace longhaul::cuda
