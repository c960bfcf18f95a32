#include "parallel/sequence_attention.h"

#include <algorithm>
#include <string>

namespace longhaul {
Result<std::unique_ptr<SequenceAttention>> SequenceAttention::create(Communicator& world, Stream& stream,
                                                                     const SequenceGrid& grid,
                                                                     const SequenceShape& shape,
                                                                     std::span<const int32_t> bounds) {
  if (grid.ulysses < 1 || grid.context < 1 || grid.ulysses * grid.context != world.size()) {
    return invalid_argument("sequence attention: a grid of " + std::to_string(grid.context) + " x " +
                            std::to_string(grid.ulysses) + " ranks does not fill a world of " +
                            std::to_string(world.size()));
  }
  if (shape.dim < 2 || shape.scale <= 0) {
    return invalid_argument("sequence attention: head dim must be at least 2 and scale positive");
  }
  std::unique_ptr<SequenceAttention> attention(new SequenceAttention(world, grid, shape));
  LONGHAUL_TRY(attention->prepare(stream, bounds));
  return attention;
}

Status SequenceAttention::prepare(Stream& stream, std::span<const int32_t> bounds) {
  place_ = world_.rank() / grid_.ulysses;
  ulysses_rank_ = world_.rank() % grid_.ulysses;
  std::vector<int> ulysses, context;
  for (int u = 0; u < grid_.ulysses; ++u) ulysses.push_back(place_ * grid_.ulysses + u);
  for (int c = 0; c < grid_.context; ++c) context.push_back(c * grid_.ulysses + ulysses_rank_);
  LONGHAUL_ASSIGN(ulysses_, world_.group(ulysses));
  LONGHAUL_ASSIGN(context_, world_.group(context));
  LONGHAUL_ASSIGN(heads_, HeadSplit::make(shape_.heads, shape_.kv_heads, grid_.ulysses));
  LONGHAUL_ASSIGN(split_, RowSplit::make(bounds, grid_.context, grid_.rows));

  const std::vector<int32_t> packed = split_.packed_rows(place_);
  const std::vector<int32_t> positions = split_.positions(place_);
  const auto begin = static_cast<std::ptrdiff_t>(even_edge(place_rows(), grid_.ulysses, ulysses_rank_));
  const auto end = static_cast<std::ptrdiff_t>(even_edge(place_rows(), grid_.ulysses, ulysses_rank_ + 1));
  packed_rows_.assign(packed.begin() + begin, packed.begin() + end);
  positions_.assign(positions.begin() + begin, positions.begin() + end);

  if (grid_.exchange == ContextExchange::kAllGather) {
    spans_.push_back({split_.spans_of_all(place_)});
  } else {
    for (int step = 0; step < grid_.context; ++step) {
      spans_.push_back({split_.spans(place_, (place_ - step + grid_.context) % grid_.context)});
    }
  }
  LONGHAUL_TRY(upload_tables(stream));

  Arena measured;
  lay_out(measured);
  LONGHAUL_ASSIGN(memory_, world_.backend().allocate(measured.used(), MemoryUse::kWorkspace));
  Arena arena(memory_);
  lay_out(arena);
  return {};
}

Status SequenceAttention::upload_tables(Stream& stream) {
  query_parts_.ranges = heads_.query;
  kv_parts_.ranges = heads_.kv;
  const std::vector<HeadSlot> query = slots_of(heads_.query);
  const std::vector<HeadSlot> kv = slots_of(heads_.kv);
  const std::vector<int32_t> gathered = split_.gathered_rows();
  std::vector<int32_t> by_place;
  for (int c = 0; c < grid_.context; ++c) {
    const std::vector<int32_t> rows = split_.packed_rows(c);
    by_place.insert(by_place.end(), rows.begin(), rows.end());
  }
  query_parts_.slot_count = static_cast<int32_t>(query.size());
  kv_parts_.slot_count = static_cast<int32_t>(kv.size());

  const auto lay_out_tables = [&](Arena arena) {
    const auto take = [&](const auto& values) { return arena.take_bytes(values.size() * sizeof(values[0])); };
    query_parts_.slots = static_cast<const HeadSlot*>(take(query));
    kv_parts_.slots = static_cast<const HeadSlot*>(take(kv));
    gathered_rows_ = static_cast<const int32_t*>(take(gathered));
    rows_by_place_ = static_cast<const int32_t*>(take(by_place));
    for (DeviceSpans& spans : spans_) spans.spans = static_cast<const AttentionSpan*>(take(spans.list.spans));
    return arena.used();
  };
  Backend& backend = world_.backend();
  LONGHAUL_ASSIGN(tables_, backend.allocate(lay_out_tables(Arena()), MemoryUse::kTables));
  lay_out_tables(Arena(tables_));
  const auto upload = [&](const void* to, const auto& values) {
    // The tables are ours: const only to those who read them.
    return backend.upload(stream, const_cast<void*>(to), values.data(), values.size() * sizeof(values[0]));
  };
  LONGHAUL_TRY(upload(query_parts_.slots, query));
  LONGHAUL_TRY(upload(kv_parts_.slots, kv));
  LONGHAUL_TRY(upload(gathered_rows_, gathered));
  LONGHAUL_TRY(upload(rows_by_place_, by_place));
  for (const DeviceSpans& spans : spans_) LONGHAUL_TRY(upload(spans.spans, spans.list.spans));
  return {};
}

void SequenceAttention::lay_out(Arena& arena) {
  const int64_t dim = shape_.dim;

  // A head's lse, 4 bytes, is no more than its row of the smallest dimension.
  const size_t packed_row = std::max(row_bytes(shape_.heads, dim, shape_.activation),
                                     row_bytes(kv_parts_.slot_count, dim, shape_.kv));
  packed_ = arena.take(DType::kU8, {rows() * static_cast<int64_t>(packed_row)});
  q_ = arena.take(shape_.activation, {place_rows(), own_heads(), dim});
  for (Tensor& kv : kv_) kv = arena.take(shape_.kv, {2 * most_rows() * own_kv_heads() * dim});
  out_ = arena.take(shape_.activation, {place_rows(), own_heads(), dim});
  sum_ = arena.take(DType::kF32, {place_rows(), own_heads(), dim});
  state_ = arena.take(DType::kF32, {place_rows(), own_heads(), 2});
  rounded_lse_ = arena.take(DType::kF32, {place_rows(), own_heads()});
  lse_ = arena.take(DType::kF32, {place_rows(), own_heads()});

  workspace_.bytes = 0;
  for (size_t step = 0; step < spans_.size(); ++step) {
    DenseAttentionArgs args = attention(spans_[step], q_, key_values(kv_[0], most_rows()));
    args.accumulate = step > 0;
    workspace_.bytes = std::max(workspace_.bytes, world_.backend().ops().dense_attention_workspace(args));
  }
  workspace_.data = arena.take_bytes(workspace_.bytes);
}

int64_t SequenceAttention::most_rows() const {
  if (grid_.exchange == ContextExchange::kAllGather) return split_.total();
  int64_t most = 0;
  for (int c = 0; c < grid_.context; ++c) most = std::max(most, split_.rows(c));
  return most;
}

int64_t SequenceAttention::pairs() const {
  int64_t count = 0;
  for (const DeviceSpans& spans : spans_) count += spans.list.pairs();
  return count * own_heads();
}

int64_t SequenceAttention::ulysses_rows(int u) const {
  return even_edge(place_rows(), grid_.ulysses, u + 1) - even_edge(place_rows(), grid_.ulysses, u);
}

SequenceAttention::KeyValues SequenceAttention::key_values(const Tensor& memory, int64_t rows) const {
  const Tensor both = view_of(memory, memory.dtype, {2 * rows, own_kv_heads(), shape_.dim});
  return {both.slice(0, rows), both.slice(rows, rows)};
}

DenseAttentionArgs SequenceAttention::attention(const DeviceSpans& spans, const Tensor& q,
                                                const KeyValues& kv) const {
  return {.q = q,
          .k = kv.k,
          .v = kv.v,
          .spans = spans.spans,
          .span_count = static_cast<int32_t>(spans.list.spans.size()),
          .max_keys = spans.list.max_keys,
          .key_pages = spans.list.key_pages,
          .lse = lse_,
          .state = state_,
          .scale = shape_.scale};
}

// x [rows, heads, dim] of this rank to full [place rows, own heads, dim].
Status SequenceAttention::scatter_heads(Stream& stream, const HeadParts& parts, const Tensor& x,
                                        const Tensor& full) {
  const int64_t dim = x.shape[2];
  const bool alone = grid_.ulysses == 1;
  PackHeadsArgs pack{.x = x, .slots = parts.slots, .slot_count = parts.slot_count};
  pack.packed = view_of(alone ? full : packed_, x.dtype, {rows() * parts.slot_count * dim});
  LONGHAUL_TRY(run(world_.backend(), stream, pack));
  if (alone) return {};
  std::vector<size_t> sends, receives;
  for (int u = 0; u < grid_.ulysses; ++u) {
    const HeadRange range = parts.ranges[static_cast<size_t>(u)];
    sends.push_back(static_cast<size_t>(rows()) * row_bytes(range.count, dim, x.dtype));
    receives.push_back(static_cast<size_t>(ulysses_rows(u)) * row_bytes(full.shape[1], dim, x.dtype));
  }
  return ulysses_->all_to_all(stream, packed_.data, sends, full.data, receives);
}

// The way back: full [place rows, own heads, dim], whose rows lie rank by rank, to out [rows, heads, dim].
Status SequenceAttention::gather_heads(Stream& stream, const HeadParts& parts, const Tensor& full,
                                       const Tensor& out) {
  const int64_t dim = out.shape[2];
  const bool alone = grid_.ulysses == 1;
  if (!alone) {
    std::vector<size_t> sends, receives;
    for (int u = 0; u < grid_.ulysses; ++u) {
      const HeadRange range = parts.ranges[static_cast<size_t>(u)];
      sends.push_back(static_cast<size_t>(ulysses_rows(u)) * row_bytes(full.shape[1], dim, out.dtype));
      receives.push_back(static_cast<size_t>(rows()) * row_bytes(range.count, dim, out.dtype));
    }
    LONGHAUL_TRY(ulysses_->all_to_all(stream, full.data, sends, packed_.data, receives));
  }
  UnpackHeadsArgs unpack{.slots = parts.slots, .slot_count = parts.slot_count, .out = out};
  unpack.packed = view_of(alone ? full : packed_, out.dtype, {rows() * parts.slot_count * dim});
  return run(world_.backend(), stream, unpack);
}

Status SequenceAttention::attend(Stream& stream, const DeviceSpans& spans, const Tensor& q, const KeyValues& kv,
                                 const Tensor& out, bool accumulate) {
  DenseAttentionArgs args = attention(spans, q, kv);
  args.out = out;
  args.accumulate = accumulate;
  return run(world_.backend(), stream, args, workspace_);
}

// Step s works on the keys of the place s before this one, while their turn at the next place comes. Every
// place passes on what it gets, also where none of its queries see it.
Status SequenceAttention::attend_ring(Stream& stream, const Tensor& q) {
  const int places = grid_.context;
  const bool adds_up = places > 1 && shape_.activation != DType::kF32;
  const Tensor out = adds_up ? sum_ : out_;
  for (int step = 0; step < places; ++step) {
    const int64_t held = split_.rows((place_ - step + places) % places);
    const KeyValues kv = key_values(kv_[step % 2], held);
    if (step == 0 || !spans_[static_cast<size_t>(step)].list.spans.empty()) {
      LONGHAUL_TRY(attend(stream, spans_[static_cast<size_t>(step)], q, kv, out, step > 0));
    }
    if (step + 1 == places) break;
    const int64_t coming = split_.rows((place_ - step - 1 + places) % places);
    const size_t bytes = 2 * row_bytes(own_kv_heads(), shape_.dim, shape_.kv);
    LONGHAUL_TRY(context_->send_receive(stream, (place_ + 1) % places, kv.k.data,
                                        static_cast<size_t>(held) * bytes, (place_ + places - 1) % places,
                                        kv_[(step + 1) % 2].data, static_cast<size_t>(coming) * bytes));
  }
  if (!adds_up) return {};
  // One state merged with nothing is itself, rounded to activations.
  const int64_t heads = own_heads();
  return run(world_.backend(), stream,
             MergeStatesArgs{.parts = view_of(sum_, DType::kF32, {1, place_rows(), heads, shape_.dim}),
                             .parts_lse = view_of(lse_, DType::kF32, {1, place_rows(), heads}),
                             .out = out_,
                             .lse = rounded_lse_});
}

Status SequenceAttention::reorder(Stream& stream, const int32_t* order, const KeyValues& from,
                                  const KeyValues& to) {
  const int64_t width = own_kv_heads() * int64_t{shape_.dim};
  const Tensor index = Tensor::dense(const_cast<int32_t*>(order), DType::kI32, {split_.total()});
  for (auto [x, out] : {std::pair{from.k, to.k}, {from.v, to.v}}) {
    LONGHAUL_TRY(run(world_.backend(), stream,
                     GatherRowsArgs{.x = view_of(x, x.dtype, {split_.total(), width}),
                                    .index = index,
                                    .out = view_of(out, x.dtype, {split_.total(), width})}));
  }
  return {};
}

// The keys of all places, in the batch's order.
Result<SequenceAttention::KeyValues> SequenceAttention::gather_keys(Stream& stream) {
  const KeyValues own = key_values(kv_[0], place_rows());
  KeyValues all = key_values(kv_[1], split_.total());
  std::vector<size_t> bytes_of;
  for (int c = 0; c < grid_.context; ++c) {
    bytes_of.push_back(static_cast<size_t>(split_.rows(c)) * row_bytes(own_kv_heads(), shape_.dim, shape_.kv));
  }
  LONGHAUL_TRY(context_->all_gather(stream, own.k.data, all.k.data, bytes_of));
  LONGHAUL_TRY(context_->all_gather(stream, own.v.data, all.v.data, bytes_of));
  if (grid_.rows == RowScheme::kZigzag) {
    const KeyValues ordered = key_values(kv_[0], split_.total());
    LONGHAUL_TRY(reorder(stream, gathered_rows_, all, ordered));
    all = ordered;
  }
  return all;
}

Status SequenceAttention::check_rows(const char* name, const Tensor& x, int64_t heads, int64_t dim,
                                     DType dtype) const {
  if (x.rank == 3 && x.shape[0] == rows() && x.shape[1] == heads && x.shape[2] == dim && x.dtype == dtype)
    return {};
  return invalid_argument(std::string("sequence attention: ") + name + " must be [" + std::to_string(rows()) +
                          ", " + std::to_string(heads) + ", " + std::to_string(dim) + "] " + name_of(dtype));
}

Status SequenceAttention::forward(Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse) {
  LONGHAUL_TRY(check_rows("q", q, shape_.heads, shape_.dim, shape_.activation));
  LONGHAUL_TRY(check_rows("k", k, shape_.kv_heads, shape_.dim, shape_.kv));
  LONGHAUL_TRY(check_rows("v", v, shape_.kv_heads, shape_.dim, shape_.kv));
  LONGHAUL_TRY(check_rows("out", out, shape_.heads, shape_.dim, shape_.activation));
  if (lse) LONGHAUL_TRY(check_rows("lse", lse.split_last(1), shape_.heads, 1, DType::kF32));
  const KeyValues own = key_values(kv_[0], place_rows());
  LONGHAUL_TRY(scatter_heads(stream, query_parts_, q, q_));
  LONGHAUL_TRY(scatter_heads(stream, kv_parts_, k, own.k));
  LONGHAUL_TRY(scatter_heads(stream, kv_parts_, v, own.v));
  if (grid_.exchange == ContextExchange::kAllGather) {
    LONGHAUL_ASSIGN(const KeyValues all, gather_keys(stream));
    LONGHAUL_TRY(attend(stream, spans_[0], q_, all, out_, false));
  } else {
    LONGHAUL_TRY(attend_ring(stream, q_));
  }
  LONGHAUL_TRY(gather_heads(stream, query_parts_, out_, out));
  if (!lse) return {};
  const Tensor place_lse = view_of(lse_, DType::kF32, {place_rows(), own_heads(), 1});
  return gather_heads(stream, query_parts_, place_lse, lse.split_last(1));
}

}  // namespace longhaul
