// Operations of sequence parallelism: moving heads between ranks, and attention over keys and values that lie
// in tensors instead of pages. Part of core/ops.h.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace longhaul {

// One head of one rank's part. Parts lie one behind the other, each [rows, its heads, dim].
struct HeadSlot {
  int32_t head;   // of the unpacked tensor
  int32_t first;  // the part's first slot
  int32_t count;  // slots of the part
};

// Cuts rows into parts by heads, as an all-to-all of Ulysses sends them. A head may be in several parts (KV
// heads fewer than ranks), or in none. Slot s of row t lies at ((first * rows) + t * count + (s - first)) *
// dim.
struct PackHeadsArgs {
  Tensor x;                         // [rows, heads, dim] f32, bf16 or f16, rows and heads may be strided
  const HeadSlot* slots = nullptr;  // [slot_count], device memory
  int32_t slot_count = 0;
  Tensor packed;  // [rows * slot_count * dim], dtype of x
};

// The inverse: a head that several parts hold is their sum in the order of slots, taken in f32 (the gradient of
// a head that was copied); one that no part holds is 0.
struct UnpackHeadsArgs {
  Tensor packed;                    // [rows * slot_count * dim]
  const HeadSlot* slots = nullptr;  // [slot_count], device memory
  int32_t slot_count = 0;
  Tensor out;  // [rows, heads, dim], dtype of packed, rows and heads may be strided
};

// Rows of queries against rows of keys in time order: query i of the span sees the first
// clamp(offset + i + 1, 0, k_count) keys. offset is the distance in positions from the span's first key to its
// first query, so that sequences packed one behind the other never see each other.
struct AttentionSpan {
  int32_t q_begin;
  int32_t q_count;
  int32_t k_begin;
  int32_t k_count;
  int32_t offset;
};

// Attention over keys and values as they come from another rank. A row of q is in one span at most.
// `accumulate`: out and state hold what these queries saw of other keys, and become that of both: ring
// attention's merge, in f32. Otherwise a row that sees no key gets out 0, lse -inf and sum 0. A row's bits
// depend on nothing but its query and the keys it sees.
struct DenseAttentionArgs {
  Tensor q;                              // [rows, heads, dim] f32 or act, after RoPE
  Tensor k, v;                           // [keys, kv_heads, dim] f32, bf16 or f16
  const AttentionSpan* spans = nullptr;  // [span_count], device memory
  int32_t span_count = 0;
  int32_t max_keys = 0;   // no span has more keys
  int64_t key_pages = 0;  // sum over spans of ceil(k_count / kPageRows)
  Tensor out;             // [rows, heads, dim] f32 or act; f32 to accumulate
  Tensor lse;             // [rows, heads] f32: log of the sum of exp(scaled scores)
  Tensor state;           // as AttentionArgs::state; optional unless to accumulate
  float scale = 0;
  bool accumulate = false;
};

// Gradients of dense_attention over these keys, given its result over all keys. Each is added to what its
// tensor holds, in f32, so that keys may come one place after another: with p = exp(scale * q k - lse) and ds =
// p * (d_out v - d_out out), d_q += scale * ds k, d_k += scale * ds q, d_v += p * d_out (FlashAttention-2,
// arXiv 2307.08691, section 3.1.2). A key that several heads of a group, or several spans, share gets their sum
// in the order of spans, then queries, then heads.
struct DenseAttentionBackwardArgs {
  Tensor q;                              // [rows, heads, dim] f32 or act
  Tensor k, v;                           // [keys, kv_heads, dim] f32, bf16 or f16
  const AttentionSpan* spans = nullptr;  // [span_count], device memory
  int32_t span_count = 0;
  Tensor out;    // [rows, heads, dim] f32 or act
  Tensor lse;    // [rows, heads] f32, over all keys
  Tensor d_out;  // [rows, heads, dim] f32 or act
  Tensor d_q;    // [rows, heads, dim] f32
  Tensor d_k;    // [keys, kv_heads, dim] f32
  Tensor d_v;    // [keys, kv_heads, dim] f32
  float scale = 0;
};

}  // namespace longhaul
