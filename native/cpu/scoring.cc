// How much cached rows matter. Queries x keys are computed twice, tile by tile, and never stored: once for each
// query's log-sum-exp, once to reduce what every query gives a key.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "core/arena.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// How far ahead of its use a page of keys is fetched.
constexpr int64_t kFetchBytes = 8 * 1024;

// A thread's memory for one tile.
struct TileScratch {
  Tensor q, scores, transposed, max, sum, total_max, total_sum;

  static TileScratch lay_out(Arena& arena, int dim) {
    TileScratch s;
    s.q = arena.take(DType::kF32, {tile_rows(dim), padded_dim(dim)});
    s.scores = arena.take(DType::kF32, {tile_rows(dim), kScoreStride});
    s.transposed = arena.take(DType::kF32, {padded_dim(dim), kMaxBlockKeys});
    for (Tensor* rows : {&s.max, &s.sum, &s.total_max, &s.total_sum})
      *rows = arena.take(DType::kF32, {tile_rows(dim)});
    return s;
  }
};

struct ScoreWorkspace {
  Tensor lse;     // [kv_heads, queries * group], binary logarithms
  Tensor scores;  // [kv_heads, capacity] before pooling

  static ScoreWorkspace lay_out(Arena& arena, const ScoreKeysArgs& a) {
    return {arena.take(DType::kF32, {a.kv_heads, a.q.shape[0] * (a.q.shape[1] / a.kv_heads)}),
            arena.take(DType::kF32, {a.kv_heads, a.scores.shape[1]})};
  }
};

// The queries of a KV head, `rows` = queries * group of them, in the order of queries, then heads of the group.
class Scorer {
 public:
  Scorer(CpuStream& stream, const ScoreKeysArgs& args, const ScoreWorkspace& workspace)
      : stream_(stream),
        kernels_(*stream.kernels().attention),
        a_(args),
        workspace_(workspace),
        group_(static_cast<int32_t>(args.q.shape[1] / args.kv_heads)),
        rows_(static_cast<int32_t>(args.q.shape[0]) * group_),
        dim_(static_cast<int>(args.q.shape[2])),
        tile_rows_(tile_rows(dim_)),
        form_(kernels_.bf16_pairs && args.q.dtype == DType::kBf16 && args.pages.k.dtype == DType::kBf16
                  ? QueryForm::kPairs
                  : QueryForm::kValues) {}

  // Rows that queries see, all but those of the window itself.
  int32_t held(int32_t head) const { return std::max(a_.view->length[head] - a_.ignore_last, 0); }
  int32_t scored(int32_t head) const { return std::max(held(head) - a_.window, 0); }

  void find_log_sums() {
    const int32_t tiles = (rows_ + tile_rows_ - 1) / tile_rows_;
    stream_.parallel_for(int64_t{tiles} * a_.kv_heads, [&](int64_t task, int slot) {
      // The last tiles see the most keys.
      const auto first_row = static_cast<int32_t>(tiles - 1 - task / a_.kv_heads) * tile_rows_;
      find_log_sums_of_tile(static_cast<int32_t>(task % a_.kv_heads), first_row, scratch(slot));
    });
  }

  void reduce() {
    int32_t chunks = 0;
    for (int32_t h = 0; h < a_.kv_heads; ++h) chunks = std::max(chunks, chunks_of(scored(h)));
    stream_.parallel_for(int64_t{chunks} * a_.kv_heads, [&](int64_t task, int slot) {
      const auto head = static_cast<int32_t>(task % a_.kv_heads);
      const auto chunk = static_cast<int32_t>(task / a_.kv_heads);
      if (chunk < chunks_of(scored(head))) reduce_chunk(head, chunk, scratch(slot));
    });
  }

  void pool() {
    stream_.parallel_for(a_.kv_heads, [&](int64_t head, int) { pool_head(static_cast<int32_t>(head)); });
  }

 private:
  TileScratch scratch(int slot) const {
    Arena arena(stream_.scratch(slot));
    return TileScratch::lay_out(arena, dim_);
  }

  // Scores of pass 2, or of the op when there is nothing to pool.
  float* scores_of(int32_t head) const {
    const Tensor& to = a_.pool_kernel > 1 ? workspace_.scores : a_.scores;
    return to.as<float>() + head * to.stride[0];
  }
  float* lse_of(int32_t head) const { return workspace_.lse.as<float>() + head * workspace_.lse.stride[0]; }

  int32_t visible(int32_t head, int32_t row) const {
    if (a_.window == 0) return held(head);
    return std::max(held(head) - a_.window + row / group_ + 1, 0);
  }

  void load_queries(int32_t head, int32_t first_row, int32_t rows, const TileScratch& s) const {
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t row = first_row + r;
      kernels_.pack_query(row_at(a_.q, row / group_, head * group_ + row % group_), element_of(a_.q.dtype),
                          dim_, form_, r, s.q.as<float>());
    }
  }

  ScoreTile tile(const TileScratch& s, const int32_t* visible, const void* const* keys, int32_t rows) const {
    return {.q = s.q.as<float>(),
            .visible = visible,
            .keys = keys,
            .type = element_of(a_.pages.k.dtype),
            .form = form_,
            .rows = rows,
            .dim = dim_,
            .scale = a_.scale * std::numbers::log2e_v<float>,
            .transposed = s.transposed.as<float>(),
            .scores = s.scores.as<float>()};
  }

  void find_log_sums_of_tile(int32_t head, int32_t first_row, const TileScratch& s) const {
    const int32_t rows = std::min(rows_ - first_row, tile_rows_);
    load_queries(head, first_row, rows, s);
    auto* total_max = s.total_max.as<float>();
    auto* total_sum = s.total_sum.as<float>();
    std::fill_n(total_max, rows, kNothing);
    std::fill_n(total_sum, rows, 0.0f);
    const int32_t chunks = chunks_of(visible(head, first_row + rows - 1));
    for (int32_t c = 0; c < chunks; ++c) {
      int32_t seen[kTileRows];
      for (int32_t r = 0; r < rows; ++r) {
        seen[r] = std::clamp(visible(head, first_row + r) - c * kChunkKeys, 0, kChunkKeys);
      }
      const void* keys[kChunkPages];
      pages_from(a_.pages.k, *a_.view, head, c * kChunkPages, held(head), kChunkPages, keys);
      auto* max = s.max.as<float>();
      auto* sum = s.sum.as<float>();
      kernels_.softmax_chunk(tile(s, seen, keys, rows), max, sum);
      for (int32_t r = 0; r < rows; ++r) {
        if (sum[r] == 0) continue;
        const float largest = std::max(total_max[r], max[r]);
        total_sum[r] = total_sum[r] * std::exp2(total_max[r] - largest) + sum[r] * std::exp2(max[r] - largest);
        total_max[r] = largest;
      }
    }
    float* lse = lse_of(head) + first_row;
    for (int32_t r = 0; r < rows; ++r) lse[r] = total_max[r] + std::log2(total_sum[r]);
  }

  void reduce_chunk(int32_t head, int32_t chunk, const TileScratch& s) const {
    const int32_t keys_here = std::min(scored(head) - chunk * kChunkKeys, kChunkKeys);
    const void* keys[kChunkPages];
    pages_from(a_.pages.k, *a_.view, head, chunk * kChunkPages, held(head), kChunkPages, keys);
    int32_t seen[kTileRows];
    std::fill_n(seen, kTileRows, keys_here);
    const bool is_max = a_.reduce == ScoreReduce::kMax;
    alignas(64) float result[kChunkKeys];
    std::fill_n(result, kChunkKeys, is_max ? kNothing : 0.0f);
    for (int32_t first_row = 0; first_row < rows_; first_row += tile_rows_) {
      const int32_t rows = std::min(rows_ - first_row, tile_rows_);
      load_queries(head, first_row, rows, s);
      const ScoreTile scores = tile(s, seen, keys, rows);
      if (is_max) {
        kernels_.reduce_max(scores, lse_of(head) + first_row, result);
      } else {
        kernels_.reduce_sum(scores, lse_of(head) + first_row, result);
      }
    }
    if (is_max) {
      // The largest weight is that of the largest score - lse: one exponential a key instead of one a pair.
      kernels_.exp_row(result, keys_here, 0, std::numbers::ln2_v<float>);
    } else {
      for (int32_t i = 0; i < keys_here; ++i) result[i] /= static_cast<float>(rows_);
    }
    std::copy_n(result, keys_here, scores_of(head) + int64_t{chunk} * kChunkKeys);
  }

  void pool_head(int32_t head) const {
    const float* from = scores_of(head);
    float* to = a_.scores.as<float>() + head * a_.scores.stride[0];
    const int32_t count = scored(head);
    const int32_t reach = a_.pool_kernel / 2;
    for (int32_t i = 0; i < count; ++i) {
      double sum = 0;
      for (int32_t j = std::max(i - reach, 0); j <= std::min(i + reach, count - 1); ++j) {
        sum += static_cast<double>(from[j]);
      }
      to[i] = static_cast<float>(sum / a_.pool_kernel);
    }
  }

  CpuStream& stream_;
  const AttentionKernels& kernels_;
  const ScoreKeysArgs& a_;
  const ScoreWorkspace& workspace_;
  int32_t group_;
  int32_t rows_;
  int dim_;
  int32_t tile_rows_;
  QueryForm form_;
};

struct DiversityWorkspace {
  Tensor sums;  // [kv_heads, chunks, padded dim]; after the merge chunk 0 is the anchor's direction

  static DiversityWorkspace lay_out(Arena& arena, const KeyDiversityArgs& a) {
    const auto dim = static_cast<int>(a.pages.k.shape[2]);
    const int64_t chunks = (a.scores.shape[1] + kChunkKeys - 1) / kChunkKeys;
    return {arena.take(DType::kF32, {a.kv_heads, chunks, padded_dim(dim)})};
  }
};

// Adds the chunks' sums in order and makes the result a unit vector; zero when there is no direction.
void merge_anchor(float* sums, int64_t chunks, int dim, int64_t stride) {
  double squares = 0;
  double anchor[kMaxKernelDim];
  for (int d = 0; d < dim; ++d) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += static_cast<double>(sums[c * stride + d]);
    anchor[d] = sum;
    squares += sum * sum;
  }
  const double norm = std::sqrt(squares);
  for (int d = 0; d < dim; ++d) sums[d] = norm > 0 ? static_cast<float>(anchor[d] / norm) : 0.0f;
}

}  // namespace

size_t score_keys_workspace(const ScoreKeysArgs& a) {
  Arena arena;
  ScoreWorkspace::lay_out(arena, a);
  return arena.used();
}

Status score_keys(Stream& stream, const ScoreKeysArgs& a, Workspace workspace) {
  Arena arena(workspace.data);
  const ScoreWorkspace memory = ScoreWorkspace::lay_out(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  Scorer scorer(cpu_stream(stream), a, memory);
  for (int32_t h = 0; h < a.kv_heads; ++h) LONGHAUL_ASSERT(scorer.scored(h) <= a.scores.shape[1]);
  scorer.find_log_sums();
  scorer.reduce();
  if (a.pool_kernel > 1) scorer.pool();
  return {};
}

size_t key_diversity_workspace(const KeyDiversityArgs& a) {
  Arena arena;
  DiversityWorkspace::lay_out(arena, a);
  return arena.used();
}

Status key_diversity(Stream& stream, const KeyDiversityArgs& a, Workspace workspace) {
  CpuStream& cpu = cpu_stream(stream);
  const AttentionKernels& kernels = *cpu.kernels().attention;
  Arena arena(workspace.data);
  const Tensor sums = DiversityWorkspace::lay_out(arena, a).sums;
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const auto dim = static_cast<int>(a.pages.k.shape[2]);
  const Element type = element_of(a.pages.k.dtype);
  const auto rows_of = [&](int32_t head) { return std::max(a.view->length[head] - a.ignore_last, 0); };
  int32_t chunks = 0;
  for (int32_t h = 0; h < a.kv_heads; ++h) chunks = std::max(chunks, chunks_of(rows_of(h)));
  LONGHAUL_ASSERT(chunks <= sums.shape[1]);

  const auto for_each_chunk = [&](auto&& body) {
    // Chunks of a head follow each other, for a chunk's pages are fetched while the one before is read.
    cpu.parallel_for(int64_t{chunks} * a.kv_heads, [&](int64_t task, int) {
      const auto head = static_cast<int32_t>(task / chunks);
      const auto chunk = static_cast<int32_t>(task % chunks);
      const int32_t rows = std::min(rows_of(head) - chunk * kChunkKeys, kChunkKeys);
      if (rows <= 0) return;
      const void* keys[kChunkPages];
      const void* fetch[kChunkPages];
      const int32_t first = chunk * kChunkPages;
      pages_from(a.pages.k, *a.view, head, first, rows_of(head), kChunkPages, keys);
      pages_from(a.pages.k, *a.view, head, first + pages_ahead(a.pages.k, kFetchBytes), rows_of(head),
                 kChunkPages, fetch);
      body(head, chunk, keys, fetch, rows);
    });
  };
  const auto sums_of = [&](int32_t head) { return sums.as<float>() + head * sums.stride[0]; };
  for_each_chunk(
      [&](int32_t head, int32_t chunk, const void* const* keys, const void* const* fetch, int32_t rows) {
        kernels.sum_units(keys, fetch, type, rows, dim, sums_of(head) + chunk * sums.stride[1]);
      });
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    if (rows_of(h) > 0) merge_anchor(sums_of(h), chunks_of(rows_of(h)), dim, sums.stride[1]);
  }
  for_each_chunk(
      [&](int32_t head, int32_t chunk, const void* const* keys, const void* const* fetch, int32_t rows) {
        float* out = a.scores.as<float>() + head * a.scores.stride[0] + int64_t{chunk} * kChunkKeys;
        kernels.score_units(keys, fetch, type, rows, dim, sums_of(head), out);
      });
  return {};
}

}  // namespace longhaul::cpu
