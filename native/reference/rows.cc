#include "reference/rows.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace longhaul::reference {
namespace {

template <class T>
void load_as(const void* data, int64_t offset, int64_t count, double* out) {
  const T* from = static_cast<const T*>(data) + offset;
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<double>(to_f32(from[i]));
}

template <class T>
void store_as(void* data, int64_t offset, int64_t count, const double* in) {
  T* to = static_cast<T*>(data) + offset;
  for (int64_t i = 0; i < count; ++i) to[i] = from_f32<T>(static_cast<float>(in[i]));
}

}  // namespace

void load(const void* data, DType dtype, int64_t offset, int64_t count, double* out) {
  switch (dtype) {
    case DType::kF32:
      return load_as<float>(data, offset, count, out);
    case DType::kBf16:
      return load_as<Bf16>(data, offset, count, out);
    case DType::kF16:
      return load_as<F16>(data, offset, count, out);
    default:
      return;  // check.cc lets no other dtype through
  }
}

void store(void* data, DType dtype, int64_t offset, int64_t count, const double* in) {
  switch (dtype) {
    case DType::kF32:
      return store_as<float>(data, offset, count, in);
    case DType::kBf16:
      return store_as<Bf16>(data, offset, count, in);
    case DType::kF16:
      return store_as<F16>(data, offset, count, in);
    default:
      return;
  }
}

std::vector<double> load_head(const Tensor& pages, const CacheView& view, int32_t head, int32_t rows) {
  const int64_t dim = row_length(pages);
  std::vector<double> out(static_cast<size_t>(rows * dim));
  for (int32_t r = 0; r < rows; ++r) {
    load(pages.data, pages.dtype, slot_of(view, head, r) * dim, dim, out.data() + r * dim);
  }
  return out;
}

void store_state(const Tensor& state, int64_t row, int64_t head, double lse) {
  float* const pair = state.as<float>() + row_at(state, row, head);
  pair[0] = static_cast<float>(lse * std::numbers::log2e);
  pair[1] = std::isinf(lse) ? 0.0f : static_cast<float>(std::exp2(lse * std::numbers::log2e - double{pair[0]}));
}

double load_state(const Tensor& state, int64_t row, int64_t head) {
  const float* const pair = state.as<float>() + row_at(state, row, head);
  return pair[1] == 0 ? -std::numeric_limits<double>::infinity()
                      : (double{pair[0]} + std::log2(double{pair[1]})) * std::numbers::ln2;
}

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void rotate(std::vector<double>& x, const Tensor& cos, const Tensor& sin, int64_t row) {
  const size_t half = x.size() / 2;
  const float* c = cos.as<float>() + row * cos.stride[0];
  const float* s = sin.as<float>() + row * sin.stride[0];
  for (size_t i = 0; i < half; ++i) {
    const double low = x[i];
    const double high = x[i + half];
    x[i] = low * c[i] - high * s[i];
    x[i + half] = high * c[i] + low * s[i];
  }
}

}  // namespace longhaul::reference
