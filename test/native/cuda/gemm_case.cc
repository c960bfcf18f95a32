#include "cuda/gemm_case.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "cuda/weight_layout.h"

namespace longhaul::testing {
namespace {

constexpr int kXGap = 16;
constexpr unsigned char kUntouched = 0xa5, kNaN = 0xff;

float rounded(float value, DType type) {
  if (type == DType::kBf16) return to_f32(to_bf16(value));
  return type == DType::kF16 ? to_f32(to_f16(value)) : value;
}

void put(unsigned char* at, int64_t index, float value, DType type) {
  at += index * static_cast<int64_t>(size_of(type));
  if (type == DType::kF32) {
    std::memcpy(at, &value, sizeof value);
  } else {
    const uint16_t bits = type == DType::kBf16 ? to_bf16(value).bits : to_f16(value).bits;
    std::memcpy(at, &bits, sizeof bits);
  }
}

float get(const unsigned char* at, int64_t index, DType type) {
  at += index * static_cast<int64_t>(size_of(type));
  if (type == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return type == DType::kBf16 ? to_f32(Bf16{bits}) : to_f32(F16{bits});
}

// An allocation of its own, so that a read past its end shows.
void* upload(const std::vector<unsigned char>& bytes) {
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, bytes.size()), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), cudaSuccess);
  return memory;
}

// `count` elements that read as NaN, or as untouched bytes.
std::vector<unsigned char> filled(int64_t count, DType type, unsigned char byte) {
  return std::vector<unsigned char>(static_cast<size_t>(count) * size_of(type), byte);
}

int alignment(int64_t bytes) {
  return static_cast<int>((bytes | 16) & -(bytes | 16));
}

}  // namespace

GemmCase::GemmCase(GemmShape shape, GemmTypes types, uint32_t seed)
    : rows(shape.rows), shape_(shape), types_(types) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  auto fill = [&](std::vector<float>& values, int64_t count, DType type) {
    values.resize(static_cast<size_t>(count));
    for (float& value : values) value = rounded(normal(random), type);
  };
  fill(x_, int64_t{shape.rows} * shape.cols, types.x);
  fill(weight_, int64_t{shape.outputs} * shape.cols, types.weight);
  fill(bias_, shape.outputs, DType::kF32);
  fill(out_, int64_t{shape.rows} * shape.outputs, types.out);
}

float GemmCase::before(int row, int output) const {
  return out_[static_cast<size_t>(int64_t{first_row + row} * shape_.outputs + output)];
}

GemmCase::Placed GemmCase::place() const {
  const int64_t x_stride = (shape_.cols + kXGap + 15) / 16 * 16, out_stride = shape_.outputs + out_gap;
  const int64_t pitch = cuda::weight_pitch(shape_.cols, types_.weight);
  const auto x_size = static_cast<int64_t>(size_of(types_.x)),
             out_size = static_cast<int64_t>(size_of(types_.out));
  auto out = filled(rows * out_stride, types_.out, kUntouched);
  auto x = filled((rows - 1) * x_stride + x_offset + shape_.cols, types_.x, kNaN);
  auto weight = filled(shape_.outputs * pitch, types_.weight, 0);
  auto bias_bytes = filled(shape_.outputs, DType::kF32, kNaN);
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; accumulate && i < shape_.outputs; ++i) {
      put(out.data(), row * out_stride + i, before(row, i), types_.out);
    }
    for (int k = 0; k < shape_.cols; ++k) {
      const float value = x_[static_cast<size_t>(int64_t{first_row + row} * shape_.cols + k)];
      put(x.data(), row * x_stride + x_offset + k, value, types_.x);
    }
  }
  for (int i = 0; i < shape_.outputs; ++i) {
    for (int k = 0; k < shape_.cols; ++k) {
      put(weight.data(), i * pitch + k, weight_[static_cast<size_t>(int64_t{i} * shape_.cols + k)],
          types_.weight);
    }
    put(bias_bytes.data(), i, bias_[static_cast<size_t>(i)], DType::kF32);
  }

  Placed placed{.problem = {},
                .memory = {upload(out), upload(x), upload(weight), upload(bias_bytes)},
                .out_bytes = out.size()};
  placed.problem = {.x = static_cast<unsigned char*>(placed.memory[1]) + x_offset * x_size,
                    .x_stride = x_stride,
                    .x_alignment = alignment(x_offset * x_size),
                    .weight = placed.memory[2],
                    .pitch = pitch,
                    .cols = shape_.cols,
                    .x_type = types_.x,
                    .weight_type = types_.weight,
                    .out = {.data = placed.memory[0],
                            .stride = out_stride,
                            .bias = bias ? static_cast<const float*>(placed.memory[3]) : nullptr,
                            .rows = rows,
                            .outputs = shape_.outputs,
                            .bf16 = types_.out == DType::kBf16,
                            .accumulate = accumulate,
                            .alignment = alignment(rows > 1 ? out_stride * out_size : 0)}};
  return placed;
}

std::vector<float> GemmCase::fetch(const Placed& placed) const {
  EXPECT_EQ(last_error_, cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<unsigned char> host(placed.out_bytes);
  EXPECT_EQ(cudaMemcpy(host.data(), placed.memory[0], host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  for (void* memory : placed.memory) EXPECT_EQ(cudaFree(memory), cudaSuccess);
  const int64_t stride = shape_.outputs + out_gap;
  const auto size = static_cast<int64_t>(size_of(types_.out));
  std::vector<float> result;
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < shape_.outputs; ++i) result.push_back(get(host.data(), row * stride + i, types_.out));
    for (int64_t at = (row * stride + shape_.outputs) * size; at < (row + 1) * stride * size; ++at) {
      EXPECT_EQ(host[static_cast<size_t>(at)], kUntouched) << "written behind row " << row;
      if (host[static_cast<size_t>(at)] != kUntouched) return result;
    }
  }
  return result;
}

void GemmCase::expect_right(const std::vector<float>& result) const {
  ASSERT_EQ(result.size(), static_cast<size_t>(int64_t{rows} * shape_.outputs));
  const double out_epsilon = types_.out == DType::kBf16 ? 0x1p-8 : 0x1p-24;
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < shape_.outputs; ++i) {
      double sum = bias ? bias_[static_cast<size_t>(i)] : 0;
      if (accumulate) sum += before(row, i);
      double magnitude = std::fabs(sum);
      for (int k = 0; k < shape_.cols; ++k) {
        const double product = double{x_[static_cast<size_t>(int64_t{first_row + row} * shape_.cols + k)]} *
                               weight_[static_cast<size_t>(int64_t{i} * shape_.cols + k)];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double allowed =
          2 * out_epsilon * std::fabs(sum) + 2 * (4 + std::sqrt(shape_.cols)) * 0x1p-24 * magnitude;
      const double got = result[static_cast<size_t>(int64_t{row} * shape_.outputs + i)];
      ASSERT_NEAR(got, sum, allowed) << "row " << row << ", output " << i;
    }
  }
}

}  // namespace longhaul::testing
