// How a backend whose attention walks pages serves dense_attention: each span's keys and values are copied into
// pages of the workspace, one behind the other, and the span becomes a sequence. The copy is read many times
// more often than it is written.
#pragma once

#include "core/arena.h"
#include "core/ops.h"

namespace longhaul {

struct DensePages {
  Tensor k, v;        // [key_pages * kv_heads, kPageRows, dim]; page p of head h is number p * kv_heads + h
  Tensor page_table;  // [spans, kv_heads, max_pages] i32
  Tensor lengths;     // [spans, kv_heads] i32
  Tensor views;       // CacheView [spans], as bytes
  Tensor part, part_state;  // to accumulate: out and state over these keys alone

  static DensePages lay_out(Arena& arena, const DenseAttentionArgs& a) {
    const int64_t kv_heads = a.k.shape[1];
    const int64_t dim = a.q.shape[2];
    const int64_t max_pages = (int64_t{a.max_keys} + kPageRows - 1) / kPageRows;
    DensePages p;
    p.k = arena.take(a.k.dtype, {a.key_pages * kv_heads, kPageRows, dim});
    p.v = arena.take(a.v.dtype, {a.key_pages * kv_heads, kPageRows, dim});
    p.page_table = arena.take(DType::kI32, {a.span_count, kv_heads, max_pages});
    p.lengths = arena.take(DType::kI32, {a.span_count, kv_heads});
    p.views = arena.take(DType::kU8, {static_cast<int64_t>(a.span_count * sizeof(CacheView))});
    if (a.accumulate) {
      p.part = arena.take(DType::kF32, {a.q.shape[0], a.q.shape[1], dim});
      p.part_state = arena.take(DType::kF32, {a.q.shape[0], a.q.shape[1], 2});
    }
    return p;
  }

  CacheView view(int64_t span, const AttentionSpan& s) const {
    const int64_t kv_heads = page_table.shape[1];
    const int64_t max_pages = page_table.shape[2];
    return {.page_table = page_table.as<int32_t>() + span * kv_heads * max_pages,
            .length = lengths.as<int32_t>() + span * kv_heads,
            .max_pages = static_cast<int32_t>(max_pages),
            .row_begin = s.q_begin,
            .row_count = s.q_count,
            .ahead = s.offset + s.q_count - s.k_count};
  }

  // Into the part when accumulating, else into the result.
  AttentionArgs attention(const DenseAttentionArgs& a) const {
    return {.pages = {k, v, Tensor()},
            .views = views.as<const CacheView>(),
            .sequences = a.span_count,
            .q = a.q,
            .out = a.accumulate ? part : a.out,
            .lse = a.accumulate ? Tensor() : a.lse,
            .kv_heads = static_cast<int32_t>(a.k.shape[1]),
            .scale = a.scale,
            .max_length = a.max_keys,
            .role = RowRole::kBlock,
            .state = a.accumulate ? part_state : a.state};
  }
};

}  // namespace longhaul
