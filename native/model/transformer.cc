#include "model/transformer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace longhaul {
namespace {

// The shortest bound of a decode pass's heads: below it kernels cost the same.
constexpr int64_t kLeastBucket = 256;

}  // namespace

Result<std::unique_ptr<Transformer>> Transformer::load(Backend& backend, const std::string& directory,
                                                       const LoadProgress& progress) {
  LONGHAUL_ASSIGN(const ModelConfig config, load_config(directory));
  std::unique_ptr<Transformer> model(new Transformer(backend, config));
  LONGHAUL_ASSIGN(model->stream_, backend.make_stream());
  LONGHAUL_ASSIGN(model->weights_, load_weights(backend, *model->stream_, config, directory, progress));
  return model;
}

KvGeometry kv_geometry(const ModelConfig& config, DType weights_dtype) {
  return {.layers = static_cast<int32_t>(config.layers),
          .kv_heads = static_cast<int32_t>(config.kv_heads),
          .head_dim = static_cast<int32_t>(config.head_dim),
          .dtype = weights_dtype};
}

void Transformer::lay_out(Arena& arena, const PageArrays& pages, const PassLimits& limits) {
  const int64_t rows = limits.rows;
  const int64_t logit_rows = std::max(kLogitRows, limits.sequences);
  const DType act = backend_.activation_dtype(weights_.dtype);
  const int64_t q_width = config_.heads * config_.head_dim;
  const int64_t qkv_width = q_width + 2 * config_.kv_heads * config_.head_dim;
  Arena inputs;
  inputs.take(DType::kU8, {limits.sequences * config_.layers * static_cast<int64_t>(sizeof(CacheView))});
  inputs.take(DType::kI32, {rows});
  inputs.take(DType::kI32, {rows});
  inputs_ = arena.take(DType::kU8, {static_cast<int64_t>(inputs.used())});
  cos_ = arena.take(DType::kF32, {rows, config_.head_dim / 2});
  sin_ = arena.take(DType::kF32, {rows, config_.head_dim / 2});
  residual_ = arena.take(DType::kF32, {rows, config_.hidden_size});
  delta_ = arena.take(DType::kF32, {rows, config_.hidden_size});
  normed_ = arena.take(act, {rows, config_.hidden_size});
  qkv_ = arena.take(act, {rows, qkv_width});
  attended_ = arena.take(act, {rows, q_width});
  gate_up_ = arena.take(act, {rows, 2 * config_.intermediate_size});
  mlp_ = arena.take(act, {rows, config_.intermediate_size});
  logits_ = arena.take(DType::kF32, {logit_rows, config_.vocab_size});

  const Ops& ops = backend_.ops();
  const LayerWeights& layer = weights_.layers.front();
  const AttentionArgs attention{.pages = pages,
                                .sequences = limits.sequences,
                                .q = attended_.split_last(config_.head_dim),
                                .out = attended_.split_last(config_.head_dim),
                                .kv_heads = static_cast<int32_t>(config_.kv_heads),
                                .max_length = static_cast<int32_t>(std::max<int64_t>(limits.head_rows, 1))};
  // A decode pass has one row a sequence.
  AttentionArgs decode = attention;
  decode.q = decode.out = attention.q.slice(0, limits.sequences);
  decode.role = RowRole::kDecode;
  size_t bytes = std::max(ops.attention_workspace(attention), ops.attention_workspace(decode));
  for (const GemmArgs& product :
       {GemmArgs{.x = normed_, .weight = &layer.qkv, .out = qkv_},
        GemmArgs{.x = attended_, .weight = &layer.output, .out = delta_},
        GemmArgs{.x = normed_, .weight = &layer.gate_up, .out = gate_up_},
        GemmArgs{.x = mlp_, .weight = &layer.down, .out = delta_},
        GemmArgs{.x = normed_.slice(0, logit_rows), .weight = &weights_.output_embedding(), .out = logits_}}) {
    GemmArgs one = product;
    one.x = product.x.slice(0, std::min(product.x.shape[0], logit_rows));
    one.out = product.out.slice(0, one.x.shape[0]);
    one.role = RowRole::kDecode;
    bytes = std::max({bytes, ops.gemm_workspace(product), ops.gemm_workspace(one)});
  }
  workspace_ = {arena.take_bytes(bytes), bytes};
  eviction_ = EvictionScratch::lay_out(arena, backend_, pages, static_cast<int32_t>(config_.kv_heads),
                                       limits.scored_rows, static_cast<int32_t>(limits.observers),
                                       static_cast<int32_t>(config_.heads));
}

Status Transformer::prepare(PagePool& pool, const PassLimits& wanted) {
  const PassLimits limits{.rows = std::max({wanted.rows, limits_.rows, wanted.sequences, kLogitRows}),
                          .head_rows = std::max(wanted.head_rows, limits_.head_rows),
                          .scored_rows = std::max(wanted.scored_rows, limits_.scored_rows),
                          .observers = std::max(wanted.observers, limits_.observers),
                          .sequences = std::max(wanted.sequences, limits_.sequences)};
  if (limits == limits_) return Status();

  // Measuring overwrites the tensors, so a refusal has to lay the old memory out again.
  Arena measure;
  lay_out(measure, pool.arrays(), limits);
  Result<Buffer> scratch = backend_.allocate(measure.used(), MemoryUse::kWorkspace);
  if (scratch.ok()) {
    recorded_.clear();  // they point into the old memory
    scratch_ = std::move(scratch.value());
    limits_ = limits;
  }
  if (limits_.rows > 0) {
    Arena arena(scratch_);
    lay_out(arena, pool.arrays(), limits_);
  }
  return scratch.status();
}

Status Transformer::stage(std::span<const Segment> segments) {
  LONGHAUL_ASSERT(static_cast<int64_t>(segments.size()) <= limits_.sequences);
  int64_t rows = 0;
  int64_t most_rows = 1;
  pass_role_ = RowRole::kDecode;
  for (const Segment& segment : segments) {
    const int32_t count = segment.rows + segment.observers;
    LONGHAUL_ASSERT(rows + count <= limits_.rows);
    segment.cache->expect_rows(count);
    most_rows = std::max(most_rows, segment.cache->most_rows());
    if (count != 1 || segment.evict) pass_role_ = RowRole::kBlock;
    rows += count;
  }
  pass_rows_ = rows;
  if (pass_role_ == RowRole::kDecode) {
    most_rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(most_rows, kLeastBucket))));
  }
  pass_length_ = static_cast<int32_t>(std::min(most_rows, std::max<int64_t>(limits_.head_rows, 1)));

  // One upload brings all: views, then tokens, then positions.
  const int64_t sequences = static_cast<int64_t>(segments.size());
  const int64_t views_bytes = sequences * config_.layers * static_cast<int64_t>(sizeof(CacheView));
  Arena device(inputs_.data);
  views_ = device.take(DType::kU8, {config_.layers, views_bytes / config_.layers});
  tokens_ = device.take(DType::kI32, {rows});
  positions_ = device.take(DType::kI32, {rows});
  host_inputs_.assign(device.used(), 0);
  Arena host(host_inputs_.data());
  char* views = host.take(DType::kU8, {views_bytes}).as<char>();
  int32_t* tokens = host.take(DType::kI32, {rows}).as<int32_t>();
  int32_t* positions = host.take(DType::kI32, {rows}).as<int32_t>();
  int32_t row = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const int32_t count = segment.rows + segment.observers;
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      const CacheView view = segment.cache->view(layer, row, count);
      std::memcpy(views + (layer * sequences + static_cast<int64_t>(s)) * sizeof view, &view, sizeof view);
    }
    std::copy_n(segment.tokens.begin(), count, tokens + row);
    std::copy_n(segment.positions.begin(), count, positions + row);
    row += count;
  }
  return backend_.upload(*stream_, inputs_.data, host_inputs_.data(), host_inputs_.size());
}

Status Transformer::forward(PagePool& pool, std::span<const Segment> segments, PassObserver* observer) {
  LONGHAUL_TRY(stage(segments));
  if (pass_role_ == RowRole::kDecode && observer == nullptr && backend_.can_capture()) {
    LONGHAUL_TRY(replay_layers(pool, segments));
  } else {
    LONGHAUL_TRY(run_layers(pool, segments, observer));
  }
  for (const Segment& segment : segments) LONGHAUL_TRY(segment.cache->collect());
  return Status();
}

Status Transformer::replay_layers(PagePool& pool, std::span<const Segment> segments) {
  const void* pages = pool.arrays().k.data;
  auto pass = std::find_if(recorded_.begin(), recorded_.end(), [&](const RecordedPass& recorded) {
    return recorded.segments == segments.size() && recorded.length == pass_length_ && recorded.pages == pages;
  });
  if (pass == recorded_.end()) {
    LONGHAUL_TRY(backend_.begin_capture(*stream_));
    const Status status = run_layers(pool, segments, nullptr);
    Result<std::unique_ptr<Graph>> graph = backend_.end_capture(*stream_);
    LONGHAUL_TRY(status);
    LONGHAUL_TRY(graph.status());
    pass = recorded_.insert(pass, {segments.size(), pass_length_, pages, std::move(graph.value())});
  }
  return backend_.replay(*stream_, *pass->graph);
}

Status Transformer::run_layers(PagePool& pool, std::span<const Segment> segments, PassObserver* observer) {
  const int64_t rows = pass_rows_;
  if (rows > 0) {
    LONGHAUL_TRY(
        run(backend_, *stream_,
            EmbedArgs{
                .ids = tokens_.slice(0, rows), .table = &weights_.embedding, .out = residual_.slice(0, rows)}));
    LONGHAUL_TRY(run(backend_, *stream_,
                     RopeTableArgs{.positions = positions_.slice(0, rows),
                                   .frequencies = weights_.rope_frequencies.tensor,
                                   .cos = cos_.slice(0, rows),
                                   .sin = sin_.slice(0, rows)}));
  }
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    LONGHAUL_TRY(attention_block(pool, layer, segments, observer));
    if (rows > 0) LONGHAUL_TRY(mlp_block(weights_.layers[layer]));
  }
  if (rows > 0) {
    LONGHAUL_TRY(run(backend_, *stream_,
                     RmsNormArgs{.x = residual_.slice(0, rows),
                                 .delta = delta_.slice(0, rows),
                                 .weight = weights_.final_norm.tensor,
                                 .out = normed_.slice(0, rows),
                                 .eps = static_cast<float>(config_.rms_norm_eps)}));
  }
  return Status();
}

Status Transformer::attention_block(PagePool& pool, int32_t layer, std::span<const Segment> segments,
                                    PassObserver* observer) {
  const LayerWeights& weights = weights_.layers[layer];
  const int64_t rows = pass_rows_;
  const int64_t dim = config_.head_dim;
  const int64_t q_width = config_.heads * dim;
  const int64_t kv_width = config_.kv_heads * dim;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const CacheView* views = views_.slice(layer, 1).as<const CacheView>();
  const Tensor qkv = qkv_.slice(0, rows);
  const Tensor q = qkv.narrow(1, 0, q_width).split_last(dim);
  const Tensor k = qkv.narrow(1, q_width, kv_width).split_last(dim);
  const Tensor v = qkv.narrow(1, q_width + kv_width, kv_width).split_last(dim);

  if (rows > 0) {
    const Tensor x = residual_.slice(0, rows);
    LONGHAUL_TRY(run(backend_, *stream_,
                     RmsNormArgs{.x = x,
                                 .delta = layer == 0 ? Tensor() : delta_.slice(0, rows),
                                 .weight = weights.attention_norm.tensor,
                                 .out = normed_.slice(0, rows),
                                 .eps = eps}));
    if (observer != nullptr) LONGHAUL_TRY(observer->on_hidden(layer, x));
    LONGHAUL_TRY(gemm(normed_.slice(0, rows), weights.qkv, weights.qkv_bias.tensor, qkv));
    if (config_.qk_norm) {
      LONGHAUL_TRY(
          run(backend_, *stream_, RmsNormArgs{.x = q, .weight = weights.q_norm.tensor, .out = q, .eps = eps}));
      LONGHAUL_TRY(
          run(backend_, *stream_, RmsNormArgs{.x = k, .weight = weights.k_norm.tensor, .out = k, .eps = eps}));
    }
    const Tensor cos = cos_.slice(0, rows);
    const Tensor sin = sin_.slice(0, rows);
    LONGHAUL_TRY(run(backend_, *stream_, RopeArgs{.x = q, .cos = cos, .sin = sin}));
    LONGHAUL_TRY(run(backend_, *stream_,
                     AppendArgs{.pages = pool.arrays(),
                                .views = views,
                                .sequences = static_cast<int64_t>(segments.size()),
                                .k = k,
                                .v = v,
                                .positions = positions_.slice(0, rows),
                                .cos = cos,
                                .sin = sin}));
    LONGHAUL_TRY(run(backend_, *stream_,
                     AttentionArgs{.pages = pool.arrays(),
                                   .views = views,
                                   .sequences = static_cast<int64_t>(segments.size()),
                                   .q = q,
                                   .out = attended_.slice(0, rows).split_last(dim),
                                   .kv_heads = static_cast<int32_t>(config_.kv_heads),
                                   .scale = scale,
                                   .max_length = pass_length_,
                                   .role = pass_role_},
                     workspace_));
  }

  int64_t row = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    if (segment.evict) {
      const EvictionInput input{.view = views + s,
                                .q = q.slice(row, segment.rows + segment.observers),
                                .layer = layer,
                                .rows = segment.rows,
                                .observers = segment.observers,
                                .scale = scale};
      LONGHAUL_TRY(evict_layer(backend_, *stream_, pool.arrays(), *segment.policy, input, eviction_, observer));
      if (observer != nullptr) LONGHAUL_TRY(observer->on_evicted(layer));
    }
    row += segment.rows + segment.observers;
  }
  if (rows == 0) return Status();
  return gemm(attended_.slice(0, rows), weights.output, weights.output_bias.tensor, delta_.slice(0, rows));
}

Status Transformer::mlp_block(const LayerWeights& weights) {
  const int64_t rows = pass_rows_;
  LONGHAUL_TRY(run(backend_, *stream_,
                   RmsNormArgs{.x = residual_.slice(0, rows),
                               .delta = delta_.slice(0, rows),
                               .weight = weights.mlp_norm.tensor,
                               .out = normed_.slice(0, rows),
                               .eps = static_cast<float>(config_.rms_norm_eps)}));
  LONGHAUL_TRY(
      gemm(normed_.slice(0, rows), weights.gate_up, weights.gate_up_bias.tensor, gate_up_.slice(0, rows)));
  LONGHAUL_TRY(
      run(backend_, *stream_, SwigluArgs{.gate_up = gate_up_.slice(0, rows), .out = mlp_.slice(0, rows)}));
  return gemm(mlp_.slice(0, rows), weights.down, weights.down_bias.tensor, delta_.slice(0, rows));
}

Status Transformer::gemm(const Tensor& x, const Weight& weight, const Tensor& bias, const Tensor& out) {
  return run(backend_, *stream_,
             GemmArgs{.x = x, .weight = &weight, .bias = bias, .out = out, .role = pass_role_}, workspace_);
}

Result<Tensor> Transformer::logits(int64_t begin, int64_t count) {
  LONGHAUL_ASSERT(count >= 1 && count <= logits_.shape[0] && begin >= 0 && begin + count <= pass_rows_);
  const Tensor out = logits_.slice(0, count);
  LONGHAUL_TRY(run(backend_, *stream_,
                   GemmArgs{.x = normed_.slice(begin, count),
                            .weight = &weights_.output_embedding(),
                            .out = out,
                            .role = RowRole::kDecode},
                   workspace_));
  return out;
}

}  // namespace longhaul
