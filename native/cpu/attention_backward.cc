// Gradients of dense_attention. A task is a KV head, so that what its keys get is summed in one order.
#include <algorithm>
#include <cmath>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

// A row of values as f32: itself, or widened.
const float* widen(const Tensor& t, int64_t row, int64_t head, float* memory) {
  const char* const from = row_at(t, row, head);
  if (t.dtype == DType::kF32) return reinterpret_cast<const float*>(from);
  for (int64_t d = 0; d < t.shape[2]; ++d) {
    memory[d] = t.dtype == DType::kBf16 ? to_f32(reinterpret_cast<const Bf16*>(from)[d])
                                        : to_f32(reinterpret_cast<const F16*>(from)[d]);
  }
  return memory;
}

// Eight sums in turn, then one: a fixed order that compilers turn into vectors.
float dot(const float* x, const float* y, int64_t dim) {
  constexpr int kSums = 8;
  float sums[kSums] = {};
  int64_t d = 0;
  for (; d + kSums <= dim; d += kSums) {
    for (int i = 0; i < kSums; ++i) sums[i] += x[d + i] * y[d + i];
  }
  for (; d < dim; ++d) sums[0] += x[d] * y[d];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

void add(float factor, const float* x, float* to, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) to[d] += factor * x[d];
}

// What one query of one head gives and gets.
struct Query {
  float q[kMaxKernelDim], out[kMaxKernelDim], d_out[kMaxKernelDim], key[kMaxKernelDim], value[kMaxKernelDim];

  void run(const DenseAttentionBackwardArgs& a, const AttentionSpan& span, int64_t i, int64_t head,
           int64_t kv) {
    const int64_t dim = a.q.shape[2];
    const int64_t row = span.q_begin + i;
    const float* const query = widen(a.q, row, head, q);
    const float* const upstream = widen(a.d_out, row, head, d_out);
    const float delta = dot(upstream, widen(a.out, row, head, out), dim);
    const float lse = a.lse.as<float>()[row * a.lse.stride[0] + head];
    auto* const d_q = reinterpret_cast<float*>(row_at(a.d_q, row, head));
    const int64_t visible = std::clamp<int64_t>(int64_t{span.offset} + i + 1, 0, span.k_count);
    for (int64_t j = span.k_begin; j < span.k_begin + visible; ++j) {
      const float* const k = widen(a.k, j, kv, key);
      const float p = std::exp(a.scale * dot(query, k, dim) - lse);
      const float d_score = a.scale * p * (dot(upstream, widen(a.v, j, kv, value), dim) - delta);
      add(d_score, k, d_q, dim);
      add(d_score, query, reinterpret_cast<float*>(row_at(a.d_k, j, kv)), dim);
      add(p, upstream, reinterpret_cast<float*>(row_at(a.d_v, j, kv)), dim);
    }
  }
};

}  // namespace

Status dense_attention_backward(Stream& stream, const DenseAttentionBackwardArgs& a) {
  const int64_t group = a.q.shape[1] / a.k.shape[1];
  cpu_stream(stream).parallel_for(a.k.shape[1], [&](int64_t kv, int) {
    Query query;
    for (int32_t s = 0; s < a.span_count; ++s) {
      for (int64_t i = 0; i < a.spans[s].q_count; ++i) {
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) query.run(a, a.spans[s], i, h, kv);
      }
    }
  });
  return {};
}

}  // namespace longhaul::cpu
