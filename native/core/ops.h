// Every operation of the compute core: one Args struct each and one table of function pointers over them.
//
// Three tables implement it (reference, cpu, cuda); a null entry means "not supported here" and can be asked
// for before planning. Arguments are validated once, in check.cc, by run(); kernels never check. Ops never
// block, allocate or read back to the host: scratch memory is the caller's, sized by the *_workspace queries.
//
// Shapes are in brackets. "act" is Backend::activation_dtype (f32 or bf16); kv dtype is f32, bf16 or f16.
// rows = tokens of one step over all its sequences; group = heads / kv_heads.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "core/expert_ops.h"
#include "core/parallel_ops.h"
#include "core/status.h"
#include "core/tensor.h"

namespace longhaul {

// Rows of one page of keys or values.
constexpr int kPageRows = 16;

// One sequence's cache in one layer, and its rows in the present step. Lives in device memory, because
// eviction changes lengths and pages there, without the host.
// Row r of head h is row r % kPageRows of page page_table[h * max_pages + r / kPageRows]; rows are in time
// order.
struct CacheView {
  int32_t* page_table;  // [kv_heads, max_pages] ids of pages
  int32_t* length;      // [kv_heads] rows held
  int32_t* free_pages;  // [*] stack of pages reserved for this sequence and not in use, shared by its layers
  int32_t* free_count;  // [2] height of that stack now, and the lowest it ever was
  int32_t max_pages;
  int32_t row_begin;  // this sequence's first row in the step
  int32_t row_count;
  // attention only: rows that every query sees beyond the causal ones, or, below 0, does not see.
  int32_t ahead = 0;
};

// The pool that all page tables point into.
struct PageArrays {
  Tensor k;          // [pages, kPageRows, dim] kv dtype, keys after RoPE
  Tensor v;          // [pages, kPageRows, dim] kv dtype
  Tensor positions;  // [pages, kPageRows] i32, absolute position of each row
};

// What rows are for. A backend may have kernels of its own for each role; it never chooses them by the number
// of rows, so that a row gives the same bits in any batch. In two roles the same row may differ in rounding.
enum class RowRole : uint8_t {
  kBlock,   // rows of prefill blocks: many rows share each weight and each key
  kDecode,  // the newest row, or few, of each sequence: bound by memory
};

// ---- dense -------------------------------------------------------------------------------------------------

// out[i] = table[ids[i]]
struct EmbedArgs {
  Tensor ids;                     // [rows] i32
  const Weight* table = nullptr;  // [vocab, hidden]
  Tensor out;                     // [rows, hidden] f32
};

// residual form: x += delta first. out = x / sqrt(mean(x^2) + eps) * weight, over the last dimension.
struct RmsNormArgs {
  Tensor x;       // [rows, dim] or [rows, heads, dim], f32 or act; written when delta is given
  Tensor delta;   // optional, [rows, dim] f32 or act
  Tensor weight;  // [dim] f32
  Tensor out;     // as x, f32 or act; may be x
  float eps = 0;
};

// out = x * weight^T (+ bias), or out += with `accumulate`. K is summed in one fixed order a role, so a row's
// result does not depend on the other rows.
struct GemmArgs {
  Tensor x;                        // [rows, cols] act, rows may be strided
  const Weight* weight = nullptr;  // [outputs, cols]
  Tensor bias;                     // optional, [outputs] f32
  Tensor out;                      // [rows, outputs] f32 or act, rows may be strided
  bool accumulate = false;
  RowRole role = RowRole::kBlock;
};

// out = silu(gate) * up
struct SwigluArgs {
  Tensor gate_up;  // [rows, 2 * ff] act or f32: gate first
  Tensor out;      // [rows, ff] act
};

// cos and sin of position * frequency, computed in double (f32 angles are off by 1e-2 at position 1e5).
struct RopeTableArgs {
  Tensor positions;    // [rows] i32
  Tensor frequencies;  // [dim / 2] f64, after any scaling of the model
  Tensor cos, sin;     // [rows, dim / 2] f32
};

// Rotates pairs (i, i + dim / 2), Hugging Face's "rotate_half", in place.
struct RopeArgs {
  Tensor x;         // [rows, heads, dim] f32 or act
  Tensor cos, sin;  // [rows, dim / 2] f32
};

struct GatherRowsArgs {
  Tensor x;      // [rows, dim]
  Tensor index;  // [count] i32
  Tensor out;    // [count, dim], dtype of x
};

// ---- cache and attention -----------------------------------------------------------------------------------

// Takes pages from each view's stack for its row_count new rows and writes K (rotated when cos and sin are
// given), V and positions behind the rows held; lengths grow. Fails when the stack runs out.
struct AppendArgs {
  PageArrays pages;
  const CacheView* views = nullptr;  // [sequences], device memory
  int64_t sequences = 0;
  Tensor k, v;       // [rows, kv_heads, dim] f32 or act
  Tensor positions;  // [rows] i32
  Tensor cos, sin;   // optional, [rows, dim / 2] f32
};

// Causal attention of the step's rows (already appended) over each sequence's cache, aligned at the end: query
// i of n sees the first length - n + i + 1 + ahead rows of its KV head. A step's row gives the same bits in its
// role whatever the other rows are.
struct AttentionArgs {
  PageArrays pages;
  const CacheView* views = nullptr;  // [sequences], device memory
  int64_t sequences = 0;
  Tensor q;    // [rows, heads, dim] f32 or act, after RoPE
  Tensor out;  // [rows, heads, dim] act
  Tensor lse;  // optional, [rows, heads] f32: log of the sum of exp(scaled scores)
  int32_t kv_heads = 0;
  float scale = 0;
  // No head of a view holds more rows: the host sizes grids and workspace by it, since it cannot see lengths.
  int32_t max_length = 0;
  RowRole role = RowRole::kBlock;
  // optional, kBlock only, [rows, heads, 2] f32: m, about the largest score in base 2, and the sum of 2^(score
  // - m). An f32 lse of 32 or more is off by 1e-6, and so are weights made of it; this pair is not.
  Tensor state;
};

// Merges partial attention results over disjoint keys: out = sum_s w_s out_s, w_s = exp(lse_s - lse).
// A part with lse = -inf saw no key.
struct MergeStatesArgs {
  Tensor parts;      // [splits, rows, heads, dim] f32
  Tensor parts_lse;  // [splits, rows, heads] f32
  Tensor out;        // [rows, heads, dim] f32 or act
  Tensor lse;        // [rows, heads] f32
};

// Removes the last `drop` rows of every head and gives back the pages that become empty.
// Views may share a stack, as those of a sequence's layers do: it gets their pages in the order of the views.
struct TruncateArgs {
  const CacheView* views = nullptr;  // [sequences], device memory
  int64_t sequences = 0;
  int32_t kv_heads = 0;
  int32_t drop = 0;
};

// ---- eviction (specs/epicache.md sections 2 and 10) ---------------------------------------------------------

enum class ScoreReduce : uint8_t { kMax, kMean };

// How much attention `queries` give to each cached row, without materialising queries x keys: pass 1 finds each
// query's log-sum-exp over the rows it sees, pass 2 reduces exp(s - lse) over queries and the heads of the
// group. Let n = length - ignore_last. Query t of Q sees rows [0, n) when window = 0, and rows [0, n - window +
// t + 1) when window = Q (the queries are the cache's own last rows). Scored rows are [0, n - window).
struct ScoreKeysArgs {
  PageArrays pages;
  const CacheView* view = nullptr;  // one sequence, device memory
  Tensor q;                         // [queries, heads, dim] f32 or act, after RoPE
  Tensor scores;                    // [kv_heads, capacity] f32
  int32_t kv_heads = 0;
  float scale = 0;
  int32_t ignore_last = 0;  // rows at the end that no query sees: the patched prompt's own
  int32_t window = 0;       // 0, or the number of queries
  ScoreReduce reduce = ScoreReduce::kMax;
  int32_t pool_kernel = 1;  // odd; > 1: average over neighbouring scored rows of the head, zero padding,
                            // always divided by the kernel
};

// KeyDiff: u_i = k_i / |k_i| over the first length - ignore_last rows of one head, a = mean u_i,
// score_i = -(u_i . a) / |a|. A zero key has u = 0.
struct KeyDiversityArgs {
  PageArrays pages;
  const CacheView* view = nullptr;
  Tensor scores;  // [kv_heads, capacity] f32
  int32_t kv_heads = 0;
  int32_t ignore_last = 0;
};

// Two scores that measure different things, and where a row is from, as one. z(x) = (x - mean) / deviation over
// the first length - ignore_last rows of all heads of the view, 0 where the deviation is 0:
//     scores = z(scores) + weight * z(other) + bonus * [the row's position lies in a span]
// A score that is no finite number counts in neither mean nor deviation, and gives NaN.
struct CombineScoresArgs {
  PageArrays pages;
  const CacheView* view = nullptr;  // one sequence, device memory
  Tensor scores;                    // [kv_heads, capacity] f32, written
  Tensor other;                     // optional, [kv_heads, capacity] f32
  Tensor spans;                     // optional, [spans, 2] i32: positions [begin, end), ascending and apart
  int32_t kv_heads = 0;
  int32_t ignore_last = 0;
  float weight = 1;
  float bonus = 0;
};

enum class SelectLevel : uint8_t {
  kPair,  // the best budget * kv_heads rows of the layer, over all heads
  kHead,  // the best `budget` rows of each head
};

// Chooses the rows to keep among the first n = length - drop_last of each head. Protected rows stay and count
// against the budget. When the rows fit the budget (of the layer or of the head) all n stay. Order: score
// descending, ties by (head, row) ascending; NaN is the worst score.
struct SelectArgs {
  const CacheView* view = nullptr;
  Tensor scores;  // [kv_heads, capacity] f32; absent: the newer row is the better one
  int32_t kv_heads = 0;
  int32_t drop_last = 0;
  int32_t protect_first = 0;
  int32_t protect_last = 0;  // counted from row n - 1 down
  int32_t budget = 0;        // rows per KV head
  SelectLevel level = SelectLevel::kPair;
  bool only_scored = false;  // candidates whose score is NaN go, however much room there is
  Tensor kept;               // [kv_heads, capacity] i32, ascending row indices
  Tensor kept_count;         // [kv_heads] i32
};

// Moves the kept rows of each head to the front, in order, sets lengths, gives pages back to the stack.
struct CompactArgs {
  PageArrays pages;
  const CacheView* view = nullptr;
  Tensor kept;        // [kv_heads, capacity] i32
  Tensor kept_count;  // [kv_heads] i32
  int32_t kv_heads = 0;
};

// Moves row r of a head from a position that is not below `begin` to end - length + r, so that all heads end at
// end - 1, and rotates its key by the difference: the key is then what it would be had its token come at the
// new position, up to one more rounding to the kv dtype. Rows below `begin`, and rows in place, keep their
// bits. Angles are double.
struct PackPositionsArgs {
  PageArrays pages;
  const CacheView* views = nullptr;  // [sequences], device memory
  int64_t sequences = 0;
  Tensor frequencies;  // [dim / 2] f64, of RopeTableArgs
  int32_t kv_heads = 0;
  int32_t begin = 0;
  int32_t end = 0;         // at least begin + max_length: rows that move stay above those that do not
  int32_t max_length = 0;  // no head of a view holds more rows; the host sizes grids by it
};

// ---- selections of several episodes over one cache ----------------------------------------------------------

// Where the kept rows stand among themselves, in select's order: best[row] becomes the larger of what it was
// and -rank, rank 0 being the best of all heads (kPair) or of the row's head (kHead). Without `accumulate`
// every row of the cache is NaN before. Ranks above 2^24 are rounded.
struct RankRowsArgs {
  const CacheView* view = nullptr;  // one sequence, device memory
  Tensor scores;                    // [kv_heads, capacity] f32
  Tensor kept;                      // [kv_heads, capacity] i32, as select wrote it
  Tensor kept_count;                // [kv_heads] i32
  int32_t kv_heads = 0;
  SelectLevel level = SelectLevel::kPair;
  bool accumulate = false;
  Tensor best;  // [kv_heads, capacity] f32
};

// Writes the kept rows of each head of `source` (keys, values, positions) behind the rows that `target`,
// another sequence, holds, in order; takes pages from target's stack. Fails, and changes nothing, when the
// stack runs out.
struct CopyRowsArgs {
  PageArrays pages;
  const CacheView* source = nullptr;  // one sequence each, device memory
  const CacheView* target = nullptr;
  Tensor kept;        // [kv_heads, capacity] i32, row indices of source
  Tensor kept_count;  // [kv_heads] i32
  int32_t kv_heads = 0;
};

// ---- sampling ----------------------------------------------------------------------------------------------

// Order as in Hugging Face's generate(): repetition penalty, temperature, top-k, top-p, min-p.
struct SampleParams {
  float temperature = 1;  // 0: the arg-max, lowest id on ties
  int32_t top_k = 0;      // 0: off. All ties with the k-th largest stay.
  float top_p = 1;        // keeps while the exclusive cumulative probability < top_p; the crossing token stays
  float min_p = 0;        // drops p < min_p * max(p), after top-k and top-p
  float repetition_penalty = 1;  // logit > 0 ? logit / penalty : logit * penalty for every token in `seen`
  uint64_t seed = 0;
  uint64_t position = 0;  // with the seed, the key of this draw: batch composition cannot change it
};

struct SampleArgs {
  Tensor logits;                         // [rows, vocab] f32
  const SampleParams* params = nullptr;  // [rows], device memory
  Tensor seen;           // optional, [rows, ceil(vocab / 8)] u8 bit mask; the drawn token is added to it
  Tensor ids;            // [rows] i32
  Tensor probabilities;  // optional, [rows, vocab] f32: the distribution drawn from
};

// ---- the table ---------------------------------------------------------------------------------------------

struct Ops {
  Status (*embed)(Stream&, const EmbedArgs&);
  Status (*rms_norm)(Stream&, const RmsNormArgs&);
  Status (*gemm)(Stream&, const GemmArgs&, Workspace);
  Status (*swiglu)(Stream&, const SwigluArgs&);
  Status (*rope_table)(Stream&, const RopeTableArgs&);
  Status (*rope)(Stream&, const RopeArgs&);
  Status (*gather_rows)(Stream&, const GatherRowsArgs&);
  Status (*append)(Stream&, const AppendArgs&);
  Status (*attention)(Stream&, const AttentionArgs&, Workspace);
  Status (*merge_states)(Stream&, const MergeStatesArgs&);
  Status (*truncate)(Stream&, const TruncateArgs&);
  Status (*score_keys)(Stream&, const ScoreKeysArgs&, Workspace);
  Status (*key_diversity)(Stream&, const KeyDiversityArgs&, Workspace);
  Status (*combine_scores)(Stream&, const CombineScoresArgs&, Workspace);
  Status (*select)(Stream&, const SelectArgs&, Workspace);
  Status (*compact)(Stream&, const CompactArgs&);
  Status (*pack_positions)(Stream&, const PackPositionsArgs&);
  Status (*rank_rows)(Stream&, const RankRowsArgs&, Workspace);
  Status (*copy_rows)(Stream&, const CopyRowsArgs&);
  Status (*sample)(Stream&, const SampleArgs&, Workspace);
  // core/expert_ops.h
  Status (*route)(Stream&, const RouteArgs&);
  Status (*expert_shrink)(Stream&, const ExpertShrinkArgs&, Workspace);
  Status (*expert_expand)(Stream&, const ExpertExpandArgs&, Workspace);
  Status (*add_weighted_rows)(Stream&, const AddWeightedRowsArgs&);
  Status (*router_loss)(Stream&, const RouterLossArgs&, Workspace);
  Status (*route_backward)(Stream&, const RouteBackwardArgs&);
  Status (*expert_backward)(Stream&, const ExpertBackwardArgs&, Workspace);
  Status (*linear_backward)(Stream&, const LinearBackwardArgs&);
  Status (*pack_heads)(Stream&, const PackHeadsArgs&);
  Status (*unpack_heads)(Stream&, const UnpackHeadsArgs&);
  Status (*dense_attention)(Stream&, const DenseAttentionArgs&, Workspace);
  Status (*dense_attention_backward)(Stream&, const DenseAttentionBackwardArgs&);

  // Bytes of scratch memory, monotone in every extent, so that a bound for the largest call serves all.
  // They look at shapes and dtypes only, never at data or views.
  size_t (*gemm_workspace)(const GemmArgs&);
  size_t (*attention_workspace)(const AttentionArgs&);
  size_t (*score_keys_workspace)(const ScoreKeysArgs&);
  size_t (*key_diversity_workspace)(const KeyDiversityArgs&);
  size_t (*combine_scores_workspace)(const CombineScoresArgs&);
  size_t (*select_workspace)(const SelectArgs&);
  size_t (*rank_rows_workspace)(const RankRowsArgs&);
  size_t (*sample_workspace)(const SampleArgs&);
  size_t (*expert_shrink_workspace)(const ExpertShrinkArgs&);
  size_t (*expert_expand_workspace)(const ExpertExpandArgs&);
  size_t (*router_loss_workspace)(const RouterLossArgs&);
  size_t (*expert_backward_workspace)(const ExpertBackwardArgs&);
  size_t (*dense_attention_workspace)(const DenseAttentionArgs&);
};

// Argument checks, one per op, the same for all backends: kInvalidArgument names the field.
Status check(const EmbedArgs&);
Status check(const RmsNormArgs&);
Status check(const GemmArgs&);
Status check(const SwigluArgs&);
Status check(const RopeTableArgs&);
Status check(const RopeArgs&);
Status check(const GatherRowsArgs&);
Status check(const AppendArgs&);
Status check(const AttentionArgs&);
Status check(const MergeStatesArgs&);
Status check(const TruncateArgs&);
Status check(const ScoreKeysArgs&);
Status check(const KeyDiversityArgs&);
Status check(const CombineScoresArgs&);
Status check(const SelectArgs&);
Status check(const CompactArgs&);
Status check(const PackPositionsArgs&);
Status check(const RankRowsArgs&);
Status check(const CopyRowsArgs&);
Status check(const SampleArgs&);
Status check(const RouteArgs&);
Status check(const ExpertShrinkArgs&);
Status check(const ExpertExpandArgs&);
Status check(const AddWeightedRowsArgs&);
Status check(const RouterLossArgs&);
Status check(const RouteBackwardArgs&);
Status check(const ExpertBackwardArgs&);
Status check(const LinearBackwardArgs&);
Status check(const PackHeadsArgs&);
Status check(const UnpackHeadsArgs&);
Status check(const DenseAttentionArgs&);
Status check(const DenseAttentionBackwardArgs&);

// Checks the arguments, then calls the backend's entry; kUnsupported when it has none.
Status run(Backend&, Stream&, const EmbedArgs&);
Status run(Backend&, Stream&, const RmsNormArgs&);
Status run(Backend&, Stream&, const GemmArgs&, Workspace);
Status run(Backend&, Stream&, const SwigluArgs&);
Status run(Backend&, Stream&, const RopeTableArgs&);
Status run(Backend&, Stream&, const RopeArgs&);
Status run(Backend&, Stream&, const GatherRowsArgs&);
Status run(Backend&, Stream&, const AppendArgs&);
Status run(Backend&, Stream&, const AttentionArgs&, Workspace);
Status run(Backend&, Stream&, const MergeStatesArgs&);
Status run(Backend&, Stream&, const TruncateArgs&);
Status run(Backend&, Stream&, const ScoreKeysArgs&, Workspace);
Status run(Backend&, Stream&, const KeyDiversityArgs&, Workspace);
Status run(Backend&, Stream&, const CombineScoresArgs&, Workspace);
Status run(Backend&, Stream&, const SelectArgs&, Workspace);
Status run(Backend&, Stream&, const CompactArgs&);
Status run(Backend&, Stream&, const PackPositionsArgs&);
Status run(Backend&, Stream&, const RankRowsArgs&, Workspace);
Status run(Backend&, Stream&, const CopyRowsArgs&);
Status run(Backend&, Stream&, const SampleArgs&, Workspace);
Status run(Backend&, Stream&, const RouteArgs&);
Status run(Backend&, Stream&, const ExpertShrinkArgs&, Workspace);
Status run(Backend&, Stream&, const ExpertExpandArgs&, Workspace);
Status run(Backend&, Stream&, const AddWeightedRowsArgs&);
Status run(Backend&, Stream&, const RouterLossArgs&, Workspace);
Status run(Backend&, Stream&, const RouteBackwardArgs&);
Status run(Backend&, Stream&, const ExpertBackwardArgs&, Workspace);
Status run(Backend&, Stream&, const LinearBackwardArgs&);
Status run(Backend&, Stream&, const PackHeadsArgs&);
Status run(Backend&, Stream&, const UnpackHeadsArgs&);
Status run(Backend&, Stream&, const DenseAttentionArgs&, Workspace);
Status run(Backend&, Stream&, const DenseAttentionBackwardArgs&);

}  // namespace longhaul
