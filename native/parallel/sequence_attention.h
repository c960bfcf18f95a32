// Exact causal attention of a packed batch whose rows are divided among ranks.
//
// Ranks form a grid of `context` x `ulysses`; rank = c * ulysses + u. The batch's rows are divided among the
// context places (RowSplit), a place's rows evenly among its Ulysses ranks. Attention then takes three steps:
// 1. Ulysses (arXiv 2309.14509): an all-to-all inside the place gives every rank all rows of the place for its
// share
//    of the heads (HeadSplit).
// 2. The context ranks with the same heads bring keys and values to each other, by one of
//    - a ring (arXiv 2310.01889): they travel round, and each rank adds what it sees of them to its softmax
//    state in
//      f32. No rank ever holds more than two places' keys.
//    - an all-gather: every rank holds all keys of its heads and takes one softmax, with the bits of a single
//    rank.
// 3. An all-to-all back. Ulysses alone (context 1) computes each head as one rank would, bit for bit.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/ops.h"
#include "parallel/communicator.h"
#include "parallel/head_split.h"
#include "parallel/row_split.h"

namespace longhaul {

enum class ContextExchange : uint8_t { kRing, kAllGather };

struct SequenceGrid {
  int ulysses = 1;
  int context = 1;
  RowScheme rows = RowScheme::kContiguous;
  ContextExchange exchange = ContextExchange::kRing;
};

struct SequenceShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t dim = 0;
  DType activation = DType::kF32;  // of q and out: f32 or act
  DType kv = DType::kF32;          // of k and v: f32, bf16 or f16
  float scale = 0;                 // of scores
};

// The first elements of a piece of memory that is as large as its largest use.
inline Tensor view_of(const Tensor& memory, DType dtype, std::initializer_list<int64_t> shape) {
  return Tensor::dense(memory.data, dtype, shape);
}

inline size_t row_bytes(int64_t heads, int64_t dim, DType dtype) {
  return static_cast<size_t>(heads * dim) * size_of(dtype);
}

// One rank's part of a batch. Made by all ranks with the same arguments; runs once a layer.
class SequenceAttention {
 public:
  // `bounds` are the batch's cu_seqlens. Allocates what forward() needs and uploads its tables; nothing is
  // sent.
  static Result<std::unique_ptr<SequenceAttention>> create(Communicator& world, Stream& stream,
                                                           const SequenceGrid& grid, const SequenceShape& shape,
                                                           std::span<const int32_t> bounds);

  // Rows that this rank holds, their places in the batch and their positions in their sequences.
  int64_t rows() const { return static_cast<int64_t>(packed_rows_.size()); }
  const std::vector<int32_t>& packed_rows() const { return packed_rows_; }
  const std::vector<int32_t>& positions() const { return positions_; }

  // (query, key) pairs that this rank multiplies, over its heads: its work.
  int64_t pairs() const;

  // q [rows, heads, dim], k and v [rows, kv_heads, dim], out [rows, heads, dim]; rows and heads may be strided.
  // lse, when given, [rows, heads] f32: log of the sum of exp(scaled scores), as backward() wants it.
  Status forward(Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                 const Tensor& lse);

  // Gradients of a loss with the gradient d_out by out, given forward's arguments and results. d_q [rows,
  // heads, dim], d_k and d_v [rows, kv_heads, dim] f32 are written; sums over queries, heads and ranks are in
  // f32 too. In a ring the gradients of keys travel with the keys, and one step more to get home. kUnsupported
  // where the backend has no dense_attention_backward.
  Status backward(Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                  const Tensor& lse, const Tensor& d_out, const Tensor& d_q, const Tensor& d_k,
                  const Tensor& d_v);

 private:
  // Heads of a tensor as parts of the Ulysses ranks.
  struct HeadParts {
    std::vector<HeadRange> ranges;
    const HeadSlot* slots = nullptr;  // device memory
    int32_t slot_count = 0;
  };
  // Keys and values of one place, one behind the other.
  struct KeyValues {
    Tensor k, v;
  };
  struct DeviceSpans {
    SpanList list;
    const AttentionSpan* spans = nullptr;  // device memory
  };

  SequenceAttention(Communicator& world, const SequenceGrid& grid, const SequenceShape& shape)
      : world_(world), grid_(grid), shape_(shape) {}

  Status prepare(Stream& stream, std::span<const int32_t> bounds);
  Status upload_tables(Stream& stream);
  void lay_out(Arena& arena);
  KeyValues key_values(const Tensor& memory, int64_t rows) const;
  DenseAttentionArgs attention(const DeviceSpans& spans, const Tensor& q, const KeyValues& kv) const;

  int64_t ulysses_rows(int u) const;
  int64_t most_rows() const;  // of any place whose keys this rank holds
  int64_t place_rows() const { return split_.rows(place_); }
  int32_t own_heads() const { return heads_.query[static_cast<size_t>(ulysses_rank_)].count; }
  int32_t own_kv_heads() const { return heads_.kv[static_cast<size_t>(ulysses_rank_)].count; }

  Status check_rows(const char* name, const Tensor& x, int64_t heads, int64_t dim, DType dtype) const;
  Status scatter_heads(Stream& stream, const HeadParts& parts, const Tensor& x, const Tensor& full);
  Status gather_heads(Stream& stream, const HeadParts& parts, const Tensor& full, const Tensor& out);
  Status attend_ring(Stream& stream, const Tensor& q);
  Result<KeyValues> gather_keys(Stream& stream);
  // Rows of all places into another order.
  Status reorder(Stream& stream, const int32_t* order, const KeyValues& from, const KeyValues& to);
  Status attend(Stream& stream, const DeviceSpans& spans, const Tensor& q, const KeyValues& kv,
                const Tensor& out, bool accumulate);

  Status prepare_backward();
  void lay_out_backward(Arena& arena);
  Status set_zero(Stream& stream, const Tensor& x);
  Status attend_back(Stream& stream, const DeviceSpans& spans, const KeyValues& kv, const KeyValues& d_kv);
  Result<KeyValues> ring_back(Stream& stream);
  Result<KeyValues> gathered_back(Stream& stream);

  Communicator& world_;
  SequenceGrid grid_;
  SequenceShape shape_;
  Communicator* ulysses_ = nullptr;
  Communicator* context_ = nullptr;
  int place_ = 0;
  int ulysses_rank_ = 0;
  HeadSplit heads_;
  RowSplit split_;
  std::vector<int32_t> packed_rows_;
  std::vector<int32_t> positions_;

  HeadParts query_parts_, kv_parts_;
  std::vector<DeviceSpans> spans_;          // of each step round the ring, or one
  const int32_t* gathered_rows_ = nullptr;  // device memory, as rows_by_place_
  const int32_t* rows_by_place_ = nullptr;

  Buffer tables_;
  Buffer memory_;
  Tensor packed_;       // what an all-to-all sends or brings, in bytes
  Tensor q_;            // [place rows, own heads, dim]
  Tensor kv_[2];        // memory of KeyValues: this place's and the next, or as gathered and in packed order
  Tensor out_;          // [place rows, own heads, dim] of the activations
  Tensor sum_;          // the same in f32, where a ring adds up and activations are narrower
  Tensor state_;        // [place rows, own heads, 2]: DenseAttentionArgs::state
  Tensor lse_;          // [place rows, own heads]
  Tensor rounded_lse_;  // the same, where sum_ is rounded to out_
  Workspace workspace_;

  // Of backward(), made when it is first called.
  Buffer backward_memory_;
  Tensor d_out_;    // [place rows, own heads, dim] of the activations
  Tensor d_q_;      // the same in f32
  Tensor d_kv_[2];  // as kv_, f32
};

}  // namespace longhaul
