// Attention over keys and values in tensors: they are copied into pages, which the kernels of attention walk.
#include "core/dense_pages.h"
#include "cuda/attention_params.h"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/softmax_state.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

struct Scratch {
  DensePages pages;
  Workspace attention;

  static Scratch lay_out(Arena& arena, const DenseAttentionArgs& a) {
    Scratch s;
    s.pages = DensePages::lay_out(arena, a);
    const size_t bytes = attention_workspace(s.pages.attention(a));
    s.attention = {arena.take_bytes(bytes), bytes};
    return s;
  }
};

// A tensor [rows, heads, dim] in bytes.
struct RowBytes {
  const char* data;
  int64_t row_stride;
  int64_t head_stride;

  explicit RowBytes(const Tensor& t)
      : data(t.as<char>()),
        row_stride(t.stride[0] * static_cast<int64_t>(size_of(t.dtype))),
        head_stride(t.stride[1] * static_cast<int64_t>(size_of(t.dtype))) {}
};

struct PageInParams {
  RowBytes k, v;
  char* k_pages;
  char* v_pages;
  int32_t* page_table;
  int32_t* lengths;
  CacheView* views;
  const AttentionSpan* spans;
  int32_t span_count;
  int32_t kv_heads;
  int32_t max_pages;
  int32_t row_bytes;  // of one head
  int64_t key_pages;
};

__device__ __forceinline__ int32_t pages_of(int32_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

__device__ __forceinline__ void describe_span(const PageInParams& p, int32_t s) {
  const AttentionSpan span = p.spans[s];
  for (int32_t h = static_cast<int32_t>(threadIdx.x); h < p.kv_heads; h += kThreads) {
    p.lengths[s * p.kv_heads + h] = span.k_count;
  }
  if (threadIdx.x != 0) return;
  CacheView view{};
  view.page_table = p.page_table + static_cast<int64_t>(s) * p.kv_heads * p.max_pages;
  view.length = p.lengths + s * p.kv_heads;
  view.max_pages = p.max_pages;
  view.row_begin = span.q_begin;
  view.row_count = span.q_count;
  view.ahead = span.offset + span.q_count - span.k_count;
  p.views[s] = view;
}

// A block a page of all heads, then one a span for its view. Rows behind a span's last key become 0.
template <int kBytes>
__global__ void __launch_bounds__(kThreads) page_in(const PageInParams p) {
  if (blockIdx.x >= p.key_pages) return describe_span(p, static_cast<int32_t>(blockIdx.x - p.key_pages));
  auto page = static_cast<int32_t>(blockIdx.x);
  int32_t s = 0;
  for (; s < p.span_count && page >= pages_of(p.spans[s].k_count); ++s) page -= pages_of(p.spans[s].k_count);
  if (s == p.span_count) return;  // the host's bound was higher
  const AttentionSpan span = p.spans[s];
  const int64_t first_row = span.k_begin + page * kPageRows;
  const int32_t rows = min(span.k_count - page * kPageRows, kPageRows);
  const int32_t units = p.row_bytes / kBytes;
  const int64_t first_id = static_cast<int64_t>(blockIdx.x) * p.kv_heads;
  for (int32_t h = static_cast<int32_t>(threadIdx.x); h < p.kv_heads; h += kThreads) {
    p.page_table[(static_cast<int64_t>(s) * p.kv_heads + h) * p.max_pages + page] =
        static_cast<int32_t>(first_id + h);
  }
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.kv_heads * kPageRows * units; i += kThreads) {
    const int32_t column = i % units * kBytes;
    const int32_t row = i / units % kPageRows;
    const int32_t head = i / (units * kPageRows);
    const int64_t to = ((first_id + head) * kPageRows + row) * p.row_bytes + column;
    if (row < rows) {
      copy_bytes<kBytes>(p.k_pages + to,
                         p.k.data + (first_row + row) * p.k.row_stride + head * p.k.head_stride + column);
      copy_bytes<kBytes>(p.v_pages + to,
                         p.v.data + (first_row + row) * p.v.row_stride + head * p.v.head_stride + column);
    } else {
      alignas(16) const unsigned char zeros[kBytes] = {};
      copy_bytes<kBytes>(p.k_pages + to, zeros);
      copy_bytes<kBytes>(p.v_pages + to, zeros);
    }
  }
}

// The state of rows that saw no key. Without `out` only its lse, which says enough.
__global__ void __launch_bounds__(kThreads)
    start(RowTensor out, float* lse, int64_t slots, int32_t heads, int32_t dim) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= slots) return;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  if (lane == 0) lse[slot] = kNoScore;
  if (out.data == nullptr) return;
  for (int32_t c = lane; c < dim; c += 32) {
    store(out, static_cast<int32_t>(slot / heads), static_cast<int32_t>(slot % heads), c, 0.0f);
  }
}

// Ring attention's update: out moves towards the part by the share of all weight that the part has.
__global__ void __launch_bounds__(kThreads) merge_part(const float* part, const float* part_lse, RowTensor out,
                                                       float* lse, int64_t slots, int32_t heads, int32_t dim) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= slots) return;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const float before = lse[slot];
  const float more = part_lse[slot];
  if (more == kNoScore) return;
  const bool first = before == kNoScore;
  const float share = first ? 1.0f : 1.0f / (1.0f + expf(before - more));
  float* const row = at<float>(out, static_cast<int32_t>(slot / heads), static_cast<int32_t>(slot % heads));
  for (int32_t c = lane; c < dim; c += 32) {
    const float x = part[slot * dim + c];
    row[c] = first ? x : fmaf(share, x - row[c], row[c]);
  }
  __syncwarp();
  if (lane == 0) lse[slot] = first ? more : fmaxf(before, more) + log1pf(expf(-fabsf(before - more)));
}

cudaError_t launch_page_in(const DenseAttentionArgs& a, const DensePages& pages, cudaStream_t stream) {
  const auto size = static_cast<int64_t>(size_of(a.k.dtype));
  const PageInParams params{.k = RowBytes(a.k),
                            .v = RowBytes(a.v),
                            .k_pages = pages.k.as<char>(),
                            .v_pages = pages.v.as<char>(),
                            .page_table = pages.page_table.as<int32_t>(),
                            .lengths = pages.lengths.as<int32_t>(),
                            .views = pages.views.as<CacheView>(),
                            .spans = a.spans,
                            .span_count = a.span_count,
                            .kv_heads = static_cast<int32_t>(a.k.shape[1]),
                            .max_pages = static_cast<int32_t>(pages.page_table.shape[2]),
                            .row_bytes = static_cast<int32_t>(a.k.shape[2] * size),
                            .key_pages = a.key_pages};
  const dim3 grid = grid_of(a.key_pages + a.span_count);
  if (params.row_bytes % 16 == 0 && rows_aligned(a.k, 16 / size) && rows_aligned(a.v, 16 / size)) {
    return launch(page_in<16>, grid, dim3(kThreads), 0, stream, params);
  }
  if (size == 4) return launch(page_in<4>, grid, dim3(kThreads), 0, stream, params);
  return launch(page_in<2>, grid, dim3(kThreads), 0, stream, params);
}

}  // namespace

size_t dense_attention_workspace(const DenseAttentionArgs& a) {
  Arena arena;
  Scratch::lay_out(arena, a);
  return arena.used();
}

Status dense_attention(Stream& stream, const DenseAttentionArgs& a, Workspace workspace) {
  LONGHAUL_ASSERT(workspace.bytes >= dense_attention_workspace(a));
  CudaStream& cuda = cuda_stream(stream);
  Arena arena(workspace.data);
  const Scratch scratch = Scratch::lay_out(arena, a);
  const AttentionArgs attend = scratch.pages.attention(a);
  const auto heads = static_cast<int32_t>(a.q.shape[1]);
  const auto dim = static_cast<int32_t>(a.q.shape[2]);
  const int64_t slots = a.q.shape[0] * heads;
  if (slots == 0) return {};
  const dim3 grid = grid_of(divide_up(slots, kWarps));
  LONGHAUL_TRY(cuda.launched(
      launch(start, grid, dim3(kThreads), 0, cuda.handle(), a.accumulate ? RowTensor() : RowTensor(a.out),
             attend.lse.as<float>(), slots, heads, dim),
      "dense_attention"));
  if (a.span_count == 0) return {};
  LONGHAUL_TRY(cuda.launched(launch_page_in(a, scratch.pages, cuda.handle()), "dense_attention"));
  if (a.key_pages > 0) LONGHAUL_TRY(attention(stream, attend, scratch.attention));
  if (!a.accumulate) return {};
  return cuda.launched(
      launch(merge_part, grid, dim3(kThreads), 0, cuda.handle(), scratch.pages.part.as<float>(),
             scratch.pages.part_lse.as<float>(), RowTensor(a.out), a.lse.as<float>(), slots, heads, dim),
      "dense_attention");
}

}  // namespace longhaul::cuda
