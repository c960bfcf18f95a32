#include "cpu/isa/elements.h"
#include "cpu/isa/kernels.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

// Four sums, so that additions need not wait for each other.
float dot(const void* x, Element type, const float* weight, int64_t n) {
  float result = 0;
  typed(x, type, [&](auto* from) {
    Vec sum[4] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        sum[j] = fma(read(from + i + j * kLanes), load(weight + i + j * kLanes), sum[j]);
      }
    }
    for (; i < n; i += kLanes) sum[0] = fma(read_at(from, i, n), read_at(weight, i, n), sum[0]);
    result = reduce_add(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
  });
  return result;
}

void add_scaled(float scale, const void* x, Element type, void* out, Element out_type, bool accumulate,
                int64_t n) {
  typed(x, type, [=](auto* from) {
    typed(out, out_type, [=](auto* to) {
      const Vec factor = splat(scale);
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec value = read_at(from, i, n);
        write_at(to, i, n, accumulate ? fma(factor, value, read_at(to, i, n)) : mul(factor, value));
      }
    });
  });
}

void store_rescaled(const float* acc, const float* factor, const float* offset, void* out, Element type,
                    int64_t n) {
  typed(out, type, [=](auto* to) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec sum = mul(read_at(factor, i, n), add(read_at(to, i, n), read_at(acc, i, n)));
      write_at(to, i, n, offset == nullptr ? sum : add(sum, read_at(offset, i, n)));
    }
  });
}

}  // namespace

const cpu::ExpertKernels expert_kernels = {
    .dot = dot,
    .add_scaled = add_scaled,
    .store_rescaled = store_rescaled,
};

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
