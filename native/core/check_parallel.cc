// Argument checks of the operations of core/parallel_ops.h.
#include "core/checker.h"
#include "core/ops.h"

namespace longhaul {
namespace {

constexpr int64_t kMaxHeadDim = 256;

void check_slots(Checker& c, const HeadSlot* slots, int32_t count) {
  c.require(count >= 0, "slot_count must not be negative", count);
  c.require(count == 0 || slots != nullptr, "slots are missing");
}

void check_head_dim(Checker& c, int64_t dim) {
  c.require(dim >= 2 && dim <= kMaxHeadDim && dim % 2 == 0, "head dim must be even and between 2 and 256", dim);
}

void check_grouped(Checker& c, int64_t heads, int64_t kv_heads) {
  c.require(kv_heads >= 1, "k has no heads");
  if (c.ok()) c.require(heads >= 1 && heads % kv_heads == 0, "k's heads must divide those of q", heads);
}

void check_spans(Checker& c, const AttentionSpan* spans, int32_t count) {
  c.require(count >= 0, "span_count must not be negative", count);
  c.require(count == 0 || spans != nullptr, "spans are missing");
}

}  // namespace

Status check(const PackHeadsArgs& a) {
  Checker c("pack_heads");
  check_slots(c, a.slots, a.slot_count);
  c.tensor("x", a.x, kStorage, {kAnyExtent, kAnyExtent, kAnyExtent});
  c.dense("packed", a.packed, one_of(a.x.dtype), {a.x.shape[0] * a.slot_count * a.x.shape[2]});
  return c.status();
}

Status check(const UnpackHeadsArgs& a) {
  Checker c("unpack_heads");
  check_slots(c, a.slots, a.slot_count);
  c.tensor("out", a.out, kStorage, {kAnyExtent, kAnyExtent, kAnyExtent});
  c.dense("packed", a.packed, one_of(a.out.dtype), {a.out.shape[0] * a.slot_count * a.out.shape[2]});
  return c.status();
}

Status check(const DenseAttentionArgs& a) {
  Checker c("dense_attention");
  c.tensor("q", a.q, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  const int64_t heads = a.q.shape[1];
  const int64_t dim = a.q.shape[2];
  check_head_dim(c, dim);
  c.tensor("k", a.k, kStorage, {kAnyExtent, kAnyExtent, dim});
  const int64_t kv_heads = a.k.shape[1];
  c.tensor("v", a.v, one_of(a.k.dtype), {a.k.shape[0], kv_heads, dim});
  check_grouped(c, heads, kv_heads);
  check_spans(c, a.spans, a.span_count);
  c.require(a.max_keys >= 0, "max_keys must not be negative", a.max_keys);
  c.require(a.key_pages >= 0, "key_pages must not be negative", a.key_pages);
  c.tensor("out", a.out, a.accumulate ? kOnlyF32 : kF32OrBf16, {a.q.shape[0], heads, dim});
  c.dense("lse", a.lse, kOnlyF32, {a.q.shape[0], heads});
  if (a.state || a.accumulate) c.dense("state", a.state, kOnlyF32, {a.q.shape[0], heads, 2});
  c.require(a.scale > 0, "scale must be positive");
  return c.status();
}

Status check(const DenseAttentionBackwardArgs& a) {
  Checker c("dense_attention_backward");
  c.tensor("q", a.q, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  const int64_t rows = a.q.shape[0];
  const int64_t heads = a.q.shape[1];
  const int64_t dim = a.q.shape[2];
  check_head_dim(c, dim);
  c.tensor("k", a.k, kStorage, {kAnyExtent, kAnyExtent, dim});
  const int64_t keys = a.k.shape[0];
  const int64_t kv_heads = a.k.shape[1];
  c.tensor("v", a.v, one_of(a.k.dtype), {keys, kv_heads, dim});
  check_grouped(c, heads, kv_heads);
  check_spans(c, a.spans, a.span_count);
  c.tensor("out", a.out, kF32OrBf16, {rows, heads, dim});
  c.dense("lse", a.lse, kOnlyF32, {rows, heads});
  c.tensor("d_out", a.d_out, kF32OrBf16, {rows, heads, dim});
  c.tensor("d_q", a.d_q, kOnlyF32, {rows, heads, dim});
  c.tensor("d_k", a.d_k, kOnlyF32, {keys, kv_heads, dim});
  c.tensor("d_v", a.d_v, kOnlyF32, {keys, kv_heads, dim});
  c.require(a.scale > 0, "scale must be positive");
  return c.status();
}

}  // namespace longhaul
