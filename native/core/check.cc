// Argument checks of every op. Views and parameters live in device memory, so only what the host holds is
// looked at.
#include "core/checker.h"
#include "core/ops.h"

namespace longhaul {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxExtent = INT32_MAX;  // rows and row indices are i32 on the device

void check_head_dim(Checker& c, int64_t dim) {
  c.require(dim >= 2 && dim <= kMaxHeadDim && dim % 2 == 0, "head dim must be even and between 2 and 256", dim);
}

void check_pages(Checker& c, const PageArrays& pages, int64_t dim) {
  const int64_t count = pages.k.shape[0];
  c.dense("pages.k", pages.k, kStorage, {kAnyExtent, kPageRows, dim});
  c.dense("pages.v", pages.v, kStorage, {count, kPageRows, dim});
  c.dense("pages.positions", pages.positions, kOnlyI32, {count, kPageRows});
  c.require(pages.k.dtype == pages.v.dtype, "pages.k and pages.v must have one dtype");
}

void check_views(Checker& c, const CacheView* views, int64_t sequences) {
  c.require(sequences >= 0, "sequences must not be negative", sequences);
  c.require(sequences == 0 || views != nullptr, "views are missing");
}

void check_heads(Checker& c, int64_t heads, int32_t kv_heads) {
  c.require(kv_heads >= 1, "kv_heads must be at least 1", kv_heads);
  if (c.ok()) c.require(heads >= 1 && heads % kv_heads == 0, "kv_heads must divide the number of heads", heads);
}

void check_rotation(Checker& c, const Tensor& cos, const Tensor& sin, int64_t rows, int64_t dim) {
  c.dense("cos", cos, kOnlyF32, {rows, dim / 2});
  c.dense("sin", sin, kOnlyF32, {rows, dim / 2});
}

}  // namespace

Status check(const EmbedArgs& a) {
  Checker c("embed");
  c.weight("table", a.table);
  if (!c.ok()) return c.status();
  c.dense("ids", a.ids, kOnlyI32, {kAnyExtent});
  c.tensor("out", a.out, kOnlyF32, {a.ids.shape[0], a.table->cols});
  return c.status();
}

Status check(const RmsNormArgs& a) {
  Checker c("rms_norm");
  c.require(a.x.rank == 2 || a.x.rank == 3, "x must have rank 2 or 3", a.x.rank);
  if (!c.ok()) return c.status();
  const int64_t rows = a.x.shape[0];
  const int64_t dim = a.x.shape[a.x.rank - 1];
  if (a.x.rank == 2) {
    c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent});
    c.tensor("out", a.out, kF32OrBf16, {rows, dim});
  } else {
    c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
    c.tensor("out", a.out, kF32OrBf16, {rows, a.x.shape[1], dim});
  }
  c.require(dim >= 1, "rows of x are empty");
  c.dense("weight", a.weight, kOnlyF32, {dim});
  if (a.delta) {
    c.require(a.x.rank == 2, "delta needs an x of rank 2");
    c.tensor("delta", a.delta, kF32OrBf16, {rows, dim});
  }
  c.require(a.eps >= 0, "eps must not be negative");
  return c.status();
}

Status check(const GemmArgs& a) {
  Checker c("gemm");
  c.weight("weight", a.weight);
  if (!c.ok()) return c.status();
  c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, a.weight->cols});
  c.tensor("out", a.out, kF32OrBf16, {a.x.shape[0], a.weight->rows});
  if (a.bias) c.dense("bias", a.bias, kOnlyF32, {a.weight->rows});
  return c.status();
}

Status check(const SwigluArgs& a) {
  Checker c("swiglu");
  c.tensor("gate_up", a.gate_up, kF32OrBf16, {kAnyExtent, kAnyExtent});
  c.require(a.gate_up.shape[1] % 2 == 0, "gate_up must have an even number of columns", a.gate_up.shape[1]);
  c.tensor("out", a.out, kF32OrBf16, {a.gate_up.shape[0], a.gate_up.shape[1] / 2});
  return c.status();
}

Status check(const RopeTableArgs& a) {
  Checker c("rope_table");
  c.dense("positions", a.positions, kOnlyI32, {kAnyExtent});
  c.dense("frequencies", a.frequencies, kOnlyF64, {kAnyExtent});
  check_rotation(c, a.cos, a.sin, a.positions.shape[0], 2 * a.frequencies.shape[0]);
  return c.status();
}

Status check(const RopeArgs& a) {
  Checker c("rope");
  c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  check_head_dim(c, a.x.shape[2]);
  check_rotation(c, a.cos, a.sin, a.x.shape[0], a.x.shape[2]);
  return c.status();
}

Status check(const GatherRowsArgs& a) {
  Checker c("gather_rows");
  c.tensor("x", a.x, kAnyDType, {kAnyExtent, kAnyExtent});
  c.dense("index", a.index, kOnlyI32, {kAnyExtent});
  c.tensor("out", a.out, one_of(a.x.dtype), {a.index.shape[0], a.x.shape[1]});
  return c.status();
}

Status check(const AppendArgs& a) {
  Checker c("append");
  check_views(c, a.views, a.sequences);
  c.tensor("k", a.k, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  const int64_t rows = a.k.shape[0];
  const int64_t dim = a.k.shape[2];
  c.require(a.k.shape[1] >= 1, "k has no heads");
  check_head_dim(c, dim);
  c.tensor("v", a.v, kF32OrBf16, {rows, a.k.shape[1], dim});
  c.dense("positions", a.positions, kOnlyI32, {rows});
  if (a.cos || a.sin) check_rotation(c, a.cos, a.sin, rows, dim);
  check_pages(c, a.pages, dim);
  return c.status();
}

Status check(const AttentionArgs& a) {
  Checker c("attention");
  check_views(c, a.views, a.sequences);
  c.tensor("q", a.q, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  check_head_dim(c, a.q.shape[2]);
  check_heads(c, a.q.shape[1], a.kv_heads);
  c.tensor("out", a.out, kF32OrBf16, {a.q.shape[0], a.q.shape[1], a.q.shape[2]});
  if (a.lse) c.dense("lse", a.lse, kOnlyF32, {a.q.shape[0], a.q.shape[1]});
  if (a.state) {
    c.dense("state", a.state, kOnlyF32, {a.q.shape[0], a.q.shape[1], 2});
    c.require(a.role == RowRole::kBlock, "state is given for rows of blocks only");
  }
  check_pages(c, a.pages, a.q.shape[2]);
  c.require(a.scale > 0, "scale must be positive");
  c.require(a.max_length >= 1, "max_length must be at least 1", a.max_length);
  return c.status();
}

Status check(const MergeStatesArgs& a) {
  Checker c("merge_states");
  c.dense("parts", a.parts, kOnlyF32, {kAnyExtent, kAnyExtent, kAnyExtent, kAnyExtent});
  const int64_t rows = a.parts.shape[1];
  const int64_t heads = a.parts.shape[2];
  c.require(a.parts.shape[0] >= 1, "parts has no splits");
  c.dense("parts_lse", a.parts_lse, kOnlyF32, {a.parts.shape[0], rows, heads});
  c.tensor("out", a.out, kF32OrBf16, {rows, heads, a.parts.shape[3]});
  c.dense("lse", a.lse, kOnlyF32, {rows, heads});
  return c.status();
}

Status check(const TruncateArgs& a) {
  Checker c("truncate");
  check_views(c, a.views, a.sequences);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  c.require(a.drop >= 0, "drop must not be negative", a.drop);
  return c.status();
}

Status check(const ScoreKeysArgs& a) {
  Checker c("score_keys");
  check_views(c, a.view, 1);
  c.tensor("q", a.q, kF32OrBf16, {kAnyExtent, kAnyExtent, kAnyExtent});
  c.require(a.q.shape[0] >= 1, "q has no queries");
  check_head_dim(c, a.q.shape[2]);
  check_heads(c, a.q.shape[1], a.kv_heads);
  check_pages(c, a.pages, a.q.shape[2]);
  c.tensor("scores", a.scores, kOnlyF32, {a.kv_heads, kAnyExtent});
  c.require(a.scale > 0, "scale must be positive");
  c.require(a.ignore_last >= 0, "ignore_last must not be negative", a.ignore_last);
  c.require(a.window == 0 || a.window == a.q.shape[0], "window must be 0 or the number of queries", a.window);
  c.require(a.pool_kernel >= 1 && a.pool_kernel % 2 == 1, "pool_kernel must be odd", a.pool_kernel);
  return c.status();
}

Status check(const KeyDiversityArgs& a) {
  Checker c("key_diversity");
  check_views(c, a.view, 1);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  check_head_dim(c, a.pages.k.shape[2]);
  check_pages(c, a.pages, a.pages.k.shape[2]);
  c.tensor("scores", a.scores, kOnlyF32, {a.kv_heads, kAnyExtent});
  c.require(a.ignore_last >= 0, "ignore_last must not be negative", a.ignore_last);
  return c.status();
}

Status check(const CombineScoresArgs& a) {
  Checker c("combine_scores");
  check_views(c, a.view, 1);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  check_head_dim(c, a.pages.k.shape[2]);
  check_pages(c, a.pages, a.pages.k.shape[2]);
  c.tensor("scores", a.scores, kOnlyF32, {a.kv_heads, kAnyExtent});
  if (a.other) c.tensor("other", a.other, kOnlyF32, {a.kv_heads, a.scores.shape[1]});
  if (a.spans) c.dense("spans", a.spans, kOnlyI32, {kAnyExtent, 2});
  c.require(a.ignore_last >= 0, "ignore_last must not be negative", a.ignore_last);
  return c.status();
}

Status check(const SelectArgs& a) {
  Checker c("select");
  check_views(c, a.view, 1);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  c.tensor("kept", a.kept, kOnlyI32, {a.kv_heads, kAnyExtent});
  if (a.scores) c.tensor("scores", a.scores, kOnlyF32, {a.kv_heads, kAnyExtent});
  c.dense("kept_count", a.kept_count, kOnlyI32, {a.kv_heads});
  c.require(a.kv_heads * a.kept.shape[1] <= kMaxExtent, "kept has too many elements", a.kept.elements());
  c.require(a.drop_last >= 0, "drop_last must not be negative", a.drop_last);
  c.require(a.protect_first >= 0, "protect_first must not be negative", a.protect_first);
  c.require(a.protect_last >= 0, "protect_last must not be negative", a.protect_last);
  c.require(a.budget >= 1, "budget must be at least 1", a.budget);
  c.require(a.scores || !a.only_scored, "only_scored needs scores");
  return c.status();
}

Status check(const CompactArgs& a) {
  Checker c("compact");
  check_views(c, a.view, 1);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  check_head_dim(c, a.pages.k.shape[2]);
  check_pages(c, a.pages, a.pages.k.shape[2]);
  c.tensor("kept", a.kept, kOnlyI32, {a.kv_heads, kAnyExtent});
  c.dense("kept_count", a.kept_count, kOnlyI32, {a.kv_heads});
  return c.status();
}

Status check(const PackPositionsArgs& a) {
  Checker c("pack_positions");
  check_views(c, a.views, a.sequences);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  check_head_dim(c, a.pages.k.shape[2]);
  check_pages(c, a.pages, a.pages.k.shape[2]);
  c.dense("frequencies", a.frequencies, kOnlyF64, {a.pages.k.shape[2] / 2});
  c.require(a.max_length >= 1, "max_length must be at least 1", a.max_length);
  c.require(a.begin >= 0, "begin must not be negative", a.begin);
  c.require(a.end - int64_t{a.begin} >= a.max_length, "end must not be below begin + max_length", a.end);
  return c.status();
}

Status check(const RankRowsArgs& a) {
  Checker c("rank_rows");
  check_views(c, a.view, 1);
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  c.tensor("scores", a.scores, kOnlyF32, {a.kv_heads, kAnyExtent});
  c.tensor("kept", a.kept, kOnlyI32, {a.kv_heads, kAnyExtent});
  c.dense("kept_count", a.kept_count, kOnlyI32, {a.kv_heads});
  c.require(a.kv_heads * a.kept.shape[1] <= kMaxExtent, "kept has too many elements", a.kept.elements());
  c.tensor("best", a.best, kOnlyF32, {a.kv_heads, kAnyExtent});
  return c.status();
}

Status check(const CopyRowsArgs& a) {
  Checker c("copy_rows");
  check_views(c, a.source, 1);
  check_views(c, a.target, 1);
  c.require(a.source != a.target, "source and target are the same");
  c.require(a.kv_heads >= 1, "kv_heads must be at least 1", a.kv_heads);
  check_head_dim(c, a.pages.k.shape[2]);
  check_pages(c, a.pages, a.pages.k.shape[2]);
  c.tensor("kept", a.kept, kOnlyI32, {a.kv_heads, kAnyExtent});
  c.dense("kept_count", a.kept_count, kOnlyI32, {a.kv_heads});
  return c.status();
}

Status check(const SampleArgs& a) {
  Checker c("sample");
  c.tensor("logits", a.logits, kOnlyF32, {kAnyExtent, kAnyExtent});
  const int64_t rows = a.logits.shape[0];
  const int64_t vocab = a.logits.shape[1];
  c.require(vocab >= 1 && vocab <= kMaxExtent, "logits must have between 1 and 2^31 - 1 columns", vocab);
  c.require(rows == 0 || a.params != nullptr, "params are missing");
  if (a.seen) c.tensor("seen", a.seen, kOnlyU8, {rows, (vocab + 7) / 8});
  c.dense("ids", a.ids, kOnlyI32, {rows});
  if (a.probabilities) c.tensor("probabilities", a.probabilities, kOnlyF32, {rows, vocab});
  return c.status();
}

}  // namespace longhaul
