// Attention over keys and values in tensors: they are copied into pages, which the kernels of attention walk.
#include "core/dense_pages.h"
#include "cuda/attention_params.h"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/query_tile.cuh"
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

// What queries hold: out is f32 where it is merged.
struct HeldParams {
  RowTensor out;  // without data: only the state is of interest
  float* lse;     // [slots], or null
  float* state;   // [slots, 2], or null
  int64_t slots;  // rows x heads
  int32_t heads;
  int32_t dim;
};

// A row that saw no key.
__global__ void __launch_bounds__(kThreads) start(const HeldParams p) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= p.slots) return;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  if (lane == 0 && p.lse != nullptr) p.lse[slot] = kNoScore;
  if (lane == 0 && p.state != nullptr) {
    p.state[2 * slot] = kNoScore;
    p.state[2 * slot + 1] = 0;
  }
  if (p.out.data == nullptr) return;
  for (int32_t c = lane; c < p.dim; c += 32) {
    store(p.out, static_cast<int32_t>(slot / p.heads), static_cast<int32_t>(slot % p.heads), c, 0.0f);
  }
}

// Ring attention's update: out moves towards the part by the share of all weight that the part has.
__global__ void __launch_bounds__(kThreads)
    merge_part(const float* part, const float* part_state, const HeldParams p) {
  const int64_t slot = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (slot >= p.slots) return;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const float part_max = part_state[2 * slot];
  const float part_sum = part_state[2 * slot + 1];
  if (part_sum == 0) return;  // saw nothing: such a part may hold anything
  const float sum = p.state[2 * slot + 1];
  const float max = sum == 0 ? kNoScore : p.state[2 * slot];
  const float top = fmaxf(max, part_max);
  const float before = sum == 0 ? 0.0f : sum * exp2f(max - top);
  const float more = part_sum * exp2f(part_max - top);
  const float share = more / (before + more);
  float* const row =
      at<float>(p.out, static_cast<int32_t>(slot / p.heads), static_cast<int32_t>(slot % p.heads));
  for (int32_t c = lane; c < p.dim; c += 32) {
    const float x = part[slot * p.dim + c];
    row[c] = before == 0 ? x : fmaf(share, x - row[c], row[c]);
  }
  __syncwarp();
  if (lane != 0) return;
  p.state[2 * slot] = top;
  p.state[2 * slot + 1] = before + more;
  p.lse[slot] = log2_sum(top, before + more) * kLn2;
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
  const HeldParams held{.out = RowTensor(a.out),
                        .lse = a.lse.as<float>(),
                        .state = a.state.as<float>(),
                        .slots = a.q.shape[0] * a.q.shape[1],
                        .heads = static_cast<int32_t>(a.q.shape[1]),
                        .dim = static_cast<int32_t>(a.q.shape[2])};
  if (held.slots == 0) return {};
  const dim3 grid = grid_of(divide_up(held.slots, kWarps));
  HeldParams fresh = held;
  if (a.accumulate) {
    fresh.out = RowTensor();
    fresh.lse = nullptr;
    fresh.state = attend.state.as<float>();
  }
  LONGHAUL_TRY(cuda.launched(launch(start, grid, dim3(kThreads), 0, cuda.handle(), fresh), "dense_attention"));
  if (a.span_count == 0 || a.key_pages == 0) return {};
  LONGHAUL_TRY(cuda.launched(launch_page_in(a, scratch.pages, cuda.handle()), "dense_attention"));
  LONGHAUL_TRY(attention(stream, attend, scratch.attention));
  if (!a.accumulate) return {};
  return cuda.launched(launch(merge_part, grid, dim3(kThreads), 0, cuda.handle(),
                              scratch.pages.part.as<float>(), attend.state.as<float>(), held),
                       "dense_attention");
}

}  // namespace longhaul::cuda
