// Attention over keys and values in tensors: they are copied into pages, which the kernels of attention.cc
// walk.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "core/dense_pages.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

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

// Up to kPageRows rows of x from `first` on into one page; the rest of it becomes 0.
void fill_page(const Tensor& x, int64_t first, int64_t rows, int64_t head, char* page) {
  const auto bytes = static_cast<size_t>(x.shape[2]) * size_of(x.dtype);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(page + static_cast<size_t>(r) * bytes, row_at(x, first + r, head), bytes);
  }
  std::memset(page + static_cast<size_t>(rows) * bytes, 0, static_cast<size_t>(kPageRows - rows) * bytes);
}

void page_in(CpuStream& stream, const DenseAttentionArgs& a, const DensePages& pages) {
  const int64_t kv_heads = a.k.shape[1];
  int64_t first_page = 0;
  for (int64_t s = 0; s < a.span_count; ++s) {
    const AttentionSpan& span = a.spans[s];
    const CacheView view = pages.view(s, span);
    std::fill_n(view.length, kv_heads, span.k_count);
    stream.parallel_for(pages_of(span.k_count), [&](int64_t p, int) {
      const int64_t rows = std::min<int64_t>(span.k_count - p * kPageRows, kPageRows);
      for (int64_t h = 0; h < kv_heads; ++h) {
        const auto page = static_cast<int32_t>((first_page + p) * kv_heads + h);
        view.page_table[h * view.max_pages + p] = page;
        fill_page(a.k, span.k_begin + p * kPageRows, rows, h, page_at(pages.k, page));
        fill_page(a.v, span.k_begin + p * kPageRows, rows, h, page_at(pages.v, page));
      }
    });
    std::memcpy(pages.views.as<char>() + s * static_cast<int64_t>(sizeof view), &view, sizeof view);
    first_page += pages_of(span.k_count);
  }
}

void fill_nothing(const DenseAttentionArgs& a) {
  const auto bytes = static_cast<size_t>(a.out.shape[2]) * size_of(a.out.dtype);
  for (int64_t row = 0; row < a.out.shape[0]; ++row) {
    for (int64_t h = 0; h < a.out.shape[1]; ++h) std::memset(row_at(a.out, row, h), 0, bytes);
  }
  std::fill_n(a.lse.as<float>(), a.lse.elements(), kNothing);
  for (int64_t i = 0; a.state && i < a.lse.elements(); ++i) {
    a.state.as<float>()[2 * i] = kNothing;
    a.state.as<float>()[2 * i + 1] = 0;
  }
}

// Ring attention's update: out moves towards the part by the share of all weight that the part has. Sums are in
// double and rounded once: a row meets this as often as there are ranks.
void merge_row(const float* part, const float* part_state, float* out, float* state, float* lse, int64_t dim) {
  if (part_state[1] == 0) return;  // saw nothing: such a part may hold anything
  const double largest = std::max(state[1] == 0 ? kNothing : state[0], part_state[0]);
  const double before = state[1] == 0 ? 0 : double{state[1]} * std::exp2(double{state[0]} - largest);
  const double more = double{part_state[1]} * std::exp2(double{part_state[0]} - largest);
  const double share = more / (before + more);
  for (int64_t d = 0; d < dim; ++d) {
    const double was = before == 0 ? part[d] : out[d];
    out[d] = static_cast<float>(was + share * (double{part[d]} - was));
  }
  state[0] = static_cast<float>(largest);
  state[1] = static_cast<float>(before + more);
  *lse = (state[0] + std::log2(state[1])) * std::numbers::ln2_v<float>;
}

void merge_part(CpuStream& stream, const DenseAttentionArgs& a, const DensePages& pages) {
  const int64_t heads = a.q.shape[1];
  const int64_t dim = a.q.shape[2];
  for (int64_t s = 0; s < a.span_count; ++s) {
    stream.parallel_for(a.spans[s].q_count, [&](int64_t i, int) {
      const int64_t row = a.spans[s].q_begin + i;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t slot = row * heads + h;
        merge_row(pages.part.as<float>() + slot * dim, pages.part_state.as<float>() + slot * 2,
                  reinterpret_cast<float*>(row_at(a.out, row, h)), a.state.as<float>() + slot * 2,
                  a.lse.as<float>() + slot, dim);
      }
    });
  }
}

}  // namespace

size_t dense_attention_workspace(const DenseAttentionArgs& a) {
  Arena arena;
  Scratch::lay_out(arena, a);
  return arena.used();
}

Status dense_attention(Stream& stream, const DenseAttentionArgs& a, Workspace workspace) {
  LONGHAUL_ASSERT(workspace.bytes >= dense_attention_workspace(a));
  CpuStream& cpu = cpu_stream(stream);
  Arena arena(workspace.data);
  const Scratch scratch = Scratch::lay_out(arena, a);
  page_in(cpu, a, scratch.pages);
  if (!a.accumulate) fill_nothing(a);
  LONGHAUL_TRY(attention(stream, scratch.pages.attention(a), scratch.attention));
  if (a.accumulate) merge_part(cpu, a, scratch.pages);
  return {};
}

}  // namespace longhaul::cpu
