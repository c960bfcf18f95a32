// Attention on the host: which kernel serves which role and dtypes, and where partial states lie.
#include <algorithm>
#include <numbers>

#include "core/arena.h"
#include "cuda/attention_params.h"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

bool is_multiple_of_16(int64_t bytes) {
  return bytes % 16 == 0;
}

bool is_aligned_16(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Partial states of the splits, when there are several.
struct PartialStates {
  Tensor out;  // [splits, rows, heads, dim]
  Tensor lse;  // [splits, rows, heads]

  static PartialStates lay_out(Arena& arena, const AttentionArgs& a) {
    const int64_t splits = splits_of(a.max_length);
    return {arena.take(DType::kF32, {splits, a.q.shape[0], a.q.shape[1], a.q.shape[2]}),
            arena.take(DType::kF32, {splits, a.q.shape[0], a.q.shape[1]})};
  }
};

bool is_split(const AttentionArgs& a) {
  return a.role == RowRole::kDecode && splits_of(a.max_length) > 1;
}

cudaError_t attend(CudaStream& stream, const AttentionArgs& a, const AttentionParams& params, int32_t splits) {
  const DType kv = a.pages.k.dtype;
  if (a.q.dtype == DType::kF32 || kv == DType::kF32) {
    return launch_f32_attention(params, kv, a.role, splits, stream.handle());
  }
  if (a.role == RowRole::kDecode) return launch_decode_attention(params, kv, splits, stream.handle());
  if (stream.traits().compute_capability == 90 && has_sm90_attention(params.dim) && params.k.whole_chunks &&
      params.v.whole_chunks) {
    return launch_block_attention_sm90(params, a.pages, stream.handle());
  }
  return launch_block_attention(params, kv, stream.handle());
}

}  // namespace

RowTensor::RowTensor(const Tensor& t)
    : data(t.data), row_stride(t.stride[0]), head_stride(t.stride[1]), bf16(t.dtype == DType::kBf16) {
  const auto size = static_cast<int64_t>(size_of(t.dtype));
  whole_chunks = is_aligned_16(data) && is_multiple_of_16(t.shape[2] * size) &&
                 (t.shape[0] <= 1 || is_multiple_of_16(row_stride * size)) &&
                 (t.shape[1] <= 1 || is_multiple_of_16(head_stride * size));
}

Pages::Pages(const Tensor& t)
    : data(t.data), row_bytes(static_cast<int32_t>(t.shape[2] * static_cast<int64_t>(size_of(t.dtype)))) {
  whole_chunks = is_aligned_16(data) && is_multiple_of_16(row_bytes);
}

AttentionParams::AttentionParams(const AttentionArgs& a)
    : k(a.pages.k),
      v(a.pages.v),
      views(a.views),
      sequences(static_cast<int32_t>(a.sequences)),
      q(a.q),
      out(a.out),
      lse(a.lse.as<float>()),
      state(a.state.as<float>()),
      rows(static_cast<int32_t>(a.q.shape[0])),
      heads(static_cast<int32_t>(a.q.shape[1])),
      kv_heads(a.kv_heads),
      group(static_cast<int32_t>(a.q.shape[1] / a.kv_heads)),
      dim(static_cast<int32_t>(a.q.shape[2])),
      scale(a.scale * std::numbers::log2e_v<float>) {}

size_t attention_workspace(const AttentionArgs& a) {
  if (!is_split(a)) return 0;
  Arena arena;
  PartialStates::lay_out(arena, a);
  return arena.used();
}

Status attention(Stream& stream, const AttentionArgs& a, Workspace workspace) {
  LONGHAUL_ASSERT(workspace.bytes >= attention_workspace(a));
  AttentionParams params(a);
  if (params.rows == 0 || params.sequences == 0) return Status();
  CudaStream& cuda = cuda_stream(stream);
  if (!is_split(a)) return cuda.launched(attend(cuda, a, params, 1), "attention");

  Arena arena(workspace.data);
  const PartialStates states = PartialStates::lay_out(arena, a);
  params.parts = states.out.as<float>();
  params.parts_lse = states.lse.as<float>();
  LONGHAUL_TRY(cuda.launched(attend(cuda, a, params, static_cast<int32_t>(states.lse.shape[0])), "attention"));
  const MergeParams merge{.parts = params.parts,
                          .parts_lse = params.parts_lse,
                          .out = params.out,
                          .lse = params.lse,
                          .splits = states.lse.shape[0],
                          .rows = params.rows,
                          .heads = params.heads,
                          .dim = params.dim};
  return cuda.launched(launch_merge_states(merge, cuda.handle()), "merge_states");
}

Status merge_states(Stream& stream, const MergeStatesArgs& a) {
  const MergeParams merge{.parts = a.parts.as<float>(),
                          .parts_lse = a.parts_lse.as<float>(),
                          .out = RowTensor(a.out),
                          .lse = a.lse.as<float>(),
                          .splits = a.parts.shape[0],
                          .rows = a.parts.shape[1],
                          .heads = a.parts.shape[2],
                          .dim = a.parts.shape[3]};
  if (merge.rows * merge.heads == 0) return Status();
  CudaStream& cuda = cuda_stream(stream);
  return cuda.launched(launch_merge_states(merge, cuda.handle()), "merge_states");
}

}  // namespace longhaul::cuda
