// Attention over paged, ragged caches. A tile is some query rows of one sequence and KV head; its keys are
// taken in chunks of kChunkKeys whose softmax states are merged in order. Many rows: a task is a tile, and
// merges as it goes. Few rows (decoding): a task is a run of chunks of a tile, so that all threads read keys,
// and the states are merged afterwards. Both ways do the same arithmetic, so the bits are the same.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "core/arena.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Query rows times heads up to which chunks are tasks, and chunks of a tile in flight: they bound the
// workspace.
constexpr int64_t kSplitRows = 512;
constexpr int32_t kSplitChunks = 16;

// Tasks a thread should find when chunks are shared out: the more, the better the load spreads; the fewer, the
// longer the runs of chunks, each of which starts with nothing fetched.
constexpr int64_t kTasksPerThread = 4;

bool is_split(const AttentionArgs& a) {
  return a.q.shape[0] * a.q.shape[1] <= kSplitRows;
}

// [states, slots] softmax states; a slot is one query row of one head.
struct States {
  Tensor max, sum, accumulated;

  static States lay_out(Arena& arena, int64_t states, int64_t slots, int64_t stride) {
    return {arena.take(DType::kF32, {states, slots}), arena.take(DType::kF32, {states, slots}),
            arena.take(DType::kF32, {states, slots, stride})};
  }
  SoftmaxRows at(int64_t state, int64_t slot) const {
    const int64_t row = state * max.stride[0] + slot;
    return {max.as<float>() + row, sum.as<float>() + row,
            accumulated.as<float>() + row * accumulated.stride[1]};
  }
};

struct SplitStates {
  States parts;  // [kSplitChunks, slots]
  States total;  // [1, slots]

  static SplitStates lay_out(Arena& arena, const AttentionArgs& a) {
    const int64_t slots = std::min(a.q.shape[0] * a.q.shape[1], kSplitRows);
    const int64_t stride = padded_dim(static_cast<int>(a.q.shape[2]));
    SplitStates states;
    states.parts = States::lay_out(arena, kSplitChunks, slots, stride);
    states.total = States::lay_out(arena, 1, slots, stride);
    return states;
  }
};

// One tile: rows [first_row, first_row + rows) of a sequence's row_count * group rows of one KV head, in the
// order of queries, then heads of the group.
struct Tile {
  const CacheView* view;
  int32_t head;
  int32_t first_row;
  int32_t rows;

  int32_t length() const { return view->length[head]; }
};

QueryForm form_of(const AttentionArgs& a, const Kernels& kernels) {
  const bool pairs =
      kernels.attention->bf16_pairs && a.q.dtype == DType::kBf16 && a.pages.k.dtype == DType::kBf16;
  if (!pairs) return QueryForm::kValues;
  return a.role == RowRole::kDecode && a.q.shape[2] % 16 == 0 ? QueryForm::kQuads : QueryForm::kPairs;
}

struct Geometry {
  const AttentionArgs& a;
  int32_t group;
  int dim;
  int32_t tile_rows;
  QueryForm form;

  Geometry(const AttentionArgs& args, const Kernels& kernels)
      : a(args),
        group(static_cast<int32_t>(args.q.shape[1] / args.kv_heads)),
        dim(static_cast<int>(args.q.shape[2])),
        tile_rows(cpu::tile_rows(dim)),
        form(form_of(args, kernels)) {}

  int64_t tiles_of(const CacheView& view) const {
    return int64_t{a.kv_heads} * ((int64_t{view.row_count} * group + tile_rows - 1) / tile_rows);
  }

  int64_t tiles() const {
    int64_t count = 0;
    for (int64_t s = 0; s < a.sequences; ++s) count += tiles_of(a.views[s]);
    return count;
  }

  // Tile `index`, the ones with the most keys first.
  Tile tile(int64_t index) const {
    const CacheView* view = a.views;
    for (; index >= tiles_of(*view); ++view) index -= tiles_of(*view);
    const int64_t blocks = tiles_of(*view) / a.kv_heads;
    const auto first_row = static_cast<int32_t>((blocks - 1 - index / a.kv_heads) * tile_rows);
    const int32_t rows = std::min(view->row_count * group - first_row, tile_rows);
    return {view, static_cast<int32_t>(index % a.kv_heads), first_row, rows};
  }

  // Keys that row `row` of the tile sees.
  int32_t visible(const Tile& tile, int32_t row) const {
    const int32_t query = (tile.first_row + row) / group;
    const int32_t length = tile.length();
    return std::clamp(length - tile.view->row_count + query + 1 + tile.view->ahead, 0, length);
  }

  int32_t chunks(const Tile& tile) const { return chunks_of(visible(tile, tile.rows - 1)); }

  int64_t slot(const Tile& tile) const {
    return tile.view->row_begin * a.q.shape[1] + int64_t{tile.head} * tile.view->row_count * group +
           tile.first_row;
  }

  // Row in the step and head of the tile's row.
  std::pair<int64_t, int64_t> row_and_head(const Tile& tile, int32_t row) const {
    const int32_t i = tile.first_row + row;
    return {tile.view->row_begin + i / group, tile.head * group + i % group};
  }
};

// A thread's memory for one tile at a time.
struct TileScratch {
  Tensor q, scores, transposed;
  SoftmaxRows part, total;

  static TileScratch lay_out(Arena& arena, int dim) {
    const int64_t rows = tile_rows(dim);
    const int64_t stride = padded_dim(dim);
    TileScratch s;
    s.q = arena.take(DType::kF32, {rows, stride});
    s.scores = arena.take(DType::kF32, {rows, kScoreStride});
    s.transposed = arena.take(DType::kF32, {stride, kMaxBlockKeys});
    for (auto [state, count] : {std::pair{&s.part, int64_t{kMergeRows}}, {&s.total, rows}}) {
      state->max = arena.take(DType::kF32, {count}).as<float>();
      state->sum = arena.take(DType::kF32, {count}).as<float>();
      state->accumulated = arena.take(DType::kF32, {count, stride}).as<float>();
    }
    return s;
  }
};

// A chunk's keys and values, and what may be asked for while the last of them are read.
constexpr int32_t kOrderedPages = 4 * kChunkPages;

// Pages and rows that a kernel takes of one chunk.
struct Chunk {
  int32_t visible[kTileRows];
  const void* pages[kOrderedPages];  // in order of use: keys, values, the next chunks' keys
};

// How far ahead of its use a page is asked for, first and again: what comes from memory in the time that the
// first byte takes. Farther ahead it would be gone from the first-level cache again.
constexpr int64_t kFetchFarBytes = 8 * 1024;
constexpr int64_t kFetchNearBytes = 4 * 1024;

class Worker {
 public:
  Worker(const Geometry& geometry, const Kernels& kernels, void* memory)
      : g_(geometry), kernels_(*kernels.attention) {
    Arena arena(memory);
    scratch_ = TileScratch::lay_out(arena, g_.dim);
  }

  const TileScratch& scratch() const { return scratch_; }

  void load_queries(const Tile& tile) {
    for (int32_t r = 0; r < tile.rows; ++r) {
      const auto [row, head] = g_.row_and_head(tile, r);
      kernels_.pack_query(row_at(g_.a.q, row, head), element_of(g_.a.q.dtype), g_.dim, g_.form, r,
                          scratch_.q.as<float>());
    }
  }

  // State of the tile's rows over one chunk.
  void attend(const Tile& tile, int32_t chunk, const SoftmaxRows& out) {
    Chunk c;
    ValueTile values;
    const ScoreTile scores = load(tile, chunk, c, values);
    kernels_.attend_chunk(scores, values, out);
  }

  // The same, merged into `total`.
  void attend_and_merge(const Tile& tile, int32_t chunk, const SoftmaxRows& total) {
    Chunk c;
    ValueTile values;
    const ScoreTile scores = load(tile, chunk, c, values);
    kernels_.merge_chunk(scores, values, scratch_.part, total);
  }

  void start(const SoftmaxRows& total, int32_t rows) {
    std::fill_n(total.max, rows, kNothing);
    std::fill_n(total.sum, rows, 0.0f);
    std::fill_n(total.accumulated, rows * padded_dim(g_.dim), 0.0f);
  }

  void merge(const SoftmaxRows& part, const SoftmaxRows& total, int32_t rows) {
    kernels_.merge_rows(part, total, rows, g_.dim);
  }

  void finish(const Tile& tile, const SoftmaxRows& total) {
    for (int32_t r = 0; r < tile.rows; ++r) {
      const auto [row, head] = g_.row_and_head(tile, r);
      kernels_.finish_row(total.accumulated + r * padded_dim(g_.dim), total.sum[r], g_.dim,
                          row_at(g_.a.out, row, head), element_of(g_.a.out.dtype));
      if (g_.a.lse) {
        g_.a.lse.as<float>()[row * g_.a.lse.stride[0] + head] =
            (total.max[r] + std::log2(total.sum[r])) * std::numbers::ln2_v<float>;
      }
      if (g_.a.state) {
        auto* const pair = reinterpret_cast<float*>(row_at(g_.a.state, row, head));
        pair[0] = total.max[r];
        pair[1] = total.sum[r];
      }
    }
  }

 private:
  ScoreTile load(const Tile& tile, int32_t chunk, Chunk& c, ValueTile& values) const {
    const PageArrays& pages = g_.a.pages;
    for (int32_t r = 0; r < tile.rows; ++r) {
      c.visible[r] = std::clamp(g_.visible(tile, r) - chunk * kChunkKeys, 0, kChunkKeys);
    }
    const int32_t first = chunk * kChunkPages;
    const int32_t count = pages_of(c.visible[tile.rows - 1]);
    const void** const keys = c.pages;
    const void** const next_keys = c.pages + 2 * count;
    pages_from(pages.k, *tile.view, tile.head, first, tile.length(), count, keys);
    pages_from(pages.v, *tile.view, tile.head, first, tile.length(), count, keys + count);
    pages_from(pages.k, *tile.view, tile.head, first + count, tile.length(), 2 * kChunkPages, next_keys);
    const int32_t far = pages_ahead(pages.k, kFetchFarBytes);
    const int32_t near = pages_ahead(pages.k, kFetchNearBytes);
    values = {keys + count, {keys + count + far, keys + count + near}};
    return {.q = scratch_.q.as<float>(),
            .visible = c.visible,
            .keys = keys,
            .fetch = {keys + far, keys + near},
            .type = element_of(pages.k.dtype),
            .form = g_.form,
            .rows = tile.rows,
            .dim = g_.dim,
            .scale = g_.a.scale * std::numbers::log2e_v<float>,
            .transposed = scratch_.transposed.as<float>(),
            .scores = scratch_.scores.as<float>()};
  }

  const Geometry& g_;
  const AttentionKernels& kernels_;
  TileScratch scratch_;
};

void attend_tiles(CpuStream& stream, const Geometry& g) {
  stream.parallel_for(g.tiles(), [&](int64_t task, int slot) {
    const Tile tile = g.tile(task);
    Worker worker(g, stream.kernels(), stream.scratch(slot));
    const TileScratch& scratch = worker.scratch();
    worker.load_queries(tile);
    worker.start(scratch.total, tile.rows);
    const int32_t chunks = g.chunks(tile);
    for (int32_t c = 0; c < chunks; ++c) worker.attend_and_merge(tile, c, scratch.total);
    worker.finish(tile, scratch.total);
  });
}

// Chunks of one task when `chunks` of them, up to `wave` in a row, are shared out.
int32_t run_of(int64_t chunks, int32_t wave, int threads) {
  if (threads == 1) return wave;
  return static_cast<int32_t>(std::clamp<int64_t>(chunks / (threads * kTasksPerThread), 1, wave));
}

void attend_chunks(CpuStream& stream, const Geometry& g, Workspace workspace) {
  Arena arena(workspace.data);
  const SplitStates states = SplitStates::lay_out(arena, g.a);
  const int64_t tiles = g.tiles();
  int32_t chunks = 1;
  for (int64_t t = 0; t < tiles; ++t) chunks = std::max(chunks, g.chunks(g.tile(t)));
  for (int32_t first = 0; first < chunks; first += kSplitChunks) {
    const int32_t wave = std::min(chunks - first, kSplitChunks);
    const int32_t run = run_of(tiles * wave, wave, stream.threads());
    const int32_t runs = (wave + run - 1) / run;
    stream.parallel_for(tiles * runs, [&](int64_t task, int slot) {
      const Tile tile = g.tile(task / runs);
      const auto begin = static_cast<int32_t>(task % runs) * run;
      const int32_t end = std::min({begin + run, wave, g.chunks(tile) - first});
      if (begin >= end) return;
      Worker worker(g, stream.kernels(), stream.scratch(slot));
      worker.load_queries(tile);
      for (int32_t part = begin; part < end; ++part) {
        worker.attend(tile, first + part, states.parts.at(part, g.slot(tile)));
      }
    });
    stream.parallel_for(tiles, [&](int64_t task, int slot) {
      const Tile tile = g.tile(task);
      Worker worker(g, stream.kernels(), stream.scratch(slot));
      const SoftmaxRows total = states.total.at(0, g.slot(tile));
      if (first == 0) worker.start(total, tile.rows);
      const int32_t parts = std::min(g.chunks(tile) - first, wave);
      for (int32_t p = 0; p < parts; ++p) worker.merge(states.parts.at(p, g.slot(tile)), total, tile.rows);
      if (first + wave >= chunks) worker.finish(tile, total);
    });
  }
}

}  // namespace

size_t attention_workspace(const AttentionArgs& a) {
  Arena arena;
  SplitStates::lay_out(arena, a);
  return arena.used();
}

Status attention(Stream& stream, const AttentionArgs& a, Workspace workspace) {
  CpuStream& cpu = cpu_stream(stream);
  const Geometry geometry(a, cpu.kernels());
  Arena measured;
  TileScratch::lay_out(measured, geometry.dim);
  LONGHAUL_ASSERT(measured.used() <= CpuStream::kScratchBytes);
  if (is_split(a)) {
    LONGHAUL_ASSERT(workspace.bytes >= attention_workspace(a));
    attend_chunks(cpu, geometry, workspace);
  } else {
    attend_tiles(cpu, geometry);
  }
  return {};
}

Status merge_states(Stream& stream, const MergeStatesArgs& a) {
  const int64_t splits = a.parts.shape[0];
  const int64_t rows = a.parts.shape[1];
  const int64_t heads = a.parts.shape[2];
  const auto dim = static_cast<int>(a.parts.shape[3]);
  CpuStream& cpu = cpu_stream(stream);
  cpu.parallel_for(rows * heads, [&](int64_t task, int slot) {
    const auto* lses = a.parts_lse.as<float>() + task;
    float largest = kNothing;
    for (int64_t s = 0; s < splits; ++s) largest = std::max(largest, lses[s * rows * heads]);
    auto* sums = static_cast<float*>(cpu.scratch(slot));
    std::fill_n(sums, dim, 0.0f);
    float total = 0;
    for (int64_t s = 0; s < splits; ++s) {
      const float lse = lses[s * rows * heads];
      if (lse == kNothing) continue;  // such a part may hold anything
      const float weight = std::exp(lse - largest);
      const float* part = a.parts.as<float>() + (s * rows * heads + task) * dim;
      total += weight;
      for (int d = 0; d < dim; ++d) sums[d] += weight * part[d];
    }
    cpu.kernels().attention->finish_row(sums, total, dim, row_at(a.out, task / heads, task % heads),
                                        element_of(a.out.dtype));
    a.lse.as<float>()[task] = total == 0 ? kNothing : largest + std::log(total);
  });
  return {};
}

}  // namespace longhaul::cpu
