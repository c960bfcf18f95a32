// The backward pass of SequenceAttention: the forward's exchanges, and those of the gradients the other way.
#include <algorithm>

#include "parallel/sequence_attention.h"

namespace longhaul {

void SequenceAttention::lay_out_backward(Arena& arena) {
  const int64_t dim = shape_.dim;
  d_out_ = arena.take(shape_.activation, {place_rows(), own_heads(), dim});
  d_q_ = arena.take(DType::kF32, {place_rows(), own_heads(), dim});
  for (Tensor& d_kv : d_kv_) d_kv = arena.take(DType::kF32, {2 * most_rows() * own_kv_heads() * dim});
  const int64_t most_heads = std::max<int64_t>(shape_.heads, kv_parts_.slot_count);
  packed_ = arena.take(DType::kU8, {rows() * static_cast<int64_t>(row_bytes(most_heads, dim, DType::kF32))});
}

Status SequenceAttention::prepare_backward() {
  if (backward_memory_.data() != nullptr || rows() + place_rows() == 0) return {};
  const Tensor forward_packed = packed_;
  Arena measured;
  lay_out_backward(measured);
  auto memory = world_.backend().allocate(measured.used(), MemoryUse::kWorkspace);
  if (!memory.ok()) {
    packed_ = forward_packed;
    return memory.status();
  }
  backward_memory_ = std::move(memory.value());
  Arena arena(backward_memory_);
  lay_out_backward(arena);
  return {};
}

// No part holds any head.
Status SequenceAttention::set_zero(Stream& stream, const Tensor& x) {
  return run(world_.backend(), stream, UnpackHeadsArgs{.packed = view_of(x, x.dtype, {0}), .out = x});
}

Status SequenceAttention::attend_back(Stream& stream, const DeviceSpans& spans, const KeyValues& kv,
                                      const KeyValues& d_kv) {
  return run(world_.backend(), stream,
             DenseAttentionBackwardArgs{.q = q_,
                                        .k = kv.k,
                                        .v = kv.v,
                                        .spans = spans.spans,
                                        .span_count = static_cast<int32_t>(spans.list.spans.size()),
                                        .out = out_,
                                        .lse = lse_,
                                        .d_out = d_out_,
                                        .d_q = d_q_,
                                        .d_k = d_kv.k,
                                        .d_v = d_kv.v,
                                        .scale = shape_.scale});
}

// After step s this rank holds what it and the s ranks before it found for the keys of the place s before its
// own. They go on with these keys; after the last step they are one place away from home.
Result<SequenceAttention::KeyValues> SequenceAttention::ring_back(Stream& stream) {
  const int places = grid_.context;
  const int next = (place_ + 1) % places;
  const int last = (place_ + places - 1) % places;
  const auto held_rows = [&](int step) { return split_.rows((place_ - step + 2 * places) % places); };
  const auto bytes = [&](int64_t rows, DType dtype) {
    return static_cast<size_t>(rows) * 2 * row_bytes(own_kv_heads(), shape_.dim, dtype);
  };
  KeyValues d_kv = key_values(d_kv_[0], place_rows());
  LONGHAUL_TRY(set_zero(stream, d_kv.k));
  LONGHAUL_TRY(set_zero(stream, d_kv.v));
  for (int step = 0; step < places; ++step) {
    const int64_t held = held_rows(step);
    const int64_t coming = held_rows(step + 1);
    const KeyValues kv = key_values(kv_[step % 2], held);
    d_kv = key_values(d_kv_[step % 2], held);
    LONGHAUL_TRY(attend_back(stream, spans_[static_cast<size_t>(step)], kv, d_kv));
    if (places == 1) break;
    if (step + 1 < places) {
      LONGHAUL_TRY(context_->send_receive(stream, next, kv.k.data, bytes(held, shape_.kv), last,
                                          kv_[(step + 1) % 2].data, bytes(coming, shape_.kv)));
    }
    LONGHAUL_TRY(context_->send_receive(stream, next, d_kv.k.data, bytes(held, DType::kF32), last,
                                        d_kv_[(step + 1) % 2].data, bytes(coming, DType::kF32)));
    d_kv = key_values(d_kv_[(step + 1) % 2], coming);
  }
  return d_kv;
}

// Every rank finds something for all keys; each place gets the sum for its own.
Result<SequenceAttention::KeyValues> SequenceAttention::gathered_back(Stream& stream) {
  LONGHAUL_ASSIGN(const KeyValues all, gather_keys(stream));
  KeyValues found = key_values(d_kv_[0], split_.total());
  KeyValues own = key_values(d_kv_[1], place_rows());
  LONGHAUL_TRY(set_zero(stream, found.k));
  LONGHAUL_TRY(set_zero(stream, found.v));
  LONGHAUL_TRY(attend_back(stream, spans_[0], all, found));
  if (grid_.rows == RowScheme::kZigzag) {
    const KeyValues by_place = key_values(d_kv_[1], split_.total());
    LONGHAUL_TRY(reorder(stream, rows_by_place_, found, by_place));
    own = key_values(d_kv_[0], place_rows());
    found = by_place;
  }
  const int64_t width = own_kv_heads() * int64_t{shape_.dim};
  std::vector<int64_t> counts;
  for (int c = 0; c < grid_.context; ++c) counts.push_back(split_.rows(c) * width);
  for (auto [from, to] : {std::pair{found.k, own.k}, {found.v, own.v}}) {
    LONGHAUL_TRY(context_->reduce_scatter(stream, view_of(from, DType::kF32, {split_.total() * width}), counts,
                                          view_of(to, DType::kF32, {place_rows() * width})));
  }
  return own;
}

Status SequenceAttention::backward(Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& out, const Tensor& lse, const Tensor& d_out, const Tensor& d_q,
                                   const Tensor& d_k, const Tensor& d_v) {
  LONGHAUL_TRY(check_rows("q", q, shape_.heads, shape_.dim, shape_.activation));
  LONGHAUL_TRY(check_rows("k", k, shape_.kv_heads, shape_.dim, shape_.kv));
  LONGHAUL_TRY(check_rows("v", v, shape_.kv_heads, shape_.dim, shape_.kv));
  LONGHAUL_TRY(check_rows("out", out, shape_.heads, shape_.dim, shape_.activation));
  LONGHAUL_TRY(check_rows("lse", lse.split_last(1), shape_.heads, 1, DType::kF32));
  LONGHAUL_TRY(check_rows("d_out", d_out, shape_.heads, shape_.dim, shape_.activation));
  LONGHAUL_TRY(check_rows("d_q", d_q, shape_.heads, shape_.dim, DType::kF32));
  LONGHAUL_TRY(check_rows("d_k", d_k, shape_.kv_heads, shape_.dim, DType::kF32));
  LONGHAUL_TRY(check_rows("d_v", d_v, shape_.kv_heads, shape_.dim, DType::kF32));
  LONGHAUL_TRY(prepare_backward());

  const KeyValues own = key_values(kv_[0], place_rows());
  LONGHAUL_TRY(scatter_heads(stream, query_parts_, q, q_));
  LONGHAUL_TRY(scatter_heads(stream, kv_parts_, k, own.k));
  LONGHAUL_TRY(scatter_heads(stream, kv_parts_, v, own.v));
  LONGHAUL_TRY(scatter_heads(stream, query_parts_, out, out_));
  LONGHAUL_TRY(scatter_heads(stream, query_parts_, d_out, d_out_));
  LONGHAUL_TRY(scatter_heads(stream, query_parts_, lse.split_last(1),
                             view_of(lse_, DType::kF32, {place_rows(), own_heads(), 1})));
  LONGHAUL_TRY(set_zero(stream, d_q_));
  const bool gathers = grid_.exchange == ContextExchange::kAllGather;
  LONGHAUL_ASSIGN(const KeyValues d_kv, gathers ? gathered_back(stream) : ring_back(stream));
  LONGHAUL_TRY(gather_heads(stream, query_parts_, d_q_, d_q));
  LONGHAUL_TRY(gather_heads(stream, kv_parts_, d_kv.k, d_k));
  return gather_heads(stream, kv_parts_, d_kv.v, d_v);
}

}  // namespace longhaul
