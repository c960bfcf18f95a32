#include "cuda/pack.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/weight_layout.h"

namespace longhaul::cuda {
namespace {

// The stacked, padded rows as one run of bytes, read from its beginning.
class PaddedRows {
 public:
  PaddedRows(std::span<const Tensor> parts, size_t row_bytes, size_t pitch_bytes)
      : parts_(parts), row_bytes_(row_bytes), pitch_bytes_(pitch_bytes) {}

  void read(char* to, size_t bytes) {
    while (bytes > 0) {
      const size_t count = row_bytes_ == pitch_bytes_ ? read_rows(to, bytes) : read_row(to, bytes);
      to += count;
      bytes -= count;
    }
  }

 private:
  const Tensor& part() {
    while (offset_ == static_cast<size_t>(parts_[part_].shape[0]) * pitch_bytes_) {
      ++part_;
      offset_ = 0;
    }
    return parts_[part_];
  }

  // Rows without padding lie as they are wanted.
  size_t read_rows(char* to, size_t bytes) {
    const Tensor& from = part();
    const size_t count = std::min(bytes, static_cast<size_t>(from.bytes()) - offset_);
    std::memcpy(to, from.as<const char>() + offset_, count);
    offset_ += count;
    return count;
  }

  // What is left of one row, or of its padding.
  size_t read_row(char* to, size_t bytes) {
    const Tensor& from = part();
    const size_t row = offset_ / pitch_bytes_;
    const size_t column = offset_ % pitch_bytes_;
    size_t count;
    if (column < row_bytes_) {
      count = std::min(bytes, row_bytes_ - column);
      std::memcpy(to, from.as<const char>() + row * row_bytes_ + column, count);
    } else {
      count = std::min(bytes, pitch_bytes_ - column);
      std::memset(to, 0, count);
    }
    offset_ += count;
    return count;
  }

  std::span<const Tensor> parts_;
  size_t row_bytes_;
  size_t pitch_bytes_;
  size_t part_ = 0;
  size_t offset_ = 0;  // into the padded part
};

}  // namespace

Result<Weight> stacked(std::span<const Tensor> parts) {
  if (parts.empty()) return invalid_argument("pack: there is no matrix");
  Weight weight;
  weight.dtype = parts[0].dtype;
  weight.cols = parts[0].shape[1];
  if (!is_float(weight.dtype) || weight.dtype == DType::kF64) {
    return invalid_argument(std::string("pack: weights are f32, bf16 or f16, not ") + name_of(weight.dtype));
  }
  for (const Tensor& part : parts) {
    if (part.rank != 2 || part.dtype != weight.dtype || part.shape[1] != weight.cols || !part.is_dense() ||
        part.data == nullptr) {
      return invalid_argument("pack: matrices must be dense, of one dtype and one number of columns");
    }
    weight.rows += part.shape[0];
  }
  return weight;
}

Status send_rows(StagingRing& ring, std::span<const Tensor> parts, char* device) {
  const DType dtype = parts[0].dtype;
  const int64_t cols = parts[0].shape[1];
  const size_t pitch_bytes = static_cast<size_t>(weight_pitch(cols, dtype)) * size_of(dtype);
  PaddedRows rows(parts, static_cast<size_t>(cols) * size_of(dtype), pitch_bytes);
  size_t total = 0;
  for (const Tensor& part : parts) total += static_cast<size_t>(part.shape[0]) * pitch_bytes;
  for (size_t sent = 0; sent < total;) {
    LONGHAUL_ASSIGN(const std::span<char> to, ring.room(total - sent));
    rows.read(to.data(), to.size());
    LONGHAUL_TRY(ring.send(device + sent, to.size()));
    sent += to.size();
  }
  return Status();
}

}  // namespace longhaul::cuda
