// Cases of the ops of sequence parallelism: heads into parts and back, attention over keys outside of pages.
#include <algorithm>
#include <cmath>

#include "cases.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kBlock = 512;

// ---- heads -------------------------------------------------------------------------------------------------

// `ranks` parts with a head each or more: all heads dealt out where they suffice, else copied.
std::vector<HeadSlot> slots_of(int64_t heads, int64_t ranks) {
  std::vector<HeadSlot> slots;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t begin = rank * heads / ranks;
    const int64_t end = std::max((rank + 1) * heads / ranks, begin + 1);
    const auto first = static_cast<int32_t>(slots.size());
    for (int64_t head = begin; head < end; ++head)
      slots.push_back({static_cast<int32_t>(head), first, static_cast<int32_t>(end - begin)});
  }
  return slots;
}

struct HeadsWay {
  std::string label;
  int64_t heads;
  std::vector<HeadSlot> slots;

  int64_t slot_count() const { return static_cast<int64_t>(slots.size()); }
  bool copied() const { return slot_count() > heads; }
};

// Query heads to the four ranks of a small group, KV heads to more ranks than there are heads.
std::vector<HeadsWay> heads_ways(const ModelShape& s) {
  return {{"rows " + text(kBlock) + " query heads, 4 ranks", s.heads, slots_of(s.heads, 4)},
          {"rows " + text(kBlock) + " KV heads, 16 ranks", s.kv_heads, slots_of(s.kv_heads, 16)}};
}

Result<const HeadSlot*> place_slots(Memory& memory, const std::vector<HeadSlot>& slots) {
  const auto bytes = static_cast<int64_t>(slots.size() * sizeof(HeadSlot));
  LONGHAUL_ASSIGN(Tensor placed, memory.from(DType::kU8, {bytes}, slots.data()));
  return placed.as<const HeadSlot>();
}

void add_pack_heads(const CaseContext& ctx, Cases& cases) {
  const int64_t dim = ctx.shape.dim;
  for (const HeadsWay& way : heads_ways(ctx.shape)) {
    OpCase c = ctx.start("pack_heads", way.label);
    c.bytes = static_cast<double>(kBlock * (way.heads + way.slot_count()) * dim) * ctx.act_size();
    c.place = Place::kCache;
    c.quick = !way.copied();
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      PackHeadsArgs a;
      LONGHAUL_ASSIGN(a.x, memory.random(act, {kBlock, way.heads, dim}));
      LONGHAUL_ASSIGN(a.slots, place_slots(memory, way.slots));
      a.slot_count = static_cast<int32_t>(way.slot_count());
      LONGHAUL_ASSIGN(a.packed, memory.zeros(act, {kBlock * way.slot_count() * dim}));
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

// Copies of a head are summed: an addition for each but the first.
void add_unpack_heads(const CaseContext& ctx, Cases& cases) {
  const int64_t dim = ctx.shape.dim;
  for (const HeadsWay& way : heads_ways(ctx.shape)) {
    OpCase c = ctx.start("unpack_heads", way.label);
    c.bytes = static_cast<double>(kBlock * (way.heads + way.slot_count()) * dim) * ctx.act_size();
    c.flops = static_cast<double>(kBlock * (way.slot_count() - way.heads) * dim);
    c.place = Place::kCache;
    c.quick = !way.copied();
    c.make = [=, act = ctx.activation](Memory& memory) -> Result<Operation> {
      UnpackHeadsArgs a;
      LONGHAUL_ASSIGN(a.packed, memory.random(act, {kBlock * way.slot_count() * dim}));
      LONGHAUL_ASSIGN(a.slots, place_slots(memory, way.slots));
      a.slot_count = static_cast<int32_t>(way.slot_count());
      LONGHAUL_ASSIGN(a.out, memory.zeros(act, {kBlock, way.heads, dim}));
      return rotate(memory, std::vector{a});
    };
    cases.push_back(std::move(c));
  }
}

// ---- attention ---------------------------------------------------------------------------------------------

// One span of `rows` queries, aligned at the end of history + rows keys, or behind `history` keys.
struct SpanCase {
  int64_t rows;
  int64_t history;
  bool behind = false;

  int64_t keys() const { return behind ? history : history + rows; }
  // Pairs of a query and a key that it sees.
  double seen() const {
    const auto n = static_cast<double>(rows), before = static_cast<double>(history);
    return behind ? n * before : n * (before + (n + 1) / 2);
  }
};

// `copies` of keys and values, so that other calls find other ones; queries and results stay.
Result<std::vector<DenseAttentionArgs>> dense_attention_args(Memory& memory, const ModelShape& s, DType dtype,
                                                             DType act, const SpanCase& way, int64_t copies) {
  const int64_t keys = way.keys();
  DenseAttentionArgs a;
  const AttentionSpan span{0, static_cast<int32_t>(way.rows), 0, static_cast<int32_t>(keys),
                           static_cast<int32_t>(way.history)};
  LONGHAUL_ASSIGN(Tensor spans, memory.from(DType::kU8, {sizeof span}, &span));
  a.spans = spans.as<const AttentionSpan>();
  a.span_count = 1;
  a.max_keys = span.k_count;
  a.key_pages = (keys + kPageRows - 1) / kPageRows;
  LONGHAUL_ASSIGN(a.q, memory.random(act, {way.rows, s.heads, s.dim}));
  LONGHAUL_ASSIGN(a.out, memory.zeros(way.behind ? DType::kF32 : act, {way.rows, s.heads, s.dim}));
  LONGHAUL_ASSIGN(a.lse, memory.zeros(DType::kF32, {way.rows, s.heads}));
  a.scale = 1 / std::sqrt(static_cast<float>(s.dim));
  if (way.behind) {
    LONGHAUL_ASSIGN(a.state, memory.zeros(DType::kF32, {way.rows, s.heads, 2}));
  }
  std::vector<DenseAttentionArgs> args;
  for (int64_t i = 0; i < copies; ++i) {
    LONGHAUL_ASSIGN(a.k, memory.random(dtype, {keys, s.kv_heads, s.dim}));
    LONGHAUL_ASSIGN(a.v, memory.random(dtype, {keys, s.kv_heads, s.dim}));
    args.push_back(a);
  }
  return args;
}

// `behind`: a step of ring attention, whose result is merged with what there is, in f32.
OpCase dense_attention_case(const CaseContext& ctx, const SpanCase& way) {
  const ModelShape s = ctx.shape;
  OpCase c = ctx.start("dense_attention",
                       "rows " + text(way.rows) + " over " + text(way.history) + (way.behind ? " merged" : ""));
  const auto states = static_cast<double>(way.rows * s.heads), dim = static_cast<double>(s.dim);
  c.bytes = 2 * static_cast<double>(way.keys() * s.kv_heads) * dim * ctx.size() + states * dim * ctx.act_size();
  // Out and lse; when merged, with the state, and read as well.
  c.bytes += way.behind ? 2 * states * 4 * (dim + 3) : states * (dim * ctx.act_size() + 4);
  c.flops = 4 * way.seen() * static_cast<double>(s.heads) * dim;
  c.dot_products = true;
  c.make = [=, dtype = ctx.dtype, act = ctx.activation](Memory& memory) -> Result<Operation> {
    const int64_t bytes = 2 * way.keys() * s.kv_heads * s.dim * static_cast<int64_t>(size_of(dtype));
    LONGHAUL_ASSIGN(std::vector<DenseAttentionArgs> args,
                    dense_attention_args(memory, s, dtype, act, way, Memory::cold_copies(bytes)));
    const DenseAttentionArgs first = args[0];
    for (DenseAttentionArgs& a : args) a.accumulate = way.behind;
    LONGHAUL_ASSIGN(Workspace workspace,
                    memory.workspace(memory.backend().ops().dense_attention_workspace(args[0])));
    if (way.behind) {
      // What is merged with must be a result: that of a call which merges nothing, and needs no more memory.
      LONGHAUL_TRY(run(memory.backend(), memory.stream(), first, workspace));
    }
    return rotate(memory, std::move(args), workspace);
  };
  return c;
}

void add_dense_attention(const CaseContext& ctx, Cases& cases) {
  for (int64_t history : {0, 2048}) cases.push_back(dense_attention_case(ctx, {kBlock, history}));
  cases.back().quick = true;
  cases.push_back(dense_attention_case(ctx, {kBlock, 2048, true}));
  if (ctx.gpu) cases.push_back(dense_attention_case(ctx, {8192, 0}));
}

// Five products of each query and key: the scores, the gradients of their softmax, of q, k and v.
void add_dense_attention_backward(const CaseContext& ctx, Cases& cases) {
  if (ctx.ops.dense_attention_backward == nullptr) return;
  const ModelShape s = ctx.shape;
  const SpanCase way{kBlock, 0};
  OpCase c = ctx.start("dense_attention_backward", "rows " + text(way.rows) + " over " + text(way.history));
  const auto states = static_cast<double>(way.rows * s.heads), dim = static_cast<double>(s.dim);
  // q, out, d_out and lse read, d_q read and written; the same of k and v and their gradients.
  c.bytes = states * (dim * (3 * ctx.act_size() + 2 * 4) + 4) +
            2 * static_cast<double>(way.keys() * s.kv_heads) * dim * (ctx.size() + 2 * 4);
  c.flops = 10 * way.seen() * static_cast<double>(s.heads) * dim;
  c.place = Place::kCache;
  c.dot_products = true;
  c.quick = true;
  c.make = [=, dtype = ctx.dtype, act = ctx.activation](Memory& memory) -> Result<Operation> {
    LONGHAUL_ASSIGN(std::vector<DenseAttentionArgs> forward,
                    dense_attention_args(memory, s, dtype, act, way, 1));
    LONGHAUL_ASSIGN(Workspace workspace,
                    memory.workspace(memory.backend().ops().dense_attention_workspace(forward[0])));
    DenseAttentionBackwardArgs a;
    // Small, so that gradients keep their size however often they are added to.
    LONGHAUL_ASSIGN(a.d_out, memory.random(act, {way.rows, s.heads, s.dim}, 1e-6f));
    LONGHAUL_ASSIGN(a.d_q, memory.random(DType::kF32, {way.rows, s.heads, s.dim}));
    LONGHAUL_ASSIGN(a.d_k, memory.random(DType::kF32, {way.keys(), s.kv_heads, s.dim}));
    LONGHAUL_ASSIGN(a.d_v, memory.random(DType::kF32, {way.keys(), s.kv_heads, s.dim}));
    const DenseAttentionArgs& f = forward[0];
    LONGHAUL_TRY(run(memory.backend(), memory.stream(), f, workspace));
    a.q = f.q;
    a.k = f.k;
    a.v = f.v;
    a.spans = f.spans;
    a.span_count = f.span_count;
    a.out = f.out;
    a.lse = f.lse;
    a.scale = f.scale;
    return rotate(memory, std::vector{a});
  };
  cases.push_back(std::move(c));
}

}  // namespace

const std::vector<OpEntry>& parallel_entries() {
  static const std::vector<OpEntry> entries = {
      {"pack_heads", add_pack_heads},
      {"unpack_heads", add_unpack_heads},
      {"dense_attention", add_dense_attention},
      {"dense_attention_backward", add_dense_attention_backward},
  };
  return entries;
}

}  // namespace longhaul::bench
